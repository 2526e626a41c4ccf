"""What kind of model a file is: by its content first, and whether it is whole.

Each reader looks at heads and lengths only, executes nothing, and takes nothing on trust: a file is hostile input.
"""

from atmo.storage.formats.detect import detect
from atmo.storage.formats.reader import Detected, FormatError

__all__ = ["Detected", "FormatError", "detect"]
