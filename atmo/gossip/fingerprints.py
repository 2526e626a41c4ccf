"""Fingerprints of a table of records by prefix of the author's id: equal ones mean equal slots and versions.

The number of an entry is a hash of its slot and version; a range's fingerprint is a hash of the sum of its numbers and
their count. A sum takes an entry in or out at the cost of one addition, in any order (Clarke et al., "Incremental
multiset hash functions", ASIACRYPT 2003). Whoever can write many records of its own could make two sums collide with
much work; it would keep its own records from being compared and nobody else's, as the sums are of others' hashes too.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from atmo.gossip.entry import Entry, sort_key
from atmo.gossip.messages import Range
from atmo.trust.records import LASTING

LEVELS = 2
"""Digits of the longest prefixes: a leaf is one of 256, about 18 slots of a mesh of 1,500 nodes."""

_DIGITS = "0123456789abcdef"
_LEAVES = 1 + 16  # where the leaves begin, after the root and the sixteenths
_MODULUS_MASK = 2**256 - 1

PLACES: Final[dict[str, int]] = {
    prefix: place
    for place, prefix in enumerate(["", *_DIGITS, *(first + second for first in _DIGITS for second in _DIGITS)])
}
"""Where each prefix stands in the lists."""


def children(prefix: str) -> list[str]:
    """Returns the sixteen parts of a range."""
    return [prefix + digit for digit in _DIGITS]


def number_of(entry: Entry) -> int:
    """Returns the number of an entry.

    Of revocations the first one in a slot is final, so two nodes may hold different ones for good: there the version
    does not count.
    """
    epoch, sequence = (0, 0) if entry.record.kind in LASTING else entry.record.version
    data = b"%b\0%b%b" % (sort_key(entry.slot), epoch.to_bytes(8, "big"), sequence.to_bytes(8, "big"))
    return int.from_bytes(blake3(data).digest(), "big")


class Fingerprints:
    """Count and sum of all prefixes up to `LEVELS` digits, kept in step by `add` and `remove`."""

    __slots__ = ("_counts", "_sums")

    def __init__(self) -> None:
        self._counts = [0] * len(PLACES)
        self._sums = [0] * len(PLACES)

    def add(self, entry: Entry) -> None:
        """Takes an entry in."""
        self._change(entry.slot[0][0], 1, number_of(entry))

    def remove(self, entry: Entry) -> None:
        """Takes an entry out."""
        self._change(entry.slot[0][0], -1, -number_of(entry))

    def _change(self, leaf: int, count: int, number: int) -> None:
        for place in (0, 1 + (leaf >> 4), _LEAVES + leaf):
            self._counts[place] += count
            self._sums[place] = (self._sums[place] + number) & _MODULUS_MASK

    def count(self, prefix: str) -> int:
        """Returns the number of slots in a range."""
        return self._counts[PLACES[prefix]]

    def range(self, prefix: str) -> Range:
        """Returns what a `Digest` says of a range."""
        place = PLACES[prefix]
        count = self._counts[place]
        if not count:
            return Range(prefix, 0, b"")
        data = self._sums[place].to_bytes(32, "big") + count.to_bytes(8, "big")
        return Range(prefix, count, blake3(data).digest(16))
