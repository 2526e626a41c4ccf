"""py-libp2p's QUIC as a peer to measure against, in an environment of its own under the user's cache."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from _peer_environment import python_with

VERSION = "0.8.1"
NAME = f"py-libp2p {VERSION}"
_SCRIPT = Path(__file__).with_name("_quic_libp2p.py")
_MEASURE_S = 300.0


def measure() -> Mapping[str, float] | str:
    """Returns its figures, or why there are none."""
    try:
        return _run(python_with("libp2p", VERSION))
    except subprocess.CalledProcessError as error:
        told = (error.stderr or "").strip().splitlines() or ["it says nothing"]
        return f"not measured: {Path(error.cmd[0]).name} {' '.join(error.cmd[1:4])} failed: {told[-1]}"
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return f"not measured: {error}"


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
