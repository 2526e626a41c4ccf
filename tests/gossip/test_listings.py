"""Listings: pages fit a message, comparing finds exactly what differs, and what no honest node sends is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.gossip.entry import Entry, Slot
from atmo.gossip.listings import (
    ENTRY_BYTES,
    Version,
    batches,
    compare_untrusted,
    entries_untrusted,
    fault_untrusted,
    is_known,
    named,
    pages,
    split_names,
)
from atmo.gossip.messages import LISTED_BYTES, NAME_BYTES, Branch, Digest, Listing, Range, Want
from atmo.gossip.table import RecordTable
from atmo.identity import NodeId
from atmo.trust.records import REVOCATION
from atmo.wire import limits
from atmo.wire.schema import pack
from tests.gossip.kit import record
from tests.gossip.network import node_id
from tests.gossip.tables import ROOMY, entry

WALL = 0.0
A3, A4 = NodeId(b"\xa3" * 32), NodeId(b"\xa4" * 32)
SALT, PRINT = b"s" * 8, b"p" * 6


def table_of(versions: dict[Slot, int]) -> RecordTable:
    table = RecordTable(ROOMY)
    for (author, kind, key), version in versions.items():
        table.put(entry(author, key, version, kind=kind))
    return table


def page(*entries: Entry, prefixes: tuple[str, ...] = ("",)) -> Listing:
    (made,) = pages(prefixes, entries, 40_000)
    return made


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [False, True])
def test_pages_fit_a_message_and_follow_each_other(longest: bool) -> None:
    version = (2**63 - 1,) * 2 if longest else (1_800_000_000, 7)
    entries = [entry(node_id(number), str(number)) for number in range(5_001)]
    entries = [replace(each, record=replace(each.record, epoch=version[0], sequence=version[1])) for each in entries]
    told = list(pages(("",), entries, 48 * 1024))
    assert len(told) == (3 if longest else 2)
    listed = [row for each in told for row in entries_untrusted(each.entries)]
    assert listed == sorted((each.name, version) for each in entries)
    assert all(len(each.entries) <= LISTED_BYTES and len(pack(each)) < limits.MESSAGE_BYTES for each in told)
    assert [each.more for each in told] == [True] * (len(told) - 1) + [False]
    assert all(not fault_untrusted(each) for each in told)
    assert list(pages(["a"], [], 1_000)) == [Listing(("a",), b"")]


@given(st.lists(st.tuples(st.binary(min_size=9, max_size=9), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))))
def test_what_was_packed_is_read(rows: list[tuple[bytes, int, int]]) -> None:
    entries = [Entry((A3, "", ""), record(version=(epoch, sequence)), b"", 0, name) for name, epoch, sequence in rows]
    assert entries_untrusted(page(*entries).entries) == sorted({(name, (epoch, seq)) for name, epoch, seq in rows})


@given(st.binary(max_size=60))
def test_what_is_read_was_packed_so(data: bytes) -> None:
    try:
        rows = entries_untrusted(data)
    except WireError:
        return
    entries = [Entry((A3, "", ""), record(version=version), b"", 0, name) for name, version in rows]
    assert b"".join(page(each).entries for each in entries) == data


def test_slots_that_share_a_name_share_a_page() -> None:
    one, two, three = (entry(A3, str(number), number) for number in range(3))
    entries = [replace(each, name=b"n" * 9) for each in (one, two, three)]
    told = list(pages([""], [*entries, replace(one, name=b"z" * 9)], ENTRY_BYTES))
    assert [len(entries_untrusted(each.entries)) for each in told] == [3, 1]
    assert not any(map(fault_untrusted, told))


# --- comparing ----------------------------------------------------------------------------------------------------

SLOTS = [(node_id(number), kind, key) for number in range(6) for kind in ("note", REVOCATION) for key in ("", "1")]
VERSIONS = st.dictionaries(st.sampled_from(SLOTS), st.integers(0, 3))


def news(one: dict[Slot, int], two: dict[Slot, int]) -> dict[Slot, int]:
    """Returns what the second one has that the first one lacks."""
    return {
        slot: version
        for slot, version in two.items()
        if slot not in one or (one[slot] < version and slot[1] != REVOCATION)
    }


@given(VERSIONS, VERSIONS, st.integers(2, 20))
def test_comparing_all_pages_finds_what_differs_and_nothing_else(
    mine: dict[Slot, int], theirs: dict[Slot, int], entries: int
) -> None:
    ours, other = table_of(mine), table_of(theirs)
    lacked: dict[bytes, Version] = {}
    told = []
    for each in pages([""], other.within(""), entries * ENTRY_BYTES):
        more = compare_untrusted(ours, each, WALL)
        lacked.update(more[0])
        told += more[1]
    found = named(other, lacked)
    assert {each.slot: each.record.sequence for each in found} == news(mine, theirs)
    assert {each.slot: each.record.sequence for each in told} == news(theirs, mine)
    assert len(told) == len(news(theirs, mine))


@given(VERSIONS, VERSIONS)
def test_without_ranges_only_what_is_lacked_is_found(mine: dict[Slot, int], theirs: dict[Slot, int]) -> None:
    ours, other = table_of(mine), table_of(theirs)
    lacked, told = compare_untrusted(ours, page(*other.within(""), prefixes=()), WALL)
    assert {each.slot: each.record.sequence for each in named(other, lacked)} == news(mine, theirs)
    assert told == []


@given(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)))
def test_slots_that_share_a_name_hide_nothing(mine: set[int], theirs: set[int]) -> None:
    entries = [replace(entry(A3, str(number), version=number), name=b"\xa3" + b"n" * 8) for number in range(4)]
    ours, other = RecordTable(ROOMY), RecordTable(ROOMY)
    for table, held in ((ours, mine), (other, theirs)):
        for number in held:
            table.put(entries[number])
    lacked, told = compare_untrusted(ours, page(*other.within("")), WALL)
    if len(mine) == len(theirs) == 1:  # it looks like one slot: the newer one wins
        assert (bool(lacked), bool(told)) == (max(theirs) > max(mine), max(mine) > max(theirs))
    else:
        assert (bool(lacked), bool(told)) == (not theirs <= mine, not mine <= theirs)
    if lacked:
        assert {*named(other, lacked)} == {entries[number] for number in theirs}, "all that are called so"


def test_what_has_expired_is_not_told() -> None:
    table = table_of({(A3, "note", ""): 1})
    (held,) = table.within("")
    nothing = page()
    assert compare_untrusted(table, nothing, held.expires_s)[1] == [held]
    assert compare_untrusted(table, nothing, held.expires_s + 1) == ({}, [])


# --- faults -------------------------------------------------------------------------------------------------------

ONE, TWO = sorted([entry(A3), entry(A3, "1")], key=lambda each: each.name)
FOUR = entry(A4)


@pytest.mark.parametrize(
    "message",
    [
        Digest(SALT, (Range("A", 1, PRINT),)),
        Digest(SALT, (Range("g", 1, PRINT),)),
        Digest(SALT, (), (Branch("g", bytes(128)),)),
        Digest(SALT, (Range("a", 1, PRINT), Range("b", 1, PRINT), Range("a", 1, PRINT))),
        Digest(SALT, (Range("", 1, PRINT), Range("a", 1, PRINT))),
        Digest(SALT, (Range("b", 1, PRINT), Range("a", 1, PRINT), Range("a3", 1, PRINT))),
        Digest(SALT, (Range("a3", 1, PRINT),), (Branch("a", bytes(128)),)),
        Digest(SALT, (), (Branch("", bytes(128)), Branch("a", bytes(128)))),
        Digest(b"s", (Range("a", 1, PRINT),)),
        Digest(SALT, (Range("a", 1, b"p"),)),
        Digest(SALT, (), (Branch("a", bytes(127)),)),
        Want(b"", ("é",)),
        Want(b"n" * (NAME_BYTES + 1)),
        Listing(("x",), b""),
        Listing(("a", "a3"), b""),
        Listing(("a",), page(FOUR).entries + page(ONE).entries),
        Listing(("a",), page(ONE).entries * 2),
        Listing(("a",), page(ONE).entries, after=ONE.name),
        page(FOUR, prefixes=("a3", "a5")),
        page(FOUR, prefixes=("b",)),
        Listing(("",), b"", more=True),
        Listing(("",), b"\xa3"),
        Listing(("",), page(ONE).entries[:-1]),
        Listing(("",), ONE.name + b"\x81\x00\x01"),
        Listing(("",), ONE.name + b"\x80" * 9 + b"\x01\x01"),
    ],
)
def test_faults(message: Digest | Listing | Want) -> None:
    assert fault_untrusted(message)


@pytest.mark.parametrize(
    "message",
    [
        Digest(SALT),
        Digest(SALT, (Range("b", 1, PRINT), Range("a", 1, PRINT)), (Branch("c3", bytes(128)),)),
        Want(b"n" * 27, ("a", "a", "")),
        page(ONE, TWO, FOUR, prefixes=("a",)),
        page(ONE, TWO, FOUR, prefixes=("a3", "a4")),
        page(ONE, TWO, prefixes=("a3f",)),
        page(ONE, TWO, FOUR, prefixes=()),
        replace(page(ONE, TWO, FOUR), after=b"\xa2" * 9, more=True),
    ],
)
def test_no_faults(message: Digest | Listing | Want) -> None:
    assert not fault_untrusted(message)


def test_longer_prefixes_are_for_newer_versions() -> None:
    assert [is_known(prefix) for prefix in ("", "a", "a3", "a3f")] == [True, True, True, False]


def test_names_are_cut_apart() -> None:
    assert split_names(b"") == []
    assert split_names(ONE.name + TWO.name) == [ONE.name, TWO.name]


def test_batches_are_bounded_in_bytes_and_in_number() -> None:
    assert list(batches([], 10)) == []
    assert list(batches([b"x" * 4, b"x" * 4, b"x" * 4, b"x" * 20, b"x"], 10)) == [
        (b"x" * 4, b"x" * 4),
        (b"x" * 4,),
        (b"x" * 20,),
        (b"x",),
    ]
    assert [len(batch) for batch in batches([b"x"] * 130, 1_000)] == [64, 64, 2]
