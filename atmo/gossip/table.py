"""The table of records behind `RecordSync`: slots in order, bounds for each author, expiry. Knows no neighbours."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass

from atmo.gossip.records import Record
from atmo.identity import NodeId

Slot = tuple[NodeId, str, str]
"""Author, kind, key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one slot holds.

    Attributes:
        record: Decoded.
        envelope: As signed.
        expires_s: Unix seconds after which it counts no more, tolerance included.
    """

    record: Record
    envelope: bytes
    expires_s: float


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Bounds. Source: guesses; a page of 40 KiB tells about 200 models.

    Attributes:
        authors: Authors in the table.
        author_records: Slots of one author.
        author_bytes: Envelopes of one author.
        bytes: Envelopes of all authors.
    """

    authors: int
    author_records: int
    author_bytes: int
    bytes: int


@dataclass(slots=True)
class _Author:
    slots: dict[Slot, None]
    bytes: int = 0


def sort_key(slot: Slot) -> bytes:
    """Returns the bytes that order slots in summaries; no two slots share one, as kinds and keys are plain names."""
    return b"%b%b\0%b" % (bytes(slot[0]), slot[1].encode(), slot[2].encode())


class RecordTable:
    """The newest record of each slot.

    Args:
        bounds: How much there is room for.
    """

    def __init__(self, bounds: TableLimits) -> None:
        self._bounds = bounds
        self._entries: dict[Slot, Entry] = {}
        self._authors: dict[NodeId, _Author] = {}
        self._order: list[bytes] = []
        self._by_key: dict[bytes, Slot] = {}
        self._expiries: list[tuple[float, int, Slot]] = []
        self._counter = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, slot: Slot) -> Entry | None:
        """Returns what a slot holds."""
        return self._entries.get(slot)

    def items(self) -> Iterator[tuple[Slot, Entry]]:
        """Yields all slots, in the order in which they first came."""
        yield from self._entries.items()

    def authors(self) -> list[NodeId]:
        """Returns everyone who has a slot."""
        return list(self._authors)

    def slots_of(self, author: NodeId) -> list[Slot]:
        """Returns the slots of one author."""
        state = self._authors.get(author)
        return list(state.slots) if state else []

    def has_room(self, slot: Slot, size: int) -> bool:
        """Says whether an envelope of `size` bytes fits into `slot`."""
        bounds, held, author = self._bounds, self._entries.get(slot), self._authors.get(slot[0])
        grows = size - (len(held.envelope) if held else 0)
        if self._bytes + grows > bounds.bytes:
            return False
        if author is None:
            return len(self._authors) < bounds.authors
        if held is None and len(author.slots) >= bounds.author_records:
            return False
        return author.bytes + grows <= bounds.author_bytes

    def put(self, slot: Slot, entry: Entry) -> None:
        """Puts an entry into its slot, in place of what was there."""
        held = self._entries.get(slot)
        author = self._authors.setdefault(slot[0], _Author({}))
        if held is None:
            key = sort_key(slot)
            insort(self._order, key)
            self._by_key[key] = slot
            author.slots[slot] = None
        grows = len(entry.envelope) - (len(held.envelope) if held else 0)
        author.bytes += grows
        self._bytes += grows
        self._entries[slot] = entry
        self._counter += 1
        heapq.heappush(self._expiries, (entry.expires_s, self._counter, slot))
        if len(self._expiries) > 4 * len(self._entries) + 64:
            self._expiries = [(held.expires_s, number, slot) for number, (slot, held) in enumerate(self.items())]
            heapq.heapify(self._expiries)

    def remove(self, slot: Slot) -> None:
        """Empties a slot."""
        entry = self._entries.pop(slot)
        key = sort_key(slot)
        del self._order[bisect_right(self._order, key) - 1]
        del self._by_key[key]
        author = self._authors[slot[0]]
        del author.slots[slot]
        author.bytes -= len(entry.envelope)
        self._bytes -= len(entry.envelope)
        if not author.slots:
            del self._authors[slot[0]]

    def between(self, after: bytes, until: bytes) -> list[tuple[Slot, Entry]]:
        """Returns the slots whose sort key is over `after` and at most `until`, in order; empty bytes mean no bound."""
        first = bisect_right(self._order, after)
        last = bisect_right(self._order, until) if until else len(self._order)
        slots = [self._by_key[key] for key in self._order[first:last]]
        return [(slot, self._entries[slot]) for slot in slots]

    def expired(self, wall: float) -> list[Slot]:
        """Returns the slots whose entries expired before `wall`; the caller removes or renews them."""
        slots: dict[Slot, None] = {}
        while self._expiries and self._expiries[0][0] < wall:
            slot = heapq.heappop(self._expiries)[2]
            entry = self._entries.get(slot)
            if entry and entry.expires_s < wall:
                slots[slot] = None
        return list(slots)

    def soonest(self) -> float:
        """Returns the Unix second at which something may expire, `math.inf` in an empty table."""
        return self._expiries[0][0] if self._expiries else math.inf
