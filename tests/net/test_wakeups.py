"""The timers of an endpoint: no wake-up is missed, and those of connections that are gone do not pile up."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from atmo.net.wakeups import Wakeups


def connection(at: float) -> Any:
    return SimpleNamespace(timer_at=at, queued_timers=[])


def test_the_earliest_comes_first_and_a_later_time_needs_no_entry() -> None:
    wakeups = Wakeups()
    assert wakeups.earliest == math.inf
    assert wakeups.pop_due(1e9) is None
    one: Any = connection(5.0)
    two: Any = connection(3.0)
    wakeups.arm(one)
    wakeups.arm(two)
    assert wakeups.earliest == 3.0
    two.timer_at = 9.0
    wakeups.arm(two)  # its earlier entry will do
    assert wakeups.pop_due(2.9) is None
    assert [wakeups.pop_due(3.0)] == [two]
    wakeups.arm(two)
    assert [wakeups.pop_due(10.0), wakeups.pop_due(10.0), wakeups.pop_due(10.0)] == [one, two, None]


def test_entries_of_connections_that_are_gone_are_dropped() -> None:
    wakeups = Wakeups()
    alive, gone = connection(1_000.0), connection(0.0)
    wakeups.arm(alive)
    for at in range(200, 100, -1):
        gone.timer_at = float(at)
        wakeups.arm(gone)
    wakeups.forget_gone([alive], 10)
    assert wakeups.earliest == 101.0  # few enough yet
    wakeups.forget_gone([alive], 1)
    assert wakeups.earliest == 1_000.0
