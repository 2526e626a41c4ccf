"""One Plumtree engine, message by message."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from atmo.engine import Emit, Misbehaved, Send
from atmo.gossip.messages import ANNOUNCED_MOST, HOPS_MOST, Announcement, Gossip, Graft, IHave, Prune
from atmo.gossip.plumtree import Plumtree, name_of
from atmo.gossip.plumtree_config import PlumtreeConfig, TreeAges
from atmo.identity import NodeId
from tests.gossip.kit import at, of
from tests.gossip.network import node_id

CONFIG = PlumtreeConfig()

A, B, C, D = (node_id(number) for number in range(4))


def tree(*neighbours: NodeId, lazy: tuple[NodeId, ...] = (), **config: Any) -> Plumtree:
    engine = Plumtree(PlumtreeConfig(**config), Random(1))
    for node in (*neighbours, *lazy):
        engine.link_up(at(0), node)
    for node in lazy:
        engine.receive(at(0), node, Prune())
    return engine


def sent(engine: Plumtree) -> list[tuple[NodeId, Any]]:
    return [(effect.to, effect.message) for effect in of(engine.drain(), Send)]


def have(*envelopes: bytes, hops: int = 1) -> IHave:
    return IHave(tuple(Announcement(name_of(envelope), hops) for envelope in envelopes))


def run(engine: Plumtree, end: float) -> list[tuple[float, NodeId, Any]]:
    """Serves the timer up to `end`; returns what was sent, and when."""
    rows = []
    while (due := engine.next_timer()) <= end:
        engine.handle_timer(at(due))
        assert engine.next_timer() > due, "a timer that was served moves on"
        rows += [(due, *row) for row in sent(engine)]
    return rows


def test_an_own_record_goes_to_all_and_is_announced_to_the_lazy() -> None:
    engine = tree(A, B, lazy=(C,))
    engine.publish(at(0), b"one")
    engine.publish(at(0), b"two")
    assert sent(engine) == [(node, Gossip(text, 1)) for text in (b"one", b"two") for node in (A, B)]
    ((when, node, message),) = run(engine, 1)
    assert (node, message) == (C, have(b"one", b"two"))
    assert when <= 0.1
    assert engine.next_timer() == CONFIG.root_refresh_s
    assert engine.knows(b"one")


def test_news_is_passed_on_and_makes_its_link_eager() -> None:
    engine = tree(A, B, lazy=(C, D))
    engine.delivered(at(0), C, Gossip(b"one", 3))
    assert sent(engine) == [(A, Gossip(b"one", 4)), (B, Gossip(b"one", 4))]
    assert (engine.eager(), engine.lazy()) == ([A, B, C], [D])
    ((_, node, message),) = run(engine, 1)
    assert (node, message) == (D, have(b"one", hops=4))


def test_hops_stay_under_their_limit() -> None:
    engine = tree(A, B)
    engine.delivered(at(0), A, Gossip(b"one", HOPS_MOST))
    assert sent(engine) == [(B, Gossip(b"one", HOPS_MOST))]


def test_a_duplicate_prunes_its_link() -> None:
    engine = tree(A, B)
    engine.delivered(at(0), A, Gossip(b"one"))
    engine.drain()
    engine.duplicate(at(0), B, Gossip(b"one"))
    assert sent(engine) == [(B, Prune())]
    assert engine.lazy() == [B]
    engine.duplicate(at(0), C, Gossip(b"one"))
    assert sent(engine) == [(C, Prune())], "who takes this node for a neighbour is told as well"


def test_of_many_duplicates_at_once_few_prune() -> None:
    engine = tree(A, B, damping=0.1)
    texts = [str(number).encode() for number in range(100)]
    for text in texts:
        engine.delivered(at(0), A, Gossip(text))
    for text in texts:
        engine.duplicate(at(0), B, Gossip(text))
    assert 3 <= engine.stats.prunes <= 20
    assert engine.stats.duplicates == 100


def test_what_anti_entropy_brought_is_passed_on_when_it_comes_by_the_tree() -> None:
    engine = tree(A, B)
    engine.remember(b"one")
    assert engine.knows(b"one")
    assert sent(engine) == []
    engine.duplicate(at(0), A, Gossip(b"one", 1))
    assert sent(engine) == [(B, Gossip(b"one", 2))]
    engine.remember(b"one")
    engine.duplicate(at(0), A, Gossip(b"one", 1))
    assert sent(engine) == [(A, Prune())]


def test_what_was_announced_and_does_not_come_is_asked_for_in_turn() -> None:
    engine = tree(lazy=(A, B, C))
    for node in (A, B, C):
        engine.receive(at(0), node, have(b"one"))
    rows = run(engine, 10)
    assert [row[1:] for row in rows] == [(node, Graft((name_of(b"one"),))) for node in (A, B, C)]
    assert 1 <= rows[0][0] <= 2
    assert [round(later[0] - sooner[0], 9) for sooner, later in pairwise(rows)] == [0.5, 0.5]
    assert engine.eager() == [A, B, C]
    assert (engine.stats.missed, engine.next_timer()) == (1, math.inf)


def test_what_is_missed_of_one_neighbour_is_asked_for_together() -> None:
    engine = tree(lazy=(A,), missing_spread=1.0)
    texts = [str(number).encode() for number in range(ANNOUNCED_MOST + 1)]
    engine.receive(at(0), A, have(*texts[:ANNOUNCED_MOST]))
    engine.receive(at(0), A, have(*texts[ANNOUNCED_MOST:]))
    rows = run(engine, 1.2)
    assert [len(message.names) for _, _, message in rows] == [ANNOUNCED_MOST, 1]


def test_what_comes_in_time_is_not_asked_for() -> None:
    for arrive in (Plumtree.remember, lambda engine, text: engine.refused(Gossip(text))):
        engine = tree(A, lazy=(B,))
        engine.receive(at(0), B, have(b"one"))
        arrive(engine, b"one")
        engine.receive(at(0), B, have(b"one"))
        assert run(engine, 10) == []


def test_who_announced_a_record_is_not_sent_it() -> None:
    engine = tree(A, B, lazy=(C, D))
    for node in (B, C):
        engine.receive(at(0), node, have(b"one"))
    engine.delivered(at(0.5), A, Gossip(b"one", 1))
    assert sent(engine) == []
    assert [(node, message) for _, node, message in run(engine, 10)] == [(D, have(b"one", hops=2))]


def test_who_announces_what_is_about_to_be_announced_to_it_is_spared() -> None:
    engine = tree(lazy=(A,))
    engine.publish(at(0), b"one")
    engine.receive(at(0), A, have(b"one"))
    assert run(engine, 1) == []


def test_the_refused_may_come_again_and_is_not_asked_for() -> None:
    engine = tree(A, lazy=(B,))
    engine.refused(Gossip(b"one"))
    assert not engine.knows(b"one")
    engine.receive(at(0), B, have(b"one"))
    assert run(engine, 10) == []
    engine.delivered(at(11), A, Gossip(b"one"))
    assert engine.knows(b"one")


def test_a_tree_that_is_often_behind_announcements_is_given_more_time() -> None:
    engine = tree(A, lazy=(B,), missing_spread=1.0)
    for number in range(40):
        text = str(number).encode()
        engine.receive(at(2 * number), B, have(text))
        engine.delivered(at(2 * number + 0.4 + number % 2), A, Gossip(text))
        engine.drain()
        run(engine, 2 * number + 1.9)
    engine.receive(at(100), B, have(b"late"))
    ((when, node, _),) = run(engine, 104)[:1]
    assert node == B
    assert 101.5 < when <= 103


def test_a_graft_that_was_not_needed_is_undone() -> None:
    for first, second in ((A, B), (B, A)):
        engine = tree(A, lazy=(B,))
        engine.receive(at(0), B, have(b"one"))
        assert [node for _, node, _ in run(engine, 2)] == [B]
        engine.delivered(at(2.1), first, Gossip(b"one"))
        engine.drain()
        engine.duplicate(at(2.2), second, Gossip(b"one"))
        assert sent(engine) == [(B, Prune())]
        assert engine.lazy() == [B]


def test_few_grafts_are_noted() -> None:
    engine = tree(A, lazy=(B,), missing_entries=1, damping=0.0)
    for text in (b"one", b"two"):
        engine.receive(at(0), B, have(text))
        run(engine, 2)
        engine.delivered(at(2.1), A, Gossip(text))
        engine.drain()
    pruned = []
    for text in (b"one", b"two"):
        engine.duplicate(at(2.2), A, Gossip(text))
        pruned += sent(engine)
    assert pruned == [(A, Prune()), (B, Prune())]


ROOT, OTHER = b"." * 10 + bytes(32), b"." * 10 + b"x" * 32


def test_a_record_of_the_root_makes_the_tree_anew() -> None:
    engine = tree(A, lazy=(B, C), renew_s=60.0)
    receivers = []
    rows = ((0, ROOT, False), (5, OTHER, True), (20, ROOT + b"20", True), (40, ROOT + b"40", True), (60, ROOT, False))
    for when, envelope, renew in rows:
        engine.delivered(at(when), A, Gossip(envelope, renew=renew))
        receivers.append([node for node, _ in sent(engine)])
        for node in (B, C):
            engine.receive(at(when), node, Prune())
        run(engine, when + 1)
    assert receivers == [[], [], [B, C], [], []], "another's may not, and it may not too often"
    assert engine.stats.renewals == 1


def test_the_root_makes_the_tree_anew_once_in_a_while() -> None:
    engine = tree(A, lazy=(B,), renew_s=60.0)
    flags = []
    for when in (0, 5, 11, 20, 71, 72):
        engine.publish(at(when), ROOT + str(when).encode())
        flags += [message.renew for node, message in sent(engine) if node == A]
        engine.receive(at(when), B, Prune())
        run(engine, when + 1)
    assert flags == [False, False, True, False, True, False], "first it may not last, then it is too soon"
    engine.delivered(at(80), A, Gossip(b"." * 10 + bytes(31) + b"\1" + b"later"))
    engine.publish(at(200), ROOT + b"200")
    assert [message.renew for node, message in sent(engine) if node == A] == [True]


def test_duplicates_of_such_a_record_prune_always() -> None:
    engine = tree(A, B)
    engine.publish(at(0), ROOT)
    for number in range(200):
        engine.publish(at(20), OTHER + str(number).encode())
    engine.delivered(at(20), A, Gossip(ROOT + b"1", renew=True))
    engine.drain()
    engine.duplicate(at(20), B, Gossip(ROOT + b"1", renew=True))
    assert sent(engine) == [(B, Prune())]


def test_a_root_that_is_silent_for_long_is_replaced() -> None:
    engine = tree(A, lazy=(B,), root_s=100.0)
    engine.publish(at(0), ROOT)
    for when, renewals in ((50, 0), (101, 1), (130, 1)):
        engine.delivered(at(when), A, Gossip(OTHER + str(when).encode(), renew=True))
        assert engine.stats.renewals == renewals


def test_the_root_says_something_when_it_has_not_for_long() -> None:
    def told(end: float) -> list[Any]:
        effects = []
        while engine.next_timer() <= end:
            engine.handle_timer(at(engine.next_timer()))
            effects += [effect.event for effect in of(engine.drain(), Emit)]
        return effects

    engine = tree(A, root_refresh_s=600.0)
    engine.publish(at(0), OTHER)
    assert told(599) == []
    assert told(601) == [TreeAges()]
    assert told(1_190) == [], "not again at once"
    engine.publish(at(1_195), OTHER + b"again")
    assert told(1_790) == []
    engine.delivered(at(1_791), A, Gossip(ROOT))
    assert told(4_000) == [], "another one is the root now"


def test_a_graft_is_answered_with_what_is_kept() -> None:
    engine = tree(A, lazy=(B,))
    engine.delivered(at(0), A, Gossip(b"one", 4))
    engine.receive(at(0), B, Graft((name_of(b"one"), name_of(b"unknown"))))
    assert sent(engine) == [(B, Gossip(b"one", 5))]
    assert engine.eager() == [A, B]
    assert (engine.stats.grafted, engine.stats.grafts_refused) == (1, 1)
    assert run(engine, 1) == [], "what was sent needs no announcement"


def test_grafts_of_one_neighbour_have_a_budget() -> None:
    engine = tree(A, B, graft_rate=10.0, graft_bytes=100.0)
    engine.publish(at(0), b"x" * 60)
    engine.drain()
    ask = Graft((name_of(b"x" * 60),))
    counts = []
    for node, when in ((A, 0), (A, 0), (B, 0), (A, 2)):
        engine.receive(at(when), node, ask)
        counts.append(len(sent(engine)))
    assert counts == [1, 0, 1, 1]
    engine.link_down(at(2), A)
    engine.link_up(at(2), A)
    engine.drain()
    engine.receive(at(2), A, ask)
    assert sent(engine) == [], "coming back fills no budget"


@pytest.mark.parametrize("bound", [{"store_entries": 2}, {"store_bytes": 7}])
def test_few_records_are_kept_for_grafts(bound: dict[str, Any]) -> None:
    engine = tree(A, **bound)
    for text in (b"one", b"two", b"six"):
        engine.publish(at(0), text)
    engine.publish(at(0), b"six")
    engine.drain()
    engine.receive(at(0), A, Graft(tuple(map(name_of, (b"one", b"two", b"six")))))
    assert [message.envelope for _, message in sent(engine)] == [b"two", b"six"]


def test_records_are_kept_for_a_minute() -> None:
    engine = tree(A)
    engine.publish(at(0), b"one")
    engine.publish(at(61), b"two")
    engine.drain()
    engine.receive(at(61), A, Graft((name_of(b"one"),)))
    assert sent(engine) == []


def test_a_record_larger_than_the_store_is_sent_and_not_kept() -> None:
    engine = tree(A, store_bytes=2)
    engine.publish(at(0), b"one")
    assert len(sent(engine)) == 1
    engine.receive(at(0), A, Graft((name_of(b"one"),)))
    assert sent(engine) == []


def test_names_are_remembered_for_long_and_not_for_ever() -> None:
    engine = tree(seen_entries=10)
    for number in range(30):
        engine.remember(str(number).encode())
    known = [number for number in range(30) if engine.knows(str(number).encode())]
    assert known == list(range(30 - len(known), 30))
    assert 10 <= len(known) <= 20


def test_a_full_queue_is_announced_at_once() -> None:
    engine = tree(lazy=(A,))
    for number in range(ANNOUNCED_MOST):
        engine.publish(at(0), str(number).encode())
    ((_, message),) = sent(engine)
    assert len(message.announcements) == ANNOUNCED_MOST
    assert run(engine, 1) == []


def test_nobody_fills_the_table_of_the_missing() -> None:
    engine = tree(A, B, C, link_missing=2, missing_entries=3)
    engine.receive(at(0), A, have(b"1", b"2", b"3"))
    engine.receive(at(0), B, have(b"3", b"4"))
    assert engine.stats.ignored == 2
    engine.remember(b"1")
    engine.receive(at(0), A, have(b"5"))
    assert engine.stats.ignored == 2


def test_few_that_announced_a_record_are_remembered() -> None:
    engine = tree(lazy=(A, B, C), announcers=2)
    for node in (A, B, C):
        engine.receive(at(0), node, have(b"one"))
    assert [node for _, node, _ in run(engine, 10)] == [A, B]


def test_who_has_gone_is_not_asked() -> None:
    engine = tree(D, lazy=(A, B))
    for node in (A, B):
        engine.receive(at(0), node, have(b"one"))
    engine.link_down(at(0), A)
    assert [node for _, node, _ in run(engine, 10)] == [B]
    engine.link_up(at(11), A)
    engine.remember(b"one")


def test_who_lost_its_last_link_of_the_tree_asks_for_another() -> None:
    engine = tree(A, B, lazy=(C, D))
    engine.link_down(at(0), A)
    assert sent(engine) == []
    engine.link_down(at(0), B)
    assert sent(engine) == [(D, Graft(()))]
    assert engine.eager() == [D]
    engine.link_down(at(0), C)
    engine.link_down(at(0), C)
    engine.link_down(at(0), D)
    assert sent(engine) == []


def test_the_tree_does_not_depend_on_a_silent_neighbour() -> None:
    engine = tree(A, lazy=(B,))
    engine.suspect(A)
    assert sent(engine) == [(B, Graft(()))]
    assert engine.eager() == [B]
    engine.suspect(A)
    engine.suspect(C)
    engine.suspect(B)
    assert sent(engine) == [(A, Graft(()))]
    alone = tree(A)
    alone.suspect(A)
    assert sent(alone) == []


def test_a_new_neighbour_is_told_what_came_lately() -> None:
    engine = tree(A)
    engine.publish(at(0), b"old")
    engine.publish(at(CONFIG.greet_s), b"lately")
    engine.publish(at(CONFIG.greet_s + 1), b"just now")
    sent(engine)
    engine.link_up(at(CONFIG.greet_s + 1), B)
    engine.handle_timer(at(CONFIG.greet_s + 2))
    rows = tuple(Announcement(name_of(envelope), 1) for envelope in (b"just now", b"lately"))
    assert sent(engine) == [(B, IHave(rows))]


def test_a_second_link_up_changes_nothing() -> None:
    engine = tree(lazy=(A,))
    engine.link_up(at(0), A)
    assert engine.lazy() == [A]


@pytest.mark.parametrize("message", [IHave((Announcement(b"short", 1),)), Graft((b"",))])
def test_what_is_no_name_is_a_fault(message: IHave | Graft) -> None:
    engine = tree(A)
    engine.receive(at(0), A, message)
    (fault,) = engine.drain()
    assert isinstance(fault, Misbehaved)
    assert fault.peer == A


def test_a_stranger_s_messages_mean_nothing() -> None:
    engine = tree(A)
    for message in (have(b"one"), Graft((b"",)), Prune()):
        engine.receive(at(0), B, message)
    engine.delivered(at(0), B, Gossip(b"two"))
    assert sent(engine) == [(A, Gossip(b"two", 1))]
    assert run(engine, 10) == []
