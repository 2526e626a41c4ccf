"""Chunks are served from models, open downloads and further sources alike, and never unverified."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from atmo.storage.chunks import CorruptChunk, MissingChunk, ModelStorage
from atmo.transfer.manifest import chunk_hash, seal_manifest
from atmo.wire import limits
from tests.storage.stores import DATA, add, download, open_store
from tests.transfer.samples import SIGNER, SMALL_CHUNK, manifest_of


class Outside:
    """Files outside of the store."""

    def __init__(self, *places: tuple[Path, int, int]) -> None:
        self.places = places

    def find(self, name: bytes) -> Iterable[tuple[Path, int, int]]:
        return self.places


@pytest.fixture
def store(tmp_path: Path) -> ModelStorage:
    return open_store(tmp_path / "home")


def test_an_open_download_gives_what_it_has(store: ModelStorage) -> None:
    manifest = manifest_of(DATA)
    partial = download(store, manifest, count=2)
    first, second, third, _ = manifest.main.chunks
    assert store.read_chunk(first) + store.read_chunk(second) == DATA[: 2 * SMALL_CHUNK]
    with pytest.raises(MissingChunk):
        store.read_chunk(third)
    other = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA, name="other")))
    assert other.have == {0, 1}, "one download takes from another"
    store.close_partial(partial)
    store.close_partial(other)
    with pytest.raises(MissingChunk):
        store.read_chunk(first)


def test_what_is_damaged_in_an_open_download_is_not_given(store: ModelStorage) -> None:
    partial = download(store, manifest_of(DATA), count=1)
    with (partial.folder / "data" / "model.onnx").open("r+b") as file:
        file.write(b"rot")
    with pytest.raises(CorruptChunk):
        store.read_chunk(partial.places[0].hash)


def test_a_chunk_is_found_while_its_download_becomes_a_model(store: ModelStorage) -> None:
    partial = download(store, manifest_of(DATA))
    name = partial.places[0].hash
    seen: list[bytes] = []

    class Between:
        """Asked after the tables and the download were: by then the file has moved."""

        def find(self, name: bytes) -> Iterable[tuple[Path, int, int]]:
            if not seen:
                seen.append(name)
                store.finish(partial, "gateway")
            return ()

    class Early:
        """Answers as the download did before it moved."""

        def find(self, name: bytes) -> Iterable[tuple[Path, int, int]]:
            return [(partial.folder / "data" / "model.onnx", 0, SMALL_CHUNK)] if not seen else ()

    store.reader.drop(store.registry)
    store.reader.drop(partial)
    for source in (store.registry, Early(), Between()):
        store.add_source(source)
    assert store.read_chunk(name) == DATA[:SMALL_CHUNK]


def test_a_further_source_is_served_and_shared_but_never_believed(store: ModelStorage, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"....." + DATA)
    name = chunk_hash(DATA[:SMALL_CHUNK])
    store.add_source(Outside((tmp_path / "gone", 0, SMALL_CHUNK), (file, 5, SMALL_CHUNK)))
    assert store.read_chunk(name) == DATA[:SMALL_CHUNK]
    assert store.open_partial(seal_manifest(SIGNER, manifest_of(DATA))).have == {0}
    file.write_bytes(b"changed" * SMALL_CHUNK)
    with pytest.raises(CorruptChunk, match="blob is damaged between bytes 5 and"):
        store.read_chunk(chunk_hash(b"something else"))
    other = store.open_partial(seal_manifest(SIGNER, manifest_of(b"z" * SMALL_CHUNK)))
    assert other.have == set()
    assert "blob is damaged" in store.warnings[-1]


def test_places_that_make_no_sense_are_left_out(store: ModelStorage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    place = tmp_path / "pipe"
    for wrong in ((place, 0, limits.CHUNK_BYTES + 1), (place, 0, 0), (place, -1, 10)):
        store.add_source(Outside(wrong))
    with pytest.raises(MissingChunk):
        store.read_chunk(bytes(32))
    store.add_source(Outside((place, 0, 10)))
    with pytest.raises(CorruptChunk, match="pipe cannot be read"):
        store.read_chunk(bytes(32))
    assert store.open_partial(seal_manifest(SIGNER, manifest_of(b"0123456789"))).have == set()


def test_the_last_use_is_noted_once_a_minute(tmp_path: Path) -> None:
    from atmo.storage.database import Database

    now = 1_000_000.0
    store = ModelStorage(tmp_path, Database(tmp_path / "atmosphere.db"), wall=lambda: now)
    model = add(store)
    assert model.used_at == 0
    name = model.manifest.main.chunks[0]
    for step, expected in ((0.0, 1_000_000.0), (59.0, 1_000_000.0), (1.0, 1_000_060.0), (-500.0, 999_560.0)):
        now += step
        store.read_chunk(name)
        assert store.models()[0].used_at == expected
    now += 5
    store.set_loaded("iris", "1.0", True)
    assert (store.models()[0].used_at, store.models()[0].loaded_at) == (999_565.0, 999_565.0)
    now += 5
    store.set_loaded("iris", "1.0", False)
    assert (store.models()[0].used_at, store.models()[0].loaded_at) == (999_565.0, None)
