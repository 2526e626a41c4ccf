"""Walks, the passive view, tombstones, and the healer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from atmo.engine import Dial, Effect, Emit, Misbehaved, Send
from atmo.gossip.hyparview import HyParView
from atmo.gossip.hyparview_config import NeighbourUp
from atmo.gossip.messages import Disconnect, ForwardJoin, Neighbour, NeighbourAnswer, Shuffle, ShuffleAnswer
from atmo.wire.address import Contact
from tests.gossip.hyparview_kit import at, contact, node
from tests.gossip.test_hyparview import LARGE, OWN, dials, new, pass_time, taken


def sends(effects: list[Effect], kind: type) -> list[tuple[object, Any]]:
    return [
        (effect.to, effect.message)
        for effect in effects
        if isinstance(effect, Send)
        if isinstance(effect.message, kind)
    ]


def told(view: HyParView, source: int, *messages: Any, now: float = 1.0) -> list[Effect]:
    for message in messages:
        view.receive(at(now), node(source), message)
    return view.drain()


# --- newcomers ----------------------------------------------------------------------------------------------------


def test_a_newcomer_is_passed_on_to_another_neighbour() -> None:
    view = new()
    taken(view, 1, 2)
    assert told(view, 1, ForwardJoin(contact(9), 5)) == [Send(node(2), ForwardJoin(contact(9), 4))]
    assert not view.passive
    assert told(view, 1, ForwardJoin(contact(9), 8)) == [Send(node(2), ForwardJoin(contact(9), 5))]


def test_a_newcomer_is_introduced_once_in_a_while_however_often_it_comes() -> None:
    view = new(introductions=1)
    taken(view, 1)
    counts = []
    for now, newcomer in ((1, 2), (2, 2), (3, 3), (4, 2), (500, 2)):
        view.link_up(at(now), node(newcomer))
        effects = told(view, newcomer, Neighbour(contact(newcomer), joining=True), Disconnect(), now=now)
        counts.append(len(sends(effects, ForwardJoin)))
        view.link_down(at(now), node(newcomer))
    assert counts == [1, 0, 1, 1, 1], "the third made the only place free"


def test_a_newcomer_enters_the_passive_view_on_its_way() -> None:
    view = new()
    taken(view, 1, 2)
    assert told(view, 1, ForwardJoin(contact(9), 3)) == [Send(node(2), ForwardJoin(contact(9), 2))]
    assert list(view.passive) == [node(9)]


def test_where_its_walk_ends_a_newcomer_is_asked_by_who_lacks_a_neighbour() -> None:
    view = new()
    taken(view, 1, 2)
    assert told(view, 1, ForwardJoin(contact(9), 1)) == [Dial(node(9), contact(9).addresses)]
    view = new()
    taken(view, 1, 2, 3, 4)
    for number in (20, 21):
        view.learn(at(0), contact(number), stale=True)
    assert told(view, 1, ForwardJoin(contact(9), 0)) == []
    assert list(view.passive) == [node(9)]


def test_a_walk_ends_where_there_is_no_other_neighbour() -> None:
    view = new()
    taken(view, 1)
    assert told(view, 1, ForwardJoin(contact(9), 6)) == [Dial(node(9), contact(9).addresses)]
    view = new()
    taken(view, 1, 2)
    assert told(view, 1, ForwardJoin(contact(2), 6)) == [], "a neighbour is no newcomer"
    assert told(view, 1, ForwardJoin(OWN, 1)) == []
    assert not view.passive


def test_walks_come_from_neighbours_only() -> None:
    view = new()
    view.link_up(at(0), node(1))
    shuffle = Shuffle((contact(1),), 1, (node(1),))
    assert told(view, 1, ForwardJoin(contact(9), 1)) == [Send(node(1), Disconnect())]
    assert told(view, 1, shuffle) == [Send(node(1), Disconnect())]
    assert not view.passive


def test_only_so_many_walks_are_taken_from_one_link() -> None:
    view = new()
    taken(view, 1, 2)
    assert len(told(view, 1, *[ForwardJoin(contact(9), 5)] * 100)) == 32
    assert len(told(view, 1, *[Shuffle((contact(1),), 5, (node(1),))] * 100)) == 0
    assert told(view, 1, ShuffleAnswer((contact(50),), ())) == []
    assert view.stats.walks_dropped == 68 + 100 + 1
    assert not view.passive
    assert len(told(view, 1, *[ForwardJoin(contact(9), 5)] * 100, now=11)) == 10
    assert len(told(view, 2, ForwardJoin(contact(9), 5))) == 1, "others are none the worse"


# --- shuffles -----------------------------------------------------------------------------------------------------


def test_a_node_with_neighbours_shuffles_now_and_then() -> None:
    view = new()
    taken(view, 1, 2, 3, 4)
    for number in range(10, 30):
        view.learn(at(0), contact(number))
    seen = [(when, effect) for when, effect in pass_time(view, 0, 300) if sends([effect], Shuffle)]
    assert 9 <= len(seen) <= 11
    for _, effect in seen:
        ((to, message),) = sends([effect], Shuffle)
        assert message.contacts[0] == OWN
        assert message.route == (OWN.node,)
        assert message.ttl == 6
        nodes = [one.node for one in message.contacts[1:]]
        assert len(nodes) == 7
        assert to not in nodes
        assert sum(one in view.active for one in nodes) == 3
        assert sum(one in view.passive for one in nodes) == 4
    view.link_down(at(300), node(1))
    for number in (2, 3, 4):
        view.link_down(at(300), node(number))
    assert not [row for row in pass_time(view, 300, 400) if sends([row[1]], Shuffle)]


def test_a_node_whose_neighbours_are_all_suspect_does_not_shuffle() -> None:
    view = new()
    taken(view, 1)
    view.suspect(at(0), node(1))
    assert not [row for row in pass_time(view, 0, 100) if sends([row[1]], Shuffle)]


def test_a_node_that_lacks_neighbours_and_knows_nobody_shuffles_soon() -> None:
    view = new()
    taken(view, 1, 2, 3)
    for number in range(10, 16):
        view.learn(at(0), contact(number), stale=True)
    first = next(when for when, effect in pass_time(view, 0, 20) if sends([effect], Shuffle))
    assert first < 1
    told(view, 1, ShuffleAnswer((), ()), now=20)
    again = next(when for when, effect in pass_time(view, 20, 40) if sends([effect], Shuffle))
    assert again < 21


def test_a_shuffle_goes_on_with_its_route() -> None:
    view = new()
    taken(view, 1, 2)
    before = Shuffle((contact(7), contact(8)), 5, (node(7), node(1)))
    after = Shuffle((contact(7), contact(8)), 4, (node(7), node(1), OWN.node))
    assert told(view, 1, before) == [Send(node(2), after)]
    assert not view.passive


@pytest.mark.parametrize(
    ("ttl", "route"),
    [
        (1, (7, 1)),
        (6, (7, 2, 1)),
        (6, (7, 100, 1)),
        (6, (7, 11, 12, 13, 14, 15, 16, 1)),
    ],
)
def test_where_the_walk_ends_samples_are_exchanged(ttl: int, route: tuple[int, ...]) -> None:
    view = new()
    taken(view, 1, 2)
    for number in range(20, 40):
        view.learn(at(0), contact(number))
    nodes = tuple(node(number) for number in route)
    (answer,) = told(view, 1, Shuffle((contact(7), contact(8), contact(1)), ttl, nodes))
    assert isinstance(answer, Send)
    assert answer.to == node(1)
    assert answer.message.route == nodes[:-1]
    assert len(answer.message.contacts) == 3
    assert node(7) in view.passive
    assert node(8) in view.passive
    assert node(1) not in view.passive


@pytest.mark.parametrize(
    "message",
    [
        Shuffle((), 3, (node(1),)),
        Shuffle((contact(1),), 3, ()),
        Shuffle((contact(1),), 3, (node(1), node(2))),
        Shuffle((contact(3),), 3, (node(1),)),
    ],
)
def test_a_shuffle_that_did_not_come_by_its_route_is_a_lie(message: Shuffle) -> None:
    view = new()
    taken(view, 1)
    (effect,) = told(view, 1, message)
    assert isinstance(effect, Misbehaved)
    assert not view.passive


def test_a_shuffle_that_comes_back_to_its_origin_ends() -> None:
    view = new()
    taken(view, 1, 2)
    assert told(view, 1, Shuffle((OWN, contact(8)), 3, (OWN.node, node(1)))) == []
    assert not view.passive


def test_an_answer_goes_back_along_the_route() -> None:
    view = new()
    taken(view, 1, 2)
    answer = ShuffleAnswer((contact(8),), (node(7), node(1)))
    assert told(view, 2, answer) == [Send(node(1), ShuffleAnswer((contact(8),), (node(7),)))]
    assert told(view, 2, ShuffleAnswer((contact(8),), (node(9),))) == []
    assert not view.passive


def test_an_answer_brings_contacts_in_place_of_those_that_were_sent() -> None:
    view = new(passive=6)
    taken(view, 1, 2, 3, 4)
    for number in range(10, 16):
        view.learn(at(0), contact(number))
    (((_, shuffle),), *_) = [found for _, effect in pass_time(view, 0, 33) if (found := sends([effect], Shuffle))]
    sent = [one.node for one in shuffle.contacts if one.node in view.passive]
    told(view, 1, ShuffleAnswer(tuple(contact(number) for number in range(20, 20 + len(sent))), ()))
    assert len(view.passive) == 6
    assert not [one for one in sent if one in view.passive]
    assert node(20) in view.passive


def test_hearsay_replaces_nothing_that_a_node_said_of_itself() -> None:
    view = new()
    taken(view, 1)
    view.learn(at(0), contact(8))
    lies = (contact(8, port=66), Contact(node(9), ()), OWN, contact(1, port=66))
    told(view, 1, ShuffleAnswer(lies, ()))
    assert view.passive == {node(8): contact(8)}
    assert view.known[node(1)] == contact(1)
    view.receive(at(1), node(1), Disconnect())
    view = new()
    taken(view, 1, 2, 3, 4)
    for number in range(10, 20):
        view.learn(at(0), contact(number), stale=True)
    told(view, 1, ShuffleAnswer((contact(10, port=66),), ()))
    assert view.passive[node(10)] == contact(10)


def test_hearsay_that_cannot_be_dialled_is_forgotten_and_not_heard_again_at_once() -> None:
    view = new()
    taken(view, 1)
    told(view, 1, ShuffleAnswer((contact(LARGE),), ()))
    assert len(dials(view, 1, 1.5)) == 1
    view.dial_failed(at(2), node(LARGE))
    told(view, 1, ShuffleAnswer((contact(LARGE),), ()), now=30)
    assert not view.passive
    assert not view.known.get(node(LARGE))
    told(view, 1, ShuffleAnswer((contact(LARGE),), ()), now=70)
    assert list(view.passive) == [node(LARGE)]


def test_a_node_that_was_dialled_on_hearsay_is_known_once_it_answers() -> None:
    view = new()
    taken(view, 1)
    told(view, 1, ShuffleAnswer((contact(LARGE),), ()))
    dials(view, 1, 1.5)
    view.link_up(at(2), node(LARGE))
    assert view.known[node(LARGE)] == contact(LARGE)


def test_hearsay_is_not_proved_by_a_node_that_comes_by_itself() -> None:
    """Or whoever tells of a node before it comes could have it dialled anywhere from then on."""
    view = new()
    taken(view, 1, 2, 3, 4)
    told(view, 1, ShuffleAnswer((contact(LARGE, port=66),), ()))
    view.link_up(at(2), node(LARGE))
    assert node(LARGE) not in view.known
    view.receive(at(2), node(LARGE), Neighbour(contact(LARGE)))
    assert view.known[node(LARGE)] == contact(LARGE)


def test_news_of_a_node_in_reserve_brings_its_new_address() -> None:
    view = new()
    taken(view, 1, 2, 3, 4, 5)
    view.learn(at(0), contact(9))
    news = contact(9, port=2)
    view.learn(at(1), news)
    view.learn(at(1), news)
    view.learn(at(1), contact(9, port=3), stale=True)
    assert view.passive[node(9)] == view.known[node(9)] == contact(9, port=2)
    told(view, 1, ShuffleAnswer((contact(10),), ()))
    view.learn(at(2), contact(10, port=4))
    assert view.passive[node(10)] == contact(10, port=4)


def test_the_reserve_is_an_even_sample_of_all_that_are_known() -> None:
    view = new()
    taken(view, 1, 2, 3, 4, 5)
    for number in range(101, 501):
        view.learn(at(0), contact(number))
    assert len(view.passive) == 30
    numbers = [int.from_bytes(one, "big") for one in view.passive]
    assert 200 < sum(numbers) / 30 < 400


def test_the_book_has_a_bound() -> None:
    view = new(book=40)
    taken(view, 1, 2, 3, 4, 5)
    for number in range(101, 501):
        view.learn(at(0), contact(number), stale=number % 3 == 0)
    assert len(view.known) == 40
    assert all(one in view.known for one in view.passive), "whoever is in reserve is kept"
    for number in range(1_000, 1_100):
        view.gone(at(0), node(number))
    assert len(view._book.lost) == 40
    view = new(book=4, passive=10)
    for number in range(101, 120):
        view.learn(at(0), contact(number))
    assert len(view.known) == 4
    assert len(view.passive) <= 10


# --- who is gone --------------------------------------------------------------------------------------------------


def test_gossip_cannot_resurrect_the_dead_but_a_record_can() -> None:
    view = new()
    taken(view, 1, 2, 3, 4)
    view.learn(at(0), contact(9))
    view.gone(at(1), node(9))
    view.gone(at(1), node(10))
    assert not view.passive
    told(view, 1, ShuffleAnswer((contact(9), contact(10)), ()), ForwardJoin(contact(9), 0), now=300)
    assert not view.passive
    view.learn(at(301), contact(9))
    told(view, 1, ShuffleAnswer((contact(9),), ()), now=302)
    assert list(view.passive) == [node(9)]
    told(view, 1, ShuffleAnswer((contact(10),), ()), now=700)
    assert list(view.passive) == [node(9), node(10)]


def test_whoever_is_gone_is_asked_for_now_and_then() -> None:
    view = new()
    taken(view, 1, 2, 3, 4)
    view.learn(at(0), contact(9))
    view.learn(at(0), contact(LARGE), stale=True)
    view.gone(at(0), node(9))
    found = []
    now = 0.0
    while now < 300:
        now = view.next_timer()
        view.handle_timer(at(now))
        for effect in view.drain():
            if isinstance(effect, Dial):
                found.append((now, effect.node))
                view.dial_failed(at(now), effect.node)
    assert 14 <= len(found) <= 32
    for dead in (node(9), node(LARGE)):
        times = [when for when, other in found if other == dead]
        assert len(times) > 5
        assert min(later - earlier for earlier, later in pairwise(times)) >= 20


def test_one_that_is_back_is_a_neighbour_again_even_of_a_full_node() -> None:
    view = new()
    taken(view, 1, 2, 3, 4, 5)
    view.learn(at(0), contact(LARGE), stale=True)
    ((when, _),) = dials(view, 0, 16)
    view.link_up(at(when + 1), node(LARGE))
    assert view.drain() == [Send(node(LARGE), Neighbour(OWN))]
    effects = told(view, LARGE, NeighbourAnswer(True), now=when + 2)
    assert Emit(NeighbourUp(node(LARGE))) in effects
    assert len(view.active) == 5
    assert pass_time(view, when + 2, when + 3) == []


def test_one_that_comes_back_by_itself_is_taken_even_by_a_full_node() -> None:
    view = new(evict_burst=0)
    taken(view, 1, 2, 3, 4, 5)
    for number in (8, 9):
        view.link_up(at(0), node(number))
        if number == 9:
            view.link_down(at(0), node(9))
            view.gone(at(0), node(9))
            view.link_up(at(0), node(9))
        view.receive(at(1), node(number), Neighbour(contact(number)))
        assert (node(number) in view.active) == (number == 9)


def test_one_that_is_linked_though_its_news_does_not_come_is_asked_to_be_a_neighbour() -> None:
    view = new()
    taken(view, 1, 2, 3, 4, 5)
    view.link_up(at(0), node(9))
    view.gone(at(1), node(9))
    view.gone(at(1), node(1))
    assert view.drain() == [Send(node(9), Neighbour(OWN))]
    view.link_down(at(2), node(1))
    told(view, 2, ShuffleAnswer((contact(1),), ()))
    assert not view.passive


def test_there_is_no_healing_without_anybody_to_heal() -> None:
    view = new()
    taken(view, 1, 2, 3, 4, 5)
    view.gone(at(0), node(9))
    assert not [row for row in pass_time(view, 0, 100) if isinstance(row[1], Dial)], "nobody knows where it was"
    view = new(dials_most=0)
    taken(view, 1, 2, 3, 4, 5)
    view.learn(at(0), contact(9), stale=True)
    assert not [row for row in pass_time(view, 0, 100) if isinstance(row[1], Dial)]
