"""Dials: how many at once, how often, whom first."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from atmo.engine import Dial, Emit
from atmo.gossip.hyparview_config import NeighbourDown
from atmo.gossip.messages import Neighbour, NeighbourAnswer
from atmo.identity import NodeId
from tests.gossip.hyparview_kit import at, contact, node
from tests.gossip.test_hyparview import LARGE, dials, new, next_dial, pass_time, taken


def test_a_node_that_does_not_answer_is_tried_ever_more_rarely() -> None:
    view = new(heal_s=1e9, heal_most_s=1e9)
    view.learn(at(0), contact(LARGE))
    times, now = [], 0.0
    while now < 4_000:
        now = max(now, view.next_timer())
        view.handle_timer(at(now))
        if [effect for effect in view.drain() if isinstance(effect, Dial)]:
            times.append(now)
            view.dial_failed(at(now), node(LARGE))
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert max(waits[:2]) < 2
    assert all(60 <= wait <= 180 for wait in waits[8:])
    assert view.stats.dial_failures == view.stats.dials == len(times)


def test_a_new_record_brings_the_next_dial_forward_but_not_all_the_time() -> None:
    view = new()
    count = 0
    for second in range(300):
        view.learn(at(second), contact(LARGE, port=1 + second % 2))
        for now, effect in pass_time(view, second, second + 0.99):
            if isinstance(effect, Dial):
                count += 1
                view.dial_failed(at(now), node(LARGE))
    assert 10 <= count <= 70


def test_a_dial_without_an_outcome_is_given_up() -> None:
    view = new()
    view.learn(at(0), contact(LARGE))
    first, second = dials(view, 0, 32)
    assert second[0] - first[0] >= 30
    assert view.stats.dial_failures == 1


def test_an_outcome_nobody_waits_for_changes_nothing() -> None:
    view = new()
    view.dial_failed(at(0), node(1))
    view.link_down(at(0), node(1))
    assert view.stats.dial_failures == view.stats.neighbours_down == 0
    assert view.next_timer() == math.inf


def test_many_dead_addresses_do_not_delay_the_one_that_lives() -> None:
    view = new()
    for number in range(101, 545):
        view.learn(at(0), contact(number), stale=number != 300)
    pending: list[tuple[float, NodeId]] = []
    now = 0.0
    while node(300) not in view.active and now < 10:
        now = min(view.next_timer(), *(when for when, _ in pending)) if pending else view.next_timer()
        for when, other in list(pending):
            if when <= now:
                pending.remove((when, other))
                view.dial_failed(at(now), other)
        view.handle_timer(at(now))
        for effect in view.drain():
            if isinstance(effect, Dial):
                if effect.node == node(300):
                    view.link_up(at(now + 0.1), node(300))
                    view.receive(at(now + 0.2), node(300), NeighbourAnswer(True))
                else:
                    pending.append((now + 5, effect.node))
        assert view.dialling() <= 64
    assert now < 1


@pytest.mark.parametrize("stale", [False, True])
def test_all_of_many_dead_addresses_are_tried_in_about_a_minute(stale: bool) -> None:
    view = new(heal_s=1e9, heal_most_s=1e9)
    for number in range(101, 545):
        view.learn(at(0), contact(number), stale=stale)
    tried: dict[NodeId, None] = {}
    ends: dict[NodeId, float] = {}
    for tick in range(1, 1_200):
        now = tick / 10
        for other in [other for other, end in ends.items() if end <= now]:
            del ends[other]
            view.dial_failed(at(now), other)
        while view.next_timer() <= now:
            view.handle_timer(at(now))
        for effect in view.drain():
            if isinstance(effect, Dial):
                tried[effect.node] = None
                ends[effect.node] = now + 5
        young = [end for end in ends.values() if end > now + 4.05]
        assert len(young) <= 8
        if len(tried) == 444:
            break
    assert now < 110


def test_a_node_with_neighbours_dials_few_at_once() -> None:
    view = new(active=20, active_least=20, dials=4)
    taken(view, 1)
    for number in range(101, 200):
        view.learn(at(0), contact(number))
    assert len(dials(view, 0, 25)) == 4


def test_what_is_in_vain_again_and_again_is_tried_with_pauses() -> None:
    view = new()
    taken(view, 1)
    for number in range(101, 300):
        view.learn(at(0), contact(number))
    count = 0
    while (due := view.next_timer()) <= 60:
        view.handle_timer(at(due))
        for effect in view.drain():
            if isinstance(effect, Dial):
                count += 1
                view.dial_failed(at(due), effect.node)
    assert 10 <= count <= 30


def test_a_forgotten_node_is_out_of_everything() -> None:
    view = new()
    view.learn(at(0), contact(LARGE))
    taken(view, 1)
    for number in (1, LARGE):
        view.forget(at(0), node(number))
    assert view.drain() == [Emit(NeighbourDown(node(1)))]
    assert not {**view.passive, **view.known}
    assert not view.active
    view.receive(at(0), node(1), Neighbour(contact(1)))
    assert dials(view, 0, 100) == []


def test_a_link_that_stood_is_dialled_again_soon_and_one_that_flaps_is_not() -> None:
    view = new(heal_s=1e9, heal_most_s=1e9)
    view.learn(at(0), contact(LARGE))
    now = 0.0
    for _ in range(10):
        now = next_dial(view, now)
        view.link_up(at(now), node(LARGE))
        view.link_down(at(now + 1), node(LARGE))
        now += 1
    later = next_dial(view, now)
    assert later > now + 25
    view.link_up(at(later), node(LARGE))
    view.link_down(at(later + 50), node(LARGE))
    assert dials(view, later + 50, later + 51)
