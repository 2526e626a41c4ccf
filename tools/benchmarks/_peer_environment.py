"""An environment of its own for a peer that is measured beside this project, under the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_CALL_S = 600.0
"""For one program. Source: guess; an installation on a slow line."""


def python_with(package: str, version: str) -> Path:
    """Returns the Python of an environment with a package, made with pip where there is none yet.

    Raises:
        OSError, subprocess.SubprocessError: It cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "atmosphere-bench" / f"{package}-{version}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (home / "ready").exists():
        sys.stderr.write(f"bench: installing {package} {version} into {home}\n")
        call(sys.executable, "-m", "venv", "--clear", str(home))
        call(str(python), "-m", "pip", "install", "--quiet", f"{package}=={version}")
        (home / "ready").touch()
    return python


def call(*command: str) -> None:
    """Runs a program to its end.

    Raises:
        OSError, subprocess.SubprocessError: It cannot be run, failed, or took too long.
    """
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_CALL_S)
