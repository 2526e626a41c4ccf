"""Verifying with repair from the mesh, tidying up, comparing, and how models stand: real stores on a mesh in memory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from atmo.errors import UserError
from atmo.services.care import Care
from atmo.services.deployment import deployment_status
from atmo.services.jobs import JOBS
from atmo.services.progress import Progress
from atmo.storage.eviction import Limits
from atmo.transfer.manifest import CHUNK_BYTES
from tests.services.hub import Node
from tests.services.kit import mesh, model_file


def care_of(node: Node) -> Care:
    return Care(node.service, node.storage, lambda: node, wall=lambda: 4e9)


def damage(node: Node) -> Path:
    path = node.service.local_models()[0].path
    data = bytearray(path.read_bytes())
    data[CHUNK_BYTES * 2 : CHUNK_BYTES * 2 + 10] = bytes(10)
    path.write_bytes(data)
    return path


async def test_damage_is_found_and_repaired_from_the_mesh(tmp_path: Path) -> None:
    source = model_file(tmp_path, 4)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(source, name="big")
        await b.service.pull("big")
        await c.service.pull("big")
        path = damage(b)
        seen = await care_of(b).verify("big", None, repair=False)
        assert (seen.clean, seen.damaged, seen.repaired) == (False, 1, 0)
        damage(a)  # it cannot help; the other one can
        reports: list[Progress] = []
        found = await care_of(b).verify(None, reports.append, repair=True)
        assert (found.clean, found.damaged, found.repaired) == (True, 1, 1)
        assert path.read_bytes() == source.read_bytes()
        assert reports[-1].bytes_total == source.stat().st_size
        assert (await care_of(b).verify("big@>=1", None, repair=True)).damaged == 0
        with pytest.raises(UserError, match="There is no model rose"):
            await care_of(b).verify("rose", None, repair=True)


async def test_damage_that_nobody_can_repair_is_left(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 4), name="big")
        await b.service.pull("big")
        a.storage.read_chunk = lambda name: bytes(CHUNK_BYTES)  # type: ignore[method-assign]
        damage(b)
        found = await care_of(b).verify(None, None, repair=True)
        assert (found.clean, found.damaged, found.repaired) == (False, 1, 0)
        assert b.misbehaved
        alone = Care(b.service, b.storage, lambda: None)
        assert not (await alone.verify(None, None, repair=True)).clean
        a.up, a.believed = False, True
        assert not (await care_of(b).verify(None, None, repair=True)).clean


async def test_tidying_up(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        for number in (1, 2):
            await a.service.import_model(model_file(tmp_path, 1, seed=number), name=f"m{number}")
            await b.service.pull(f"m{number}")
        assert (await care_of(b).collect(dry_run=True))["evicted"] == []
        b.storage.limits = replace(Limits(), max_models=1)
        found = await care_of(b).collect(dry_run=False)
        assert len(found["evicted"]) == 1
        assert len(b.service.local_models()) == 1
        assert not found["dry_run"]


async def test_what_would_travel(tmp_path: Path) -> None:
    old = model_file(tmp_path, 4)
    new = tmp_path / "new.safetensors"
    data = bytearray(old.read_bytes())
    data[-CHUNK_BYTES:] = Random(5).randbytes(CHUNK_BYTES)
    new.write_bytes(data)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="m", version="1.0")
        await a.service.import_model(new, name="m", version="2.0")
        here = await care_of(a).diff("m@1.0", "m@2.0", None)
        assert (here["base"], here["target"], here["deltas_measured"]) == ("m 1.0", "m 2.0", True)
        assert 0.9 * CHUNK_BYTES < here["travels_bytes"] < 3 * CHUNK_BYTES
        far = await care_of(b).diff("m@1.0", "m@2.0", None)
        assert not far["deltas_measured"]
        assert sum(file["whole_bytes"] for file in far["files"]) == far["travels_bytes"]
        a.up, a.believed = False, True
        with pytest.raises(UserError, match=r"m 1\.0 could not be asked for"):
            await care_of(b).diff("m@1.0", "m@2.0", None)
        alone = Care(b.service, b.storage, lambda: None)
        with pytest.raises(UserError, match=r"m 1\.0 is not on this machine"):
            await alone.diff("m@1.0", "m@2.0", None)


async def test_how_models_stand(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1, seed=1), name="m", version="1.0")
        await a.service.import_model(model_file(tmp_path, 1, seed=2), name="m", version="2.0")
        await a.service.import_model(model_file(tmp_path, 1, seed=3), name="other")
        await b.service.pull("m@1.0")
        await b.service.mark_loaded("m", "1.0", True)
        await b.service.refresh()
        table = b.storage.transfers
        gone = table.open("rose", "1.0", bytes(32), "pull", 9, "queued", 0.0)
        table.note(gone.id, "failed", "no holder is left", 0, 0.0, 1_000.0)
        status = await deployment_status(b.service, None, now=1_500.0)
        assert (status["total_models"], status["total_deployments"]) == (2, 4)
        assert status["by_model"]["m"] == {"nodes": 2, "version_distribution": {"2.0": 1, "1.0": 2}}
        assert status["here"] == [{"name": "m", "version": "1.0", "loaded": True}]
        assert (status["pending_transfers"], status["failed_transfers_24h"]) == (0, 1)
        assert status["avg_transfer_time_ms"] >= 0
        assert [row["name"] for row in status["transfers"]] == ["rose"]
        assert (await deployment_status(b.service, None, now=1e9))["failed_transfers_24h"] == 0
        one = await deployment_status(b.service, "other", now=1_500.0)
        assert (one["total_models"], one["avg_transfer_time_ms"], one["transfers"]) == (1, None, [])
        assert (await deployment_status(b.service, "rose"))["total_models"] == 0
        with pytest.raises(UserError, match="No node has a model named tulip"):
            await deployment_status(b.service, "tulip")


class Recorder:
    """Remembers what jobs ask of services, and answers each with its name."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def answer(*given: Any, **more: Any) -> Any:
            await trio.lowlevel.checkpoint()
            self.asked.append((name, given, more))
            return Answer({"did": name})

        return answer


class Answer(dict[str, Any]):
    def to_json(self) -> dict[str, Any]:
        return dict(self)


@pytest.mark.parametrize(
    ("job", "given", "did"),
    [
        ("pull", {"spec": "m", "capabilities": (), "wait": True, "trust": False, "force": True}, "pull"),
        ("pull", {"spec": None, "capabilities": ("x",), "wait": False, "trust": "id", "force": False}, "pull_capable"),
        ("verify", {"spec": None, "repair": True}, "verify"),
        ("gc", {"dry_run": True}, "collect"),
        ("diff", {"base": "a", "target": "b"}, "diff"),
        ("publish", {"spec": "m", "sign": True}, "publish"),
        ("deprecate", {"spec": "m", "reason": None, "replacement": "n", "undo": False}, "deprecate"),
        ("deprecate", {"spec": "m", "reason": None, "replacement": None, "undo": True}, "undeprecate"),
        ("rollback", {"spec": "m"}, "rollback"),
        ("update", {"spec": "m", "trust": True, "force": False}, "update"),
        ("auto", {"spec": "m", "on": True}, "keep"),
        ("trust", {"node": "n", "refuse": True, "forget": False}, "decide"),
        ("trust", {"node": "n", "refuse": False, "forget": True}, "forget"),
    ],
)
async def test_each_job_asks_its_service(job: str, given: dict[str, Any], did: str) -> None:
    recorder = Recorder()
    models = SimpleNamespace(pull=recorder.pull, pull_capable=recorder.pull_capable, consent=recorder)
    side: Any = SimpleNamespace(models=models, versions=recorder, publishing=recorder, care=recorder)
    assert set(given) == set(JOBS[job].fields)
    travel = {"travelled_bytes": 0, "copied_bytes": 0} if job == "pull" else {}
    assert await JOBS[job].run(side, given, lambda progress: None) == {"did": did} | travel
    ((name, _, _),) = recorder.asked
    assert name == did


async def test_a_store_that_was_emptied_by_hand_is_repaired_whole(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 2), name="big")
        await b.service.pull("big")
        path = b.service.local_models()[0].path
        shutil.move(path, tmp_path / "taken")
        found = await care_of(b).verify(None, None, repair=True)
        assert (found.clean, found.repaired) == (True, 1)
        assert path.read_bytes() == (tmp_path / "taken").read_bytes()
