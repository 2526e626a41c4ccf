"""Files that change under the bridge: no wrong byte ever leaves, and what is new is read anew."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo.storage import bridge as bridge_module
from atmo.storage import bridge_learn
from atmo.storage.bridge import KEPT_S, Bridge
from atmo.storage.bridge_find import BridgePlaces
from atmo.storage.bridge_read import Changed, VerifiedFile, holds_chunk, key_of, open_plain
from atmo.storage.chunks import CorruptChunk, MissingChunk, ModelStorage
from atmo.storage.database import Database
from tests.storage import samples
from tests.storage.bridge_kit import (
    NOW,
    bridge_of,
    gguf,
    settle,
    sha256,
)

MIB = 2**20
GGUF = gguf(3 * MIB + 16)


def reasons(bridge: Bridge) -> dict[str, str]:
    return {one.path.name: one.reason for one in bridge.left_out()}


def rewritten(path: Path) -> None:
    path.write_bytes(samples.gguf(tensor_bytes=2 * MIB))


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(samples.gguf(tensor_bytes=2 * MIB))
    new.rename(path)


def gone(path: Path) -> None:
    path.unlink()


def turned_into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def turned_into_a_link(path: Path) -> None:
    elsewhere = path.parent.with_name("moved")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


CHANGES = [rewritten, replaced, gone, turned_into_a_pipe, turned_into_a_link]


@pytest.mark.parametrize("change", CHANGES)
def test_an_offer_ends_with_its_file(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "farm" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=path.parent))
    settle(bridge)
    (model,) = bridge.models()
    woken: list[bool] = []
    bridge.on_stale = lambda: woken.append(True)
    with VerifiedFile(path, list(model.manifest.chunk_places()), model.key) as file:
        before = file.chunk(1)
        change(path)
        if change is rewritten:
            with pytest.raises(Changed):
                file.chunk(1)
        else:
            assert file.chunk(1) == before, "who has it open keeps what it has"
    places = list(model.manifest.chunk_places())
    assert [list(bridge.find(place.hash)) for place in places] == [[]] * len(places)
    assert woken
    with pytest.raises((Changed, OSError)):
        VerifiedFile(path, places, model.key)
    assert not holds_chunk(path, places[0], model.key)
    assert bridge.scan(NOW)
    assert bridge.sealed(model.manifest_id) is None
    while bridge.work() is not None:
        pass
    after = {model.manifest.checksum_sha256.hex() for model in bridge.models()}
    assert after == ({sha256(samples.gguf(tensor_bytes=2 * MIB))} if change in (rewritten, replaced) else set())


def test_other_bytes_under_the_same_times_are_found_out(tmp_path: Path) -> None:
    path = tmp_path / "farm" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(GGUF)
    database = Database(tmp_path / "home" / "atmosphere.db")
    storage = ModelStorage(tmp_path / "home", database)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=path.parent))
    storage.add_source(bridge)
    settle(bridge)
    (model,) = bridge.models()
    *_, last = model.manifest.chunk_places()
    assert hashlib.sha256(storage.read_chunk(last.hash)).digest() == hashlib.sha256(GGUF[last.offset :]).digest()
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x02")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert key_of(path.stat()) == model.key
    with VerifiedFile(path, list(model.manifest.chunk_places()), model.key) as file:
        with pytest.raises(Changed, match="other bytes"):
            file.chunk(file.index_at(last.offset))
    with pytest.raises(CorruptChunk):
        storage.read_chunk(last.hash)
    assert bridge.models() == ()
    with pytest.raises(MissingChunk):
        storage.read_chunk(last.hash)
    assert settle(bridge) == 1, "it is read anew"
    (model,) = bridge.models()
    assert model.manifest.checksum_sha256.hex() == sha256(path.read_bytes())
    database.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "farm" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=path.parent))
    bridge.scan(NOW)
    once = [change]

    def check(done: int) -> None:
        if once:
            once.pop()(path)

    bridge.work(check)
    if change is rewritten:
        assert reasons(bridge) == {"m.gguf": "it is being changed"}
    settle(bridge)
    for model in bridge.models():
        assert model.manifest.checksum_sha256.hex() == sha256(model.path.read_bytes())


@pytest.mark.parametrize("change", [gone, turned_into_a_pipe, turned_into_a_link, rewritten])
def test_a_file_that_changes_before_it_is_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "farm" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=path.parent))
    bridge.scan(NOW)
    change(path)
    assert bridge.work() is False
    assert bridge.models() == ()
    assert [one.path for one in bridge.left_out()] == [path]
    assert bridge.work() is None, "not before the next look"


def test_an_error_of_the_disk_is_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    bridge.scan(NOW)

    def fail(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(bridge_learn, "open_plain", fail)
        assert bridge.work() is False
    assert reasons(bridge) == {"m.gguf": "it cannot be read now: Permission denied"}
    assert settle(bridge) == 1
    assert len(bridge.models()) == 1


def test_reading_can_be_stopped_and_starts_again(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    bridge.scan(NOW)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bridge.work(stop)
    assert (bridge.models(), bridge.waiting) == ((), 1)
    assert bridge.work() is True


def test_what_was_not_seen_for_long_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "farm"
    folder.mkdir()
    (folder / "stays.gguf").write_bytes(GGUF)
    (folder / "leaves.gguf").write_bytes(samples.gguf())
    settle(bridge_of(tmp_path, BridgePlaces(llamafarm=folder)))
    moved = folder.rename(tmp_path / "unplugged")
    settle(bridge_of(tmp_path, BridgePlaces(llamafarm=folder)), NOW + KEPT_S - 1)
    moved.rename(folder)
    assert settle(bridge_of(tmp_path, BridgePlaces(llamafarm=folder)), NOW + KEPT_S - 1) == 0
    (folder / "leaves.gguf").rename(tmp_path / "leaves.gguf")
    settle(bridge_of(tmp_path, BridgePlaces(llamafarm=folder)), NOW + 2 * KEPT_S)
    (tmp_path / "leaves.gguf").rename(folder / "leaves.gguf")
    assert settle(bridge_of(tmp_path, BridgePlaces(llamafarm=folder)), NOW + 2 * KEPT_S) == 1


def test_of_many_files_that_are_gone_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "GONE_MOST", 1)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    for number in range(4):
        (tmp_path / "state.gguf").write_bytes(samples.gguf(tensor_bytes=128 + 16 * number))
        assert settle(bridge) == 1
    rows = bridge._database.query("SELECT COUNT(*) FROM bridge_files")
    assert rows == [(2,)]
    assert len(bridge.models()) == 1


def test_looking_and_serving_go_on_while_a_file_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "farm"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(samples.gguf())
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=folder))
    settle(bridge)
    (folder / "b.gguf").write_bytes(GGUF)
    bridge.scan(NOW)
    begun, go_on = threading.Event(), threading.Event()

    def wait(done: int) -> None:
        begun.set()
        assert go_on.wait(10)

    reader = threading.Thread(target=bridge.work, args=(wait,))
    reader.start()
    assert begun.wait(10)
    (folder / "a.gguf").unlink()
    assert bridge.scan(NOW)
    assert bridge.models() == ()
    go_on.set()
    reader.join()
    assert [model.name for model in bridge.models()] == ["b.gguf"]


def test_nothing_but_plain_files_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "none", tmp_path, Path("/dev/zero")):
        with pytest.raises(Changed):
            open_plain(path)


def test_a_manifest_of_an_earlier_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    first = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    settle(first)
    second = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    assert second.scan(NOW)
    assert second.models()[0].manifest_id == first.models()[0].manifest_id
    assert not second.scan(NOW)


def test_a_file_that_another_one_with_the_same_bytes_replaces_is_the_same_offer(tmp_path: Path) -> None:
    path = tmp_path / "farm" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=path.parent))
    settle(bridge)
    (before,) = bridge.models()
    kept = tmp_path / "kept"
    os.link(path, kept)
    for new in (tmp_path / "new", kept):  # another file, and the first one again
        if new != kept:
            new.write_bytes(GGUF)
        new.replace(path)
        settle(bridge)
        (after,) = bridge.models()
        assert after.manifest_id == before.manifest_id
        assert bridge.sealed(after.manifest_id) is not None
        chunk = next(after.manifest.chunk_places())
        assert [found[0] for found in bridge.find(chunk.hash)] == [path]
