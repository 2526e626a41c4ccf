"""py-libp2p's QUIC as a peer to measure against, in an environment of its own under the user's cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

VERSION = "0.8.1"
NAME = f"py-libp2p {VERSION}"
_SCRIPT = Path(__file__).with_name("_quic_libp2p.py")
_INSTALL_S, _MEASURE_S = 600.0, 300.0


def measure() -> Mapping[str, float] | str:
    """Returns its figures, or why there are none."""
    try:
        python = _environment()
        return _run(python)
    except subprocess.CalledProcessError as error:
        told = (error.stderr or "").strip().splitlines() or ["it says nothing"]
        return f"not measured: {Path(error.cmd[0]).name} {' '.join(error.cmd[1:4])} failed: {told[-1]}"
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return f"not measured: {error}"


def _environment() -> Path:
    """Returns the Python of an environment with `libp2p`, made with pip where there is none yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "atmosphere-bench" / f"libp2p-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (home / "ready").exists():
        sys.stderr.write(f"quic: installing libp2p {VERSION} into {home}\n")
        _call([sys.executable, "-m", "venv", "--clear", str(home)])
        _call([str(python), "-m", "pip", "install", "--quiet", f"libp2p=={VERSION}"])
        (home / "ready").touch()
    return python


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)


def _run(python: Path) -> dict[str, float]:
    command = [str(python), str(_SCRIPT)]
    with subprocess.Popen([*command, "serve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            assert child.stdout is not None
            address = child.stdout.readline().strip()
            done = subprocess.run(
                [*command, "measure", address], check=True, capture_output=True, text=True, timeout=_MEASURE_S
            )
        finally:
            child.kill()
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
