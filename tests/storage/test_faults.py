"""Disks that fill up or turn read-only, manifests that lie, and commands that meet: nothing whole is ever lost."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

import cbor2
import pytest

from atmo.errors import UserError, WireError
from atmo.storage import importing
from atmo.storage.audit import read, verify_chain
from atmo.storage.chunks import ModelStorage
from atmo.transfer.manifest import DOMAIN, chunk_hash, seal_manifest
from atmo.transfer.names import parse_spec
from atmo.wire import envelope, limits, schema
from tests.storage.samples import safetensors
from tests.storage.stores import DATA, add, download, mounted, names, open_store, pull, remount
from tests.transfer.samples import SIGNER, SMALL_CHUNK, manifest_of

NEW = safetensors(300_000)[:-300_000] + Random(5).randbytes(300_000)


@pytest.fixture
def store(tmp_path: Path) -> ModelStorage:
    return open_store(tmp_path / "home")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check for free room sees an empty disk: another program fills it right after."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 10**12))


def do_import(store: ModelStorage, source: Path) -> None:
    importing.store(store, SIGNER, "me", importing.look_at(source, {"name": "new"}))


def do_pull(store: ModelStorage, source: Path) -> None:
    pull(store, NEW, name="new")


def do_repair(store: ModelStorage, source: Path) -> None:
    whole = store.models()[0].path
    with whole.open("r+b") as file:
        file.write(b"rot")
    chunks = {
        chunk_hash(DATA[at : at + SMALL_CHUNK]): DATA[at : at + SMALL_CHUNK] for at in range(0, 10**6, SMALL_CHUNK)
    }
    store.verify(repair=lambda name, size: chunks[name])


@pytest.mark.parametrize("action", [do_import, do_pull, do_repair])
@pytest.mark.usefixtures("blind")
def test_a_disk_that_is_full_at_any_write(tmp_path: Path, action: Callable[[ModelStorage, Path], None]) -> None:
    source = tmp_path / "new.safetensors"
    source.write_bytes(NEW)
    outcomes = set()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=3m", "none") as disk:
        for step in range(14):
            home, filler = disk / "home", disk / "another program's"
            store = open_store(home)
            add(store, name="kept")
            free = os.statvfs(disk)
            filler.write_bytes(bytes(max(0, free.f_bfree * free.f_frsize - step * 32 * 1024)))
            refused = refusal(lambda store=store: action(store, source))  # type: ignore[misc]
            filler.unlink()
            store._database.close()
            again = open_store(home)
            assert "kept" in [model.name for model in again.models()]
            assert names(home / "incoming") == []
            if refused:
                assert "room" in refused or "full" in refused
                assert again.verify().clean == (action is not do_repair)
                action(again, source)
            assert again.verify().clean
            assert verify_chain(home).problems == ()
            again._database.close()
            shutil.rmtree(home)
            outcomes.add(bool(refused))
    assert outcomes == {False, True}


def refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("blind")
def test_folders_that_turn_read_only(store: ModelStorage, tmp_path: Path) -> None:
    source = tmp_path / "new.safetensors"
    source.write_bytes(NEW)
    model = add(store)
    store.close_partial(download(store, manifest_of(NEW, name="other"), NEW, count=1))
    with ExitStack() as stack:
        for name in ("models", "partial", "incoming"):
            folder = store.root / name
            stack.enter_context(mounted(folder, "--bind", str(folder)))
            remount(folder, "bind,ro")
        assert store.read_chunk(model.manifest.main.chunks[0]) == DATA[:SMALL_CHUNK]
        assert store.verify().clean
        for action in (
            lambda: do_import(store, source),
            lambda: store.open_partial(seal_manifest(SIGNER, manifest_of(b"x"))),
            lambda: store.discard_partials(parse_spec("other")),
        ):
            assert "Read-only file system" in refusal(action)
        assert store.collect_garbage(4e9).downloads == ()
        store.set_loaded("iris", "1.0.0", True)
        assert "view of the models" in store.warnings[-1]
    again = open_store(store.root)
    assert again.models() == [replace(model, loaded_at=None)]
    assert again.verify().clean


@pytest.mark.usefixtures("blind")
def test_a_home_on_a_read_only_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=9m", "none") as disk:
        store = open_store(disk / "home")
        add(store)
        store._database.close()
        remount(disk, "ro")
        assert "Cannot use the database" in refusal(lambda: open_store(disk / "home"))
        remount(disk, "rw")
        assert open_store(disk / "home").verify().clean


def test_two_contents_of_one_version(store: ModelStorage) -> None:
    """Two pulls at once, of manifests that claim the same version: one wins, and the other harms nothing."""
    other = Random(9).randbytes(100_000)
    first, second = download(store, manifest_of(DATA)), download(store, manifest_of(other), other)
    store.finish(first, "a")
    with pytest.raises(UserError, match="already here with another content"):
        store.finish(second, "b")
    with pytest.raises(UserError, match="already here with another content"):
        add(store, other, version="1.0.0.0")
    assert store.models()[0].path.read_bytes() == DATA
    assert len(store.partials()) == 1, "what arrived is kept until somebody decides"
    store.remove("iris", "1.0.0")
    assert store.finish(store.open_partial(second.sealed), "b").path.read_bytes() == other


def test_a_manifest_of_a_million_files(store: ModelStorage) -> None:
    honest = cbor2.loads(schema.pack(manifest_of(DATA)))
    (file,) = honest["files"]
    plain = cbor2.dumps(honest, canonical=True)
    some = b"\x81" + cbor2.dumps(file, canonical=True)
    one = cbor2.dumps(file | {"size_bytes": 0, "hashes": b""}, canonical=True)
    assert plain.count(some) == 1
    for count in (2_000, 60_000, 1_000_000):
        head = b"\x99" + count.to_bytes(2, "big") if count < 65_536 else b"\x9a" + count.to_bytes(4, "big")
        payload = plain.replace(some, head + one * count)
        sealed = envelope.seal(SIGNER, DOMAIN, envelope.NO_MESH, payload)
        assert count < 10**6 or len(sealed) > limits.MANIFEST_BYTES
        with pytest.raises(WireError):
            store.open_partial(sealed)
    assert names(store.root / "partial") == []


def test_a_model_of_many_files(store: ModelStorage) -> None:
    contents = {f"d{number % 7}/f{number}": str(number).encode() for number in range(200)}
    partial = store.open_partial(seal_manifest(SIGNER, manifest_of(contents)))
    for index, place in enumerate(partial.places):
        partial.write(index, contents[partial.manifest.files[place.file].path])
    store.finish(partial, "x")
    assert store.verify().files == 200
    store.remove("iris", "1.0.0")
    assert names(store.models_folder) == ["registry.yaml"]


def test_pulls_and_removals_at_once(store: ModelStorage) -> None:
    """Whoever comes first: afterwards the model is whole or gone, and everybody was told something sensible."""
    add(store, b"kept", name="kept")
    told: list[str] = []
    start = threading.Barrier(3)

    def run(action: Callable[[], object]) -> None:
        start.wait()
        for _ in range(15):
            try:
                action()
            except UserError as error:
                told.append(error.message)

    def take() -> None:
        store.discard_partials(parse_spec("iris"))
        store.remove("iris", "1.0.0")

    def look() -> None:
        assert store.verify().clean
        store.collect_garbage(4e9)

    failed: list[BaseException] = []

    def guarded(action: Callable[[], object]) -> None:
        try:
            run(action)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in (lambda: pull(store), take, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for message in told:
        assert any(part in message for part in ("no model iris", "already here", "in use by", "already being")), message
    again = open_store(store.root)
    assert "kept" in [model.name for model in again.models()]
    assert again.verify().clean
    assert not any("belongs to no model" in warning for warning in again.warnings)
    assert verify_chain(store.root).problems == ()
    noted = [entry.event.what for entry in read(store.root) if entry.event.name == "iris"]
    assert noted == ["download", "removal"] * (len(noted) // 2) + ["download"] * (len(noted) % 2)


def test_a_view_that_cannot_be_written_stops_nothing(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atmo.storage.registry.write_atomically", full)
    model = add(store)
    assert store.models() == [model]
    assert "view of the models" in store.warnings[-1]
    store.remove("iris", "1.0.0")


def test_files_that_cannot_be_deleted_go_with_the_next_start(
    store: ModelStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add(store)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        store.remove("iris", "1.0.0")
    assert store.models() == []
    assert "go with the next start" in store.warnings[-1]
    assert model.path.exists()
    open_store(store.root)
    assert not model.path.exists()


def test_a_download_without_room_leaves_nothing(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 0))
        with pytest.raises(UserError, match="Not enough room"):
            pull(store, NEW, name="new")
    assert names(store.root / "partial") == []
    pull(store, NEW, name="new")


def test_a_repair_without_room_names_what_is_damaged(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    model = add(store)
    with model.path.open("r+b") as file:
        file.write(b"rot")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 0))
    with pytest.raises(UserError, match=r"iris 1\.0\.0 is damaged and was not repaired: Not enough room"):
        store.verify(repair=lambda name, size: None)
