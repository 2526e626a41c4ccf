"""Reading a store again finds every damaged byte, and a repair hurts nobody who has the file mapped."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.storage.audit import read
from atmo.storage.chunks import ModelStorage
from atmo.transfer.manifest import chunk_hash, seal_manifest
from atmo.transfer.names import parse_spec
from tests.storage.stores import DATA, add, names, open_store
from tests.transfer.samples import SIGNER, SMALL_CHUNK, manifest_of

CHUNKS = {
    chunk_hash(DATA[at : at + SMALL_CHUNK]): DATA[at : at + SMALL_CHUNK] for at in range(0, len(DATA), SMALL_CHUNK)
}


def fetch(name: bytes, size: int) -> bytes | None:
    """A holder that has everything."""
    data = CHUNKS.get(name)
    assert data is None or len(data) == size
    return data


@pytest.fixture
def store(tmp_path: Path) -> ModelStorage:
    return open_store(tmp_path / "home")


def spoil(path: Path, offset: int, data: bytes = b"rot") -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_sound_store(store: ModelStorage) -> None:
    add(store)
    add(store, b"", name="empty")
    done: list[int] = []
    report = store.verify(check=done.append)
    assert (report.models, report.files, report.bytes, report.damages, report.clean) == (2, 2, len(DATA), (), True)
    assert done[-1] == len(DATA)
    assert store.verify(repair=fetch) == report
    assert open_store(store.root.parent / "new").verify().to_json()["clean"] is True


def test_damage_is_named_by_file_and_offset(store: ModelStorage) -> None:
    model = add(store)
    spoil(model.path, 70_000)
    spoil(model.path, len(DATA) - 1, b"!")
    report = store.verify()
    assert [(damage.kind, damage.offset, damage.size) for damage in report.damages] == [
        ("wrong bytes", SMALL_CHUNK, SMALL_CHUNK),
        ("wrong bytes", 3 * SMALL_CHUNK, len(DATA) - 3 * SMALL_CHUNK),
    ]
    assert (report.clean, report.damaged, report.repaired) == (False, 2, 0)
    damage = report.to_json()["damages"][0]
    assert (damage["name"], damage["version"], damage["file"], damage["repaired"]) == (
        "iris",
        "1.0.0",
        "model.onnx",
        False,
    )
    assert damage["path"] == str(model.path)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("hurt", "kind"),
    [
        (lambda path: path.unlink(), "missing file"),
        (lambda path: os.truncate(path, 1_000), "wrong size"),
        (lambda path: path.write_bytes(DATA + b"more"), "wrong size"),
        (lambda path: (path.unlink(), path.mkdir()), "unreadable"),
        (as_pipe, "unreadable"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "unreadable"),
        (lambda path: spoil(path, 0), "wrong bytes"),
    ],
)
def test_whatever_happened_to_a_file_is_repaired(
    store: ModelStorage, hurt: Callable[[Path], object], kind: str
) -> None:
    model = add(store)
    hurt(model.path)
    assert store.verify().damages[0].kind == kind
    if model.path.is_dir():
        model.path.rmdir()  # no file can be renamed over a folder
    report = store.verify(repair=fetch, who="me")
    assert report.clean
    assert {damage.repaired for damage in report.damages} == {True}
    assert model.path.read_bytes() == DATA
    assert not model.path.is_symlink()
    assert store.verify().damages == ()
    assert names(store.root / "incoming") == []
    event = list(read(store.root))[-1].event
    assert (event.what, event.who, event.source, event.outcome) == ("repair", "me", "model.onnx", "ok")


def test_who_has_the_damaged_file_mapped_keeps_it(store: ModelStorage) -> None:
    model = add(store)
    spoil(model.path, 0, b"old")
    with model.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert store.verify(repair=fetch).clean
        assert mapped[:] == b"old" + DATA[3:]
    assert model.path.read_bytes() == DATA


def test_another_model_here_helps_before_anybody_is_asked(store: ModelStorage) -> None:
    model = add(store)
    add(store, name="copy")
    spoil(model.path, 0)
    asked: list[bytes] = []

    def note(name: bytes, size: int) -> None:
        asked.append(name)

    assert store.verify(parse_spec("iris"), repair=note).clean
    assert asked == []


@pytest.mark.parametrize("answer", [None, b"", b"wrong" * 20_000])
def test_a_file_that_cannot_be_made_whole_stays_as_it_is(store: ModelStorage, answer: bytes | None) -> None:
    model = add(store)
    spoil(model.path, 0, b"old")
    report = store.verify(repair=lambda name, size: answer)
    assert not report.clean
    assert model.path.read_bytes() == b"old" + DATA[3:]
    assert names(store.root / "incoming") == []
    assert list(read(store.root))[-1].event.outcome == "chunks are missing"


def test_several_files(store: ModelStorage) -> None:
    contents = {"model.onnx": DATA, "data/labels.txt": b"a\nb", "empty": b""}
    partial = store.open_partial(seal_manifest(SIGNER, manifest_of(contents)))
    for index, place in enumerate(partial.places):
        data = contents[partial.manifest.files[place.file].path]
        partial.write(index, data[place.offset : place.offset + place.size])
    folder = store.finish(partial, "x").path.parent
    (folder / "data" / "labels.txt").unlink()
    (folder / "data").rmdir()
    (folder / "empty").unlink()
    report = store.verify(repair=lambda name, size: b"a\nb")
    assert [(damage.file, damage.kind, damage.repaired) for damage in report.damages] == [
        ("data/labels.txt", "missing file", True),
        ("empty", "missing file", True),
    ]
    assert open_store(store.root).verify().files == 3


def test_a_manifest_that_lies_cannot_be_repaired(store: ModelStorage) -> None:
    file = replace(manifest_of(DATA).main, sha256=bytes(32))
    add(store, checksum_sha256=bytes(32), files=(file,))
    report = store.verify(repair=fetch)
    assert [damage.kind for damage in report.damages] == ["wrong SHA-256"]
    assert not report.clean


def test_only_what_was_asked_for_is_read(store: ModelStorage) -> None:
    for version in ("1.0", "2.0"):
        add(store, version.encode(), version=version)
    assert store.verify(parse_spec("iris@latest")).bytes == 3
    assert store.verify(parse_spec("iris@<2")).models == 1
    assert store.verify(parse_spec("iris")).models == 2
    with pytest.raises(UserError, match="no model rose"):
        store.verify(parse_spec("rose"))


def test_nobody_takes_what_is_being_verified(store: ModelStorage) -> None:
    add(store)
    refused: list[str] = []

    def remove(_: int) -> None:
        with pytest.raises(UserError) as caught:
            store.remove("iris", "1.0.0")
        refused.append(caught.value.message)

    assert store.verify(check=remove).clean
    assert set(refused) == {"iris 1.0.0 is in use by a verification."}
    store.remove("iris", "1.0.0")


def test_a_verification_can_be_stopped(store: ModelStorage) -> None:
    model = add(store)
    spoil(model.path, len(DATA) - 1)

    def stop(done: int) -> None:
        if done > SMALL_CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.verify(check=stop)
    calls = []

    def stop_later(name: bytes, size: int) -> None:
        calls.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.verify(repair=stop_later)
    assert len(calls) == 1
    assert names(store.root / "incoming") == []
    store.remove("iris", "1.0.0")


def test_a_model_that_is_removed_before_its_turn(store: ModelStorage) -> None:
    add(store, name="a")
    add(store, b"later", name="b")
    assert store.verify(check=lambda done: store.remove("b", "1.0.0") if done == SMALL_CHUNK else None).models == 1
