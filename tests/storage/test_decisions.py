"""What people decided about models: kept over restarts, bounded, and private models stay so after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.storage import decisions as module
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.decisions import Decision, Decisions, OwnDeprecation
from atmo.storage.importing import look_at, store
from atmo.storage.registry import LocalModel
from atmo.storage.resealing import reseal
from tests.storage import samples
from tests.trust.kit import ANNA, BERT, EVE


def opened(folder: Path) -> Decisions:
    return Decisions(Database(folder / "atmosphere.db"))


def imported(folder: Path) -> tuple[ModelStorage, LocalModel]:
    storage = ModelStorage(folder / "home", Database(folder / "home" / "atmosphere.db"))
    return storage, add(storage, folder)


def add(storage: ModelStorage, folder: Path, name: str = "iris", fill: bytes = b"\x01") -> LocalModel:
    path = folder / f"{name}.safetensors"
    path.write_bytes(samples.safetensors(1_000, fill=fill))
    return store(storage, ANNA, "anna", look_at(path, {"name": name}))


def test_decisions_on_publishers_are_kept_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUBLISHERS_MOST", 2)
    decisions = opened(tmp_path)
    decisions.decide(ANNA.node_id, Decision(True, "anna", 1.0))
    decisions.decide(BERT.node_id, Decision(False, "bert", 2.0))
    with pytest.raises(UserError, match="too many publishers"):
        decisions.decide(EVE.node_id, Decision(True, "eve", 3.0))
    decisions.decide(BERT.node_id, Decision(True, "bert", 4.0))
    decisions.forget(ANNA.node_id)
    decisions.forget(ANNA.node_id)
    assert decisions.publishers == opened(tmp_path).publishers == {BERT.node_id: Decision(True, "bert", 4.0)}


def test_choices_of_versions_are_kept(tmp_path: Path) -> None:
    decisions = opened(tmp_path)
    decisions.set_active("iris", "1.0")
    decisions.set_auto("iris", "<2")
    decisions.set_auto("net", "")
    decisions.set_active("iris", None)
    decisions.set_auto("gone", "")
    decisions.set_auto("gone", None)
    again = opened(tmp_path)
    assert again.active == decisions.active == {}
    assert again.auto == decisions.auto == {"iris": "<2", "net": ""}


def test_when_a_manifest_was_first_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEEN_MOST", 3)
    decisions = opened(tmp_path)
    assert decisions.note_seen([b"a", b"b", b"a"], 1.0) == 2
    assert decisions.note_seen([b"a", b"c"], 2.0) == 1
    assert decisions.note_seen([b"a"], 3.0) == 0
    assert decisions.note_seen([b"d"], 4.0) == 1
    assert decisions.first_seen == opened(tmp_path).first_seen
    assert sorted(decisions.first_seen.values()) == [1.0, 2.0, 4.0], "the oldest made room"


def test_deprecations_are_kept_and_those_taken_back_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEPRECATIONS_MOST", 2)
    decisions = opened(tmp_path)
    decisions.deprecate(OwnDeprecation("a", "<1", "old", "b", False, 1.0))
    decisions.deprecate(OwnDeprecation("b", "", "", "", False, 2.0))
    with pytest.raises(UserError, match="advises against 2 things"):
        decisions.deprecate(OwnDeprecation("c", "", "", "", False, 3.0))
    decisions.deprecate(OwnDeprecation("a", "<1", "", "", True, 4.0))
    decisions.deprecate(OwnDeprecation("c", "", "", "", False, 5.0))
    assert set(decisions.deprecations) == set(opened(tmp_path).deprecations) == {("b", ""), ("c", "")}


def test_a_private_import_is_private_from_its_first_moment(tmp_path: Path) -> None:
    storage, before = imported(tmp_path)
    decisions = storage.decisions
    decisions.begin_private(before.added_at + 100, [b"this was there"])
    assert not decisions.is_private(b"this was there", before.added_at + 100)
    decisions.begin_private(before.added_at + 200)
    assert not decisions.is_private(before.manifest_id, before.added_at)
    assert decisions.is_private(b"whatever comes now", before.added_at + 100)
    decisions.end_private(None)
    assert decisions.is_private(b"whatever comes now", before.added_at + 100), "the other one runs"
    decisions.end_private(before.manifest_id)
    assert not decisions.is_private(b"whatever comes now", before.added_at + 100)
    assert decisions.is_private(before.manifest_id, before.added_at)
    assert opened(tmp_path / "home").is_private(before.manifest_id, 0.0)
    assert decisions.make_public(before.manifest_id)
    assert not decisions.make_public(before.manifest_id)
    assert not opened(tmp_path / "home").is_private(before.manifest_id, 0.0)


def test_after_a_kill_in_a_private_import_what_came_is_private(tmp_path: Path) -> None:
    storage, old = imported(tmp_path)
    with storage.decisions.database.transaction() as run:
        run.execute("UPDATE models SET added_at = 0")
    storage.decisions.begin_private(1_000.0)
    new = add(storage, tmp_path, "net", b"\x02")
    again = opened(tmp_path / "home")
    assert again.is_private(new.manifest_id, 0.0)
    assert not again.is_private(old.manifest_id, 0.0)
    assert not opened(tmp_path / "home").is_private(b"another one", new.added_at), "that is settled"


def test_what_is_gone_is_private_no_more(tmp_path: Path) -> None:
    storage, model = imported(tmp_path)
    storage.decisions.begin_private(0.0)
    storage.decisions.end_private(model.manifest_id)
    storage.remove(model.name, model.version)
    assert not opened(tmp_path / "home").is_private(model.manifest_id, 0.0)


def test_another_key_signs_the_same_model(tmp_path: Path) -> None:
    storage, model = imported(tmp_path)
    add(storage, tmp_path, "net", b"\x02")
    mine = reseal(storage, BERT, "iris", model.version)
    assert (mine.publisher, mine.manifest, mine.path) == (BERT.node_id, model.manifest, model.path)
    assert storage.registry.sealed(model.manifest_id) is None
    assert storage.registry.sealed(mine.manifest_id) is not None
    assert reseal(storage, BERT, "iris", model.version) == mine
    assert storage.read_chunk(model.manifest.files[0].chunks[0])
    assert [row.name for row in storage.models()] == ["iris", "net"]
    with pytest.raises(UserError, match="no model iris 7"):
        reseal(storage, BERT, "iris", "7")
