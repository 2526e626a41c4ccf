"""Which chunk of a base model lies where a chunk of another version lies, and what travels between the two.

Chunks that both have are fixed points. Between two of them, chunks of the same size are paired from both ends, since
versions of a model have the same tensors, and tensors of a size are cut into chunks of the same sizes; a head that grew
or a tensor that was put in changes the chunks in between only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from atmo.transfer.manifest import ChunkPlace, Manifest, ModelFile

SKIP_MOST = 8
"""Chunks that a head may have. Source: guess; one or two, or eight where a large vocabulary is in it."""

LOOK_MOST = 256
"""Chunks that are looked at after a head, to find out where it ends. Source: guess."""

Pairs = Iterator[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class FileDifference:
    """What of one file travels to a node that has a base.

    Attributes:
        path: The file's.
        size_bytes: Of the file.
        shared_bytes: In chunks that the base has.
        whole_bytes: In chunks that it has not, which travel whole unless a delta is smaller.
    """

    path: str
    size_bytes: int
    shared_bytes: int
    whole_bytes: int


def diff(target: Manifest, base: Manifest) -> tuple[FileDifference, ...]:
    """Returns what of `target` travels to a node that has `base`, file by file."""
    known = {name for file in base.files for name in file.chunks}
    found = []
    for file in target.files:
        sizes = zip(file.chunk_sizes, file.chunks, strict=True)
        shared = sum(size for size, name in sizes if name in known)
        found.append(FileDifference(file.path, file.size_bytes, shared, file.size_bytes - shared))
    return tuple(found)


def find_bases(target: Manifest, base: Manifest, missing: Collection[int]) -> dict[int, ChunkPlace]:
    """Returns for chunks of a model, in order, those of another version at the same place, as far as there are any.

    Args:
        target: The model that is wanted.
        base: The version that is here.
        missing: Indices of the target's chunks, as `chunk_places` counts them.
    """
    wanted = set(missing)
    places = list(base.chunk_places())
    starts = _starts(base)
    by_path = {file.path: number for number, file in enumerate(base.files)}
    found = {}
    for file, start in zip(target.files, _starts(target), strict=True):
        number = by_path.get(file.path)
        if number is None and file.path == target.file:
            number = by_path[base.file]
        if number is not None:
            pairs = ((start + here, starts[number] + there) for here, there in _align(file, base.files[number]))
            found.update({here: places[there] for here, there in pairs if here in wanted})
    return dict(sorted(found.items()))


def _starts(manifest: Manifest) -> list[int]:
    """Returns the index of each file's first chunk."""
    starts, count = [], 0
    for file in manifest.files:
        starts.append(count)
        count += len(file.chunks)
    return starts


def _align(target: ModelFile, base: ModelFile) -> Pairs:
    """Yields pairs of chunks of two files, none in two pairs."""
    here, there = target.chunk_sizes, base.chunk_sizes
    at, base_at = 0, 0
    for fixed, base_fixed in [*_fixed_points(target.chunks, base.chunks), (len(here), len(there))]:
        pairs = _align_between(here[at:fixed], there[base_at:base_fixed], at == 0)
        yield from ((at + index, base_at + other) for index, other in pairs)
        if fixed < len(here):
            yield fixed, base_fixed
        at, base_at = fixed + 1, base_fixed + 1


def _fixed_points(target: Sequence[bytes], base: Sequence[bytes]) -> list[tuple[int, int]]:
    """Returns the most chunks, once in each file, that both have in the same order."""
    once = {name for name, count in Counter(target).items() if count == 1}
    once &= {name for name, count in Counter(base).items() if count == 1}
    place = {name: index for index, name in enumerate(base) if name in once}
    pairs = [(index, place[name]) for index, name in enumerate(target) if name in once]
    ends: list[int] = []  # by length of a growing row of places in the base: the least end of such a row
    rows: list[int] = []  # the pairs at these ends
    before = [-1] * len(pairs)
    for number, (_, other) in enumerate(pairs):
        length = bisect_left(ends, other)
        before[number] = rows[length - 1] if length else -1
        if length == len(ends):
            ends.append(other)
            rows.append(number)
        else:
            ends[length], rows[length] = other, number
    chain, number = [], rows[-1] if rows else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    return chain[::-1]


def _align_between(here: Sequence[int], there: Sequence[int], head: bool) -> Pairs:
    """Yields pairs between two fixed points: equal sizes from the end, then from the front.

    Args:
        here, there: Sizes of the chunks.
        head: At the start of the file; its first chunks belong together whatever their sizes.
    """
    back = _run(here[::-1], there[::-1])
    yield from ((len(here) - 1 - index, len(there) - 1 - index) for index in range(back))
    here, there = here[: len(here) - back], there[: len(there) - back]
    skip, base_skip = _heads(here, there) if head else (0, 0)
    if head and here and there and (skip or base_skip):
        yield 0, 0
    front = _run(here[skip:], there[base_skip:])
    yield from ((skip + index, base_skip + index) for index in range(front))


def _heads(here: Sequence[int], there: Sequence[int]) -> tuple[int, int]:
    """Returns how many chunks heads have on either side: what follows them has equal sizes for the longest.

    A head is passed over on both sides or, where sizes are equal from the first, on none.
    """
    best, found = 0, (1, 1)
    if _run(here[:1], there[:1]):
        return 0, 0
    for skip, base_skip in sorted(product(range(1, SKIP_MOST + 1), repeat=2), key=sum):
        length = _run(here[skip : skip + LOOK_MOST], there[base_skip : base_skip + LOOK_MOST])
        if length > best:
            best, found = length, (skip, base_skip)
    return found


def _run(here: Sequence[int], there: Sequence[int]) -> int:
    """Returns how many sizes from the front are equal."""
    both = zip(here, there, strict=False)
    return next((index for index, (a, b) in enumerate(both) if a != b), min(len(here), len(there)))
