from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from atmo.storage import delta
from atmo.storage.chunks import MissingChunk
from atmo.storage.comparison import FileTravel, Travel, travel_of
from atmo.transfer.manifest import Manifest, chunk_hash
from tests.transfer.samples import manifest_of, sized_file

KIB = 1024
SIZES = [100, 100 * KIB, 200 * KIB]


class Versions:
    """Models of two files, and all of their chunks."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}

    def model(self, **contents: Sequence[bytes]) -> Manifest:
        for parts in contents.values():
            self.chunks |= {chunk_hash(part): part for part in parts}
        files = tuple(sized_file(name, b"".join(parts), [len(p) for p in parts]) for name, parts in contents.items())
        return manifest_of(
            files=files,
            file=files[0].path,
            size_bytes=sum(file.size_bytes for file in files),
            checksum_sha256=files[0].sha256,
        )

    def read(self, name: bytes) -> bytes:
        if name not in self.chunks:
            raise MissingChunk("it is not here")
        return self.chunks[name]


def weights(seed: int) -> list[bytes]:
    return [Random(seed + size).randbytes(size) for size in SIZES]


def nudged(data: bytes) -> bytes:
    """The same with every hundredth byte one higher."""
    changed = bytearray(data)
    changed[::100] = bytes((byte + 1) % 256 for byte in changed[::100])
    return bytes(changed)


def test_two_versions() -> None:
    versions = Versions()
    head, first, second = weights(1)
    other = Random(9).randbytes(200 * KIB)
    base = versions.model(a=[head, first, second], b=[b"same"])
    target = versions.model(a=[head, nudged(first), other], b=[b"same"], c=[b"new"])
    steps: list[int] = []
    travel = travel_of(target, base, versions.read, steps.append)
    made = delta.encode(nudged(first), first)
    assert made is not None
    assert travel == Travel(
        (
            FileTravel("a", 300 * KIB + 100, 100, 300 * KIB, len(made) + 200 * KIB, 300 * KIB),
            FileTravel("b", 4, 4, 0, 0, 0),
            FileTravel("c", 3, 0, 3, 3, 0),
        ),
        True,
    )
    assert len(made) < 20 * KIB
    assert steps == [100 * KIB, 300 * KIB]


def test_the_same_model() -> None:
    versions = Versions()
    model = versions.model(a=weights(1))
    travel = travel_of(model, model, versions.read)
    assert travel == Travel((FileTravel("a", 300 * KIB + 100, 300 * KIB + 100, 0, 0, 0),), True)


def test_of_much_only_some_is_measured() -> None:
    versions = Versions()
    parts = [Random(number).randbytes(50 * KIB) for number in range(20)]
    base, target = versions.model(a=parts), versions.model(a=[nudged(part) for part in parts])
    exact = travel_of(target, base, versions.read)
    some = travel_of(target, base, versions.read, measured_most_bytes=200 * KIB)
    assert (exact.exact, some.exact) == (True, False)
    assert (exact.files[0].measured_bytes, some.files[0].measured_bytes) == (1000 * KIB, 200 * KIB)
    assert some.files[0].delta_bytes == pytest.approx(exact.files[0].delta_bytes, rel=0.05)


def test_a_chunk_that_is_not_here() -> None:
    versions = Versions()
    base, target = versions.model(a=weights(1)), versions.model(a=weights(2))
    with pytest.raises(MissingChunk):
        travel_of(target, base, Versions().read)
