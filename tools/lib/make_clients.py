"""Makes what `tests/clients` runs other people's clients with, below `build/`; does nothing where it is up to date.

    python tools/lib/make_clients.py

Python clients get an environment of their own, `build/clients-environment`: they bring a hundred packages that the
product has no use for. Clients in JavaScript go to `build/clients-node`; they need Node.js and npm. Which versions is
in `tests/clients/python/requirements.txt` and `tests/clients/node/package.json`. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from make_env import ROOT, run, say

BUILD = ROOT / "build"
REQUIREMENTS = ROOT / "tests/clients/python/requirements.txt"
PACKAGE = ROOT / "tests/clients/node/package.json"
STAMP = ".atmosphere-installed"


def main() -> int:
    BUILD.mkdir(exist_ok=True)
    handle = os.open(BUILD, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # released when this process ends, however it ends
    prepared("clients-environment", REQUIREMENTS, make_python)
    if shutil.which("npm") is None or shutil.which("node") is None:
        say("Node.js or npm is missing: install it first (Debian: apt-get install nodejs npm)")
        return 1
    prepared("clients-node", PACKAGE, make_node)
    return 0


def prepared(name: str, source: Path, make: Callable[[Path], None]) -> None:
    """Has `make` fill a folder anew unless that was done for the same `source`."""
    folder = BUILD / name
    wanted = hashlib.sha256(f"{folder} {sys.version}".encode() + source.read_bytes()).hexdigest()
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == wanted:
        return
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    stamp.write_text(wanted)
    say(f"{folder.relative_to(ROOT)} is ready after {time.monotonic() - started:.0f} s")


def make_python(folder: Path) -> None:
    run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(folder)])
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--no-compile", "--no-deps", "-r", str(REQUIREMENTS)]
    run(pip, os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def make_node(folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(PACKAGE, folder)
    run(["npm", "install", "--prefix", str(folder), "--no-package-lock", "--no-audit", "--no-fund"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next run starts over.")
