"""Bytes that models have in common: stored once where the file system can, and right everywhere."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from atmo.storage import importing, sharing
from atmo.transfer.manifest import seal_manifest
from tests.storage.samples import safetensors
from tests.storage.stores import DATA, add, mounted, open_store
from tests.transfer.samples import SIGNER, SMALL_CHUNK, manifest_of

BIG = Random(7).randbytes(64 * SMALL_CHUNK)  # 4 MiB
BLOCK = 4_096


@pytest.fixture(params=["btrfs", "xfs"])
def reflink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that shares blocks."""
    make = shutil.which(f"mkfs.{request.param}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip(f"no mkfs.{request.param} here")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(320 * 1024 * 1024)  # XFS is made no smaller than 300 MB
    subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as folder:
        yield folder


def two_files(folder: Path, source: bytes, target: bytes) -> tuple[int, int]:
    descriptors = []
    for name, data in (("source", source), ("target", target)):
        (folder / name).write_bytes(data)
        descriptors.append(os.open(folder / name, os.O_RDWR))
    return descriptors[0], descriptors[1]


def used(folder: Path) -> int:
    os.sync()
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


@pytest.mark.parametrize(("at", "to", "size"), [(0, 0, len(BIG)), (5, 5, 3 * BLOCK), (0, 1, 9_000), (7, 7, 100)])
def test_a_range_is_put_whatever_the_file_system_can(tmp_path: Path, at: int, to: int, size: int) -> None:
    source, target = two_files(tmp_path, BIG, bytes(len(BIG)))
    assert sharing.put_range(source, at, target, to, size) in (0, size // BLOCK * BLOCK)
    found = (tmp_path / "target").read_bytes()
    assert found == bytes(to) + BIG[at : at + size] + bytes(len(BIG) - to - size)


def test_without_help_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = two_files(tmp_path, BIG, b"")
    monkeypatch.delattr(os, "copy_file_range")
    assert sharing.put_range(source, 1, target, 0, len(BIG) - 1) == 0
    assert (tmp_path / "target").read_bytes() == BIG[1:]


def test_between_two_file_systems(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    source, target = two_files(tmp_path, BIG, b"")
    elsewhere = os.open(shared, os.O_TMPFILE | os.O_RDWR)
    assert sharing.put_range(source, 0, elsewhere, 0, len(BIG)) == 0
    assert os.pread(elsewhere, len(BIG), 0) == BIG
    os.close(elsewhere)
    os.close(target)


def test_a_source_that_ends_early(tmp_path: Path) -> None:
    source, target = two_files(tmp_path, b"short", b"")
    with pytest.raises(OSError, match="ends before") as caught:
        sharing.put_range(source, 0, target, 0, 100)
    assert caught.value.errno == errno.EIO


def test_a_full_disk_is_not_hidden(tmp_path: Path) -> None:
    source, _ = two_files(tmp_path, BIG, b"")
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "none") as small:
        target = os.open(small / "target", os.O_RDWR | os.O_CREAT)
        with pytest.raises(OSError) as caught:
            sharing.put_range(source, 0, target, 0, len(BIG))
        os.close(target)
    assert caught.value.errno == errno.ENOSPC


def test_merging_says_where_it_cannot(tmp_path: Path) -> None:
    source, target = two_files(tmp_path, BIG, BIG)
    assert sharing.merge_range(source, 0, target, 0, len(BIG)) in (None, len(BIG))
    assert sharing.merge_range(source, 1, target, 0, len(BIG) - 1) == 0, "no whole blocks"


def test_blocks_are_shared(reflink: Path) -> None:
    source, target = two_files(reflink, BIG, bytes(len(BIG)))
    before = used(reflink)
    assert sharing.put_range(source, 0, target, 0, len(BIG)) == len(BIG)
    assert (reflink / "target").read_bytes() == BIG
    assert used(reflink) <= before - len(BIG) // 2, "the zeros are gone, and nothing came in their place"
    assert sharing.put_range(source, 100, target, 100 + BLOCK, 10 * BLOCK) == 9 * BLOCK
    assert os.pread(target, 10 * BLOCK, 100 + BLOCK) == BIG[100 : 100 + 10 * BLOCK]
    assert (reflink / "source").read_bytes() == BIG


def test_only_equal_blocks_are_merged(reflink: Path) -> None:
    changed = BIG[: 3 * SMALL_CHUNK] + b"!" + BIG[3 * SMALL_CHUNK + 1 :]
    source, target = two_files(reflink, BIG, changed)
    for at in range(0, len(BIG), SMALL_CHUNK):
        merged = sharing.merge_range(source, at, target, at, SMALL_CHUNK)
        assert merged == (0 if at == 3 * SMALL_CHUNK else SMALL_CHUNK)
    assert (reflink / "target").read_bytes() == changed


def test_equal_files_are_merged_to_their_ends(reflink: Path) -> None:
    data = BIG[:-100]
    source, target = two_files(reflink, data, data)
    before = used(reflink)
    assert sharing.merge_range(source, 0, target, 0, len(data)) == len(data)
    assert used(reflink) < before - len(data) // 2
    assert (reflink / "target").read_bytes() == data


def test_a_new_version_takes_room_only_for_what_changed(reflink: Path) -> None:
    store = open_store(reflink / "home")
    add(store, BIG)
    before = used(reflink)
    changed = BIG[:-SMALL_CHUNK] + bytes(SMALL_CHUNK)
    partial = store.open_partial(seal_manifest(SIGNER, manifest_of(changed, version="2.0")))
    assert partial.shared_bytes == len(BIG) - SMALL_CHUNK
    assert len(partial.have) == len(partial.places) - 1
    assert partial.write(len(partial.places) - 1, bytes(SMALL_CHUNK))
    model = store.finish(partial, "gateway-01")
    assert model.path.read_bytes() == changed
    assert used(reflink) - before < len(BIG) // 2
    store.remove("iris", "1.0.0")
    assert model.path.read_bytes() == changed


def test_an_import_shares_what_is_here_already(reflink: Path) -> None:
    store = open_store(reflink / "home")
    source = reflink / "net.safetensors"
    source.write_bytes(safetensors(3_000_000)[:-3_000_000] + Random(3).randbytes(3_000_000))
    before = used(reflink)
    first = importing.store(store, SIGNER, "me", importing.look_at(source, {"name": "a"}))
    assert used(reflink) - before < 1_500_000, "shared with the file itself"
    copy = reflink / "copy.safetensors"
    copy.write_bytes(source.read_bytes())
    source.unlink()
    source = copy
    before = used(reflink)
    second = importing.store(store, SIGNER, "me", importing.look_at(source, {"name": "b"}))
    assert first.path.read_bytes() == second.path.read_bytes() == source.read_bytes()
    assert used(reflink) - before < 1_500_000


def test_references_are_counted_by_manifest(tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    model = add(store)
    changed = DATA[:SMALL_CHUNK] + bytes(SMALL_CHUNK) + DATA[2 * SMALL_CHUNK :]
    add(store, changed, version="2.0")
    shared, own = model.manifest.main.chunks[:2]
    assert [store.registry.references(name) for name in (shared, own, bytes(32))] == [2, 1, 0]
    assert store.registry.own_bytes("iris", "1.0.0") == store.registry.own_bytes("iris", "2") == SMALL_CHUNK
    store.remove("iris", "2.0")
    assert store.registry.references(shared) == 1
    assert store.registry.own_bytes("iris", "1.0.0") == len(DATA)
    assert store.registry.own_bytes("nobody", "1.0.0") == 0
