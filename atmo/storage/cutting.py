"""Where a file is cut into chunks, so that what two versions have in common has the same chunks in both.

Where the layout is known, the head has chunks of its own, each large tensor is cut at a fixed stride from its start,
and small ones are grouped up to a bound, beginning anew after each large one and at layers. What has no known layout is
cut where its content says so: at the first place after a least size where the next eight bytes meet a criterion, one
that is harder to meet before the usual size and easier after it.

Source of the second way: Xia et al., "FastCDC", USENIX ATC 2016, for the least size that is skipped and for the two
criteria around the usual size. The criterion here is a product of the eight bytes instead of the paper's gear hash,
because numpy can test many places at once where each needs nothing of the one before.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from atmo.storage.layout import Part
from atmo.transfer.manifest import CHUNK_BYTES

LEAST_BYTES: Final = 256 * 1024
"""Of a chunk, unless what it is made of is smaller. Source: FastCDC's quarter of the usual size."""

LARGE_BYTES: Final = 512 * 1024
"""From here on a tensor has chunks of its own. Source: guess; half a chunk, so that the average stays far above
`LEAST_CHUNK_BYTES` even if nothing but large and tiny tensors take turns."""

MOST_BYTES: Final = 2 * CHUNK_BYTES
"""Of any chunk that is cut here. Source: FastCDC admits eight times the usual size; twice keeps buffers small."""

_BLOCK: Final = 128 * 1024
_WORD: Final = 8
_SIEVE: Final = ord("e")
"""The byte that chunks begin with: one in 256 among random bytes, and the commonest letter of English, so that text has
such places, too. Runs of zeros have none."""

_FACTOR: Final = 0x9E3779B97F4A7C15
"""Odd, with bits all over, so that a product's highest bits depend on all eight bytes. Source: the golden ratio."""

_HARD, _EASY = 2**51, 2**53
"""Of those places, one in 2^13 before the usual size and one in 2^11 after it. Among random bytes the average is 1.2
times the usual size; where the byte is common, chunks come near the least."""

_LAYER = re.compile(r"\D*\d+")


class Span(NamedTuple):
    """A stretch of a file.

    Attributes:
        size: In bytes.
        by_content: It is cut by `find_cut`; else it is one chunk.
    """

    size: int
    by_content: bool


def plan(size: int, parts: Sequence[Part]) -> Iterator[Span]:
    """Yields the stretches of a file, which cover it.

    Args:
        size: Of the file.
        parts: Its tensors as `layout.read` returns them.
    """
    if size < LARGE_BYTES:
        yield from [Span(size, False)] if size else []
        return
    at, run = 0, _Run()
    for part in parts:
        large = part.end - part.start >= LARGE_BYTES
        if at == 0 or part.start - at >= LARGE_BYTES:
            yield from run.end(at)
            yield from _by_content(at, part.start)
            run = _Run(part.start)
        elif large and part.start > at:
            yield from run.add(Part(at, part.start, ""))
        if large:
            yield from run.end(part.start)
            yield from _strides(part)
            run = _Run(part.end)
        else:
            yield from run.add(Part(max(at, run.start), part.end, part.name))
        at = part.end
    yield from run.end(at)
    yield from _by_content(at, size)


def _by_content(start: int, end: int) -> Iterator[Span]:
    if end > start:
        yield Span(end - start, True)


def _strides(part: Part) -> Iterator[Span]:
    left = part.end - part.start
    while left >= CHUNK_BYTES + LEAST_BYTES:
        yield Span(CHUNK_BYTES, False)
        left -= CHUNK_BYTES
    yield Span(left, False)


class _Run:
    """Small tensors one after the other.

    A group ends before a tensor of another layer, or one whose name says so: names are the same in the next version.

    Args:
        start: Where the first begins.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self._layer = ""

    def add(self, part: Part) -> Iterator[Span]:
        """Takes the next one; yields the group that ends before it."""
        group = part.start - self.start
        found = _LAYER.match(part.name)
        layer = found.group() if found else ""
        apart = layer != self._layer or zlib.crc32(part.name.encode(errors="replace")) % 4 == 0
        if group >= LEAST_BYTES and (apart or part.end - self.start > CHUNK_BYTES):
            yield Span(group, False)
            self.start = part.start
        self._layer = layer

    def end(self, at: int) -> Iterator[Span]:
        """Yields the last group, which ends at `at`."""
        if at > self.start:
            yield Span(at - self.start, False)


def find_cut(data: memoryview) -> int:
    """Returns the size of the first chunk.

    Args:
        data: `MOST_BYTES`, or all that is left of the stretch.
    """
    for start in range(LEAST_BYTES, len(data) - _WORD + 1, _BLOCK):
        cut = _first_place(data, start, _HARD if start < CHUNK_BYTES else _EASY)
        if cut is not None:
            return cut
    return len(data)


def _first_place(data: memoryview, start: int, criterion: int) -> int | None:
    """Returns the first place of the block at `start` at which a chunk may begin."""
    import numpy as np  # 11 MB that a node which only serves does without

    count = min(_BLOCK, len(data) - start - _WORD + 1)
    places = np.flatnonzero(np.frombuffer(data, np.uint8, count, start) == _SIEVE)
    words: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.ndarray((count,), "<u8", data, start, (1,))  # they overlap
    met = np.flatnonzero(words[places] * np.uint64(_FACTOR) < np.uint64(criterion))
    return start + int(places[met[0]]) if len(met) else None
