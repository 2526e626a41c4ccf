"""Summaries: how two neighbours find out what one of them lacks, page by page of slots and versions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from atmo.clock import Now
from atmo.gossip.messages import SUMMARY_ENTRIES, Summary, SummaryEntry
from atmo.gossip.records import NODE, REVOCATION, Record
from atmo.gossip.table import Entry, RecordTable, Slot, sort_key

_ENTRY_BYTES = 96  # of a SummaryEntry without its kind and key
_RECORDS_IN_MESSAGE = 64


def summary_pages(rows: Iterable[tuple[Slot, Entry]], most_bytes: int) -> Iterator[Summary]:
    """Yields the pages that tell of `rows`, which come in the order of their slots; at least one page."""
    page: list[SummaryEntry] = []
    after, last, size = b"", b"", 0
    for slot, entry in rows:
        entry_bytes = _ENTRY_BYTES + len(slot[1]) + len(slot[2])
        if len(page) == SUMMARY_ENTRIES or size + entry_bytes > most_bytes:
            yield Summary(tuple(page), after, last)
            page, after, size = [], last, 0
        page.append(SummaryEntry(*slot, *entry.record.version))
        last = sort_key(slot)
        size += entry_bytes
    yield Summary(tuple(page), after)


def lacking(table: RecordTable, summary: Summary, wall: float) -> list[bytes]:
    """Returns the envelopes that the sender of a summary lacks in its range, in the order of `rank`."""
    theirs = {(entry.author, entry.kind, entry.key): (entry.epoch, entry.sequence) for entry in summary.entries}
    entries = [
        entry
        for slot, entry in table.between(summary.after, summary.until)
        if (slot not in theirs or (theirs[slot] < entry.record.version and slot[1] != REVOCATION))
        and entry.expires_s >= wall
    ]
    entries.sort(key=lambda entry: rank(entry.record))
    return [entry.envelope for entry in entries]


def rank(record: Record) -> int:
    """Orders records for whoever knows nothing: who was put out, then who the authors are, then what they say."""
    return {REVOCATION: 0, NODE: 1}.get(record.kind, 2)


def batches(envelopes: Sequence[bytes], most_bytes: int) -> Iterator[tuple[bytes, ...]]:
    """Cuts envelopes into as many as fit a message."""
    batch: list[bytes] = []
    size = 0
    for envelope in envelopes:
        if batch and (size + len(envelope) > most_bytes or len(batch) == _RECORDS_IN_MESSAGE):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(envelope)
        size += len(envelope)
    if batch:
        yield tuple(batch)


class SummaryPace:
    """Holds one neighbour to whole summaries, page after page, no more often than an honest node sends them.

    Without it a small message could ask for the whole table again and again.

    Args:
        gap_s: Least time between two summaries.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._next = -math.inf
        self._expected = b""

    def admits(self, now: Now, summary: Summary) -> bool:
        """Says whether this page is to be answered."""
        if summary.after:
            if summary.after != self._expected:
                return False
        elif now.mono < self._next:
            return False
        else:
            self._next = now.mono + self._gap_s
        self._expected = summary.until if summary.until > summary.after else b""
        return True
