from __future__ import annotations

import math

from atmo.transfer.config import TransferConfig
from atmo.transfer.source import Source

MIB = 1024 * 1024
CONFIG = TransferConfig()


def paced(rate: float, count: int, size: int = MIB) -> Source:
    """A source that has sent `count` chunks one after the other at `rate` bytes per second."""
    source, now = Source(CONFIG), 0.0
    for index in range(count):
        source.started(now, index, size)
        now += size / rate
        source.succeeded(now, index, size)
    return source


def delayed(rate: float, latency_s: float, seconds: float) -> Source:
    """A source that sends at `rate` bytes per second what was asked for `latency_s` before, for some time."""
    source, now, free_at, coming, index = Source(CONFIG), 0.0, 0.0, [], 0
    while now < seconds:
        while source.is_free(now):
            source.started(now, index, MIB)
            free_at = max(now + latency_s, free_at) + MIB / rate
            coming.append((free_at, index))
            index += 1
        now, arrived = coming.pop(0)
        source.succeeded(now, arrived, MIB)
    return source


def test_the_window_holds_what_comes_within_twice_the_latency_and_a_moment() -> None:
    assert Source(CONFIG).window == 2
    assert paced(2.5 * MIB, 20).window == 2
    assert paced(100 * MIB, 20).window == 12
    assert paced(0.01 * MIB, 5).window == 2


def test_a_far_source_is_used_as_well_as_a_near_one() -> None:
    for latency_s in (0.0, 0.1, 0.3):
        source = delayed(12 * MIB, latency_s, 60.0)
        assert source.window >= min(12, 12 * latency_s)
        assert source.rate >= 11.5 * MIB, "the line is never idle"


def test_a_latency_that_was_short_once_is_forgotten() -> None:
    source, now = Source(CONFIG), 0.0
    latencies = []
    for index in range(60):
        source.started(now, index, MIB)
        now += 0.1 if index == 0 else 0.5
        source.succeeded(now, index, MIB)
        latencies.append(round(source.latency_s, 3))
    assert latencies[0] == 0.1
    assert latencies[-1] == 0.5
    assert Source(CONFIG).latency_s == 0.0


def test_chunks_that_arrive_together_count_together() -> None:
    source = Source(CONFIG)
    for index in range(4):
        source.started(0.0, index, MIB)
    for index in range(4):
        source.succeeded(1.0 + index / 1_000, index, MIB)
    assert MIB <= source.rate <= 4 * MIB


def test_time_without_requests_is_not_slowness() -> None:
    source = paced(10 * MIB, 10)
    rate = source.rate
    source.started(1_000.0, 99, MIB)
    source.succeeded(1_000.1, 99, MIB)
    assert math.isclose(source.rate, rate, rel_tol=0.1)


def test_deadlines_follow_the_rate_and_what_waits() -> None:
    source = Source(CONFIG)
    source.started(0.0, 1, MIB)
    assert source.under_way[1].deadline == CONFIG.first_deadline_s
    source = paced(0.5 * MIB, 3)
    now = 6.0
    source.started(now, 10, MIB)
    source.started(now, 11, MIB)
    assert source.under_way[10].deadline == now + 8.0
    assert source.under_way[11].deadline == now + 16.0
    assert source.under_way[11].slow_at == now + 8.0
    assert source.late(now + 9) == [10]
    assert source.next_timer() == now + 8.0


def test_a_failing_source_rests_longer_each_time_and_gets_more_time() -> None:
    source, now, rests, deadlines = Source(CONFIG), 0.0, [], []
    for index in range(7):
        assert source.is_free(now)
        source.started(now, index, MIB)
        deadlines.append(source.under_way[index].deadline - now)
        assert source.forget(index)
        source.failed(now)
        source.failed(now)  # its other fetches fail with it
        assert not source.is_free(now)
        assert source.next_timer() == source.rests_until
        rests.append(source.rests_until - now)
        now = source.rests_until
    assert rests == [1, 2, 4, 8, 16, 30, 30]
    assert deadlines == [30, 60, 120, 120, 120, 120, 120]
    assert source.window == 1
    source.succeeded(now, 99, MIB)
    assert source.is_free(now)
    source.failed(now)
    assert source.rests_until == now + 1


def test_an_idle_source_has_no_timer() -> None:
    assert Source(CONFIG).next_timer() == math.inf
    assert not Source(CONFIG).forget(1)
