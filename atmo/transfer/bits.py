"""Sets of chunk indices as Python integers, of which bit `i` says whether chunk `i` is in.

Union, difference and the question whether anything is left are then single operations on machine words, whatever the
number of chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from atmo.errors import WireError


def bits_of(indices: Iterable[int], count: int) -> int:
    """Returns the set of those indices that are within 0 to `count` - 1."""
    data = bytearray((count + 7) // 8)
    for index in indices:
        if 0 <= index < count:
            data[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(data, "little")


def indices_of(bits: int) -> Iterator[int]:
    """Yields the indices of a set, the smallest first."""
    data = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    for at, byte in enumerate(data):
        while byte:
            low = byte & -byte
            yield (at << 3) + low.bit_length() - 1
            byte ^= low


def all_of(count: int) -> int:
    """Returns the set of 0 to `count` - 1."""
    return (1 << count) - 1


def to_bytes(bits: int, count: int) -> bytes:
    """Returns the wire form: bit `i % 8` of byte `i // 8`, without the zero bytes at the end."""
    return bits.to_bytes((count + 7) // 8, "little").rstrip(b"\0")


def from_bytes_untrusted(data: bytes, count: int) -> int:
    """Reads the wire form of a set of at most `count` chunks.

    Raises:
        WireError: It names a chunk that there is not.
    """
    bits = int.from_bytes(data, "little")
    if bits >> count:
        raise WireError(f"a chunk beyond the {count} that there are")
    return bits


def some_of(bits: int, random: Random) -> int:
    """Returns one index of a set that is not empty: the first one from a random place on."""
    place = random.randrange(bits.bit_length())
    above = bits >> place
    return place + (above & -above).bit_length() - 1
