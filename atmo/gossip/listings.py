"""What anti-entropy says of single slots: pages of listings, batches of records, and the checks of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from atmo.gossip.entry import Entry, Slot, sort_key
from atmo.gossip.fingerprints import LEVELS
from atmo.gossip.messages import SUMMARY_ENTRIES, Digest, Listing, SummaryEntry, Want
from atmo.gossip.table import RecordTable
from atmo.trust.records import LASTING

Version = tuple[int, int]
"""Epoch and sequence."""

ENTRY_BYTES = 96
"""Of a SummaryEntry without its kind and key, at most."""

RANGE_BYTES = 48
"""Of a Range."""

_RECORDS_IN_MESSAGE = 64
_DIGITS = frozenset("0123456789abcdef")


def pages(prefix: str, entries: Iterable[Entry], most_bytes: int) -> Iterator[Listing]:
    """Yields the pages that list `entries`, all of one range; at least one page."""
    page: list[SummaryEntry] = []
    after, size = b"", 0
    for entry in sorted(entries, key=lambda entry: sort_key(entry.slot)):
        entry_bytes = ENTRY_BYTES + len(entry.slot[1]) + len(entry.slot[2])
        if len(page) == SUMMARY_ENTRIES or size + entry_bytes > most_bytes:
            yield Listing(prefix, tuple(page), after, more=True)
            after = sort_key(_slot(page[-1]))
            page, size = [], 0
        page.append(SummaryEntry(*entry.slot, *entry.record.version))
        size += entry_bytes
    yield Listing(prefix, tuple(page), after)


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


def _slot(entry: SummaryEntry) -> Slot:
    return (entry.author, entry.kind, entry.key)


def compare(table: RecordTable, listing: Listing, wall: float) -> tuple[dict[Slot, Version], list[Entry]]:
    """Holds a listing against the table.

    Returns:
        The slots that the table lacks or has older, with the listed versions; and the entries that the listing lacks or
        has older and that had not expired by `wall`.
    """
    theirs: dict[Slot, Version] = {_slot(entry): (entry.epoch, entry.sequence) for entry in listing.entries}
    lacked = {}
    for slot, version in theirs.items():
        held = table.get(slot)
        if held is None or (held.record.version < version and slot[1] not in LASTING):
            lacked[slot] = version
    until = sort_key(_slot(listing.entries[-1])) if listing.more else b""
    told = [
        entry
        for entry in table.within(listing.prefix)
        if entry.expires_s >= wall and _lacks(theirs, entry) and _covers(listing.after, until, entry.slot)
    ]
    return lacked, told


def _lacks(theirs: dict[Slot, Version], entry: Entry) -> bool:
    version = theirs.get(entry.slot)
    return version is None or (version < entry.record.version and entry.slot[1] not in LASTING)


def _covers(after: bytes, until: bytes, slot: Slot) -> bool:
    if not after and not until:
        return True
    key = sort_key(slot)
    return after < key and (not until or key <= until)


def fault_untrusted(message: Digest | Listing | Want) -> str:
    """Says what no honest node would send of a message; empty where there is nothing."""
    match message:
        case Digest(ranges):
            prefixes = [part.prefix for part in ranges]
            return _prefixes_fault(prefixes) or _overlap_fault(prefixes)
        case Want(_, prefixes):
            return _prefixes_fault(prefixes)
        case _:
            page = message
            return _prefixes_fault([page.prefix]) or _entries_fault(page.prefix, page.entries, page.after, page.more)


def _prefixes_fault(prefixes: Iterable[str]) -> str:
    return "" if all(_DIGITS.issuperset(prefix) for prefix in prefixes) else "a prefix is not of hexadecimal digits"


def _overlap_fault(prefixes: Iterable[str]) -> str:
    ordered = sorted(prefixes)
    overlap = any(second.startswith(first) for first, second in pairwise(ordered))
    return "ranges of one digest overlap" if overlap else ""


def _entries_fault(prefix: str, entries: Sequence[SummaryEntry], after: bytes, more: bool) -> str:
    keys = [after, *(sort_key(_slot(entry)) for entry in entries)]
    if any(first >= second for first, second in pairwise(keys)):
        return "a listing is out of order"
    if not all(entry.author.hex().startswith(prefix) for entry in entries):
        return "a listing leaves its range"
    return "a page without entries is not the last one" if more and not entries else ""


def is_known(prefix: str) -> bool:
    """Says whether this version cuts as finely; a newer one may cut further."""
    return len(prefix) <= LEVELS
