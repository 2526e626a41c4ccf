"""Budgets: bursts pass, floods do not, and coming back fills nothing."""

from __future__ import annotations

import pytest

from atmo.clock import Now
from atmo.identity import NodeId
from atmo.peer.budgets import Budgets, BudgetsConfig, Cost, Rate

ANNA, BERT, CLEO = (NodeId(bytes([number] * 32)) for number in range(1, 4))
SMALL = BudgetsConfig(messages=Rate(1, 3), bytes=Rate(10, 100), signatures=Rate(1, 2), streams=Rate(2, 4), nodes=2)


def at(seconds: float) -> Now:
    return Now(seconds, 0.0)


def test_a_burst_passes_and_then_the_rate() -> None:
    budgets = Budgets(SMALL)
    assert [budgets.admits_message(at(0), ANNA, 1) for _ in range(4)] == [True, True, True, False]
    assert not budgets.admits_message(at(0.5), ANNA, 1)
    assert budgets.admits_message(at(1.5), ANNA, 1)
    assert budgets.admits_message(at(1.5), BERT, 1)
    assert budgets.stats.messages == 2


def test_bytes_count_too() -> None:
    budgets = Budgets(SMALL)
    assert budgets.admits_message(at(0), ANNA, 90)
    assert not budgets.admits_message(at(0), ANNA, 20)
    assert budgets.admits_message(at(1), ANNA, 20)
    assert budgets.stats.bytes == 1


@pytest.mark.parametrize(("cost", "burst"), [(Cost.SIGNATURE, 2), (Cost.STREAM, 4)])
def test_other_costs_have_buckets_of_their_own(cost: Cost, burst: int) -> None:
    budgets = Budgets(SMALL)
    assert [budgets.admits(at(0), ANNA, cost) for _ in range(burst + 1)] == [True] * burst + [False]
    assert budgets.admits_message(at(0), ANNA, 1)
    assert budgets.stats.signatures + budgets.stats.streams == 1


def test_full_buckets_make_room_and_else_the_oldest_goes() -> None:
    budgets = Budgets(SMALL)
    budgets.admits_message(at(0), ANNA, 1)
    budgets.admits_message(at(100), BERT, 1)
    budgets.admits_message(at(100), CLEO, 1)
    assert budgets.admits(at(100), BERT, Cost.MESSAGE, 2)
    assert not budgets.admits(at(100), BERT, Cost.MESSAGE), "it was kept, Anna's went"
    budgets.admits_message(at(100), ANNA, 1)
    assert budgets.admits(at(100), CLEO, Cost.MESSAGE, 2), "it was kept, Bert's went"
