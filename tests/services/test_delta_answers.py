"""Deltas piece by piece, on a mesh in memory: what a holder answers, what a downloader asks for, what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from atmo.engine import FetchChunk
from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.net.ports import MeshPort, RequestStream
from atmo.services import deltas
from atmo.services.deltas import WHOLE_MOST, Deltas, find_deltas
from atmo.services.serve import DELTA_PROTOCOL
from atmo.storage.delta import decode_untrusted
from atmo.storage.partial import PartialDownload
from atmo.transfer.manifest import CHUNK_BYTES, Manifest, chunk_hash
from atmo.transfer.terms import Base
from atmo.wire import codec
from tests.services.hub import MemoryStream, Node
from tests.services.kit import mesh, model_file
from tests.transfer.samples import manifest_of

NODE, OTHER = NodeId(bytes(32)), NodeId(bytes([1] * 32))


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "FAST_BYTES_S", float("inf"))


def nudged(source: Path, step: int = 100) -> Path:
    """The same model with every `step`th byte of its weights one higher."""
    data = bytearray(source.read_bytes())
    begin = len(data) % CHUNK_BYTES
    data[begin::step] = bytes((byte + 1) % 256 for byte in data[begin::step])
    target = source.with_name(f"nudged-{step}-{source.name}")
    target.write_bytes(data)
    return target


def chunk_of(node: Node, version: str, number: int = 1) -> bytes:
    (model,) = [model for model in node.service.local_models() if model.version == version]
    return model.manifest.files[0].chunks[number]


async def answer(asker: Node, holder: Node, chunk: bytes, base: bytes) -> tuple[dict[str, Any], bytes]:
    """Asks for a delta; returns the answer and what follows it."""
    async with asker.request(holder.id, DELTA_PROTOCOL, {"chunk": chunk, "base": base}, 5.0) as stream:
        said = codec.decode_untrusted(await stream.receive() or b"", 1_000)
        return said, await stream.receive_raw(said["size"]) if "size" in said else b""


async def test_a_holder_sends_a_delta_where_that_is_smaller(tmp_path: Path) -> None:
    old = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="m", version="1.0")
        await a.service.import_model(nudged(old), name="m", version="2.0")
        new, before = chunk_of(a, "2.0"), chunk_of(a, "1.0")
        said, data = await answer(b, a, new, before)
        assert said == {"size": len(data), "delta": True}
        whole = a.storage.read_chunk(new)
        assert decode_untrusted(data, a.storage.read_chunk(before), len(whole)) == whole
        for base in (chunk_of(a, "1.0", 2), bytes(32)):  # nothing in common; not there
            assert await answer(b, a, new, base) == ({"size": len(whole), "delta": False}, whole)
        assert (await answer(b, a, bytes(32), before))[0] == {"error": "missing"}
        stats = a.service.server.stats
        assert (stats.deltas, stats.spared_bytes) == (1, len(whole) - len(data))
        assert (stats.chunks, stats.bytes) == (3, len(data) + 2 * len(whole))
        assert a.transfer.stats.served_bytes == stats.bytes
        for header in ({"chunk": new}, {"base": new}, {"chunk": new, "base": b"short"}):
            stream = MemoryStream(b.id, DELTA_PROTOCOL, header, None, None)
            with pytest.raises(WireError, match="without the 32 bytes of a"):
                await a.handlers[DELTA_PROTOCOL](cast(RequestStream, stream))


async def test_what_somebody_may_not_read_is_no_base(tmp_path: Path) -> None:
    old = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="secret", version="1.0", private=True)
        await a.service.import_model(nudged(old), name="m", version="2.0")
        new, secret = chunk_of(a, "2.0"), chunk_of(a, "1.0")
        said, data = await answer(b, a, new, secret)
        assert (said["delta"], chunk_hash(data)) == (False, new)
        assert (await answer(b, a, secret, new))[0] == {"error": "forbidden"}


async def test_a_base_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    old = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="m", version="1.0")
        await a.service.import_model(nudged(old), name="m", version="2.0")
        new, before = chunk_of(a, "2.0"), chunk_of(a, "1.0")
        spoil(a, "1.0")
        assert (await answer(b, a, new, before))[0] == {"size": CHUNK_BYTES, "delta": False}


def spoil(node: Node, version: str) -> None:
    (model,) = [model for model in node.service.local_models() if model.version == version]
    model.path.write_bytes(bytes(model.manifest.size_bytes))


async def test_where_the_own_base_is_damaged_chunks_come_whole(tmp_path: Path) -> None:
    old = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="m", version="1.0")
        await b.service.pull("m")
        new = nudged(old)
        await a.service.import_model(new, name="m", version="2.0")
        spoil(b, "1.0")
        await b.service.pull("m")
        assert b.service.local_models()[0].path.read_bytes() == new.read_bytes()
        stats = b.service.fetching
        assert stats.deltas == 3, "each was asked for once"
        assert stats.quic_chunks == 4 + 3 + 1, "1.0 with its head; what the deltas were of; the head, damaged here, too"
        assert b.misbehaved == []


async def test_a_holder_that_knows_no_deltas_sends_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="m", version="1.0")
        await b.service.pull("m")
        new = nudged(old)
        await a.service.import_model(new, name="m", version="2.0")

        async def resets(stream: RequestStream) -> None:
            await stream.finish()

        a.handle(DELTA_PROTOCOL, resets)
        await b.service.pull("m")
        assert b.service.local_models()[0].path.read_bytes() == new.read_bytes()
        assert b.service.fetching.deltas == 0
        assert b.misbehaved == []


async def test_who_is_busy_is_asked_for_deltas_again(tmp_path: Path) -> None:
    old = model_file(tmp_path, 3)
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(old, name="m", version="1.0")
        await b.service.pull("m")
        await a.service.import_model(nudged(old), name="m", version="2.0")
        honest, refused = a.handlers[DELTA_PROTOCOL], 0

        async def busy_first(stream: RequestStream) -> None:
            nonlocal refused
            if refused < 2:
                refused += 1
                await stream.send(codec.encode({"error": "busy"}))
            else:
                await honest(stream)

        a.handle(DELTA_PROTOCOL, busy_first)
        await b.service.pull("m")
        assert b.service.fetching.deltas == 3


def port(rate: float = 0.0, path: str | None = None, *, tcp: bool = True) -> MeshPort:
    """A mesh in which a source is so fast and reached so."""
    return cast(
        MeshPort,
        SimpleNamespace(
            bulk=object() if tcp else None,
            path=lambda node: path and SimpleNamespace(path=path),
            peer=SimpleNamespace(rate_of=lambda transfer, node: rate),
        ),
    )


@pytest.mark.parametrize(
    ("mesh", "asks"),
    [
        (port(), True),
        (port(path="lan"), False),
        (port(path="lan", tcp=False), True),
        (port(path="direct"), True),
        (port(99e6, "lan"), True),
        (port(101e6, "lan"), False),
        (port(101e6, "direct"), False),
    ],
)
def test_slow_sources_are_asked_for_deltas(mesh: MeshPort, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "FAST_BYTES_S", 100e6)
    assert (Deltas({0: b"base"}).base(mesh, FetchChunk("t", NODE, 0)) is not None) is asks


def test_versions_without_anything_in_common_are_not_asked_for_deltas_for_long() -> None:
    plan, mesh = Deltas({0: b"base", 1: b"other"}), port()
    fetch = FetchChunk("t", NODE, 0)
    for _ in range(2):
        for _ in range(WHOLE_MOST - 1):
            plan.came(as_delta=False)
        assert plan.base(mesh, fetch) == b"base"
        plan.came(as_delta=True)
    plan.without(OTHER)
    assert plan.base(mesh, fetch) == b"base"
    assert plan.base(mesh, FetchChunk("t", OTHER, 0)) is None
    plan.forget(0)
    assert plan.base(mesh, fetch) is None
    assert plan.base(mesh, FetchChunk("t", NODE, 2)) is None
    for _ in range(WHOLE_MOST):
        plan.came(as_delta=False)
    assert plan.base(mesh, FetchChunk("t", NODE, 1)) is None


async def test_the_base_is_the_model_that_tells_most(tmp_path: Path) -> None:
    small, large = model_file(tmp_path, 1), model_file(tmp_path, 3)
    async with mesh(tmp_path, "a") as (a,):
        await a.service.import_model(small, name="m", version="1.0")
        await a.service.import_model(large, name="origin", version="1.0")
        await a.service.import_model(nudged(large), name="probe", version="1.0")
        models = {model.name: model.manifest for model in a.service.local_models()}
        await a.service.remove("probe")
        target = replace(models["probe"], name="m", version="2.0")

        def bases(manifest: Manifest, have: set[int] = frozenset()) -> dict[int, bytes]:  # type: ignore[assignment]
            partial = SimpleNamespace(manifest=manifest, have=have, places=list(manifest.chunk_places()))
            plan = find_deltas(a.storage, cast(PartialDownload, partial))
            chosen = ((n, plan.base(port(), FetchChunk("t", NODE, n))) for n in range(len(partial.places)))
            return {number: base for number, base in chosen if base is not None}

        origin = dict(enumerate(models["origin"].files[0].chunks))
        of_name = set(models["m"].files[0].chunks)
        made_from = replace(target, base=Base("origin", "1.0"))
        assert bases(made_from, {0}) == {number: origin[number] for number in (1, 2, 3)}
        assert set(bases(target, {0}).values()) <= of_name, "nothing says that it comes from `origin`"
        assert bases(replace(target, base=Base("m", "1.0")), {0}) == bases(target, {0})
        assert bases(made_from, {0, 1, 2, 3}) == {}
        assert bases(manifest_of(Random(1).randbytes(100_000), name="other")) == {}
