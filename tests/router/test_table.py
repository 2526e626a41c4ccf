from __future__ import annotations

import pytest

from atmo.router.table import CLOSED, HALF_OPEN, OPEN, NodeTable, TableConfig, queue_factor
from tests.router.offers import node

A, B = node(1), node(2)


def fail(table: NodeTable, times: int, now: float) -> None:
    for _ in range(times):
        table.fail(table.begin(A, "c", now), now)


def test_nothing_is_known_at_first() -> None:
    seen = NodeTable().seen(A, "c", 5.0)
    assert (seen.service_s, seen.in_flight, seen.failures, seen.breaker) == (None, 0, 0, CLOSED)


def test_service_time_is_an_average_without_the_way_and_the_queue() -> None:
    table = NodeTable(TableConfig(ewma_weight=0.5))
    table.end(table.begin(A, "c", 0.0, rtt_s=0.5), 1.5)
    assert table.seen(A, "c", 2.0).service_s == pytest.approx(1.0)
    assert table.seen(A, "c", 2.0).age_s == pytest.approx(0.5)
    table.end(table.begin(A, "c", 2.0, load=5, concurrency=2), 8.0)
    assert table.seen(A, "c", 8.0).service_s == pytest.approx(1.5)


def test_in_flight_counts_all_capabilities_of_a_node() -> None:
    table = NodeTable()
    first, second = table.begin(A, "c", 0.0), table.begin(A, "d", 0.0)
    assert table.seen(A, "other", 0.0).in_flight == 2
    table.cancel(first)
    assert table.seen(A, "c", 0.0).in_flight == 1
    table.end(second, 1.0)
    assert table.seen(A, "c", 1.0).in_flight == 0
    assert table.seen(A, "c", 1.0).service_s is None


def test_three_failures_open_the_breaker_and_one_success_closes_it() -> None:
    table = NodeTable()
    fail(table, 2, 0.0)
    assert table.seen(A, "c", 0.0).breaker == CLOSED
    fail(table, 1, 0.0)
    assert table.seen(A, "c", 4.9).breaker == OPEN
    assert table.seen(A, "c", 5.0).breaker == HALF_OPEN
    trial = table.begin(A, "c", 5.0)
    assert table.seen(A, "c", 5.0).breaker == OPEN
    table.end(trial, 5.1)
    assert table.seen(A, "c", 5.1).breaker == CLOSED
    assert table.seen(A, "c", 5.1).failures == 0


def test_the_cool_down_doubles_up_to_a_bound() -> None:
    table = NodeTable(TableConfig(cool_down_s=5, cool_down_most_s=12))
    now = 0.0
    for pause in (5, 10, 12, 12):
        fail(table, 3 if now == 0 else 1, now)
        assert table.seen(A, "c", now + pause - 0.1).breaker == OPEN
        assert table.seen(A, "c", now + pause).breaker == HALF_OPEN
        now += pause


def test_the_row_unused_longest_is_forgotten() -> None:
    table = NodeTable(TableConfig(max_rows=2))
    busy = table.begin(A, "c", 0.0)
    table.end(table.begin(B, "c", 0.0), 1.0)
    table.end(table.begin(A, "d", 0.0), 1.0)
    assert len(table) == 2
    assert table.seen(B, "c", 1.0).service_s is None
    table.end(busy, 1.0)
    assert table.seen(A, "c", 1.0).service_s == 1.0


def test_rows_with_requests_under_way_stay() -> None:
    table = NodeTable(TableConfig(max_rows=1))
    tickets = [table.begin(A, "c", 0.0), table.begin(B, "c", 0.0)]
    assert len(table) == 2
    for ticket in tickets:
        table.end(ticket, 1.0)


def test_queue_factor() -> None:
    assert queue_factor(0, 4) == 1
    assert queue_factor(3, 4) == 1
    assert queue_factor(7, 4) == 2
    assert queue_factor(1, 0) == 2


def test_a_node_that_says_when_it_takes_more_is_asked_last_until_then() -> None:
    table = NodeTable(TableConfig(cool_down_most_s=60.0))
    table.defer(table.begin(A, "c", 10.0), 10.0, 2.0)
    seen = table.seen(A, "c", 11.5)
    assert (seen.breaker, seen.failures, seen.deferred_s, seen.in_flight) == (OPEN, 0, 0.5, 0)
    assert table.seen(A, "c", 12.0).breaker == CLOSED
    table.defer(table.begin(A, "c", 20.0), 20.0, 3_600.0)
    assert table.seen(A, "c", 79.0).deferred_s == 1.0
    assert table.seen(A, "d", 79.0).breaker == CLOSED
