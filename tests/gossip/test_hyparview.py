"""One view: who is asked, taken, refused, dialled, kept in reserve. Time is what the test says it is."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from atmo.engine import Dial, Effect, Emit, Misbehaved, Send
from atmo.gossip.hyparview import HyParView
from atmo.gossip.hyparview_config import HyParViewConfig, NeighbourDown, NeighbourUp
from atmo.gossip.messages import Disconnect, ForwardJoin, Neighbour, NeighbourAnswer, ShuffleAnswer
from atmo.identity import NodeId
from atmo.wire.address import Contact
from tests.gossip.hyparview_kit import at, contact, node

OWN = contact(100)
SMALL, LARGE = 1, 200
"""Nodes whose ids are smaller and larger than the own one."""


def new(**kwargs: Any) -> HyParView:
    view = HyParView(HyParViewConfig(**kwargs), OWN.node, Random("test"))
    view.contact = OWN
    return view


def pass_time(view: HyParView, begin: float, end: float) -> list[tuple[float, Effect]]:
    """Serves the timer from `begin` to `end`; returns the effects with their times."""
    seen: list[tuple[float, Effect]] = [(begin, effect) for effect in view.drain()]
    while (due := view.next_timer()) <= end:
        now = max(due, begin)
        view.handle_timer(at(now))
        assert view.next_timer() > now, "a timer that was served moves on"
        seen += [(now, effect) for effect in view.drain()]
    return seen


def dials(view: HyParView, begin: float, end: float) -> list[tuple[float, NodeId]]:
    return [(when, effect.node) for when, effect in pass_time(view, begin, end) if isinstance(effect, Dial)]


def next_dial(view: HyParView, now: float) -> float:
    """Serves the timer until somebody is dialled; returns when."""
    while not [effect for effect in view.drain() if isinstance(effect, Dial)]:
        now = max(now, view.next_timer())
        view.handle_timer(at(now))
    return now


def asks(effects: list[Effect]) -> list[tuple[NodeId, Neighbour]]:
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send) and is_ask(effect)]


def is_ask(effect: Send) -> bool:
    return isinstance(effect.message, Neighbour)


def taken(view: HyParView, *numbers: int, now: float = 0.0) -> None:
    """Makes nodes neighbours that asked for it."""
    for number in numbers:
        view.link_up(at(now), node(number))
        view.receive(at(now), node(number), Neighbour(contact(number)))
        assert node(number) in view.active
    view.drain()


def full() -> HyParView:
    view = new()
    taken(view, 1, 2, 3, 4, 5)
    return view


# --- first links --------------------------------------------------------------------------------------------------


def test_nothing_known_nothing_due() -> None:
    view = new()
    assert view.next_timer() == math.inf
    view.learn(at(0), OWN)
    view.learn(at(0), Contact(node(1), ()))
    assert view.next_timer() == math.inf


def test_a_node_that_is_heard_of_is_dialled_at_once_and_asked() -> None:
    view = new()
    view.learn(at(0), contact(LARGE))
    ((when, effect),) = pass_time(view, 0, 3)
    assert when <= 0.05
    assert effect == Dial(node(LARGE), contact(LARGE).addresses)
    view.link_up(at(0.3), node(LARGE))
    assert view.drain() == [Send(node(LARGE), Neighbour(OWN, priority=True, joining=True))]
    view.receive(at(0.4), node(LARGE), NeighbourAnswer(True))
    assert view.drain() == [Emit(NeighbourUp(node(LARGE)))]
    assert list(view.active) == [node(LARGE)]
    assert view.passive == {}


def test_of_two_nodes_the_one_with_the_larger_id_waits_a_little() -> None:
    view = new()
    view.learn(at(0), contact(SMALL))
    ((when, _),) = dials(view, 0, 3)
    assert 0.3 <= when <= 0.4


def test_who_is_linked_by_the_other_end_is_asked_only_if_that_asks_nothing() -> None:
    view = new()
    view.link_up(at(0), node(LARGE))
    view.learn(at(0), contact(LARGE))
    assert view.drain() == []
    seen = pass_time(view, 0, 1)
    assert [when for when, _ in seen] == [pytest.approx(0.05, abs=0.05)]
    assert asks([effect for _, effect in seen])
    view = new()
    view.link_up(at(0), node(LARGE))
    assert asks([effect for _, effect in pass_time(view, 0, 1)]), "no contact of it is needed"


@pytest.mark.parametrize("accepted", [True, False])
def test_both_ask_at_once_and_are_neighbours_once_even_where_a_refusal_crosses(accepted: bool) -> None:
    view = new()
    view.learn(at(0), contact(LARGE))
    pass_time(view, 0, 1)
    view.link_up(at(1), node(LARGE))
    view.receive(at(1), node(LARGE), Neighbour(contact(LARGE)))
    view.receive(at(1), node(LARGE), NeighbourAnswer(accepted))
    effects = view.drain()
    assert effects.count(Emit(NeighbourUp(node(LARGE)))) == 1
    assert Send(node(LARGE), NeighbourAnswer(True)) in effects
    assert node(LARGE) in view.active


def test_all_of_a_small_mesh_are_wanted_and_of_a_large_one_fewer() -> None:
    view = new()
    for number in range(101, 106):
        view.learn(at(0), contact(number))
    assert len(dials(view, 0, 0.5)) == 5
    view = new()
    taken(view, 1, 2, 3, 4)
    for number in range(101, 120):
        view.learn(at(0), contact(number))
    assert dials(view, 0, 100) == []


def test_the_first_neighbour_spreads_the_news_of_a_newcomer() -> None:
    view = new()
    taken(view, 1, 2)
    view.learn(at(0), contact(9))
    view.link_up(at(0), node(3))
    view.receive(at(0), node(3), Neighbour(contact(3), priority=True, joining=True))
    effects = view.drain()
    assert next(effect for effect in effects if isinstance(effect, Send)) == Send(node(3), NeighbourAnswer(True))
    assert Send(node(1), ForwardJoin(contact(3), 6)) in effects
    assert Send(node(2), ForwardJoin(contact(3), 6)) in effects
    (gift,) = [effect.message for effect in effects if isinstance(effect, Send) and effect.to == node(3)][1:]
    assert isinstance(gift, ShuffleAnswer)
    assert dict.fromkeys(one.node for one in gift.contacts) == dict.fromkeys([node(1), node(2), node(9)])


def test_a_newcomer_that_does_not_listen_is_taken_and_not_spread() -> None:
    view = new()
    taken(view, 1)
    view.link_up(at(0), node(3))
    view.receive(at(0), node(3), Neighbour(Contact(node(3), ()), joining=True))
    assert node(3) in view.active
    assert not [effect for effect in view.drain() if isinstance(effect, Send) and effect.to == node(1)]
    view.receive(at(0), node(1), Disconnect())
    view.receive(at(0), node(3), Disconnect())
    assert list(view.passive) == [node(1)], "nobody could dial it"


def test_only_the_first_neighbour_is_asked_to_spread_the_news() -> None:
    view = new()
    for number in range(101, 104):
        view.learn(at(0), contact(number))
    pass_time(view, 0, 0.5)
    for number in range(101, 104):
        view.link_up(at(1), node(number))
    first, *others = asks(view.drain())
    assert first[1].joining
    assert not any(ask.joining for _, ask in others)
    view.link_down(at(1), first[0])
    view.link_up(at(20), first[0])
    assert next(ask.joining for _, ask in asks([effect for _, effect in pass_time(view, 20, 21)]))


# --- the active view ----------------------------------------------------------------------------------------------


def test_a_full_node_makes_room_a_few_times_and_then_refuses() -> None:
    view = full()
    answers = []
    for number in range(10, 15):
        view.link_up(at(1), node(number))
        view.receive(at(1), node(number), Neighbour(contact(number)))
        effects = view.drain()
        answers.append(Send(node(number), NeighbourAnswer(True)) in effects)
        assert len([one for one in effects if isinstance(one, Send) and one.message == Disconnect()]) == answers[-1]
        assert len(view.active) == 5
    assert answers == [True, True, True, False, False]
    view.receive(at(7), node(14), Neighbour(contact(14)))
    assert node(14) in view.active


def test_who_has_nobody_is_never_refused() -> None:
    view = full()
    for number in range(10, 30):
        view.link_up(at(1), node(number))
        view.receive(at(1), node(number), Neighbour(contact(number), priority=True))
        assert node(number) in view.active
        assert len(view.active) == 5


def test_neighbours_of_its_own_choice_are_not_pushed_out() -> None:
    view = new()
    for number in range(101, 105):
        view.learn(at(0), contact(number))
    for _, chosen in dials(view, 0, 1):
        view.link_up(at(1), chosen)
        view.receive(at(1), chosen, NeighbourAnswer(True))
    chosen_first = list(view.active)[:2]
    for number in range(10, 60):
        view.link_up(at(2), node(number))
        view.receive(at(2), node(number), Neighbour(contact(number), priority=True))
    assert list(view.active)[:2] == chosen_first


def test_where_all_are_protected_one_goes_nevertheless() -> None:
    view = new(active=1, active_least=1)
    view.learn(at(0), contact(LARGE))
    pass_time(view, 0, 1)
    view.link_up(at(1), node(LARGE))
    view.receive(at(1), node(LARGE), NeighbourAnswer(True))
    view.link_up(at(2), node(1))
    view.receive(at(2), node(1), Neighbour(contact(1), priority=True))
    assert list(view.active) == [node(1)]


def test_a_suspect_is_replaced_and_makes_room_first() -> None:
    view = full()
    view.learn(at(0), contact(LARGE))
    view.suspect(at(1), node(2))
    view.suspect(at(1), node(99))
    assert dials(view, 1, 2) == [], "four are healthy, and that is enough"
    view.suspect(at(2), node(3))
    ((_, replacement),) = dials(view, 2, 2.5)
    view.link_up(at(3), replacement)
    view.receive(at(3), replacement, NeighbourAnswer(True))
    assert replacement in view.active
    assert len(view.active) == 5
    gone = [one for one in (node(2), node(3)) if one not in view.active]
    assert len(gone) == 1


def test_a_suspect_that_is_trusted_again_is_a_neighbour_like_others() -> None:
    view = full()
    view.learn(at(0), contact(LARGE))
    for number in (1, 2):
        view.suspect(at(1), node(number))
        view.trust(at(1), node(number))
    view.trust(at(1), node(99))
    assert dials(view, 1, 2) == []
    assert len(view.active) == 5


def test_a_neighbour_that_parts_is_kept_in_reserve_and_left_alone_for_a_while() -> None:
    view = new()
    taken(view, 1, 2)
    view.receive(at(1), node(1), Disconnect())
    view.receive(at(1), node(1), Disconnect())
    assert view.drain() == [Emit(NeighbourDown(node(1)))]
    assert list(view.passive) == [node(1)]
    ((when, _), *_) = [row for row in pass_time(view, 1, 30) if asks([row[1]])]
    assert 5 <= when - 1 <= 16


def test_an_answer_too_late_for_a_full_node_is_undone() -> None:
    view = full()
    view.link_up(at(1), node(9))
    view.receive(at(1), node(9), NeighbourAnswer(True))
    assert view.drain() == [Send(node(9), Disconnect())]
    view.receive(at(1), node(9), NeighbourAnswer(False))
    assert view.stats.refused == 0


def test_an_answer_nobody_waits_for_is_taken_where_there_is_room() -> None:
    view = new()
    view.link_up(at(1), node(9))
    view.receive(at(1), node(9), NeighbourAnswer(True))
    assert not view.active[node(9)].chosen


def test_a_refusal_leads_to_another() -> None:
    view = new(active=2, active_least=2)
    taken(view, 1)
    for number in range(101, 104):
        view.learn(at(0), contact(number))
    ((_, first),) = dials(view, 0, 0.9)
    view.link_up(at(1), first)
    view.receive(at(1), first, NeighbourAnswer(False))
    assert view.stats.refused == 1
    ((_, second), *_) = dials(view, 1, 3)
    assert second != first


def test_no_answer_is_a_refusal() -> None:
    view = new()
    view.link_up(at(0), node(LARGE))
    times = [when for when, effect in pass_time(view, 0, 40) if asks([effect])]
    assert 10 <= times[1] - times[0] <= 21


def test_the_view_of_a_node_whose_link_ends() -> None:
    view = new()
    taken(view, 1)
    view.link_down(at(1), node(1))
    view.link_down(at(1), node(1))
    assert view.drain() == [Emit(NeighbourDown(node(1)))]
    assert view.stats.neighbours_up == view.stats.neighbours_down == 1


def test_who_leaves_parts_from_all_and_takes_nobody_any_more() -> None:
    view = new()
    view.learn(at(0), contact(LARGE))
    pass_time(view, 0, 1)
    taken(view, 1, 2)
    view.link_up(at(0), node(3))
    view.leave(at(1))
    parted = [effect.to for effect in view.drain() if isinstance(effect, Send) and effect.message == Disconnect()]
    assert parted == [node(1), node(2)]
    assert view.active == {}
    view.receive(at(2), node(1), Neighbour(contact(1), priority=True))
    view.receive(at(2), node(2), NeighbourAnswer(True))
    view.gone(at(2), node(3))
    view.gone(at(2), node(LARGE))
    assert view.drain() == [Send(node(1), NeighbourAnswer(False)), Send(node(2), Disconnect())]
    assert view.next_timer() == math.inf


# --- messages that lie ---------------------------------------------------------------------------------------------


def test_who_is_not_linked_says_nothing() -> None:
    view = new()
    view.receive(at(0), node(1), Neighbour(contact(1), priority=True))
    assert view.drain() == []


def test_a_neighbour_in_the_name_of_another_is_a_lie() -> None:
    view = new()
    view.link_up(at(0), node(1))
    view.receive(at(0), node(1), Neighbour(contact(2)))
    (effect,) = view.drain()
    assert isinstance(effect, Misbehaved)
    assert view.active == {}


def test_asking_again_changes_nothing() -> None:
    view = new()
    taken(view, 1)
    view.receive(at(0), node(1), Neighbour(contact(1, port=9), joining=True))
    assert view.drain() == [Send(node(1), NeighbourAnswer(True))]
    assert view.known[node(1)] == contact(1, port=9)
