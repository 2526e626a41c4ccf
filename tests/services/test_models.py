"""Model services on a mesh in memory: real stores, real transfers, real files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from atmo.engine import FetchChunk
from atmo.errors import UserError
from atmo.identity import Signer
from atmo.services.models import ModelService
from atmo.services.progress import Progress
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.transfer.engine import TransferDone, TransferFailed
from tests.services.kit import chunk_requests, mesh, model_file
from tests.storage import samples


async def test_a_model_travels_from_all_its_holders(tmp_path: Path) -> None:
    source = model_file(tmp_path)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        imported = await a.service.import_model(source, name="big", kind="classifier", capabilities=["x"])
        assert (imported.nodes, imported.local, imported.version) == (["a"], True, "1.0.0")
        await b.service.pull("big")
        reports: list[Progress] = []
        row = await c.service.pull("big@>=1,<2", reports.append)
        assert row.nodes == ["c", "a", "b"]
        assert row.to_json() | {"nodes": []} == imported.to_json() | {"nodes": []}
        (model,) = c.service.local_models()
        assert model.path.read_bytes() == source.read_bytes()
        assert model.publisher == a.id
        assert model.source_node in ("a", "b")
        served = chunk_requests(c.hub, "c")
        assert set(served) == {"a", "b"}
        assert sum(served.values()) == 13
        assert reports[-1].phase == "done"
        assert {report.phase for report in reports} <= {"looking", "checking", "downloading", "verifying", "done"}
        assert c.misbehaved == []


async def test_rows_of_here_of_the_mesh_and_of_what_is_missing(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        await a.service.import_model(model_file(tmp_path, 2), name="two", version="1.0")
        await a.service.import_model(model_file(tmp_path, 1, seed=2), name="two", version="2.0")
        await b.service.pull("two@1.0")
        assert [(row.name, row.version) for row in a.service.rows("local")] == [
            ("one", "1.0.0"),
            ("two", "2.0"),
            ("two", "1.0"),
        ]
        assert [(row.version, row.nodes) for row in b.service.rows("local")] == [("1.0", ["b", "a"])]
        assert [(row.name, row.version, row.local) for row in b.service.rows("mesh")] == [
            ("one", "1.0.0", False),
            ("two", "2.0", False),
            ("two", "1.0", True),
        ]
        assert [(row.name, row.version) for row in b.service.rows("available")] == [("one", "1.0.0"), ("two", "2.0")]
        about = b.service.info("two@<2")
        assert about["manifest"]["checksum_sha256"] == about["sha256"]
        assert [version["version"] for version in about["versions"]] == ["2.0", "1.0"]
        assert about["nodes"] == ["b", "a"]
        assert b.service.info("one")["manifest"] is None
        with pytest.raises(UserError, match="No node has a model named three"):
            b.service.info("three")


async def test_who_changes_the_models_tells_everybody(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        changes: list[int] = []
        a.service.on_change(lambda: changes.append(len(a.service.local_models())))
        row = await a.service.import_model(model_file(tmp_path, 1), name="one")
        assert [record.name for record in a.published] == ["one"]
        await b.service.pull("one")
        assert await a.service.remove("one") == [replace(row, nodes=["a", "b"])]
        assert changes == [1, 0]
        assert a.published == ()
        await a.service.pull("one")  # b still has it
        with pytest.raises(UserError, match="nothing-here is not on this machine"):
            await a.service.remove("nothing-here")
        with pytest.raises(UserError, match=r"one@2 is not on this machine\. Here are: 1\.0\.0"):
            await a.service.remove("one@2")
        await a.service.mark_loaded("one", "1.0.0", True)
        assert "loaded: true" in (a.storage.models_folder / "registry.yaml").read_text()


async def test_removal_by_range(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a") as (a,):
        for number, version in enumerate(("1.0", "1.5", "2.0rc1", "3.0")):
            await a.service.import_model(model_file(tmp_path, 1, seed=number), name="m", version=version)
        assert [row.version for row in await a.service.remove("m@latest")] == ["3.0"]
        assert [row.version for row in await a.service.remove("m@<1.2")] == ["1.0"]
        assert [row.version for row in await a.service.remove("m")] == ["2.0rc1", "1.5"]


async def test_pulling_what_is_here_says_so(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        await b.service.pull("one")
        asked = len(b.hub.requests)
        reports: list[Progress] = []
        assert (await b.service.pull("one", reports.append)).local
        assert [report.phase for report in reports] == ["here already"]
        assert len(b.hub.requests) == asked


async def test_without_a_mesh_only_what_is_here_can_be_pulled(tmp_path: Path) -> None:
    storage = ModelStorage(tmp_path / "a", Database(tmp_path / "a" / "atmosphere.db"))
    service = ModelService(storage, Signer(bytes(32)), "a", lambda: None)
    await service.import_model(model_file(tmp_path, 1), name="one")
    assert (await service.pull("one")).nodes == ["a"]
    assert service.rows("available") == []
    with pytest.raises(UserError, match="two is not here, and this node is in no mesh"):
        await service.pull("two")


@pytest.mark.parametrize("spec", ["", "a b", "one@", "one@nonsense"])
async def test_a_spec_that_is_none_or_has_no_match(tmp_path: Path, spec: str) -> None:
    async with mesh(tmp_path, "a") as (a,):
        with pytest.raises(UserError):
            await a.service.pull(spec)


async def test_a_version_that_nobody_has(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        with pytest.raises(UserError, match=r"No version of one is in the range >2\. There are: 1\.0\.0"):
            await b.service.pull("one@>2")


async def test_one_version_written_in_two_ways(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        source = model_file(tmp_path, 1)
        await a.service.import_model(source, name="m", version="1.0.0.0")
        await b.service.import_model(source, name="m", version="1")
        with pytest.raises(UserError, match=r"1\.0\.0\.0 and 1 are one version: m@1 is here"):
            await b.service.pull("m@===1.0.0.0")


async def test_two_contents_of_one_version_where_ours_is_the_older(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1, seed=1), name="m", version="1.0.0")
        await b.service.import_model(model_file(tmp_path, 1, seed=2), name="m", version="1.0")
        with pytest.raises(UserError, match="is here with another content than in the mesh"):
            await b.service.pull("m@===1.0.0")


@dataclass
class Onnx:
    type: str = "classifier"
    config: dict[str, Any] = field(default_factory=lambda: {"classes": [0, 1]})
    capabilities: tuple[str, ...] = ("classify",)


async def test_joblib_files_are_stored_as_onnx(tmp_path: Path) -> None:
    source = samples.joblib_file(tmp_path / "iris.joblib")

    async def convert(given: Path, target: Path) -> Onnx:
        assert given == source
        await trio.Path(target).write_bytes(samples.onnx_plain())
        return Onnx()

    async with mesh(tmp_path, "a", convert=convert) as (a,):
        reports: list[Progress] = []
        row = await a.service.import_model(source, progress=reports.append)
        assert (row.name, row.format, row.type, row.capabilities) == ("iris", "onnx", "classifier", ("classify",))
        assert list((a.storage.root / "incoming").iterdir()) == []
    shutil.rmtree(tmp_path / "a")
    async with mesh(tmp_path, "a") as (a,):
        with pytest.raises(UserError, match="runs code when it is loaded"):
            await a.service.import_model(source)


async def test_a_pytorch_file_is_refused_even_where_joblib_files_are_converted(tmp_path: Path) -> None:
    source = tmp_path / "net.pt"
    source.write_bytes(samples.torch_zip())

    async def convert(given: Path, target: Path) -> Onnx:
        await trio.lowlevel.checkpoint()
        raise AssertionError("a PyTorch file was given to the conversion of joblib files")

    async with mesh(tmp_path, "a", convert=convert) as (a,):
        with pytest.raises(UserError, match="is a PyTorch file"):
            await a.service.import_model(source)
        assert a.service.local_models() == []


async def test_an_import_can_be_cancelled(tmp_path: Path) -> None:
    source = model_file(tmp_path, 40)
    async with mesh(tmp_path, "a") as (a,):
        with trio.CancelScope() as scope:

            def stop(report: Progress) -> None:
                if report.bytes_total:
                    scope.cancel()

            await a.service.import_model(source, progress=stop)
        assert a.service.local_models() == [] or not scope.cancelled_caught
        assert list((a.storage.root / "incoming").iterdir()) == []


async def test_requests_that_name_nothing_are_refused(tmp_path: Path) -> None:
    from atmo.errors import WireError
    from tests.services.hub import MemoryStream

    async with mesh(tmp_path, "a", "b") as (a, b):
        for header in ({}, {"chunk": "text"}, {"chunk": b"short"}, {"manifest": bytes(32)}):
            stream = MemoryStream(b.id, "atmo/chunks/1", header, None, None)
            with pytest.raises(WireError, match="without the 32 bytes of a chunk"):
                await a.handlers["atmo/chunks/1"](stream)


async def test_events_and_fetches_of_nothing_that_is_under_way(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a") as (a,):
        for event in ("another engine's", TransferDone("gone"), TransferFailed("gone", "why")):
            a.service.on_event(event)
        await a.service.fetch(FetchChunk("gone", a.id, 0))
        assert a.transfer.drain() == []
