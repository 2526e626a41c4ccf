"""What keeps a pickle from doing harm in the child that reads it.

Reading a pickle runs what it names. Three fences, each with holes of its own: only classes of the numeric libraries may
be named; the process may not start others, open connections, or write outside its folder (audit hooks); and where the
system allows it, the process has no network at all. The limits of `child_side` stand around them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atmo.backends.child_side import Refusal

_LIBRARIES = ("sklearn", "numpy", "scipy")
_BARRED_PARTS = (
    "test",
    "tests",
    "testing",
    "f2py",
    "distutils",
    "_testing",
    "datasets",
    "externals",
    "lib",
    "ctypeslib",
)
_SINGLE = {
    ("builtins", name)
    for name in (
        "set",
        "frozenset",
        "slice",
        "bytearray",
        "complex",
        "range",
        "object",
        "dict",
        "list",
        "tuple",
        "int",
        "float",
        "str",
        "bytes",
        "bool",
    )
} | {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("_codecs", "encode"),
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
_NUMPY_CALLS = (
    "_reconstruct",
    "scalar",
    "_frombuffer",
    "__generator_ctor",
    "__bit_generator_ctor",
    "__randomstate_ctor",
    "_ufunc_reconstruct",
    "_mareconstruct",
)
_BARRED_EVENTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "os.kill",
    "os.killpg",
    "pty.spawn",
    "shutil.",
    "socket.",
    "urllib.",
    "ftplib.",
    "http.",
    "smtplib.",
    "webbrowser.",
    "signal.",
    "ensurepip.",
    "code.__new__",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000


def leave_network() -> bool:
    """Moves this process, which must have one thread only, to a network of its own without interfaces.

    Returns:
        Whether the system allowed it.
    """
    if not sys.platform.startswith("linux"):
        return False
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return False
    return any(unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def fence(folder: Path) -> Callable[[], None]:
    """Puts up the audit hook for the rest of this process's life.

    Returns:
        A function that ends the list of allowed classes, for when the file has been read; the rest stays.
    """
    reading = True
    root = str(folder.resolve()) + os.sep

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and reading:
            _check_class(str(arguments[0]), str(arguments[1]))
        elif event == "open":
            _check_open(root, *arguments)
        elif event.startswith(_BARRED_EVENTS):
            raise Refusal(f"The file tries to do something that a model has no need of ({event}), so it is refused.")

    def stop_reading() -> None:
        nonlocal reading
        reading = False

    sys.addaudithook(hook)
    return stop_reading


def _check_class(module: str, name: str) -> None:
    if (module, name) in _SINGLE or _is_library_class(module, name):
        return
    raise Refusal(
        f"The file needs {module[:80]}.{name[:80]}, which is not part of scikit-learn, so it is not loaded.",
        "Only plain scikit-learn estimators are converted; export anything else to ONNX yourself.",
    )


def _is_library_class(module: str, name: str) -> bool:
    parts = module.split(".")
    if parts[0] not in _LIBRARIES or "." in name or any(part in _BARRED_PARTS for part in parts):
        return False
    if parts[0] == "numpy" and name in _NUMPY_CALLS:
        return True
    __import__(module)
    found = getattr(sys.modules[module], name, None)
    # A name that is not there is left to the reader, whose error says so. Of functions only those pass by which Cython
    # rebuilds its objects, and numpy's elementwise ones.
    rebuilds = name.startswith(("__pyx_unpickle", "newObj")) or type(found).__name__ == "ufunc"
    return found is None or isinstance(found, type) or rebuilds


def _check_open(root: str, path: object, mode: object, flags: object) -> None:
    writes = isinstance(flags, int) and bool(flags & _WRITING)
    if not writes or isinstance(path, int) or path == os.devnull:
        return
    text = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes) else ""
    if not text.startswith(root):
        raise Refusal("The file tries to write to the disk, so it is refused.")
