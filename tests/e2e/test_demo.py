"""The demonstration as a newcomer runs it: it ends well and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.processes import environment

pytestmark = pytest.mark.e2e
DEMO = Path(__file__).parents[2] / "tools" / "demo_main.py"
DEMO_S = 300.0
END_S = 10.0


def test_the_demonstration_ends_well_and_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(DEMO)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=DEMO_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=END_S)
        raise
    assert process.returncode == 0, out + err
    assert "All three peers have ended" in out
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + END_S
    while left := processes_that_name(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def processes_that_name(text: str) -> list[str]:
    """Returns the command lines of running processes that hold `text`; every peer's holds its home."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if text in line]
