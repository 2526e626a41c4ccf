"""Limits of the store: who goes, and who never does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import UserError
from atmo.storage.audit import read
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.eviction import GB, RECENT_S, Limits, plan, score, was_pulled
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import Manifest, ModelFile
from tests.storage.stores import DATA, add, download, pull
from tests.transfer.samples import SIGNER, manifest_of

NOW = 1_700_000_000.0
HOUR = 3_600.0


def local(name: str, size: int = 1, idle_h: float = 0.0, age_h: float = 0.0) -> LocalModel:
    """A row, of which only these fields count."""
    base = manifest_of(b"x", name=name)
    file = ModelFile("model.onnx", size, bytes(32), 4 << 20, bytes(32 * -(-size // (4 << 20))))
    manifest: Manifest = replace(base, files=(file,), size_bytes=size, checksum_sha256=bytes(32))
    added = NOW - max(age_h, idle_h) * HOUR
    return LocalModel(
        manifest, bytes(32), SIGNER.node_id, Path(name), "x", added, None, used_at=NOW - idle_h * HOUR, pulled=True
    )


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> ModelStorage:
    return ModelStorage(tmp_path, Database(tmp_path / "atmosphere.db"), wall=clock)


def held(store: ModelStorage) -> list[str]:
    return [model.name for model in store.models()]


def test_the_score() -> None:
    assert score(local("a"), NOW) == 0
    assert score(local("a", idle_h=10, age_h=20), NOW) == pytest.approx(15, rel=1e-6)
    assert score(local("a", size=2 * GB, idle_h=10, age_h=20), NOW) == pytest.approx(30)
    assert score(local("a", idle_h=10), NOW - 100 * HOUR) == 0, "a clock that was set back makes nothing older"


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    fixed=st.sets(st.integers(0, 7)),
    need=st.integers(0, 100),
    most=st.integers(1, 200),
    count=st.integers(1, 9),
)
def test_a_plan_fits_and_takes_no_more_than_it_must(
    sizes: list[int], fixed: set[int], need: int, most: int, count: int
) -> None:
    models = [local(f"m{index}", size, idle_h=index) for index, size in enumerate(sizes)]
    free = [model for index, model in enumerate(models) if index not in fixed]
    one = int(need > 0)
    limits = Limits(max_bytes=most, max_models=count)
    try:
        going = plan(models, limits, need, one, 0, NOW, lambda model: model in free)
    except UserError:
        kept = [model for model in models if model not in free]
        assert sum(m.manifest.size_bytes for m in kept) + need > most or len(kept) + one > count
        return
    assert set(map(id, going)) <= set(map(id, free))
    assert going == sorted(going, key=lambda model: -score(model, NOW))
    for last in range(max(0, len(going) - 1), len(going) + 1):
        left = [model for model in models if model not in going[:last]]
        fits = sum(m.manifest.size_bytes for m in left) + need <= most and len(left) + one <= count
        assert fits == (last == len(going))


def test_no_limits_take_nothing() -> None:
    assert plan([local("a", 10**12, idle_h=10**4)], Limits(), 10**15, 1, 10**15, NOW, was_pulled) == []


def test_the_least_useful_of_those_that_were_pulled_goes(store: ModelStorage, clock: Clock) -> None:
    add(store, b"1" * 100_000, name="mine")
    for number in range(3):
        pull(store, bytes([number]) * 100_000, name=f"theirs-{number}")
        clock.now += HOUR
    store.read_chunk(store.models()[1].manifest.main.chunks[0])  # theirs-0, the oldest
    clock.now += RECENT_S
    store.limits = Limits(max_models=4)
    assert [model.name for model in store.make_room(100_000)] == ["theirs-1"]
    assert held(store) == ["mine", "theirs-0", "theirs-2"]
    assert store.make_room(100_000) == []
    assert [entry.event.what for entry in read(store.root)][-1] == "eviction"
    store.limits, store.is_replaceable = Limits(max_models=1), lambda model: False
    with pytest.raises(UserError, match=r"2 models too many.*storage\.max_models"):
        store.make_room(0)
    assert len(held(store)) == 3


def test_what_is_in_use_stays(store: ModelStorage, clock: Clock) -> None:
    loaded, pinned, served, free = (
        pull(store, bytes([number]) * 70_000, name=name)
        for number, name in enumerate(("loaded", "pinned", "served", "free"))
    )
    store.set_loaded("loaded", "1.0.0", True)
    clock.now += 100 * HOUR
    store.read_chunk(served.manifest.main.chunks[0])
    store.limits = Limits(max_models=1)
    with store.pin(pinned.manifest_id, "a transfer"):
        with pytest.raises(UserError, match="2 models too many"):
            store.make_room(0)
        assert len(held(store)) == 4, "nothing goes where it would not be enough"
        store.limits = Limits(max_models=3)
        assert store.make_room(0) == [free]
    store.limits = Limits(max_models=2)
    assert store.make_room(0) == [pinned]
    assert held(store) == ["loaded", "served"]
    assert loaded.path.exists()


def test_a_removal_is_refused_while_something_uses_the_model(store: ModelStorage) -> None:
    model = add(store)
    store.set_loaded("iris", "1.0.0", True)
    with store.pin(model.manifest_id, "a verification"), store.pin(model.manifest_id, "a transfer"):
        with pytest.raises(UserError, match="in use by a transfer and a verification"):
            store.remove("iris", "1.0.0")
    store.remove("iris", "1.0.0")  # a loaded one goes when a person says so
    assert held(store) == []


def test_downloads_count(store: ModelStorage) -> None:
    partial = download(store, manifest_of(DATA), count=1)
    store.limits = Limits(max_bytes=len(DATA) + 10)
    store.make_room(len(DATA), bytes.fromhex(partial.folder.name))
    with pytest.raises(UserError, match="too much"):
        store.make_room(11)


def test_a_model_beyond_the_limit_for_one(store: ModelStorage) -> None:
    store.limits = Limits(max_model_bytes=2 * GB)
    assert store.make_room(2 * GB) == []
    with pytest.raises(UserError, match=r"2\.50 GB is beyond the limit of 2\.00 GB.*max_model_gb"):
        store.make_room(5 * GB // 2)
