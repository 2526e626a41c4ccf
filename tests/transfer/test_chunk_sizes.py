"""Files whose chunks have sizes of their own."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.transfer.manifest import (
    LEAST_CHUNK_BYTES,
    SPARE_CHUNKS,
    ChunkPlace,
    Manifest,
    ModelFile,
    chunk_hash,
    most_bytes,
    most_chunks,
    open_manifest_untrusted,
    seal_manifest,
)
from atmo.wire import codec, envelope, limits, schema
from tests.transfer.samples import SIGNER, file_of, manifest_of, sized_file

DATA = bytes(range(250)) * 800
SIZES = [137, 70_000, 1, 129_862]
FILE = sized_file("model.onnx", DATA, SIZES)


def packed(*sizes: int) -> bytes:
    return struct.pack(f">{len(sizes)}I", *sizes)


def of(file: ModelFile) -> Manifest:
    return manifest_of(files=(file,), file=file.path, size_bytes=file.size_bytes, checksum_sha256=file.sha256)


def test_places_follow_the_sizes() -> None:
    manifest = of(FILE)
    assert [(place.offset, place.size) for place in manifest.chunk_places()] == [
        (0, 137),
        (137, 70_000),
        (70_137, 1),
        (70_138, 129_862),
    ]
    assert [*manifest.chunk_places()][2] == ChunkPlace(0, 70_137, 1, chunk_hash(DATA[70_137:70_138]))
    assert list(FILE.chunk_sizes) == SIZES
    assert open_manifest_untrusted(seal_manifest(SIGNER, manifest))[0] == manifest


def test_without_sizes_they_are_fixed() -> None:
    assert list(file_of("a", b"x" * 200_000).chunk_sizes) == [65_536, 65_536, 65_536, 3_392]
    assert list(file_of("a", b"x" * 131_072).chunk_sizes) == [65_536, 65_536]
    assert list(file_of("a", b"").chunk_sizes) == []


def test_a_manifest_sealed_before_there_were_sizes_is_good() -> None:
    value = schema.to_wire(manifest_of())
    for file in value["files"]:
        del file["sizes"]
    sealed = envelope.seal(SIGNER, "atmo/manifest/1", envelope.NO_MESH, codec.encode(value))
    assert open_manifest_untrusted(sealed)[0] == manifest_of()


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("bytes of sizes", {"sizes": FILE.sizes[:-1]}),
        ("bytes of sizes", {"sizes": FILE.sizes[:-4]}),
        ("bytes of sizes", {"hashes": b""}),
        ("bytes of sizes", {"size_bytes": 0, "hashes": b""}),
        ("empty chunk", {"sizes": packed(137, 70_001, 0, 129_862)}),
        ("empty chunk, or one of more than 129861", {"chunk_bytes": 129_861}),
        ("have 200000 bytes and the file has 200001", {"size_bytes": 200_001}),
        ("have 200000 bytes and the file has 199999", {"size_bytes": 199_999}),
    ],
)
def test_sizes_that_contradict_the_file_cannot_exist(why: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=why):
        replace(FILE, **fields)


def test_chunks_are_not_too_many_for_their_file() -> None:
    size = 10 * LEAST_CHUNK_BYTES
    count = most_chunks(size)
    assert count == 10 + SPARE_CHUNKS
    sizes = [1] * (count - 1) + [size - count + 1]
    good = ModelFile("a", size, bytes(32), limits.CHUNK_BYTES, bytes(32 * count), packed(*sizes))
    with pytest.raises(ValueError, match="19 chunks are too many"):
        replace(good, hashes=bytes(32 * (count + 1)), sizes=packed(1, *sizes[:-1], sizes[-1] - 1))


def test_no_chunk_is_beyond_what_nodes_accept() -> None:
    size = limits.CHUNK_BYTES + 1
    value = schema.to_wire(ModelFile("a", size, bytes(32), limits.CHUNK_BYTES, bytes(64), packed(1, size - 1)))
    with pytest.raises(WireError, match="chunk_bytes"):
        schema.from_wire_untrusted(ModelFile, value | {"chunk_bytes": size})
    with pytest.raises(WireError, match="empty chunk"):
        schema.from_wire_untrusted(ModelFile, value | {"sizes": packed(size), "hashes": bytes(32)})


def test_the_longest_lists_fit_a_manifest() -> None:
    count = 40_000
    size = count * LEAST_CHUNK_BYTES
    sizes = packed(*[LEAST_CHUNK_BYTES] * count)
    manifest = of(ModelFile("big.gguf", size, bytes(32), LEAST_CHUNK_BYTES, bytes(32 * count), sizes))
    sealed = seal_manifest(SIGNER, manifest)
    assert len(sealed) <= most_bytes(size)
    assert open_manifest_untrusted(sealed)[0] == manifest


@given(st.binary(max_size=64), st.integers(0, 2**20), st.integers(0, 3))
def test_any_sizes_are_sound_or_refused(sizes: bytes, size_bytes: int, hashes: int) -> None:
    value = schema.to_wire(FILE) | {"sizes": sizes, "size_bytes": size_bytes, "hashes": bytes(32 * hashes)}
    try:
        file = schema.from_wire_untrusted(ModelFile, value)
    except WireError:
        return
    assert sum(file.chunk_sizes) == size_bytes
    assert len(file.chunk_sizes) == len(file.chunks) == hashes
    assert all(0 < size <= file.chunk_bytes for size in file.chunk_sizes)
