"""The limits of a store hold for what is pulled and imported, and the audit log says who wished for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.services.care import Care
from atmo.services.versions import Versions
from atmo.storage.audit import Event, read
from atmo.storage.eviction import Limits
from atmo.transfer.manifest import CHUNK_BYTES
from tests.services.hub import Node
from tests.services.kit import mesh, model_file

MIB = CHUNK_BYTES


def events(node: Node) -> list[Event]:
    return [entry.event for entry in read(node.storage.root)]


def held(node: Node) -> list[str]:
    return [model.name for model in node.service.local_models()]


async def test_a_pull_over_the_limit_evicts_what_was_pulled_and_nobody_used(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        for number in (1, 2):
            await a.service.import_model(model_file(tmp_path, 3, seed=number), name=f"m{number}")
        await b.service.import_model(model_file(tmp_path, 3, seed=3), name="own")
        b.storage.limits = Limits(max_bytes=8 * MIB)
        await b.service.pull("m1")
        await b.service.pull("m2")
        assert held(b) == ["m2", "own"]
        assert [record.name for record in b.published] == ["m2", "own"], "the mesh knows of the eviction"
        await a.service.import_model(model_file(tmp_path, 6), name="large")
        with pytest.raises(UserError, match=r"nothing more in it may be evicted\. .*storage\.max_gb"):
            await b.service.pull("large")
        assert held(b) == ["m2", "own"], "nothing went for what does not fit anyway"


async def test_a_model_beyond_the_limit_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 3), name="m")
        b.storage.limits = Limits(max_model_bytes=2 * MIB)
        asked = len(b.hub.requests)
        with pytest.raises(UserError, match=r"is beyond the limit of .* Raise storage\.max_model_gb"):
            await b.service.pull("m", force=True)
        assert len(b.hub.requests) == asked
        assert b.storage.partials() == {}
        with pytest.raises(UserError, match="is beyond the limit"):
            await b.service.import_model(model_file(tmp_path, 3), name="m")
        assert list((b.storage.root / "incoming").iterdir()) == []


async def test_an_import_makes_room_unless_it_is_here_already(tmp_path: Path) -> None:
    own = model_file(tmp_path, 3, seed=2)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 3), name="m")
        await b.service.pull("m")
        await b.service.import_model(own, name="own")
        b.storage.limits = Limits(max_bytes=7 * MIB)
        await b.service.import_model(own, name="own")
        assert held(b) == ["m", "own"]
        await b.service.import_model(model_file(tmp_path, 3, seed=3), name="third")
        assert held(b) == ["own", "third"]
        assert [record.name for record in b.published] == ["own", "third"]


async def test_the_audit_log_tells_what_a_person_and_what_the_node_did(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="m", version="1.0")
        await b.service.pull("m", trust=True)
        await a.service.import_model(model_file(tmp_path, 1, seed=2), name="m", version="2.0")
        versions = Versions(b.service, b.storage.decisions, {})
        await versions.keep("m", on=True)
        await versions.look()
        await b.service.mark_loaded("m", "2.0", True)
        path = b.service.local_models()[0].path
        path.write_bytes(bytes(path.stat().st_size))
        await Care(b.service, b.storage, lambda: b).verify(None, None, repair=True)
        await b.service.mark_loaded("m", "2.0", False)
        await b.service.remove("m@1.0")
        await b.service.consent.decide(a.id, trusted=False)
        assert [(event.what, event.who) for event in events(a)] == [("import", "user")] * 2
        found = dict.fromkeys((event.what, event.who, event.version) for event in events(b))
        assert list(found) == [
            ("download", "user", "1.0"),
            ("download", "b", "2.0"),
            ("load", "b", "2.0"),
            ("repair", "user", "2.0"),
            ("unload", "b", "2.0"),
            ("removal", "user", "1.0"),
            ("consent", "user", ""),
        ]
        last = events(b)[-1]
        assert (last.source, last.hash, last.outcome) == ("a", str(a.id), "refused")
