"""The table of records behind `RecordSync`: one entry a slot, bounds for each author, expiry. Knows no neighbours."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from atmo.gossip.entry import Entry, Slot
from atmo.gossip.fingerprints import LEVELS, Fingerprints
from atmo.identity import NodeId

EXPIRY_GRAIN_S = 8
"""Entries that expire within the same stretch share a list: there are few lists, and each is read only when due."""


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
    slots: list[Slot] = field(default_factory=list)
    bytes: int = 0


class RecordTable:
    """The newest record of each slot.

    Args:
        bounds: How much there is room for.

    Attributes:
        fingerprints: Of all entries that are not near ones.
    """

    def __init__(self, bounds: TableLimits) -> None:
        self._bounds = bounds
        self._entries: dict[Slot, Entry] = {}
        self._authors: dict[NodeId, _Author] = {}
        self._leaves: dict[int, dict[NodeId, None]] = {}  # authors by the first byte of their ids
        self._expiring: dict[int, list[Slot]] = {}  # by stretch of time; some have been replaced or removed since
        self._stretches: list[int] = []  # heap
        self._listed = 0
        self._bytes = 0
        self.fingerprints = Fingerprints()

    @property
    def bytes(self) -> int:
        """Of all envelopes."""
        return self._bytes

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

    def put(self, entry: Entry) -> None:
        """Puts an entry into its slot, in place of what was there."""
        slot = entry.slot
        held = self._entries.get(slot)
        author = self._authors.get(slot[0])
        if author is None:
            author = self._authors[slot[0]] = _Author()
            self._leaves.setdefault(slot[0][0], {})[slot[0]] = None
        if held is None:
            author.slots.append(slot)
        elif not held.record.near:
            self.fingerprints.remove(held)
        if not entry.record.near:
            self.fingerprints.add(entry)
        grows = len(entry.envelope) - (len(held.envelope) if held else 0)
        author.bytes += grows
        self._bytes += grows
        self._entries[slot] = entry
        if held is None or _stretch(held) != _stretch(entry):
            self._expect(entry)
            if self._listed > 4 * len(self._entries) + 64:
                self._list_again()

    def _expect(self, entry: Entry) -> None:
        stretch = _stretch(entry)
        slots = self._expiring.get(stretch)
        if slots is None:
            slots = self._expiring[stretch] = []
            heapq.heappush(self._stretches, stretch)
        slots.append(entry.slot)
        self._listed += 1

    def _list_again(self) -> None:
        self._expiring.clear()
        self._stretches.clear()
        self._listed = 0
        for entry in self._entries.values():
            self._expect(entry)

    def remove(self, slot: Slot) -> None:
        """Empties a slot."""
        entry = self._entries.pop(slot)
        if not entry.record.near:
            self.fingerprints.remove(entry)
        author = self._authors[slot[0]]
        author.slots.remove(slot)
        author.bytes -= len(entry.envelope)
        self._bytes -= len(entry.envelope)
        if not author.slots:
            del self._authors[slot[0]]
            leaf = self._leaves[slot[0][0]]
            del leaf[slot[0]]
            if not leaf:
                del self._leaves[slot[0][0]]

    def within(self, prefix: str) -> list[Entry]:
        """Returns the entries of the authors whose ids begin with `prefix`, near ones left out, in no order."""
        if not prefix:
            return [entry for entry in self._entries.values() if not entry.record.near]
        first = int(prefix.ljust(LEVELS, "0"), 16)
        leaves = range(first, first + 16 ** (LEVELS - len(prefix)))
        authors = [author for leaf in leaves for author in self._leaves.get(leaf, ())]
        entries = [self._entries[slot] for author in authors for slot in self._authors[author].slots]
        return [entry for entry in entries if not entry.record.near]

    def expired(self, wall: float) -> list[Slot]:
        """Returns the slots whose entries expired before `wall`; the caller removes or renews them."""
        slots: dict[Slot, None] = {}
        while self._stretches and self._stretches[0] * EXPIRY_GRAIN_S < wall:
            stretch = self._stretches[0]
            entries = [self._entries.get(slot) for slot in self._expiring[stretch]]
            current = [entry for entry in entries if entry and _stretch(entry) == stretch]
            alive = [entry.slot for entry in current if entry.expires_s >= wall]
            slots.update((entry.slot, None) for entry in current if entry.expires_s < wall)
            self._listed += len(alive) - len(entries)
            if alive:
                self._expiring[stretch] = alive
                break
            del self._expiring[stretch]
            heapq.heappop(self._stretches)
        return list(slots)

    def soonest(self) -> float:
        """Returns a Unix second before which nothing expires, `math.inf` in an empty table.

        That second may be up to `EXPIRY_GRAIN_S` too soon.
        """
        return self._stretches[0] * EXPIRY_GRAIN_S if self._stretches else math.inf


def _stretch(entry: Entry) -> int:
    return entry.expires_s // EXPIRY_GRAIN_S
