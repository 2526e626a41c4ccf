"""Progress on a terminal, in a pipe, and nowhere."""

from __future__ import annotations

import io
from typing import Any

from atmo.shell.progress import describe_rate, shown_progress

REPORT: dict[str, Any] = {
    "phase": "pull",
    "bytes_done": 50,
    "bytes_total": 200,
    "rate_bytes_s": 10.0,
    "sources": ["kitchen", "attic"],
    "eta_s": 15.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rates() -> None:
    assert describe_rate(REPORT) == "10 B/s  0:15 left  from kitchen, attic"
    assert describe_rate({**REPORT, "sources": list("abcde"), "rate_bytes_s": None}) == "0:15 left  from a, b, c +2"
    assert describe_rate({}) == ""


def test_a_pipe_gets_a_line_now_and_then() -> None:
    out, times = io.StringIO(), iter([0.0, 0.1, 0.6, 1.0, 2.7, 9.0])
    with shown_progress("Pulling m", out, clock=lambda: next(times)) as show:
        show({**REPORT, "bytes_done": 1})
        show(REPORT)
        show({**REPORT, "bytes_done": 60})
        show({**REPORT, "phase": "verify", "rate_bytes_s": 0, "sources": [], "eta_s": None})
        show({"phase": "verify", "bytes_done": 0, "bytes_total": 0})
    assert out.getvalue().splitlines() == [
        "Pulling m: pull  25 %  50 B of 200 B  10 B/s  0:15 left  from kitchen, attic",
        "Pulling m: verify  25 %  50 B of 200 B",
        "Pulling m: verify",
    ]


def test_a_terminal_gets_a_bar() -> None:
    out = Terminal()
    with shown_progress("Pulling [red]m", out) as show:
        show(REPORT)
        show({**REPORT, "bytes_done": 200, "sources": ["\x1b[31m[bold]"]})
    shown = out.getvalue()
    assert "Pulling [red]m" in shown
    assert "\x1b[31m[bold]" not in shown
    assert "%" in shown


def test_machines_get_nothing() -> None:
    out = Terminal()
    with shown_progress("x", out, quiet=True) as show:
        show(REPORT)
    assert out.getvalue() == ""
