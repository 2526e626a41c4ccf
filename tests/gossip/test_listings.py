"""Listings: pages fit a message, comparing finds exactly what differs, and what no honest node sends is told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.gossip.entry import Slot
from atmo.gossip.listings import ENTRY_BYTES, batches, compare, fault_untrusted, is_known, pages
from atmo.gossip.messages import SUMMARY_ENTRIES, Digest, Listing, Range, SummaryEntry, Want
from atmo.gossip.table import RecordTable
from atmo.identity import NodeId
from atmo.trust.records import REVOCATION
from atmo.wire import limits
from atmo.wire.schema import pack
from tests.gossip.network import node_id
from tests.gossip.tables import ROOMY, entry

WALL = 0.0
A3, A4 = NodeId(b"\xa3" * 32), NodeId(b"\xa4" * 32)


def table_of(versions: dict[Slot, int]) -> RecordTable:
    table = RecordTable(ROOMY)
    for (author, kind, key), version in versions.items():
        table.put(entry(author, key, version, kind=kind))
    return table


@pytest.mark.parametrize("longest", [False, True])
def test_pages_fit_a_message_and_follow_each_other(longest: bool) -> None:
    kind, key = ("k" * 32, "x" * 120) if longest else ("note", "")
    entries = [entry(node_id(number), f"{key}{number}", 2**40, kind=kind) for number in range(1_001)]
    told = list(pages("", entries, 48 * 1024))
    assert sum(len(page.entries) for page in told) == 1_001
    assert all(len(page.entries) <= SUMMARY_ENTRIES for page in told)
    assert all(len(pack(page)) < limits.MESSAGE_BYTES for page in told)
    assert [page.more for page in told] == [True] * (len(told) - 1) + [False]
    assert all(not fault_untrusted(page) for page in told)
    assert list(pages("a", [], 1_000)) == [Listing("a", ())]


SLOTS = [(node_id(number), kind, key) for number in range(6) for kind in ("note", REVOCATION) for key in ("", "1")]
VERSIONS = st.dictionaries(st.sampled_from(SLOTS), st.integers(0, 3))


@given(VERSIONS, VERSIONS, st.integers(2, 20))
def test_comparing_all_pages_finds_what_differs_and_nothing_else(
    mine: dict[Slot, int], theirs: dict[Slot, int], entries: int
) -> None:
    ours, other = table_of(mine), table_of(theirs)
    lacked, told = {}, []
    for page in pages("", other.within(""), entries * ENTRY_BYTES):
        more = compare(ours, page, WALL)
        lacked.update(more[0])
        told += more[1]

    def news(one: dict[Slot, int], two: dict[Slot, int]) -> dict[Slot, int]:
        return {
            slot: version
            for slot, version in two.items()
            if slot not in one or (one[slot] < version and slot[1] != REVOCATION)
        }

    assert {slot: version[1] for slot, version in lacked.items()} == news(mine, theirs)
    assert {each.slot: each.record.sequence for each in told} == news(theirs, mine)
    assert len(told) == len(news(theirs, mine))


def test_what_has_expired_is_not_told() -> None:
    table = table_of({(A3, "note", ""): 1})
    (held,) = table.within("")
    assert compare(table, Listing("", ()), held.expires_s)[1] == [held]
    assert compare(table, Listing("", ()), held.expires_s + 1) == ({}, [])


def summary(author: NodeId, key: str = "") -> SummaryEntry:
    return SummaryEntry(author, "note", key, 1, 1)


@pytest.mark.parametrize(
    "message",
    [
        Digest((Range("A", 1, b""),)),
        Digest((Range("g", 1, b""),)),
        Digest((Range("a", 1, b""), Range("b", 1, b""), Range("a", 1, b""))),
        Digest((Range("", 1, b""), Range("a", 1, b""))),
        Digest((Range("b", 1, b""), Range("a", 1, b""), Range("a3", 1, b""))),
        Want((), ("é",)),
        Listing("x", ()),
        Listing("", (summary(A4), summary(A3))),
        Listing("", (summary(A3), summary(A3))),
        Listing("", (summary(A3),), after=b"\xa4"),
        Listing("a3", (summary(A4),)),
        Listing("", (), more=True),
    ],
)
def test_faults(message: Digest | Listing | Want) -> None:
    assert fault_untrusted(message)


@pytest.mark.parametrize(
    "message",
    [
        Digest(()),
        Digest((Range("b", 1, b""), Range("a", 1, b""), Range("c3", 1, b""))),
        Want((), ("a", "a", "")),
        Listing("a", (summary(A3), summary(A3, "1"), summary(A4)), after=b"\xa2", more=True),
    ],
)
def test_no_faults(message: Digest | Listing | Want) -> None:
    assert not fault_untrusted(message)


def test_longer_prefixes_are_for_newer_versions() -> None:
    assert [is_known(prefix) for prefix in ("", "a", "a3", "a3f")] == [True, True, True, False]


def test_batches_are_bounded_in_bytes_and_in_number() -> None:
    assert list(batches([], 10)) == []
    assert list(batches([b"x" * 4, b"x" * 4, b"x" * 4, b"x" * 20, b"x"], 10)) == [
        (b"x" * 4, b"x" * 4),
        (b"x" * 4,),
        (b"x" * 20,),
        (b"x",),
    ]
    assert [len(batch) for batch in batches([b"x"] * 130, 1_000)] == [64, 64, 2]
