"""Makes `.venv` (or `$ATMO_VENV`) when it is missing or out of date, and prints the path of its interpreter.

Standard library only. Safe to run many times at once and to interrupt: one process works, the others wait, and an
environment whose making was cut short is made anew. With `--missing` it makes nothing and prints the Debian packages
that this machine lacks.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = "tools/constraints.txt"  # relative: pip splits the variables that name it at spaces
VENV = Path(os.environ.get("ATMO_VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".atmosphere-installed"
UNFINISHED = VENV / ".atmosphere-unfinished"


def main() -> int:
    if sys.argv[1:] == ["--missing"]:
        print(" ".join(package for _, package in missing()))
        return 0
    wanted = fingerprint()
    if not is_ready(wanted):
        handle = os.open(ROOT / "tools", os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)  # released when this process ends, however it ends
        if not is_ready(wanted):
            make(wanted)
    print(PYTHON)
    return 0


def fingerprint() -> str:
    """Returns a hash of everything that decides what the environment holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = (
        repr(project["project"]),
        repr(project["build-system"]),
        (ROOT / CONSTRAINTS).read_text(),
        f"{ROOT} {VENV}",
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_ready(wanted: str) -> bool:
    try:
        return STAMP.read_text() == wanted and PYTHON.exists()
    except OSError:
        return False


def make(wanted: str) -> None:
    """Makes or updates the environment; ends the program with one line when something is missing."""
    started = time.monotonic()
    fresh = UNFINISHED.exists() or not works(PYTHON)
    if fresh:
        for what, package in missing():
            sys.exit(f"{what} is missing: install it first (Debian: apt-get install {package}).")
    say(
        f"{'Making' if fresh else 'Updating'} {VENV} with Python {sys.version.split()[0]}; the first time takes minutes"
    )
    if fresh:
        base = getattr(sys, "_base_executable", sys.executable)
        VENV.mkdir(parents=True, exist_ok=True)
        UNFINISHED.touch()
        run([base, "-m", "venv", "--clear", str(VENV)])
    UNFINISHED.touch()
    environment = os.environ | {"PIP_CONSTRAINT": CONSTRAINTS, "PIP_BUILD_CONSTRAINT": CONSTRAINTS}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    run([str(PYTHON), "-m", "pip", "install", "-c", CONSTRAINTS, "-e", ".[dev]"], environment)
    with tempfile.NamedTemporaryFile("w", dir=VENV, delete=False) as file:
        file.write(wanted)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(STAMP)
    UNFINISHED.unlink()
    say(f"The environment is ready after {time.monotonic() - started:.0f} s")


def works(python: Path) -> bool:
    try:
        check = "import sys, pip; raise SystemExit(sys.version_info < (3, 11))"
        return subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def missing() -> list[tuple[str, str]]:
    """Returns what this machine lacks, each with the Debian package that brings it."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = []
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        found.append((f"The venv module of {version}", f"{version}-venv"))
    if not compiles("#include <vector>\n"):
        found.append(("A C++ compiler", "g++"))
    elif not compiles("#include <Python.h>\n"):
        found.append((f"The C header Python.h of {version}", f"{version}-dev"))
    return found


def compiles(source: str) -> bool:
    """Says whether a C++ compiler takes `source`; hnswlib has no wheel for most platforms."""
    names = [os.environ.get("CXX", ""), sysconfig.get_config_var("CXX") or "", "c++", "g++", "clang++"]
    for name in names:
        compiler = shutil.which(name.split()[0]) if name else None
        if compiler is not None:
            command = [compiler, "-x", "c++", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-"]
            return subprocess.run(command, input=source.encode(), capture_output=True, check=False).returncode == 0
    return False


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a step quietly; ends the program with the end of its output when it fails."""
    result = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        say("\n".join(result.stdout.splitlines()[-25:]))
        sys.exit(f"This step failed, see above: {' '.join(command)}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next run starts over.")
