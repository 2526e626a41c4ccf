"""One comparing engine, message by message."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from atmo.engine import Misbehaved, Send
from atmo.gossip.entry import Entry
from atmo.gossip.listings import pages
from atmo.gossip.messages import Digest, Listing, Range, Records, SlotName, SummaryEntry, Want
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.identity import NodeId
from tests.gossip.kit import at, of
from tests.gossip.network import node_id
from tests.gossip.tables import Keeper, entry

A, B, C = (node_id(number) for number in range(3))
OTHER = Range("", 9, b"o" * 16)


def author(first: int, number: int = 0) -> NodeId:
    return NodeId(bytes([first]) + Random(number).randbytes(31))


def keeper(*entries: Entry, links: tuple[NodeId, ...] = (A,), **config: Any) -> Keeper:
    made = Keeper(config=ReconcileConfig(**config))
    made.put(*entries)
    for node in links:
        made.engine.link_up(at(0), node)
    return made


def sent(made: Keeper) -> list[tuple[NodeId, Any]]:
    return [(effect.to, effect.message) for effect in of(made.engine.drain(), Send)]


def run(made: Keeper, end: float) -> list[tuple[float, NodeId, Any]]:
    """Serves the timer up to `end`; returns what was sent, and when."""
    rows = []
    while (due := made.engine.next_timer()) <= end:
        made.engine.handle_timer(at(due))
        assert made.engine.next_timer() > due, "a timer that was served moves on"
        rows += [(due, *row) for row in sent(made)]
    return rows


def told(made: Keeper, when: float, message: Any, node: NodeId = A) -> list[Any]:
    """Lets a neighbour say something; returns what it gets in answer."""
    made.receive(at(when), node, message)
    answers = sent(made)
    assert all(to == node for to, _ in answers)
    return [answer for _, answer in answers]


def listing(*entries: Entry, prefix: str = "") -> Listing:
    (page,) = pages(prefix, entries, 40_000)
    return page


def names(*entries: Entry) -> Want:
    return Want(tuple(SlotName(*each.slot) for each in entries))


# --- when ---------------------------------------------------------------------------------------------------------


def test_a_newcomer_compares_at_once_and_others_soon() -> None:
    made = keeper(entry(B))
    rows = run(made, 2)
    assert [row[1:] for row in rows] == [(A, Digest((made.table.fingerprints.range(""),)))]
    assert rows[0][0] <= 0.05
    made.engine.link_up(at(2), B)
    made.engine.link_up(at(2), B)
    ((when, node, _),) = run(made, 4)
    assert node == B
    assert 2.5 <= when <= 3


def test_rounds_go_to_random_neighbours_and_end_with_them() -> None:
    made = keeper(links=(A, B))
    rows = run(made, 400)[2:]
    assert 10 <= len(rows) <= 16
    assert {node for _, node, _ in rows} == {A, B}
    for node in (A, B, B):
        made.engine.link_down(at(400), node)
    assert run(made, 1_000) == []
    assert made.engine.next_timer() == math.inf


def test_who_was_compared_with_is_not_asked_again() -> None:
    made = keeper()
    assert told(made, 0, Digest((Range("", 0, b""),))) == []
    assert run(made, 20) == []


def test_news_is_told_to_the_neighbours_and_no_news_is_not() -> None:
    made = keeper(links=(A, B), spread_s=1.0)
    run(made, 2)
    made.receive(at(2), A, Records((entry(C).envelope,)))
    rows = run(made, 5)
    assert [node for _, node, _ in rows] == [B, A], "who sent it last"
    assert all(2.5 <= when <= 4 for when, _, _ in rows)
    made.receive(at(5), A, Records((entry(C).envelope,)))
    made.receive(at(5), C, Records((entry(author(7), near=True).envelope,)))
    assert run(made, 10) == [], "the table they know of is the same"
    assert made.engine.stats.news == 2


# --- digests ------------------------------------------------------------------------------------------------------


def test_who_lacks_everything_asks_for_everything() -> None:
    made = keeper()
    assert told(made, 0, Digest((OTHER,))) == [Want((), ("",))]
    assert told(made, 1, Digest((OTHER,))) == [], "it is on its way"


def test_who_has_everything_says_so() -> None:
    made = keeper(entry(B))
    assert told(made, 0, Digest((Range("", 0, b""),))) == [Digest((made.table.fingerprints.range(""),))]


def test_equal_ranges_need_no_answer() -> None:
    made = keeper(entry(B))
    assert told(made, 0, Digest((made.table.fingerprints.range(""),))) == []


def test_small_ranges_are_listed_and_large_ones_cut() -> None:
    few = [entry(author(0x10 * number)) for number in range(3)]
    made = keeper(*few)
    assert told(made, 0, Digest((OTHER,))) == [listing(*few)]
    many = [entry(author(0x30, number), str(number)) for number in range(30)]
    made.put(*many)
    (answer,) = told(made, 1, Digest((OTHER,)))
    assert [(part.prefix, part.count) for part in answer.ranges][:5] == [
        ("0", 1),
        ("1", 1),
        ("2", 1),
        ("3", 30),
        ("4", 0),
    ]
    assert [part.prefix for part in told(made, 2, Digest((Range("3", 9, b"o"),)))[0].ranges] == [
        f"3{digit}" for digit in "0123456789abcdef"
    ]
    assert told(made, 3, Digest((Range("30", 9, b"o"), Range("1", 9, b"o")))) == [
        listing(*many, prefix="30"),
        listing(few[1], prefix="1"),
    ]


def test_what_a_newer_version_cuts_finer_gets_no_answer() -> None:
    made = keeper(entry(B))
    assert told(made, 0, Digest((Range("a3f", 9, b"o"),))) == []
    assert told(made, 0, Listing("a3f", ())) == []
    assert told(made, 0, Want((), ("a3f",))) == []


def test_ranges_on_their_way_are_not_listed_meanwhile() -> None:
    made = keeper(links=(A, B))
    assert told(made, 0, Digest((Range("1", 9, b"o"),))) == [Want((), ("1",))]
    one = entry(author(0x11))
    made.receive(at(0.5), A, Records((one.envelope,)))
    assert told(made, 1, Digest((Range("11", 3, b"o"),)), B) == []
    assert told(made, 1, listing(one, entry(author(0x12)), prefix="1"), B) == []
    assert told(made, 6, Digest((Range("11", 3, b"o"),)), B) == [listing(one, prefix="11")], "it has taken too long"


# --- listings -----------------------------------------------------------------------------------------------------


def test_what_the_listing_lacks_is_sent_and_what_it_has_is_asked_for() -> None:
    both, mine, theirs = (entry(author(number)) for number in (1, 2, 3))
    made = keeper(both, mine)
    assert told(made, 0, listing(both, theirs)) == [names(theirs), Records((mine.envelope,))]
    assert told(made, 0, listing(both, mine)) == []


def test_older_and_newer_versions_are_told_apart() -> None:
    made = keeper(entry(B, "older", 1), entry(B, "newer", 2), entry(B, "final", 1, kind="revocation"))
    page = listing(entry(B, "older", 2), entry(B, "newer", 1), entry(B, "final", 2, kind="revocation"))
    assert told(made, 0, page) == [names(entry(B, "older", 2)), Records((entry(B, "newer", 2).envelope,))]


def test_much_that_the_listing_lacks_is_listed_in_return() -> None:
    mine = [entry(author(2), str(number)) for number in range(15)]
    made = keeper(*mine)
    assert told(made, 0, listing()) == [listing(*mine)]
    assert told(made, 0, listing()) == [], "an answer needs none"
    run(made, 2)
    told(made, 3, Digest((made.table.fingerprints.range(""),)))
    assert told(made, 3, listing()) == [listing(*mine)], "another comparison"


def test_a_record_is_asked_of_one_neighbour_at_a_time() -> None:
    made = keeper(links=(A, B))
    wanted = entry(author(1))
    assert told(made, 0, listing(wanted)) == [names(wanted)]
    assert told(made, 1, listing(wanted), B) == []
    newer = entry(author(1), version=2)
    assert told(made, 2, listing(newer), B) == [names(newer)]
    assert told(made, 8, listing(wanted), B) == [], "who did not send the newer one is not asked for the older"
    assert told(made, 9, listing(newer)) == [names(newer)], "too late"
    assert told(made, 20, listing(newer)) == [], "it had its chance"
    assert told(made, 80, listing(newer)) == [names(newer)]


def test_who_sends_others_is_waited_for_but_not_for_ever() -> None:
    made = keeper(links=(A, B))
    wanted = entry(author(1))
    told(made, 0, listing(wanted))
    for second in range(1, 40):
        made.receive(at(second), A, Records(()))
        answers = told(made, second, listing(wanted), B)
        assert bool(answers) is (second == 30)


def test_who_has_gone_is_not_waited_for() -> None:
    made = keeper(links=(A, B))
    told(made, 0, listing(entry(C)))
    made.engine.link_down(at(1), A)
    assert told(made, 1, listing(entry(C)), B) == [names(entry(C))]
    made.receive(at(1), A, Records(()))


def test_so_much_is_asked_of_one_neighbour() -> None:
    made = keeper(link_wants=3)
    pages_of = listing(*(entry(author(1), str(number)) for number in range(5)))
    (want,) = told(made, 0, pages_of)
    assert len(want.slots) == 3


def test_many_wants_go_in_several_messages() -> None:
    made = keeper()
    entries = [entry(author(1, number), str(number)) for number in range(500)]
    wants = [want for page in pages("", entries, 48 * 1024) for want in told(made, 0, page)]
    assert sum(len(want.slots) for want in wants) == 500


# --- wants --------------------------------------------------------------------------------------------------------


def test_wants_are_answered_in_the_order_of_use() -> None:
    rows = [entry(author(1, number), kind=kind) for number, kind in enumerate(("note", "node", "revocation"))]
    made = keeper(*rows, entry(author(2)), entry(author(1), "near", near=True))
    assert told(made, 0, Want((), ("0",))) == [
        Records(tuple(each.envelope for each in (*reversed(rows), entry(author(2)))))
    ]
    assert told(made, 0, Want((SlotName(*rows[0].slot),), ("02", "02"))) == [
        Records((rows[0].envelope, entry(author(2)).envelope))
    ]
    assert told(made, 0, names(entry(author(1), "near"), entry(C))) == []


def test_what_has_expired_is_neither_listed_nor_sent() -> None:
    old, good = entry(author(1), lifetime_s=10), entry(author(2))
    made = keeper(old, good)
    assert told(made, 71, Digest((OTHER,))) == [listing(good)]
    assert told(made, 71, Want((), ("",))) == [Records((good.envelope,))]
    assert told(made, 71, names(old)) == []


def test_one_neighbour_does_not_get_the_whole_table_again_and_again() -> None:
    made = keeper(
        *(entry(author(1), str(number), size=1_000) for number in range(100)),
        links=(A, B),
        answer_bytes=150_000.0,
        answer_rate=1_000.0,
        message_bytes=10_000,
    )
    count = [sum(len(answer.envelopes) for answer in told(made, when, Want((), ("",)))) for when in (0, 0, 0, 60)]
    assert count[0] == 100
    assert 0 < count[1] < 50
    assert count[2] == 0
    assert 50 < count[3] < 70
    assert len(told(made, 60, Want((), ("",)), B)) == 10
    assert made.engine.stats.refused >= 2


def test_who_goes_and_comes_back_does_not_get_it_again_either() -> None:
    made = keeper(*(entry(author(1), str(number), size=1_000) for number in range(100)), answer_bytes=150_000.0)
    counts = []
    for _ in range(3):
        counts.append(sum(len(answer.envelopes) for answer in told(made, 0, Want((), ("",)))))
        made.engine.link_down(at(0), A)
        made.engine.link_up(at(0), A)
    assert counts[0] == 100
    assert counts[1] < 50, "what was left"
    assert counts[2] == 0


def test_who_has_had_enough_gets_nothing() -> None:
    made = keeper(entry(author(1)), answer_bytes=100.0, answer_rate=0.0)
    for message in (Digest((OTHER,)), listing(entry(C)), Want((), ("",)), Digest((Range("", 0, b""),))):
        made.engine._links[A].budget.take(0, 60)
        assert told(made, 0, message) == []
    assert made.engine.stats.refused == 4


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Digest((OTHER, OTHER)), Want((), ("x",)), Listing("", (), more=True)])
def test_what_no_honest_node_sends_is_a_fault(message: Any) -> None:
    made = keeper()
    made.engine.receive(at(0), A, message)
    (fault,) = made.engine.drain()
    assert isinstance(fault, Misbehaved)
    assert fault.peer == A


def test_a_stranger_gets_no_answer() -> None:
    made = keeper(entry(C))
    assert told(made, 0, Digest((OTHER,)), B) == []


def test_promises_that_are_not_kept_end() -> None:
    made = keeper(links=(A, B))
    lie = Listing("", (SummaryEntry(author(1), "note", "", 2**40, 0),))
    told(made, 0, lie)
    assert told(made, 6, listing(entry(author(1))), B) == [names(entry(author(1)))]
