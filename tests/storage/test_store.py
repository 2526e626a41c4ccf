from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from atmo.errors import UserError
from atmo.identity import Signer
from atmo.storage import files
from atmo.storage.chunks import CorruptChunk, MissingChunk, ModelStorage, WrongContent
from atmo.storage.database import Database
from atmo.transfer.manifest import chunk_hash, manifest_id, seal_manifest
from atmo.transfer.names import parse_spec
from tests.storage.stores import DATA, add, download, names, open_store
from tests.transfer.samples import SIGNER, SMALL_CHUNK, file_of, manifest_of


@pytest.fixture
def store(tmp_path: Path) -> ModelStorage:
    return open_store(tmp_path / "home")


def test_a_model_is_one_plain_file_and_its_chunks_are_found(store: ModelStorage) -> None:
    model = add(store)
    assert model.path == store.models_folder / "iris-1.0.0.onnx"
    assert model.path.read_bytes() == DATA
    assert (model.publisher, model.source_node, model.loaded_at) == (SIGNER.node_id, "central-01", None)
    for place in model.manifest.chunk_places():
        assert store.read_chunk(place.hash) == DATA[place.offset : place.offset + place.size]
    with pytest.raises(MissingChunk):
        store.read_chunk(bytes(32))
    assert store.registry.sealed(model.manifest_id) == seal_manifest(SIGNER, model.manifest)
    assert store.registry.sealed(bytes(32)) is None


def test_the_registry_reads_as_in_the_seed(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(store.root.parent))
    for version in ("1.9.0", "1.10.0"):
        add(store, version.encode(), version=version)
    add(store, b"other", name="org/traffic:v2")
    store.set_loaded("iris", "1.10.0", True)
    text = (store.models_folder / "registry.yaml").read_text()
    models = yaml.safe_load(text)["models"]
    assert list(models) == ["iris", "org/traffic:v2"]
    assert list(models["iris"]) == ["version", "path", "loaded", "loaded_at", "source_node", "checksum", "versions"]
    assert models["iris"]["version"] == "1.10.0"
    assert models["iris"]["path"] == "~/home/models/iris-1.10.0.onnx"
    assert models["iris"]["loaded"] is True
    assert list(models["iris"]["versions"]) == ["1.9.0"]
    assert models["org/traffic:v2"]["path"] == "~/home/models/org-traffic-v2-1.0.0.onnx"
    assert models["org/traffic:v2"]["checksum"].startswith("sha256:")
    store.set_loaded("iris", "1.10.0", False)
    assert yaml.safe_load((store.models_folder / "registry.yaml").read_text())["models"]["iris"]["loaded"] is False


def test_everything_is_there_after_a_restart_and_nothing_is_loaded(store: ModelStorage) -> None:
    model = add(store)
    store.set_loaded("iris", "1.0.0", True)
    (store.models_folder / "registry.yaml").write_text("garbage")
    again = open_store(store.root)
    assert again.models() == [model]
    assert list(again.warnings) == []
    assert "iris" in yaml.safe_load((again.models_folder / "registry.yaml").read_text())["models"]


def test_one_version_has_one_content(store: ModelStorage) -> None:
    add(store)
    with pytest.raises(UserError, match="already here with another content"):
        add(store, b"other", version="1.0")  # PEP 440: the same as 1.0.0
    assert names(store.root / "incoming") == []
    assert store.find_same("iris", store.models()[0].manifest.checksum_sha256) is not None
    assert store.find_same("iris", bytes(32)) is None


def test_names_that_meet_in_one_file_name_do_not_collide(store: ModelStorage) -> None:
    (store.models_folder / "Iris-1.0.0.onnx").write_text("a file of the user's")
    places = {add(store, name.encode(), name=name).path.name for name in ("a/b", "a:b", "A/b", "a-b", "iris", "Iris")}
    assert len({place.casefold() for place in places}) == 6
    assert (store.models_folder / "Iris-1.0.0.onnx").read_text() == "a file of the user's"


def test_removal_takes_the_file_and_leaves_readers_alone(store: ModelStorage) -> None:
    model = add(store)
    with model.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        store.remove("iris", "1.0")
        assert mapped[:] == DATA
    assert not model.path.exists()
    assert store.models() == []
    with pytest.raises(MissingChunk):
        store.read_chunk(model.manifest.main.chunks[0])
    with pytest.raises(UserError, match="no model iris"):
        store.remove("iris", "1.0.0")
    assert open_store(store.root).warnings == store.warnings == type(store.warnings)()


def test_chunks_that_two_models_share_outlive_one_of_them(store: ModelStorage) -> None:
    add(store)
    add(store, name="copy")
    store.remove("iris", "1.0.0")
    assert store.read_chunk(chunk_hash(DATA[:SMALL_CHUNK])) == DATA[:SMALL_CHUNK]


def test_a_damaged_chunk_is_never_given_away(store: ModelStorage) -> None:
    model = add(store)
    with model.path.open("r+b") as file:
        file.seek(70_000)
        file.write(b"rot")
    first, second = model.manifest.main.chunks[:2]
    assert store.read_chunk(first)
    with pytest.raises(CorruptChunk, match="damaged between bytes 65536 and 131072"):
        store.read_chunk(second)
    assert "pull or import it again" in store.warnings[-1]
    add(store, name="copy")
    assert chunk_hash(store.read_chunk(second)) == second


def test_a_file_that_vanished_or_cannot_be_read(store: ModelStorage) -> None:
    model = add(store)
    model.path.unlink()
    with pytest.raises(MissingChunk):
        store.read_chunk(model.manifest.main.chunks[0])
    model.path.mkdir()
    with pytest.raises(CorruptChunk, match="cannot be read"):
        store.read_chunk(model.manifest.main.chunks[0])


def test_a_download_becomes_a_model(store: ModelStorage) -> None:
    manifest = manifest_of(DATA)
    partial = download(store, manifest, count=3)
    assert (len(partial.have), partial.complete) == (3, False)
    assert not partial.write(3, b"wrong")
    assert not partial.write(3, bytes(partial.places[3].size))
    assert partial.write(3, DATA[3 * SMALL_CHUNK :])
    assert partial.write(3, DATA[3 * SMALL_CHUNK :])  # again, as in the end game
    assert partial.complete
    assert partial.bytes_done == len(DATA)
    model = store.finish(partial, "gateway-01")
    assert model.path.read_bytes() == DATA
    assert names(store.root / "partial") == []
    assert store.models() == [model]


def test_a_model_of_several_files(store: ModelStorage) -> None:
    contents = {"model.onnx": DATA, "data/labels.txt": b"a\nb", "empty": b""}
    manifest = manifest_of(contents)
    partial = store.open_partial(seal_manifest(SIGNER, manifest))
    for index, place in enumerate(partial.places):
        data = contents[manifest.files[place.file].path]
        assert partial.write(index, data[place.offset : place.offset + place.size])
    model = store.finish(partial, "gateway-01")
    assert model.path == store.models_folder / "iris-1.0.0" / "model.onnx"
    assert (model.path.parent / "data" / "labels.txt").read_bytes() == b"a\nb"
    assert store.read_chunk(chunk_hash(b"a\nb")) == b"a\nb"
    assert open_store(store.root).models() == [model]
    store.remove("iris", "1.0.0")
    assert names(store.models_folder) == ["registry.yaml"]


def test_a_stopped_download_continues_where_it_was(store: ModelStorage) -> None:
    manifest = manifest_of(DATA)
    sealed = seal_manifest(SIGNER, manifest)
    partial = download(store, manifest, count=2)
    with pytest.raises(UserError, match="already being downloaded"):
        store.open_partial(sealed)
    assert store.discard_partials(parse_spec("iris")) == 0
    store.close_partial(partial)
    with pytest.raises(UserError, match="has been stopped"):
        partial.write(2, DATA[2 * SMALL_CHUNK : 3 * SMALL_CHUNK])
    again = open_store(store.root)
    assert again.partials() == {manifest_id(sealed): (sealed, manifest)}
    checked: list[int] = []
    assert again.open_partial(sealed, checked.append).have == {0, 1}
    assert checked == [SMALL_CHUNK, 2 * SMALL_CHUNK]


def test_the_journal_is_a_hint_and_never_believed(store: ModelStorage) -> None:
    sealed = seal_manifest(SIGNER, manifest_of(DATA))
    partial = download(store, manifest_of(DATA), count=3)
    store.close_partial(partial)
    with (partial.folder / "data" / "model.onnx").open("r+b") as file:
        file.seek(SMALL_CHUNK)
        file.write(b"not what was verified")
    with (partial.folder / "journal").open("ab") as file:
        file.write(b"\xff\xff\xff\xff\0\0\0\x03\0\0")  # an absurd entry, one that is not true, and a torn one
    again = open_store(store.root).open_partial(sealed)
    assert again.have == {0, 2}
    assert again.write(1, DATA[SMALL_CHUNK : 2 * SMALL_CHUNK])
    assert (partial.folder / "journal").stat().st_size % 4 == 0


def test_chunks_of_other_models_are_copied_when_a_download_opens(store: ModelStorage) -> None:
    add(store)
    changed = DATA[:SMALL_CHUNK] + bytes(SMALL_CHUNK) + DATA[2 * SMALL_CHUNK :]
    sealed = seal_manifest(SIGNER, manifest_of(changed, version="2.0"))
    steps: list[int] = []
    partial = store.open_partial(sealed, steps.append)
    assert partial.have == {0, 2, 3}
    assert steps == [SMALL_CHUNK, 2 * SMALL_CHUNK, len(DATA) - SMALL_CHUNK]
    store.close_partial(partial)
    store.remove("iris", "1.0.0")
    again = open_store(store.root).open_partial(sealed)
    assert again.have == {0, 2, 3}, "what was copied is noted like what was downloaded"


def test_a_damaged_chunk_of_another_model_is_not_copied(store: ModelStorage) -> None:
    model = add(store)
    with model.path.open("r+b") as file:
        file.seek(70_000)
        file.write(b"rot")
    partial = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA, name="copy")))
    assert partial.have == {0, 2, 3}
    assert "is damaged" in store.warnings[-1]


def test_a_manifest_that_lies_about_the_sha256(store: ModelStorage) -> None:
    honest = manifest_of(DATA)
    file = replace(honest.main, sha256=bytes(32))
    lying = manifest_of(DATA, checksum_sha256=bytes(32), files=(file,))
    partial = download(store, lying)
    with pytest.raises(WrongContent, match=r"SHA-256 of model\.onnx"):
        store.finish(partial, "x")
    assert store.models() == []
    assert store.partials() == {}


def test_stopped_downloads_can_be_thrown_away(store: ModelStorage) -> None:
    store.close_partial(download(store, manifest_of(DATA), count=1))
    assert store.discard_partials(parse_spec("other")) == 0
    assert store.discard_partials(parse_spec("iris@>2")) == 0
    assert store.discard_partials(parse_spec("iris")) == 1
    assert store.partials() == {}


def test_what_is_no_download_is_cleared_away(store: ModelStorage) -> None:
    (store.root / "partial" / "junk").mkdir()
    (store.root / "partial" / "file").write_text("")
    renamed = download(store, manifest_of(DATA), count=1)
    renamed.folder.rename(store.root / "partial" / ("0" * 64))
    (store.root / "incoming" / "left over").write_text("half a model")
    (store.models_folder / ".registry.yaml.1.ab.tmp").write_text("half a view")
    assert store.partials() == {}, "a folder under another name is no download"
    again = open_store(store.root)
    assert names(store.models_folder) == ["registry.yaml"]
    assert len(again.warnings) == 3
    assert names(store.root / "partial") == names(store.root / "incoming") == []


def test_rows_without_their_files_are_dropped_with_a_warning(store: ModelStorage) -> None:
    gone, short, kept = (add(store, name.encode() * 99, name=name) for name in ("gone", "short", "kept"))
    gone.path.unlink()
    short.path.write_bytes(b"shorter")
    again = open_store(store.root)
    assert again.models() == [kept]
    assert "gone 1.0.0 is forgotten" in again.warnings[0]
    assert "has 7 bytes instead of 495" in again.warnings[1]
    assert "belongs to no model" in again.warnings[2]
    assert short.path.exists(), "what nobody knows is not deleted"


def test_room_is_checked_before_anything_is_written(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, files.RESERVE_BYTES + 1_000))
    with pytest.raises(UserError, match=r"Not enough room .* 0\.3 MB are needed, 67\.1 MB are free"):
        store.open_partial(seal_manifest(SIGNER, manifest_of(DATA)))
    with pytest.raises(UserError, match="Not enough room"), store.incoming(5_000):
        raise AssertionError("not reached")
    monkeypatch.undo()
    store.open_partial(seal_manifest(SIGNER, manifest_of(DATA)))


def test_a_full_disk_is_told_and_the_download_can_go_on_later(
    store: ModelStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA)))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="disk full"):
            partial.write(0, DATA[:SMALL_CHUNK])
    assert partial.write(0, DATA[:SMALL_CHUNK])
    store.close_partial(partial)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(UserError, match="Not enough room"):
            store.open_partial(seal_manifest(SIGNER, manifest_of(DATA)))
    assert store.open_partial(seal_manifest(SIGNER, manifest_of(DATA))).have == {0}


def test_a_file_that_cannot_be_registered_goes_back(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = download(store, manifest_of(DATA))

    def fail(*_: object) -> None:
        raise UserError("the database is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.registry, "insert", fail)
        with pytest.raises(UserError, match="database is full"):
            store.finish(partial, "x")
    assert store.models() == []
    assert not (store.models_folder / "iris-1.0.0.onnx").exists()
    again = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA)))
    assert again.complete
    assert store.finish(again, "x").path.read_bytes() == DATA


def test_a_disk_that_fails_while_renaming(store: ModelStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match=r"Moving iris into the store failed: Input/output error"):
        add(store)
    assert store.models() == []


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    database = Database(tmp_path / "atmosphere.db")
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="Opening the model store"):
        ModelStorage(tmp_path, database)


def test_manifests_of_removed_models_are_forgotten(store: ModelStorage) -> None:
    model = add(store)
    again = Signer(bytes(32))
    with store.incoming(10) as path:
        path.write_bytes(b"x")
        store.register(path, seal_manifest(again, manifest_of(b"x", name="other")), "x")
    store.remove("iris", "1.0.0")
    assert store.registry.sealed(model.manifest_id) is None
    assert [model.name for model in store.models()] == ["other"]


def test_a_manifest_that_rotted_in_the_database(store: ModelStorage) -> None:
    add(store)
    kept = add(store, b"kept", name="kept")
    database = Database(store.root / "atmosphere.db")
    with database.transaction() as run:
        run.execute("UPDATE manifests SET sealed = x'00' WHERE id != ?", (kept.manifest_id,))
    database.close()
    with pytest.raises(UserError, match="a manifest in it is not sound"):
        ModelStorage.models(_fresh(store))
    again = open_store(store.root)
    assert again.models() == [kept]
    assert "its manifest is damaged" in again.warnings[0]


def _fresh(store: ModelStorage) -> ModelStorage:
    store.registry._opened.clear()
    return store


def test_a_model_is_what_the_backends_need(store: ModelStorage) -> None:
    model = add(store, description="Irises", capabilities=("classify",), config={"classes": [1]})
    assert (model.name, model.version, model.type, model.format) == ("iris", "1.0.0", "classifier", "onnx")
    assert (model.description, model.capabilities, model.config) == ("Irises", ("classify",), {"classes": [1]})


def test_a_name_version_and_suffix_that_no_file_system_takes_together(store: ModelStorage) -> None:
    name, version = "n" * 128, "1." + "2" * 60
    file = file_of("a." + "s" * 190, DATA)
    model = add(store, DATA, name=name, version=version, file=file.path, files=(file,))
    assert model.path == store.models_folder / f"{name}-{version}"


def test_the_list_follows_every_change_and_survives_one_that_is_taken_back(store: ModelStorage) -> None:
    model = add(store)
    assert store.models()[0] is store.models()[0]  # not read again
    with store._database.transaction() as run:
        store.registry.delete(run, "iris", "1.0.0")
        assert store.models() == []
        run.execute("ROLLBACK")
        run.execute("BEGIN")
    assert store.models() == [model]
    with Database(store.root / "atmosphere.db").transaction() as run:  # another process
        run.execute("DELETE FROM models")
    assert store.models() == []


def test_the_view_is_what_yaml_would_write(store: ModelStorage) -> None:
    path = store.models_folder / "registry.yaml"
    assert yaml.safe_load(path.read_text()) == {"models": {}}
    for number in range(3):
        add(store, bytes([number]), name=f"rose-{number}", version="1.0.0")
        add(store, bytes([9, number]), name=f"rose-{number}", version="2.0.0")
        store.set_loaded(f"rose-{number}", "2.0.0", True)
        whole = yaml.safe_dump({"models": store.registry.view()}, sort_keys=False, allow_unicode=True)
        assert path.read_text().partition("\n")[2] == whole
    store.remove("rose-1", "2.0.0")
    assert yaml.safe_load(path.read_text()) == {"models": store.registry.view()}
