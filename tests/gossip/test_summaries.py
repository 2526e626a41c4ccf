"""Summaries: their pages fit a message whatever they tell, and find exactly what is lacking."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atmo.gossip.messages import SUMMARY_ENTRIES, Summary, decode_message_untrusted, encode_message
from atmo.gossip.summaries import SummaryPace, batches, lacking, summary_pages
from atmo.gossip.table import Entry, RecordTable, Slot, TableLimits
from atmo.identity import NodeId
from tests.gossip.kit import at, record

ROOMY = TableLimits(10_000, 10_000, 10**9, 10**9)
MESSAGE_BYTES = 48 * 1024


def table_of(versions: dict[Slot, tuple[int, int]]) -> RecordTable:
    table = RecordTable(ROOMY)
    for slot, version in versions.items():
        table.put(slot, Entry(record(slot[1], slot[2], version), repr((slot, version)).encode(), 10.0))
    return table


def slots(count: int, *, longest: bool = False) -> list[Slot]:
    kind, key = ("k" * 32, "x" * 120) if longest else ("note", "")
    return [(NodeId(number.to_bytes(32, "big")), kind, f"{key}{number}") for number in range(count)]


def exchange(mine: RecordTable, theirs: RecordTable, wall: float = 0.0) -> list[bytes]:
    """What I would send when I read their summary."""
    pages = list(summary_pages(theirs.between(b"", b""), MESSAGE_BYTES))
    return [envelope for page in pages for envelope in lacking(mine, page, wall)]


def test_an_empty_table_asks_for_everything() -> None:
    mine = table_of(dict.fromkeys(slots(3), (1, 1)))
    assert len(exchange(mine, table_of({}))) == 3


def test_pages_hold_many_slots_and_fit_a_message_with_the_longest_names() -> None:
    for longest in (False, True):
        rows = table_of(dict.fromkeys(slots(1_001, longest=longest), (2**53, 2**53))).between(b"", b"")
        pages = list(summary_pages(rows, MESSAGE_BYTES))
        assert sum(len(page.entries) for page in pages) == 1_001
        assert all(len(page.entries) <= SUMMARY_ENTRIES for page in pages)
        assert [page.after for page in pages[1:]] == [page.until for page in pages[:-1]]
        assert (pages[0].after, pages[-1].until) == (b"", b"")
        for page in pages:
            assert decode_message_untrusted(encode_message(page)) == page


VERSIONS = st.dictionaries(st.sampled_from(slots(30)), st.tuples(st.integers(0, 3), st.integers(0, 3)))


@given(VERSIONS, VERSIONS, st.integers(300, 900))
def test_what_is_newer_or_missing_is_sent_and_nothing_else(
    mine: dict[Slot, tuple[int, int]], theirs: dict[Slot, tuple[int, int]], page_bytes: int
) -> None:
    pages = summary_pages(table_of(theirs).between(b"", b""), page_bytes)
    sent = [envelope for page in pages for envelope in lacking(table_of(mine), page, 0.0)]
    wanted = [repr((slot, version)) for slot, version in mine.items() if version > theirs.get(slot, (-1, -1))]
    assert sorted(sent) == sorted(text.encode() for text in wanted)


def test_what_has_expired_is_not_sent() -> None:
    assert exchange(table_of(dict.fromkeys(slots(3), (1, 1))), table_of({}), wall=11.0) == []


def test_revocations_come_first_then_who_the_authors_are() -> None:
    author = NodeId(b"a" * 32)
    mine = table_of(dict.fromkeys([(author, kind, "") for kind in ("models", "node", "revocation")], (1, 1)))
    kinds = [envelope.split(b"'")[-4] for envelope in exchange(mine, table_of({}))]
    assert kinds == [b"revocation", b"node", b"models"]


def test_batches_are_bounded_in_bytes_and_in_number() -> None:
    assert list(batches([], 10)) == []
    assert list(batches([b"x" * 4, b"x" * 4, b"x" * 4, b"x" * 20, b"x"], 10)) == [
        (b"x" * 4, b"x" * 4),
        (b"x" * 4,),
        (b"x" * 20,),
        (b"x",),
    ]
    assert [len(batch) for batch in batches([b"x"] * 130, 1_000)] == [64, 64, 2]


def test_a_neighbour_gets_one_answer_for_each_page_in_order() -> None:
    pace = SummaryPace(5.0)
    first, second, last = Summary((), b"", b"b"), Summary((), b"b", b"d"), Summary((), b"d", b"")
    assert not pace.admits(at(0), second)
    assert pace.admits(at(0), first)
    assert not pace.admits(at(0), last)
    assert pace.admits(at(0), second)
    assert not pace.admits(at(0), second)
    assert pace.admits(at(0), last)
    assert not pace.admits(at(0), last)
    assert not pace.admits(at(4.9), first)
    assert pace.admits(at(5), first)


def test_a_page_that_goes_backwards_is_the_last_one() -> None:
    pace = SummaryPace(5.0)
    assert pace.admits(at(0), Summary((), b"", b"b"))
    assert pace.admits(at(0), Summary((), b"b", b"a"))
    assert not pace.admits(at(0), Summary((), b"a", b"b"))
