"""Requests under way, and who is left aside."""

from __future__ import annotations

import math

from atmo.index import IndexConfig
from atmo.index.calls import Calls
from atmo.index.standing import Standing
from tests.index.kit import contact, node


def test_a_call_is_slow_and_then_lost() -> None:
    calls = Calls(0.5, 2.0)
    token = calls.open(0.0, contact(1), None)
    assert calls.next_due() == 0.5
    assert [(call.token, lost) for call, lost in calls.due(0.5)] == [(token, False)]
    assert calls.next_due() == 2.0
    assert [lost for _, lost in calls.due(2.0)] == [True]
    assert len(calls) == 0
    assert calls.close(node(1), token) is None


def test_a_late_timer_tells_both() -> None:
    calls = Calls(0.5, 2.0)
    calls.open(0.0, contact(1), None)
    assert [lost for _, lost in calls.due(9.0)] == [False, True]


def test_only_who_was_asked_answers_and_once() -> None:
    calls = Calls(0.5, 2.0)
    token = calls.open(0.0, contact(1), "owner")
    assert calls.close(node(2), token) is None
    assert calls.close(node(1), token) is not None
    assert calls.close(node(1), token) is None
    assert calls.next_due() == math.inf


def test_all_calls_of_a_node_end_with_it() -> None:
    calls = Calls(0.5, 2.0)
    owner = object()
    for number in (1, 2, 1):
        calls.open(0.0, contact(number), owner)
    calls.open(0.0, contact(3), "other")
    assert len(calls.close_all(node(1))) == 2
    calls.disown(owner)
    assert [call.owner for call, _ in calls.due(1.0)] == [None, "other"]


def test_the_dead_are_left_aside_for_a_while() -> None:
    standing = Standing(IndexConfig(dead=2, dead_s=60.0))
    for number in (1, 2, 3):
        standing.dead(0.0, node(number))
    assert [standing.avoids(1.0, node(number)) for number in (1, 2, 3)] == [False, True, True]
    standing.alive(node(2))
    assert not standing.avoids(1.0, node(2))
    assert not standing.avoids(61.0, node(3))


def test_a_liar_is_shunned_after_some_strikes() -> None:
    standing = Standing(IndexConfig(strikes=2, shun_s=600.0, shunned=2))
    assert not standing.strike(0.0, node(1))
    assert standing.strike(0.0, node(1))
    assert standing.shuns(599.0, node(1))
    assert standing.avoids(599.0, node(1))
    assert not standing.shuns(601.0, node(1))
    for number in (2, 3, 4):
        assert not standing.strike(0.0, node(number))
    assert not standing.strike(0.0, node(2)), "it was forgotten"
