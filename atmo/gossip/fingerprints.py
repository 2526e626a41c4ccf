"""Fingerprints of a table of records by prefix of the author's id: equal ones mean equal slots and versions.

The number of an entry is a hash of its slot and version; a range's fingerprint is a hash of a salt, the sum of its
numbers and their count. A sum takes an entry in or out at the cost of one addition, in any order (Clarke et al.,
"Incremental multiset hash functions", ASIACRYPT 2003). Whoever can write many records of its own could make two sums
collide with much work; it would keep its own records from being compared and nobody else's, as the sums are of others'
hashes too.

A fingerprint is cut to 48 bits, of which two that are equal by chance, or made so by 2^24 tries, would be worth little
without the salt: with it, nobody can look for such a pair before a comparison begins, and what one comparison does not
see, which happens once in 2^48 ranges, the next one does, as its salt is another one.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from atmo.gossip.entry import Entry, slot_bytes
from atmo.gossip.messages import FINGERPRINT_BYTES, PART_BYTES, Branch, Digest, Range
from atmo.trust.records import LASTING

LEVELS = 2
"""Digits of the longest prefixes: a leaf is one of 256, about 18 slots of a mesh of 1,500 nodes."""

_DIGITS = "0123456789abcdef"
_LEAVES = 1 + 16  # where the leaves begin, after the root and the sixteenths
_MODULUS_MASK = 2**256 - 1
_COUNT_MOST = 2**16 - 1

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
    data = b"%b\0%b%b" % (slot_bytes(entry.slot), epoch.to_bytes(8, "big"), sequence.to_bytes(8, "big"))
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

    def range(self, prefix: str, salt: bytes) -> Range:
        """Returns what a `Digest` with this salt says of a range."""
        place = PLACES[prefix]
        count = self._counts[place]
        data = b"%b%b%b" % (salt, self._sums[place].to_bytes(32, "big"), count.to_bytes(8, "big"))
        return Range(prefix, count, blake3(data).digest(FINGERPRINT_BYTES))

    def branch(self, prefix: str, salt: bytes) -> Branch:
        """Returns what it says of the parts of a range."""
        parts = [self.range(child, salt) for child in children(prefix)]
        packed = [min(part.count, _COUNT_MOST).to_bytes(2, "big") + part.fingerprint for part in parts]
        return Branch(prefix, b"".join(packed))


def ranges_of(digest: Digest) -> list[Range]:
    """Returns all ranges that a digest tells of, the parts of its branches among them."""
    ranges = list(digest.ranges)
    for branch in digest.branches or ():
        for number, child in enumerate(children(branch.prefix)):
            part = branch.parts[number * PART_BYTES : (number + 1) * PART_BYTES]
            ranges.append(Range(child, int.from_bytes(part[:2], "big"), part[2:]))
    return ranges
