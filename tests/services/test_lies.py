"""Announcements and manifests that lie, and versions that claim one number with two contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from atmo.errors import UserError
from atmo.transfer.manifest import ModelFile, manifest_id, seal_manifest
from tests.services.hub import Node
from tests.services.kit import chunk_requests, mesh, model_file
from tests.transfer.samples import manifest_of


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
        await a.service.refresh()
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
        node.published = (replace(record, manifest=manifest_id(sealed), format=format, publisher=nodes[0].id),)
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


async def test_who_claims_many_manifests_of_one_version_is_heard_once(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "x", "c") as (a, x, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        (told,) = a.published
        x.published = tuple(replace(told, manifest=number.to_bytes(32, "big")) for number in range(300))
        assert (await c.service.pull("m")).nodes == ["c", "a"]
        assert [other for _, other, protocol in c.hub.requests if protocol == "atmo/manifest/1"].count("x") <= 1
