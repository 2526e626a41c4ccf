"""A process killed at any line of the store's code: afterwards everything whole is there, and nothing half.

A child is forked for each instant and kills itself with SIGKILL when it reaches the n-th line, so that the instants are
the same in each run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
import yaml

import atmo.storage
from atmo.storage import importing
from atmo.storage.audit import read, verify_chain
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.eviction import Limits
from atmo.storage.partial import PartialDownload
from atmo.transfer.manifest import manifest_id, seal_manifest
from tests.storage.samples import safetensors
from tests.transfer.samples import SIGNER, SMALL_CHUNK, manifest_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later, with threads

HERE = str(Path(atmo.storage.__file__).parent)
DATA = Random(1).randbytes(5 * SMALL_CHUNK + 100)
KEPT = safetensors(3_000_000, fill=b"kept")
NEW = safetensors(2_500_000, fill=b"new!")
INSTANTS = 24


def open_store(root: Path) -> ModelStorage:
    return ModelStorage(root, Database(root / "atmosphere.db"))


def close(store: ModelStorage) -> None:
    """Where nobody does, it closes at some time, and files vanish while the home is copied."""
    store._database.close()


def lines_of(action: Callable[[], object], kill_at: int | None = None) -> int:
    """Runs `action`, counting lines of `atmo.storage`; kills this process at one of them."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        if event == "line":
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def killed(action: Callable[[], object], kill_at: int) -> bool:
    """Runs `action` in a child; says whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        try:
            lines_of(action, kill_at)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def instants(total: int) -> list[int]:
    return sorted({1 + total * step // INSTANTS for step in range(INSTANTS)} | {total - back for back in range(4)})


def check_whole(store: ModelStorage, name: str, data: bytes) -> bool:
    """Says whether a model is here; if it is, every byte and every chunk of it must be right."""
    model = next((model for model in store.models() if model.name == name), None)
    view = yaml.safe_load((store.models_folder / "registry.yaml").read_text())["models"]
    assert (name in view) == (model is not None)
    if model is None:
        return False
    assert model.path.read_bytes() == data
    for place in model.manifest.chunk_places():
        assert store.read_chunk(place.hash) == data[place.offset : place.offset + place.size]
    return True


def check_tidy(store: ModelStorage) -> None:
    """Nothing lies about that belongs to nobody."""
    owned = {model.path.name for model in store.models()}
    assert {path.name for path in store.models_folder.iterdir()} - owned == {"registry.yaml"}
    assert list((store.root / "incoming").iterdir()) == []
    assert not any("belongs to no model" in warning for warning in store.warnings)


def import_file(root: Path, source: Path) -> None:
    store = open_store(root)
    importing.store(store, SIGNER, "me", importing.look_at(source, {}))
    close(store)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(KEPT)
    import_file(tmp_path / "home", kept)
    return tmp_path / "home"


def copy_of(home: Path, number: int) -> Path:
    """A home in the state of `home`, by hard links: no test changes a file in place."""
    copy = home.parent / f"copy {number}"
    for path in sorted(home.rglob("*")):
        target = copy / path.relative_to(home)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".safetensors":
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def after_kills(home: Path, action: Callable[[Path], object]) -> Iterator[Path]:
    """Yields copies of `home` in each of which `action` was killed at another instant."""
    total = lines_of(lambda: action(copy_of(home, 0)))
    for instant in instants(total):
        root = copy_of(home, instant)
        assert killed(partial(action, root), instant)
        yield root


def test_killed_while_importing(home: Path) -> None:
    source = home.parent / "new.safetensors"
    source.write_bytes(NEW)
    outcomes = set()
    for root in after_kills(home, partial(import_file, source=source)):
        store = open_store(root)
        assert check_whole(store, "kept", KEPT)
        outcomes.add(check_whole(store, "new", NEW))
        check_tidy(store)
        import_file(root, source)
        assert check_whole(open_store(root), "new", NEW)
    assert outcomes == {False, True}


CHUNKS = 6


def download_some(root: Path, count: int) -> tuple[ModelStorage, PartialDownload]:
    store = open_store(root)
    pulled = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA, name="pulled")))
    for index, place in enumerate(pulled.places[:count]):
        pulled.write(index, DATA[place.offset : place.offset + place.size])
    return store, pulled


def download(root: Path) -> None:
    store, pulled = download_some(root, CHUNKS)
    store.finish(pulled, "gateway")
    close(store)


def test_killed_while_downloading(home: Path) -> None:
    sealed = seal_manifest(SIGNER, manifest_of(DATA, name="pulled"))
    total = lines_of(lambda: download(copy_of(home, 0)))
    after = {lines_of(partial(download_some, copy_of(home, -count), count)) for count in range(1, CHUNKS + 1)}
    outcomes = set()
    for instant in sorted(after.union(instants(total))):
        root = copy_of(home, instant)
        assert killed(partial(download, root), instant)
        folder = root / "partial" / manifest_id(sealed).hex()
        journal = folder / "journal"
        noted = journal.stat().st_size // 4 if journal.exists() else 0
        store = open_store(root)
        assert check_whole(store, "kept", KEPT)
        here = check_whole(store, "pulled", DATA)
        check_tidy(store)
        if not here:
            pulled = store.open_partial(sealed)
            assert len(pulled.have) == noted, "what was verified before the kill is kept"
            outcomes.add(noted)
            store.close_partial(pulled)
            download(root)
            assert check_whole(open_store(root), "pulled", DATA)
    assert outcomes == set(range(CHUNKS + 1))


def test_killed_while_removing(home: Path) -> None:
    def remove(root: Path) -> None:
        open_store(root).remove("kept", "1.0.0")

    outcomes = set()
    for root in after_kills(home, remove):
        store = open_store(root)
        outcomes.add(check_whole(store, "kept", KEPT))
        check_tidy(store)
    assert outcomes == {False, True}


def test_killed_while_collecting_garbage(home: Path) -> None:
    store = open_store(home)
    stopped = store.open_partial(seal_manifest(SIGNER, manifest_of(DATA, name="stopped")))
    stopped.write(0, DATA[:SMALL_CHUNK])
    store.close_partial(stopped)
    close(store)
    for number in range(3):
        (home / "incoming" / f"left {number}").write_bytes(bytes(100))

    def collect(root: Path) -> None:
        open_store(root).collect_garbage(1e11)

    outcomes = set()
    for root in after_kills(home, collect):
        store = open_store(root)
        assert check_whole(store, "kept", KEPT)
        check_tidy(store)
        outcomes.add(len(store.partials()))
        store.collect_garbage(1e11)
        assert list((root / "partial").iterdir()) == []
    assert outcomes == {0, 1}


def test_killed_while_repairing(home: Path) -> None:
    rotten = b"rot" + KEPT[3:]

    def repair(root: Path) -> None:
        chunks = {place.hash: place for place in open_store(root).models()[0].manifest.chunk_places()}

        def fetch(name: bytes, size: int) -> bytes:
            return KEPT[chunks[name].offset : chunks[name].offset + size]

        open_store(root).verify(repair=fetch)

    store = open_store(home)
    path = store.models()[0].path
    close(store)
    path.write_bytes(rotten)
    outcomes = set()
    for root in after_kills(home, repair):
        store = open_store(root)
        check_tidy(store)
        found = store.models()[0].path.read_bytes()
        outcomes.add(found)
        assert store.verify().clean == (found == KEPT)
        repair(root)
        assert check_whole(open_store(root), "kept", KEPT)
    assert outcomes == {rotten, KEPT}
    assert path.read_bytes() == rotten, "a repair never writes to the damaged file"


def test_killed_while_evicting(home: Path) -> None:
    download(home)

    def evict(root: Path) -> None:
        store = open_store(root)
        store.limits = Limits(max_models=1)
        store.make_room(0)

    outcomes = set()
    for root in after_kills(home, evict):
        store = open_store(root)
        assert check_whole(store, "kept", KEPT)
        here = check_whole(store, "pulled", DATA)
        check_tidy(store)
        noted = [entry.event.what for entry in read(root)]
        assert noted == ["import", "download"] + ["eviction"] * (not here)
        assert verify_chain(root).problems == ()
        outcomes.add(here)
    assert outcomes == {False, True}
