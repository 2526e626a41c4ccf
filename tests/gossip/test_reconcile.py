"""One comparing engine, message by message."""

from __future__ import annotations

import math
from typing import Any

import pytest

from atmo.engine import Misbehaved
from atmo.gossip.fingerprints import ranges_of
from atmo.gossip.listings import entries_untrusted, pages, split_names
from atmo.gossip.messages import Listing, Records, Want
from tests.gossip.kit import at
from tests.gossip.reconcile_kit import (
    OTHER,
    A,
    B,
    C,
    author,
    digest,
    is_whole,
    keeper,
    listing,
    names,
    nothing,
    other,
    run,
    sent,
    told,
    whole,
)
from tests.gossip.tables import entry


def test_a_newcomer_compares_at_once_and_others_soon() -> None:
    made = keeper(entry(B))
    rows = run(made, 2)
    ((when, node, message),) = rows
    assert (node, is_whole(made, message)) == (A, True)
    assert when <= 0.05
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
    assert told(made, 0, digest(nothing())) == []
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
    assert told(made, 0, digest(OTHER)) == [Want(b"", ("",))]
    assert told(made, 1, digest(OTHER)) == [], "it is on its way"


def test_who_has_everything_says_so() -> None:
    made = keeper(entry(B))
    (answer,) = told(made, 0, digest(nothing()))
    assert is_whole(made, answer)


def test_equal_ranges_need_no_answer() -> None:
    made = keeper(entry(B))
    assert told(made, 0, whole(made)) == []


def test_small_ranges_are_listed_and_large_ones_cut() -> None:
    few = [entry(author(0x10 * number)) for number in range(3)]
    made = keeper(*few)
    assert told(made, 0, digest(OTHER)) == [listing(*few)]
    many = [entry(author(0x30, number), str(number)) for number in range(30)]
    made.put(*many)
    (answer,) = told(made, 1, digest(OTHER))
    assert [(part.prefix, part.count) for part in ranges_of(answer)][:5] == [
        ("0", 1),
        ("1", 1),
        ("2", 1),
        ("3", 30),
        ("4", 0),
    ]
    (answer,) = told(made, 2, digest(other("3")))
    assert [part.prefix for part in ranges_of(answer)] == [f"3{digit}" for digit in "0123456789abcdef"]
    both = told(made, 3, digest(other("30"), other("1")))
    assert both == [listing(*many, few[1], prefixes=("30", "1"))], "in one message"


def test_what_the_other_end_has_nothing_of_is_told_in_one_line() -> None:
    made = keeper(*(entry(author(0x30, number), str(number)) for number in range(30)))
    (answer,) = told(made, 0, digest(nothing("3"), nothing("4")))
    assert [(part.prefix, part.count) for part in answer.ranges] == [("3", 30)]
    assert not answer.branches


def test_each_digest_has_another_salt() -> None:
    made = keeper(entry(B))
    answers = [told(made, when, digest(nothing()))[0] for when in range(5)]
    assert len({answer.salt for answer in answers}) == 5
    assert len({answer.ranges[0].fingerprint for answer in answers}) == 5
    assert all(is_whole(made, answer) for answer in answers)


def test_what_a_newer_version_cuts_finer_gets_no_answer() -> None:
    made = keeper(entry(B))
    assert told(made, 0, digest(other("a3f"))) == []
    assert told(made, 0, Listing(("a3f",), b"")) == []
    assert told(made, 0, Want(b"", ("a3f",))) == []


def test_ranges_on_their_way_are_not_listed_meanwhile() -> None:
    made = keeper(links=(A, B))
    assert told(made, 0, digest(other("1"))) == [Want(b"", ("1",))]
    one = entry(author(0x11))
    made.receive(at(0.5), A, Records((one.envelope,)))
    assert told(made, 1, digest(other("11", 3)), B) == []
    assert told(made, 1, listing(one, entry(author(0x12)), prefixes=("1",)), B) == []
    assert told(made, 6, digest(other("11", 3)), B) == [listing(one, prefixes=("11",))], "it has taken too long"


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


def test_much_that_the_listing_lacks_is_named_in_return() -> None:
    mine = [entry(author(2), str(number)) for number in range(15)]
    both = entry(author(1))
    made = keeper(*mine, both)
    assert told(made, 0, listing(both)) == [listing(*mine, prefixes=())], "and nothing that the other has"


def test_who_has_had_enough_is_not_told_what_it_lacks() -> None:
    made = keeper(*(entry(author(2), str(number)) for number in range(15)), answer_bytes=200.0, answer_rate=0.0)
    assert told(made, 0, listing()) == []
    assert made.engine.stats.refused == 1


def test_what_both_ends_list_needs_nothing_in_return() -> None:
    mine, theirs = entry(author(0x21)), entry(author(0x22))
    made = keeper(mine)
    assert told(made, 0, digest(other("2"))) == [listing(mine, prefixes=("2",))]
    assert told(made, 0, listing(theirs, prefixes=("22",))) == [names(theirs)]
    assert told(made, 0, listing(theirs, prefixes=("2", "3"))) == [], "what it lacks of ours it asks for"
    told(made, 3, whole(made))
    assert told(made, 3, listing(theirs, prefixes=("2",))) == [Records((mine.envelope,))], "another comparison"


def test_a_listing_without_ranges_needs_nothing_in_return() -> None:
    made = keeper(entry(author(1)))
    assert told(made, 0, listing(entry(author(2)), prefixes=())) == [names(entry(author(2)))]


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
    assert len(split_names(want.names)) == 3


def test_many_wants_go_in_several_messages() -> None:
    made = keeper()
    entries = [entry(author(1, number), str(number)) for number in range(6_000)]
    wants = [want for page in pages([""], entries, 48 * 1024) for want in told(made, 0, page)]
    assert len(wants) == 2
    assert [name for want in wants for name in split_names(want.names)] == sorted(each.name for each in entries)


def test_more_names_than_fit_go_in_several_messages() -> None:
    made = keeper()
    one, two = (pages([""], [entry(author(half, n), str(n)) for n in range(3_500)], 50_000) for half in (1, 2))
    rows = b"".join(page.entries for half in (one, two) for page in half)
    listed = dict(entries_untrusted(rows))
    made.engine._ask_for_slots(at(0), A, made.engine._links[A], listed)
    assert [len(split_names(want.names)) for _, want in sent(made)] == [5_688, 1_312]


# --- wants --------------------------------------------------------------------------------------------------------


def test_wants_are_answered_in_the_order_of_use() -> None:
    rows = [entry(author(1, number), kind=kind) for number, kind in enumerate(("note", "node", "revocation"))]
    made = keeper(*rows, entry(author(2)), entry(author(1), "near", near=True))
    assert told(made, 0, Want(b"", ("0",))) == [
        Records(tuple(each.envelope for each in (*reversed(rows), entry(author(2)))))
    ]
    assert told(made, 0, Want(rows[0].name, ("02", "02"))) == [Records((rows[0].envelope, entry(author(2)).envelope))]
    assert told(made, 0, names(entry(author(1), "near"), entry(C))) == []


def test_what_has_expired_is_neither_listed_nor_sent() -> None:
    old, good = entry(author(1), lifetime_s=10), entry(author(2))
    made = keeper(old, good)
    assert told(made, 71, digest(OTHER)) == [listing(good)]
    assert told(made, 71, Want(b"", ("",))) == [Records((good.envelope,))]
    assert told(made, 71, names(old)) == []


def test_one_neighbour_does_not_get_the_whole_table_again_and_again() -> None:
    made = keeper(
        *(entry(author(1), str(number), size=1_000) for number in range(100)),
        links=(A, B),
        answer_bytes=150_000.0,
        answer_rate=1_000.0,
        message_bytes=10_000,
    )
    count = [sum(len(answer.envelopes) for answer in told(made, when, Want(b"", ("",)))) for when in (0, 0, 0, 60)]
    assert count[0] == 100
    assert 0 < count[1] < 50
    assert count[2] == 0
    assert 50 < count[3] < 70
    assert len(told(made, 60, Want(b"", ("",)), B)) == 10
    assert made.engine.stats.refused >= 2


def test_who_goes_and_comes_back_does_not_get_it_again_either() -> None:
    made = keeper(*(entry(author(1), str(number), size=1_000) for number in range(100)), answer_bytes=150_000.0)
    counts = []
    for _ in range(3):
        counts.append(sum(len(answer.envelopes) for answer in told(made, 0, Want(b"", ("",)))))
        made.engine.link_down(at(0), A)
        made.engine.link_up(at(0), A)
    assert counts[0] == 100
    assert counts[1] < 50, "what was left"
    assert counts[2] == 0


def test_who_has_had_enough_gets_nothing() -> None:
    made = keeper(entry(author(1)), answer_bytes=100.0, answer_rate=0.0)
    for message in (digest(OTHER), listing(entry(C)), Want(b"", ("",)), digest(nothing())):
        made.engine._links[A].budget.take(0, 75)
        assert told(made, 0, message) == []
    assert made.engine.stats.refused == 4


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [digest(OTHER, OTHER), Want(b"", ("x",)), Listing(("",), b"", more=True)])
def test_what_no_honest_node_sends_is_a_fault(message: Any) -> None:
    made = keeper()
    made.engine.receive(at(0), A, message)
    (fault,) = made.engine.drain()
    assert isinstance(fault, Misbehaved)
    assert fault.peer == A


def test_a_stranger_gets_no_answer() -> None:
    made = keeper(entry(C))
    assert told(made, 0, digest(OTHER), B) == []


def test_promises_that_are_not_kept_end() -> None:
    made = keeper(links=(A, B))
    told(made, 0, listing(entry(author(1), version=2**40)))
    assert told(made, 6, listing(entry(author(1))), B) == [names(entry(author(1)))]
