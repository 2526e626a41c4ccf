"""Where `atmo` begins: quiet when it is interrupted before its commands are even imported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType

EXIT_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    usual = usual and threading.current_thread() is threading.main_thread()
    try:
        if usual:
            signal.signal(signal.SIGINT, _quit)
        from atmo.cli.root import run

        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(argv)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    raise SystemExit(code)


def _quit(_number: int, _frame: FrameType | None) -> None:
    """Ends the process while nothing has begun: an exception in the middle of an import would show a traceback."""
    os._exit(EXIT_INTERRUPTED)
