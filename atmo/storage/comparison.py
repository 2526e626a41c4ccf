"""What would travel between two versions of a model that are both here, deltas measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from atmo.storage import delta
from atmo.storage.files import Check, nothing
from atmo.transfer.alignment import FileDifference, diff, find_bases
from atmo.transfer.manifest import ChunkPlace, Manifest

MEASURED_MOST_BYTES = 2 * 1024**3
"""Of chunks that are made into deltas; of more, every nth is, spread over all. Source: guess; some ten seconds."""

ReadChunk = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class FileTravel(FileDifference):
    """What of one file travels to a node that has the base; without deltas that is `whole_bytes`.

    Attributes:
        delta_bytes: What travels with deltas, chunks for which they save nothing included.
        measured_bytes: Of `whole_bytes`, those whose deltas were made; what the others save is estimated from them.
    """

    delta_bytes: int
    measured_bytes: int


@dataclass(frozen=True, slots=True)
class Travel:
    """What of a model travels to a node that has the base.

    Attributes:
        files: In the manifest's order.
        exact: Every delta was made, none estimated.
    """

    files: tuple[FileTravel, ...]
    exact: bool


def travel_of(
    target: Manifest,
    base: Manifest,
    read: ReadChunk,
    check: Check = nothing,
    measured_most_bytes: int = MEASURED_MOST_BYTES,
) -> Travel:
    """Measures what of `target` travels to a node that has `base`.

    Args:
        target: The model that is wanted.
        base: The version that is there already.
        read: Returns the chunk of a BLAKE3 hash, such as `ModelStorage.read_chunk`; whatever it raises comes through.
        check: Told of the bytes that were made into deltas so far, once per chunk.
        measured_most_bytes: Of chunks made into deltas.
    """
    known = {name for file in base.files for name in file.chunks}
    places = [*target.chunk_places()]
    missing = [index for index, place in enumerate(places) if place.hash not in known]
    pairs = [(places[index], other) for index, other in find_bases(target, base, missing).items()]
    based, measured, saved = Counter[int](), Counter[int](), Counter[int]()
    for place, _ in pairs:
        based[place.file] += place.size
    step = max(1, -(-based.total() // measured_most_bytes))
    for place, other in pairs[::step]:
        measured[place.file] += place.size
        saved[place.file] += _saved(place, other, read)
        check(measured.total())
    return Travel(
        tuple(
            FileTravel(
                **asdict(file),
                delta_bytes=file.whole_bytes - saved[number] * based[number] // max(1, measured[number]),
                measured_bytes=measured[number],
            )
            for number, file in enumerate(diff(target, base))
        ),
        step == 1,
    )


def _saved(place: ChunkPlace, base: ChunkPlace, read: ReadChunk) -> int:
    made = delta.encode(read(place.hash), read(base.hash))
    return 0 if made is None else place.size - len(made)
