"""Membership: who is dialled when, and how a silent link ends. Time is what the test says it is."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from atmo.engine import Dial, Hangup, Send
from atmo.gossip.membership import Membership, MembershipConfig
from atmo.gossip.messages import Ping, Pong
from atmo.identity import NodeId
from atmo.wire.address import Address
from tests.gossip.kit import at, of

OWN = NodeId(b"m" * 32)
LOW, HIGH = NodeId(b"a" * 32), NodeId(b"z" * 32)
HERE, THERE = (Address("10.0.0.1", 1),), (Address("10.0.0.2", 2),)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def new(**kwargs: float) -> Membership:
    return Membership(MembershipConfig(**kwargs), OWN, Random("test"))  # type: ignore[arg-type]


def pass_time(membership: Membership, begin: float, end: float) -> list[tuple[float, object]]:
    """Serves the timer from `begin` to `end`; returns the effects with their times."""
    seen: list[tuple[float, object]] = [(begin, effect) for effect in membership.drain()]
    while (due := membership.next_timer()) <= end:
        now = max(due, begin)
        membership.handle_timer(at(now))
        assert membership.next_timer() > now, "a timer that was served moves on"
        seen += [(now, effect) for effect in membership.drain()]
    return seen


def dials(membership: Membership, begin: float, end: float) -> list[tuple[float, NodeId]]:
    return [(when, effect.node) for when, effect in pass_time(membership, begin, end) if isinstance(effect, Dial)]


def next_dial(membership: Membership, now: float) -> float:
    """Serves the timer until somebody is dialled; returns when."""
    while not of(membership.drain(), Dial):
        now = max(now, membership.next_timer())
        membership.handle_timer(at(now))
    return now


# --- dialling -----------------------------------------------------------------------------------------------------


def test_nothing_known_nothing_due() -> None:
    assert new().next_timer() == math.inf


def test_a_node_that_is_heard_of_is_dialled_at_its_addresses() -> None:
    membership = new()
    membership.learn(at(0), HIGH, THERE)
    ((when, effect),) = pass_time(membership, 0, 10)
    assert effect == Dial(HIGH, THERE)
    assert when < 0.1


def test_of_two_nodes_the_one_with_the_larger_id_waits_a_little() -> None:
    membership = new()
    membership.learn(at(0), LOW, THERE)
    ((when, _),) = dials(membership, 0, 10)
    assert when > 0.25


def test_this_node_and_nodes_without_addresses_are_not_dialled() -> None:
    membership = new()
    membership.learn(at(0), OWN, HERE)
    membership.learn(at(0), HIGH, ())
    assert dials(membership, 0, 1_000) == []


def test_a_node_that_does_not_answer_is_tried_ever_more_rarely() -> None:
    membership = new()
    membership.learn(at(0), HIGH, THERE)
    times, now = [], 0.0
    while now < 2_000:
        now = max(now, membership.next_timer())
        membership.handle_timer(at(now))
        if of(membership.drain(), Dial):
            times.append(now)
            membership.dial_failed(at(now), HIGH)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert max(waits[:2]) < 2
    assert all(30 <= wait <= 90 for wait in waits[8:])
    assert membership.stats.dial_failures == membership.stats.dials == len(times)


def test_a_node_nobody_hears_of_is_tried_more_rarely_still() -> None:
    membership = new(backoff_most_s=1.0, backoff_stale_s=1_000.0)
    membership.learn(at(0), HIGH, THERE)
    membership.mark_stale(HIGH)
    membership.mark_stale(LOW)
    now = 0.0
    for _ in range(20):
        now = max(now, membership.next_timer())
        membership.handle_timer(at(now))
        membership.dial_failed(at(now), HIGH)
    assert membership.next_timer() - now >= 500


def test_a_dial_without_an_outcome_is_given_up() -> None:
    membership = new()
    membership.learn(at(0), HIGH, THERE)
    first, second = dials(membership, 0, 62)
    assert second[0] - first[0] >= 60
    assert membership.stats.dial_failures == 1


def test_an_outcome_nobody_waits_for_changes_nothing() -> None:
    membership = new()
    membership.dial_failed(at(0), HIGH)
    membership.link_down(at(0), HIGH)
    assert membership.stats.dial_failures == membership.stats.links_down == 0
    assert membership.next_timer() == math.inf


def test_a_list_of_dead_addresses_is_worked_off_a_few_at_a_time() -> None:
    membership = new()
    for number in range(100):
        membership.learn(at(0), node(number), THERE)
    first = dials(membership, 0, 1)
    assert len(first) == 8
    assert dials(membership, 1, 30) == []
    membership.dial_failed(at(30), first[0][1])
    assert len(dials(membership, 30, 30)) == 1


def test_enough_links_end_the_dialling_until_one_goes() -> None:
    membership = new(target_links=2)
    for number in range(4):
        membership.learn(at(0), node(number), THERE)
    dialled = [other for _, other in dials(membership, 0, 1)]
    assert len(dialled) == 2
    for other in dialled:
        membership.link_up(at(1), other)
    assert dials(membership, 1, 9) == []
    membership.link_down(at(9), dialled[0])
    assert len(dials(membership, 9, 11)) == 1


def test_a_connected_node_is_not_dialled_even_before_it_proved_anything() -> None:
    membership = new()
    membership.link_pending(HIGH)
    membership.learn(at(0), HIGH, THERE)
    assert dials(membership, 0, 100) == []
    membership.link_down(at(100), HIGH)
    assert len(dials(membership, 100, 102)) == 1


def test_a_forgotten_node_is_not_dialled() -> None:
    membership = new()
    membership.learn(at(0), HIGH, THERE)
    membership.forget(HIGH)
    assert dials(membership, 0, 100) == []


def test_a_link_that_stood_is_dialled_again_soon_and_one_that_flaps_is_not() -> None:
    membership = new()
    membership.learn(at(0), HIGH, THERE)
    now = 0.0
    for _ in range(10):
        now = next_dial(membership, now)
        membership.link_up(at(now), HIGH)
        membership.link_down(at(now + 1), HIGH)
    assert next_dial(membership, now) > now + 25
    membership.link_up(at(now), HIGH)
    membership.link_down(at(now + 50), HIGH)
    assert next_dial(membership, now + 50) < now + 51


# --- news of a node -----------------------------------------------------------------------------------------------


def fail_often(membership: Membership) -> float:
    now = 0.0
    for _ in range(10):
        now = max(now, membership.next_timer())
        membership.handle_timer(at(now))
        membership.dial_failed(at(now), HIGH)
    membership.drain()
    return now


def test_a_new_record_brings_the_next_dial_forward_at_its_new_addresses() -> None:
    membership = new()
    membership.learn(at(0), HIGH, HERE)
    now = fail_often(membership)
    membership.learn(at(now), HIGH, THERE)
    (effect,) = of([effect for _, effect in pass_time(membership, now, now + 1)], Dial)  # type: ignore[misc]
    assert effect.addresses == THERE


def test_an_author_cannot_make_others_dial_all_the_time() -> None:
    membership = new()
    times, now = 0, 0.0
    for second in range(300):
        membership.learn(at(second), HIGH, HERE if second % 2 else THERE)
        for now, effect in pass_time(membership, second, second + 0.99):
            if isinstance(effect, Dial):
                times += 1
                membership.dial_failed(at(now), HIGH)
    assert times <= 10 * 6


def test_old_news_does_not_replace_fresher() -> None:
    membership = new()
    membership.learn(at(0), HIGH, HERE)
    membership.learn(at(0), HIGH, THERE, stale=True)
    membership.learn(at(0), LOW, THERE, stale=True)
    effects = of([effect for _, effect in pass_time(membership, 0, 1)], Dial)  # type: ignore[misc]
    assert effects == [Dial(HIGH, HERE), Dial(LOW, THERE)]


def test_news_without_end_costs_no_memory() -> None:
    membership = new(target_links=0)
    for number in range(10_000):
        membership.learn(at(40.0 * number), node(number % 10), HERE if number % 20 < 10 else THERE)
        membership.link_down(at(40.0 * number), node(number % 10))
    assert len(membership._waiting) < 200


# --- links --------------------------------------------------------------------------------------------------------


def test_pings_measure_the_round_trip_and_carry_the_load() -> None:
    membership = new()
    membership.link_up(at(0), HIGH)
    ((sent, effect),) = pass_time(membership, 0, 1)
    assert isinstance(effect, Send)
    assert isinstance(effect.message, Ping)
    membership.receive(at(sent + 0.08), HIGH, Pong(effect.message.nonce, 3))
    link = membership.links[HIGH]
    assert link.rtt_s == pytest.approx(0.08)
    assert link.load == 3
    ((sent, effect),) = pass_time(membership, 1, 3)
    assert isinstance(effect, Send)
    membership.receive(at(sent + 0.16), HIGH, Pong(effect.message.nonce, -5))
    assert link.rtt_s == pytest.approx(0.09)
    assert link.load == 0


def test_a_ping_is_answered_with_the_load() -> None:
    membership = new()
    membership.load = 2
    membership.receive(at(0), HIGH, Ping(7))
    assert membership.drain() == [Send(HIGH, Pong(7, 2))]


def test_a_pong_that_answers_nothing_is_counted() -> None:
    membership = new()
    membership.link_up(at(0), HIGH)
    membership.receive(at(0), HIGH, Pong(7))
    pass_time(membership, 0, 1)
    membership.receive(at(1), HIGH, Pong(-7))
    assert membership.stats.pongs_late == 2
    assert membership.links[HIGH].rtt_s is None


def test_a_silent_link_is_hung_up_within_seconds() -> None:
    membership = new()
    membership.link_up(at(0), HIGH)
    ends = [when for when, effect in pass_time(membership, 0, 60) if isinstance(effect, Hangup)]
    assert 6 <= ends[0] <= 7
    membership.link_down(at(13), HIGH)
    assert membership.next_timer() > 60


def test_a_link_on_which_anything_is_heard_stays() -> None:
    membership = new()
    membership.link_up(at(0), HIGH)
    for second in range(60):
        effects = pass_time(membership, second, second + 1)
        assert not any(isinstance(effect, Hangup) for _, effect in effects)
        membership.heard(at(second + 1), HIGH)
    assert membership.stats.pings_missed == 0


def test_a_full_node_hangs_up() -> None:
    membership = new(target_links=1)
    assert membership.link_up(at(0), node(1))
    assert membership.link_up(at(0), node(2))
    assert not membership.link_up(at(0), node(3))
    assert membership.drain() == [Hangup(node(3), "this node has as many links as it can hold")]
    assert membership.link_up(at(0), node(2))
    assert list(membership.links) == [node(1), node(2)]
