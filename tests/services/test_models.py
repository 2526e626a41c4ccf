"""Model services on a mesh in memory: real stores, real transfers, real files."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from atmo.engine import FetchChunk
from atmo.errors import UserError
from atmo.identity import Signer
from atmo.services import downloads, fetch
from atmo.services.models import ModelService
from atmo.services.progress import Progress
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferDone, TransferFailed
from atmo.transfer.manifest import CHUNK_BYTES, ModelFile, manifest_id, seal_manifest
from tests.services.hub import Hub, Node
from tests.storage import samples
from tests.transfer.samples import manifest_of


def model_file(folder: Path, chunks: int = 12, seed: int = 1) -> Path:
    """A safetensors file of about `chunks` MiB of random bytes."""
    whole = samples.safetensors(chunks * CHUNK_BYTES, fill=b"\0")
    path = folder / f"weights-{chunks}-{seed}.safetensors"
    path.write_bytes(whole[: -chunks * CHUNK_BYTES] + Random(seed).randbytes(chunks * CHUNK_BYTES))
    return path


@asynccontextmanager
async def mesh(folder: Path, *names: str, **service: Any) -> AsyncIterator[list[Node]]:
    """A mesh that ends with the block."""
    async with trio.open_nursery() as nursery:
        hub = Hub(nursery)
        yield [Node(hub, folder, name, **service) for name in names]
        nursery.cancel_scope.cancel()


def chunk_requests(hub: Hub, asker: str) -> dict[str, int]:
    asked = [other for who, other, protocol in hub.requests if who == asker and protocol == "atmo/chunks/1"]
    return {name: asked.count(name) for name in set(asked)}


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


async def test_a_holder_that_dies_in_the_middle_is_replaced(tmp_path: Path) -> None:
    source = model_file(tmp_path, 30)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(source, name="big")
        await b.service.pull("big")
        answers = 0

        def kill(node: Node, protocol: str) -> None:
            nonlocal answers
            answers += node is b
            if answers == 5 and b.up:
                b.vanish()

        c.hub.before_answer = kill
        await c.service.pull("big")
        assert c.service.local_models()[0].path.read_bytes() == source.read_bytes()
        assert not b.up


async def test_a_holder_that_sends_wrong_bytes_is_dropped(tmp_path: Path) -> None:
    source = model_file(tmp_path, 30)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(source, name="big")
        await b.service.pull("big")
        b.storage.read_chunk = lambda name: b"\xff" * CHUNK_BYTES  # type: ignore[method-assign]
        await c.service.pull("big")
        assert c.service.local_models()[0].path.read_bytes() == source.read_bytes()
        assert {name for name, _ in c.misbehaved} == {"b"}
        assert "wrong bytes" in c.misbehaved[0][1]
        assert c.transfer.stats.wrong >= 1
        assert chunk_requests(c.hub, "c")["b"] <= 2


async def test_a_holder_that_announces_wrong_sizes_is_dropped(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 6), name="big")
        await b.service.pull("big")
        b.storage.read_chunk = lambda name: b"short"  # type: ignore[method-assign]
        await c.service.pull("big")
        assert "a chunk of 5 bytes instead of 1048576" in {reason for _, reason in c.misbehaved}


async def test_a_holder_with_a_damaged_disk_refuses_and_is_not_blamed(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 6), name="big")
        await b.service.pull("big")
        path = b.service.local_models()[0].path
        path.write_bytes(bytes(path.stat().st_size))
        await c.service.pull("big")
        assert c.misbehaved == []
        assert b.service.server.stats.corrupt >= 1
        assert any("is damaged" in warning for warning in b.storage.warnings)


async def test_a_holder_that_lost_the_model_is_asked_no_more(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 10), name="big")
        await b.service.pull("big")
        b.storage.remove("big", "1.0.0")  # before its catalog says so
        await c.service.pull("big")
        assert c.misbehaved == []
        assert b.service.server.stats.missing <= 4


async def test_a_pull_that_was_cancelled_continues_from_what_is_there(tmp_path: Path) -> None:
    source = model_file(tmp_path, 20)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(source, name="big")
        with trio.CancelScope() as scope:
            answers = 0

            def stop(node: Node, protocol: str) -> None:
                nonlocal answers
                answers += 1
                if answers == 10:
                    scope.cancel()

            b.hub.before_answer = stop
            await b.service.pull("big")
        assert scope.cancelled_caught
        assert b.service.local_models() == []
        b.hub.before_answer = None
        before = chunk_requests(b.hub, "b")["a"]
        reports: list[Progress] = []
        await b.service.pull("big", reports.append)
        assert b.service.local_models()[0].path.read_bytes() == source.read_bytes()
        assert chunk_requests(b.hub, "b")["a"] - before < 21
        assert [protocol for _, _, protocol in b.hub.requests].count("atmo/manifest/1") == 1


async def test_a_new_version_is_downloaded_only_where_it_differs(tmp_path: Path) -> None:
    source = model_file(tmp_path, 6)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(source, name="m", version="1")
        await a.service.import_model(source, name="the-same")
        await b.service.pull("m")
        data = bytearray(source.read_bytes())
        data[3 * CHUNK_BYTES] ^= 1
        source.write_bytes(data)
        await a.service.import_model(source, name="m", version="2")
        before = chunk_requests(b.hub, "b")["a"]
        reports: list[Progress] = []
        assert (await b.service.pull("m", reports.append)).version == "2"
        assert b.service.local_models()[0].path.read_bytes() == data
        assert chunk_requests(b.hub, "b")["a"] - before == 1
        await b.service.pull("the-same")
        assert chunk_requests(b.hub, "b")["a"] - before == 1, "everything was here"


async def test_two_pulls_of_one_model_share_the_download(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path), name="big")
        rows = []
        reports: list[Progress] = []

        async def pull() -> None:
            rows.append(await b.service.pull("big", reports.append))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pull)
        assert len(rows) == 3
        assert chunk_requests(b.hub, "b") == {"a": 13}


async def test_when_the_leader_is_cancelled_a_follower_takes_over(tmp_path: Path) -> None:
    source = model_file(tmp_path, 20)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(source, name="big")
        leader = trio.CancelScope()
        answers = 0

        def stop(node: Node, protocol: str) -> None:
            nonlocal answers
            answers += 1
            if answers == 8:
                leader.cancel()

        b.hub.before_answer = stop

        async def lead() -> None:
            with leader:
                await b.service.pull("big")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lead)
            await trio.testing.wait_all_tasks_blocked()
            row = await b.service.pull("big")
        assert leader.cancelled_caught
        assert row.local
        assert b.service.local_models()[0].path.read_bytes() == source.read_bytes()


async def test_who_follows_a_pull_that_fails_is_told_the_same(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 3), name="big")
        b.storage.open_partial = _no_room  # type: ignore[method-assign,assignment]
        errors = []

        async def pull() -> None:
            try:
                await b.service.pull("big", lambda report: None)
            except UserError as error:
                errors.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull)
            nursery.start_soon(pull)
        assert errors == ["Not enough room. Free some."] * 2


def _no_room(*_: object) -> None:
    raise UserError("Not enough room.", "Free some.")


async def test_a_disk_that_fails_ends_the_pull_and_keeps_what_is_there(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 6), name="big")
        opened = b.storage.open_partial

        def fragile(*arguments: Any) -> Any:
            partial = opened(*arguments)
            write = partial.write
            partial.write = lambda index, data: _no_room() if index == 3 else write(index, data)  # type: ignore[method-assign,assignment,return-value]
            return partial

        b.storage.open_partial = fragile  # type: ignore[method-assign,assignment]
        with pytest.raises(UserError, match="Not enough room"):
            await b.service.pull("big")
        b.storage.open_partial = opened  # type: ignore[method-assign]
        assert len(b.storage.partials()) == 1
        await b.service.pull("big")


async def test_when_all_holders_are_gone_the_pull_fails_and_goes_on_later(
    tmp_path: Path,
) -> None:
    async with mesh(tmp_path, "a", "b", lonely_s=0.2) as (a, b):
        await a.service.import_model(model_file(tmp_path, 20), name="big")
        answers = 0

        def die(node: Node, protocol: str) -> None:
            nonlocal answers
            answers += 1
            if answers == 8:
                a.vanish()

        b.hub.before_answer = die
        with pytest.raises(UserError, match="no holder is left"):
            await b.service.pull("big")
        b.hub.before_answer = None
        a.up = True
        assert (await b.service.pull("big")).local


async def test_a_holder_that_comes_later_joins_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "REFRESH_S", 0.01)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 40), name="big")
        await b.service.pull("big")
        published, b.published = b.published, ()
        answers, joined = 0, trio.Event()

        async def wait_for_b(node: Node, protocol: str) -> None:
            nonlocal answers
            answers += 1
            if node is b:
                joined.set()
            elif answers > 5:
                b.published = published
                await joined.wait()

        c.hub.hold_answer = wait_for_b
        await c.service.pull("big")
        assert chunk_requests(c.hub, "c")["b"] > 1


async def test_all_holders_are_dead_and_nobody_knows_it_yet(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="big")
        a.up, a.believed = False, True
        with pytest.raises(UserError, match="could not be asked for: a: there is no link to a"):
            await b.service.pull("big")


async def test_a_holder_that_vanishes_between_two_looks(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="big")
        peer = b.peer
        offers = iter([peer.models(b.now())] * 3)  # to choose, to see what is taken, to find rivals
        peer.models = lambda now: next(offers, [])
        with pytest.raises(UserError, match="none of its holders is there"):
            await b.service.pull("big")


async def test_a_dead_holder_that_is_taken_for_alive_does_not_delay_a_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "IMPATIENCE_S", 0.01)
    source = model_file(tmp_path, 20)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(source, name="big")
        await b.service.pull("big")
        a.up, a.believed, a.dial_s = False, True, 60.0
        c.peer.is_ready = lambda node: False  # so that nobody is asked first for having a link
        with trio.fail_after(20):
            await c.service.pull("big")
        assert c.service.local_models()[0].path.read_bytes() == source.read_bytes()
        assert len(c.hub.in_vain) <= 1 + TransferConfig().window_start


async def test_a_holder_to_whom_there_is_no_way_rests_until_it_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "REFRESH_S", 0.01)
    source = model_file(tmp_path, 20)
    async with mesh(tmp_path, "a", "b", lonely_s=5.0) as (a, b):
        await a.service.import_model(source, name="big")
        answers = 0

        def lose(node: Node, protocol: str) -> None:
            nonlocal answers
            answers += 1
            if answers == 8:
                a.up, a.believed = False, True

        b.hub.before_answer = lose
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.service.pull, "big")
            while a.up:
                await trio.sleep(0.01)
            await trio.sleep(0.2)  # twenty looks at who is there
            assert len(b.hub.in_vain) <= TransferConfig().window_most
            a.up = True
        assert b.service.local_models()[0].path.read_bytes() == source.read_bytes()


async def test_no_more_holders_are_asked_than_one_download_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SOURCES_MOST", 2)
    async with mesh(tmp_path, "a", "b", "c", "d") as (a, *others):
        await a.service.import_model(model_file(tmp_path, 20), name="big")
        for node in others:
            await node.service.pull("big")
        assert len(chunk_requests(a.hub, "d")) == 2


async def test_announcements_and_manifests_that_lie(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        await a.service.import_model(model_file(tmp_path, 2), name="big")
        (record,) = a.published
        for lie, why in [
            (replace(record, size_bytes=5), "contradicts"),
            (replace(record, version="2.0"), "contradicts"),
            (replace(record, manifest=bytes(32)), "no more"),
        ]:
            a.published = (lie,)
            with pytest.raises(UserError, match=why):
                await c.service.pull("big")
        a.published = (record,)
        a.storage.registry.sealed = lambda name: b"not a manifest"  # type: ignore[method-assign,assignment]
        with pytest.raises(UserError, match="not the one it announced"):
            await c.service.pull("big")
        assert len(c.misbehaved) == 3
        a.published = (replace(record, name="bad name"), replace(record, version="V9"))
        assert c.service.rows("mesh") == []


async def test_a_publisher_that_lies_about_the_sha256(tmp_path: Path) -> None:
    data = Random(1).randbytes(200_000)
    honest = manifest_of(data)
    lying = manifest_of(data, checksum_sha256=bytes(32), files=(replace(honest.main, sha256=bytes(32)),))
    async with mesh(tmp_path, "a", "b") as (a, b):
        with a.storage.incoming(len(data)) as path:
            path.write_bytes(data)
            a.storage.register(path, seal_manifest(a.signer, lying), "a")
        await a.service._refresh()
        with pytest.raises(UserError, match="is not what its manifest says"):
            await b.service.pull("iris")
        assert b.service.local_models() == []
        assert b.storage.partials() == {}
        assert b.misbehaved[-1][0] == "a"


async def test_the_same_version_with_another_content_is_not_mixed_up(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 1, seed=1), name="m")
        await b.service.import_model(model_file(tmp_path, 1, seed=2), name="m")
        assert len(c.service.rows("mesh")) == 2
        first = await c.service.pull("m")
        assert len(first.nodes) == 2
        assert (await c.service.pull("m")) == first  # ours is preferred
        await c.service.import_model(model_file(tmp_path, 1, seed=3), name="m", version="5.0")
        await b.service.import_model(model_file(tmp_path, 1, seed=4), name="m", version="4.0")
        await a.service.import_model(model_file(tmp_path, 1, seed=4), name="m", version="4.0")
        pulled = await c.service.pull("m@4.0")
        assert pulled.nodes in (["c", "a"], ["c", "b"]), "one content, imported on two nodes: two manifests"
        assert set(chunk_requests(c.hub, "c")) == {"a", "b"}
        assert c.service.info("m@4.0")["claims"] == 2


def poison(honest: Node, *nodes: Node, hashes: Callable[[ModelFile], bytes], format: str = "safetensors") -> bytes:
    """Has `nodes` announce a manifest of their own for the model of `honest`; they have none of its chunks."""
    (record,) = honest.published
    (model,) = honest.service.local_models()
    (file,) = model.manifest.files
    lie = replace(
        model.manifest,
        config={"labels": ["swapped"]},
        format=format,
        files=(replace(file, hashes=hashes(file)),),
    )
    sealed = seal_manifest(nodes[0].signer, lie)
    for node in nodes:
        node.storage.registry.sealed = lambda name: sealed  # type: ignore[method-assign,assignment]
        node.published = (replace(record, manifest=manifest_id(sealed), format=format),)
    return manifest_id(sealed)


async def test_a_manifest_with_chunks_that_nobody_has_spoils_nothing(tmp_path: Path) -> None:
    source = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "x", "y", "c", lonely_s=0.1) as (a, x, y, c):
        await a.service.import_model(source, name="m")
        poisoned = poison(a, x, y, hashes=lambda file: Random(1).randbytes(len(file.hashes)))
        row = await c.service.pull("m")
        assert row.nodes == ["c", "a"]
        asked = [(node, protocol) for who, node, protocol in c.hub.requests if who == "c"]
        assert asked[0][0] in "xy", "most nodes hold the lie, so it was tried first"
        (model,) = c.service.local_models()
        assert model.path.read_bytes() == source.read_bytes()
        assert model.publisher == a.id
        assert poisoned not in c.storage.partials()
        assert c.misbehaved == []


async def test_what_a_lie_left_behind_is_not_continued(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "x", "c", lonely_s=0.1) as (a, x, c):
        await a.service.import_model(model_file(tmp_path, 2), name="m")
        told = a.published
        poisoned = poison(a, x, hashes=lambda file: Random(1).randbytes(len(file.hashes)))
        a.published = ()
        with pytest.raises(UserError, match="could not be downloaded"):
            await c.service.pull("m")
        assert poisoned in c.storage.partials()
        a.published, x.published = told, ()
        assert (await c.service.pull("m")).nodes == ["c", "a"]


async def test_a_lie_about_who_holds_a_chunk_is_not_blamed_on_its_holder(tmp_path: Path) -> None:
    """The lie gives the last chunk, which is short, the name of the first."""
    async with mesh(tmp_path, "a", "x", "y", "c", lonely_s=0.1) as (a, x, y, c):
        await a.service.import_model(model_file(tmp_path, 2), name="m")
        poison(a, x, y, hashes=lambda file: file.hashes[:-32] + file.hashes[:32])
        assert (await c.service.pull("m")).nodes == ["c", "a"]
        assert c.misbehaved == []


@pytest.mark.parametrize("format", ["pytorch", "sklearn"])
async def test_formats_that_run_code_are_not_pulled(tmp_path: Path, format: str) -> None:
    async with mesh(tmp_path, "a", "x", "y", "c") as (a, x, y, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        poison(a, x, y, hashes=lambda file: file.hashes, format=format)
        (told,), (honest,) = x.published, a.published
        a.published = ()
        with pytest.raises(UserError, match=f"is of the format {format}, which is not pulled"):
            await c.service.pull("m")
        x.published = y.published = (replace(told, format="onnx"),)
        with pytest.raises(UserError, match=f"is of the format {format}, which is not pulled"):
            await c.service.pull("m")
        assert c.storage.partials() == {}
        a.published = (honest,)
        assert (await c.service.pull("m")).nodes == ["c", "a"]


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
