"""Garbage is what the store made and nobody needs; everything else stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from atmo.storage.chunks import ModelStorage
from atmo.storage.eviction import Limits
from atmo.storage.garbage import GarbageReport
from atmo.transfer.manifest import manifest_id, seal_manifest
from tests.storage.stores import DATA, add, download, names, open_store
from tests.transfer.samples import SIGNER, manifest_of

NOW = 2_000_000_000.0
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> ModelStorage:
    return open_store(tmp_path / "home")


def rest(store: ModelStorage, days: float, **said: Any) -> bytes:
    """Stops a download and makes it look as if that was long ago."""
    partial = download(store, manifest_of(DATA, **said), count=2)
    store.close_partial(partial)
    for path in (*partial.folder.iterdir(), partial.folder):
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return bytes.fromhex(partial.folder.name)


def test_stopped_downloads_go_when_they_are_old(store: ModelStorage) -> None:
    old, young = rest(store, 15, name="old"), rest(store, 13, name="young")
    paused = rest(store, 15, name="paused")
    store.transfers.note(
        store.transfers.open("paused", "1.0.0", paused, "pull", 1, "running", NOW).id, "paused", "", 0, 0, NOW
    )
    pinned = rest(store, 15, name="pinned")
    opened = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA, name="open")))
    with store.pin(pinned, "a transfer"):
        seen = store.collect_garbage(NOW, dry_run=True)
        assert old in store.partials()
        report = store.collect_garbage(NOW)
    assert seen.downloads == report.downloads == ("old 1.0.0",)
    assert report.bytes == seen.bytes >= len(DATA)
    assert set(store.partials()) == {young, paused, pinned, bytes.fromhex(opened.folder.name)}
    store.limits = Limits(keep_downloads_s=12 * DAY)
    assert set(store.collect_garbage(NOW).downloads) == {"pinned 1.0.0", "young 1.0.0"}
    assert set(store.partials()) == {paused, bytes.fromhex(opened.folder.name)}


def test_a_clean_store_has_no_garbage(store: ModelStorage) -> None:
    add(store)
    assert store.collect_garbage(NOW) == GarbageReport((), (), 0, 0, False)
    assert store.collect_garbage(0.0, dry_run=True).to_json() == {
        "downloads": [],
        "files": [],
        "manifests": 0,
        "bytes": 0,
        "dry_run": True,
    }


def test_leftovers_go_and_what_arrives_stays(store: ModelStorage) -> None:
    (store.root / "incoming" / "left").write_bytes(b"x" * 10_000)
    (store.root / "incoming" / "folder").mkdir()
    (store.root / "incoming" / "folder" / "part").write_text("x")
    outside = store.root.parent / "outside"
    outside.write_text("precious")
    (store.root / "incoming" / "link").symlink_to(outside)
    with store.incoming(10) as path:
        path.write_text("on its way")
        report = store.collect_garbage(NOW)
        assert path.exists()
    assert report.files == ("incoming/folder", "incoming/left", "incoming/link")
    assert outside.read_text() == "precious"


def test_a_strangers_file_stays_and_what_is_noted_goes(store: ModelStorage) -> None:
    model = add(store)
    (store.models_folder / "stranger.gguf").write_text("a person put this here")
    (store.models_folder / "half-removed").write_text("ours")
    database = store._database
    with database.transaction() as run:
        run.execute("INSERT INTO pending VALUES ('half-removed', '')")
        run.execute("INSERT INTO pending VALUES (?, '')", (model.path.name,))
        run.execute("INSERT INTO manifests VALUES (x'01', x'02')")
        run.execute("INSERT INTO manifests VALUES (x'03', x'04')")
    with store.pin(b"\x03", "a transfer"):
        report = store.collect_garbage(NOW)
    assert (report.files, report.manifests) == (("models/half-removed",), 1)
    assert names(store.models_folder) == sorted([model.path.name, "registry.yaml", "stranger.gguf"])
    assert store.verify().clean
    assert database.query("SELECT * FROM pending") == []
    assert store.collect_garbage(NOW).manifests == 1


def test_what_is_left_of_a_model_that_lost_a_file(store: ModelStorage) -> None:
    contents = {"model.onnx": DATA, "data/a": b"a" * 100, "data/b": b"b" * 100, "c": b"c" * 100}
    partial = store.open_partial(seal_manifest(SIGNER, manifest_of(contents)))
    for index, place in enumerate(partial.places):
        data = contents[partial.manifest.files[place.file].path]
        partial.write(index, data[place.offset : place.offset + place.size])
    folder = store.finish(partial, "x").path.parent
    (folder / "model.onnx").unlink()
    (folder / "c").write_text("somebody wrote something else here")
    again = open_store(store.root)
    assert again.models() == []
    assert names(folder) == ["c", "data"], "a start deletes nothing"
    (folder / "data" / "b").unlink()
    (folder / "data" / "b").symlink_to(folder / "c")
    report = again.collect_garbage(NOW)
    assert report.files == ("models/iris-1.0.0/data/a",)
    assert names(folder) == ["c", "data"]
    assert names(folder / "data") == ["b"]
    assert again.collect_garbage(NOW).files == ()


def test_an_arrival_that_did_not_end_goes_back_to_its_download(store: ModelStorage) -> None:
    partial = download(store, manifest_of(DATA))
    store.close_partial(partial)
    partial.staged.rename(store.models_folder / "iris-1.0.0.onnx")
    with store._database.transaction() as run:
        run.execute("INSERT INTO pending VALUES ('iris-1.0.0.onnx', ?)", (partial.folder.name,))
    assert store.collect_garbage(0.0).files == ()
    again = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA)))
    assert again.complete
    assert store.finish(again, "x").manifest_id == manifest_id(again.sealed)


def test_what_cannot_be_deleted_is_told(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.root / "incoming" / "left").write_text("x")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        assert store.collect_garbage(NOW).files == ()
    assert "left could not be deleted: Operation not permitted" in store.warnings[-1]
    assert store.collect_garbage(NOW).files == ("incoming/left",)
