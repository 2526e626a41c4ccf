"""Runs commands, and waits."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def run(*command: str, stdin: str = "") -> str:
    """Runs a command.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait(condition: Callable[[], object], seconds: float, what: str, step_s: float = 0.05) -> float:
    """Waits for something; returns how long it took.

    Raises:
        RuntimeError: It did not come.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(step_s)
    return time.monotonic() - began
