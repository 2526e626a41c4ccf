"""How the node command starts, logs and ends."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from atmo.cli.node import set_up_logging, stopped_by_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_the_node(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with trio.CancelScope() as scope, stopped_by_signals(scope):
        os.kill(os.getpid(), number)
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert signal.getsignal(number) is before


DEAF = """
import sys, trio
from atmo.cli import node
node.STOP_S = float(sys.argv[1])
async def main():
    with trio.CancelScope() as scope, node.stopped_by_signals(scope):
        print("up", flush=True)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
trio.run(main)
"""


@pytest.fixture
def deaf(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A node that does not end when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", DEAF, str(request.param)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.mark.parametrize("deaf", [60], indirect=True)
def test_a_second_signal_ends_at_once(deaf: subprocess.Popen[str]) -> None:
    while deaf.poll() is None:
        deaf.send_signal(signal.SIGINT)
    assert deaf.returncode == 130


@pytest.mark.parametrize("deaf", [0.05], indirect=True)
def test_a_node_that_does_not_end_is_cut_off(deaf: subprocess.Popen[str]) -> None:
    deaf.send_signal(signal.SIGTERM)
    _, err = deaf.communicate(timeout=10)
    assert deaf.returncode == 1
    assert "did not end" in err


def test_logs_are_terse_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        set_up_logging("info")
        logging.getLogger("atmo.net").info("hello from %s", "\x1b[2Jkitchen\n")
        logging.getLogger("atmo.net").debug("not this")
        logging.getLogger("httpx").info("nor this")
        logging.getLogger("httpx").warning("but this")
    finally:
        root.handlers[:], root.level = before
    first, second = stream.getvalue().splitlines()
    assert first[8:] == " INFO    atmo.net: hello from \ufffd[2Jkitchen\ufffd"
    assert second.endswith("WARNING httpx: but this")
