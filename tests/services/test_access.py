"""Holders refuse what a member's roles may not read: chunks and manifests, of whole models and of downloads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from atmo.errors import UserError
from atmo.services.access import EXPECTED_MOST
from atmo.services.fetch import NotThere, fetch_manifest
from atmo.transfer.terms import Access
from tests.services.hub import Node
from tests.services.kit import mesh, model_file
from tests.transfer.samples import manifest_of


def restricted(path: Path, **access: list[str]) -> Path:
    path.with_name(path.name + ".yaml").write_text(yaml.safe_dump({"access": access}))
    return path


def chunks(node: Node, version: str = "1.0.0") -> list[bytes]:
    (model,) = [model for model in node.service.local_models() if model.version == version]
    return [name for file in model.manifest.files for name in file.chunks]


async def answer(asker: Node, holder: Node, protocol: str, header: Mapping[str, Any]) -> str:
    async with asker.request(holder.id, protocol, header, 5.0) as stream:
        data = await stream.receive()
        assert data is not None
        return "forbidden" if b"forbidden" in data else "given" if b"size" in data else data.decode(errors="replace")


async def test_who_may_not_read_gets_neither_manifest_nor_chunk(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        source = restricted(model_file(tmp_path, 2), read=["gateway", "admin"])
        row = await a.service.import_model(source, name="m")
        assert row.readers == ("gateway", "admin")
        b.roles = ("gateway",)
        (told,) = a.published
        for name in chunks(a):
            assert await answer(b, a, "atmo/chunks/1", {"chunk": name}) == "given"
            assert await answer(c, a, "atmo/chunks/1", {"chunk": name}) == "forbidden"
        assert await answer(c, a, "atmo/manifest/1", {"manifest": told.manifest}) == "forbidden"
        with pytest.raises(NotThere, match="this node's roles"):
            await fetch_manifest(c, a.id, told)
        assert a.service.server.stats.forbidden == len(chunks(a)) + 2
        with pytest.raises(UserError, match="only for members with the role gateway or admin; this node's: edge"):
            await c.service.pull("m")
        assert (await b.service.pull("m")).local
        assert not b.service.vetting.own_roles().isdisjoint({"gateway"})
        assert await answer(c, b, "atmo/chunks/1", {"chunk": chunks(b)[0]}) == "forbidden", "so do all holders"


async def test_a_chunk_may_be_had_by_whoever_may_read_some_model_that_contains_it(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        source = restricted(model_file(tmp_path, 2), read=["gateway"])
        await a.service.import_model(source, name="m", version="1.0.0")
        names = chunks(a)
        data = bytearray(source.read_bytes())
        data[-1] ^= 1
        other = tmp_path / "other.safetensors"
        other.write_bytes(data)
        await a.service.import_model(restricted(other, read=["sensor"]), name="n", version="2.0.0")
        shared = [name for name in names if name in chunks(a, "2.0.0")]
        assert len(shared) == len(names) - 1
        may_read = a.service._access.may_read
        assert not may_read(c.id, shared[0])
        c.roles = ("sensor",)
        assert may_read(c.id, shared[0])
        assert not may_read(c.id, names[-1])
        c.roles = ()
        open_to_all = tmp_path / "open.safetensors"
        open_to_all.write_bytes(data)
        await a.service.import_model(open_to_all, name="o", version="3.0.0")
        assert may_read(c.id, shared[0])
        assert not may_read(c.id, names[-1])
        await a.service.remove("o")
        assert not may_read(c.id, shared[0])


async def test_a_download_that_began_is_kept_from_the_same(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        access = a.service._access
        for number in range(EXPECTED_MOST + 1):
            manifest = manifest_of(bytes([number]) * 100, access=Access(("gateway",)))
            await access.expect(number.to_bytes(32, "big"), manifest)
        assert access.may_read(c.id, (0).to_bytes(32, "big")), "one that came to nothing is forgotten"
        (name,) = manifest.main.chunks
        assert not access.may_read(c.id, name)
        await access.expect(b"x" * 32, manifest_of(bytes([EXPECTED_MOST]) * 100))
        assert not access.may_read(c.id, name), "a model for everybody that is not here yet opens nothing"
        c.roles = ("gateway",)
        assert access.may_read(c.id, name)


async def test_private_models_are_for_nobody_until_they_are_published(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        row = await a.service.import_model(model_file(tmp_path, 1), name="m", private=True)
        assert row.private
        assert a.published == ()
        assert await answer(c, a, "atmo/chunks/1", {"chunk": chunks(a)[0]}) == "forbidden"
        with pytest.raises(UserError, match="No node has"):
            await c.service.pull("m")
        again = await a.service.import_model(model_file(tmp_path, 1), name="m")
        assert again.private, "it is here already"
        with pytest.raises(UserError):
            await a.service.import_model(tmp_path / "nothing.onnx", private=True)
        sidecar = model_file(tmp_path, 1, seed=9)
        sidecar.with_name(sidecar.name + ".yaml").write_text("publish: false\n")
        assert (await a.service.import_model(sidecar, name="quiet")).private
        public = await a.service.import_model(model_file(tmp_path, 2), name="n")
        assert not public.private
        known = await a.service.import_model(model_file(tmp_path, 2), name="n", private=True)
        assert not known.private, "it was public"
        assert [version.record.name for version in a.service.versions() if not version.private] == ["n"]
        assert len(a.published) == 1


async def test_versions_of_a_name_are_for_those_who_may_write(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(restricted(model_file(tmp_path, 1), write=["admin"]), name="m")
        await c.service.pull("m")
        await b.service.import_model(model_file(tmp_path, 1, seed=2), name="m", version="2.0")
        with pytest.raises(UserError, match=r"m 2.0 was published by b, and only admin may publish versions of m"):
            await c.service.pull("m")
        with pytest.raises(UserError, match="only admin may publish versions of m"):
            await c.service.import_model(model_file(tmp_path, 1, seed=3), name="m", version="3.0")
        b.roles = ("admin",)
        assert (await c.service.pull("m")).version == "2.0"
        await a.service.import_model(
            model_file(tmp_path, 1, seed=4), name="m", version="4.0"
        )  # its publisher always may


async def test_rules_are_made_of_what_is_here_when_they_are_made(tmp_path: Path) -> None:
    """A refresh that was asked for before something came must not open it."""
    async with mesh(tmp_path, "a", "c") as (a, c):
        others = a.service._here()
        await a.service.import_model(model_file(tmp_path, 1), name="m", private=True)
        a.service._access.refresh(others)
        assert not a.service._access.may_read(c.id, chunks(a)[0])
