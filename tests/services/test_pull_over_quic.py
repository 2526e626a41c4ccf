"""Models over real QUIC on loopback, without TCP: from two holders, from one that lies, and from one that vanishes."""

from __future__ import annotations

import hashlib
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from atmo.errors import AtmoError
from atmo.net.ports import RequestStream
from atmo.services.progress import Progress
from atmo.services.serve import CHUNK_PROTOCOL
from atmo.wire import codec
from tests.services.machines import Machine, machine, names_seen

MIB = 2**20


def safetensors(path: Path, size: int) -> str:
    """Writes a model file of random numbers; returns its SHA-256 in hexadecimal."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + random.Random(7).randbytes(size))
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def three(
    stack: AsyncExitStack, tmp_path: Path, *, use_tcp: bool = False
) -> tuple[Machine, Machine, Machine, str]:
    """A mesh of three; the first two hold the model `weights`."""
    anna, bert, cleo = [
        await stack.enter_async_context(machine(tmp_path, name, use_tcp=use_tcp)) for name in ("anna", "bert", "cleo")
    ]
    await anna.service.create("home")
    for guest in (bert, cleo):
        await guest.service.join((await anna.service.invite())["code"])
    for one in (anna, bert, cleo):
        await names_seen(one, {"anna", "bert", "cleo"})
    digest = safetensors(tmp_path / "weights.safetensors", 12 * MIB)
    await anna.models.import_model(tmp_path / "weights.safetensors", name="weights", version="1.0")
    await has_holders(bert, {"anna"})
    await bert.models.pull("weights")
    await has_holders(cleo, {"anna", "bert"})
    return anna, bert, cleo, digest


async def has_holders(one: Machine, wanted: set[str]) -> None:
    with trio.fail_after(10):
        while {node for row in one.models.rows("mesh") for node in row.nodes} != wanted:
            await trio.sleep(0.02)


def stored_digest(one: Machine) -> str:
    (model,) = one.models.local_models()
    return hashlib.sha256(model.path.read_bytes()).hexdigest()


async def test_both_holders_serve_one_download(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, cleo, digest = await three(stack, tmp_path)
        before = anna.models.server.stats.chunks
        reports: list[Progress] = []
        row = await cleo.models.pull("weights@>=1", reports.append)
        assert row.sha256 == digest == stored_digest(cleo)
        assert anna.models.server.stats.chunks > before
        assert bert.models.server.stats.chunks > 0
        assert reports[-1].bytes_done == reports[-1].bytes_total == row.size_bytes
        assert {name for report in reports for name in report.sources} == {"anna", "bert"}


@pytest.mark.parametrize("lie", ["other bytes", "too short", "no CBOR"])
async def test_a_holder_that_sends_wrong_bytes_is_dropped_and_the_result_is_right(tmp_path: Path, lie: str) -> None:
    async with AsyncExitStack() as stack:
        _, bert, cleo, digest = await three(stack, tmp_path)
        honest = bert.models.server.chunk

        async def lying(stream: RequestStream) -> None:
            if lie == "no CBOR":
                await stream.send(b"\xff")
            elif lie == "too short":
                await stream.send(codec.encode({"size": 5}))
                await stream.send_raw(b"short")
            else:
                await stream.send(codec.encode({"size": MIB}))
                await stream.send_raw(bytes(MIB))

        assert honest is not None
        bert.driver.handle(CHUNK_PROTOCOL, lying)
        row = await cleo.models.pull("weights")
        assert row.sha256 == digest == stored_digest(cleo)
        assert cleo.driver.peer.stats.misbehaved >= 1


async def test_a_download_outlives_a_holder_that_vanishes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, cleo, digest = await three(stack, tmp_path)

        async def vanish(stream: RequestStream) -> None:
            for connection in list(bert.driver.endpoint.connections):
                await connection.aclose("power cut")

        bert.driver.handle(CHUNK_PROTOCOL, vanish)
        row = await cleo.models.pull("weights")
        assert row.sha256 == digest == stored_digest(cleo)
        assert anna.models.server.stats.chunks


async def test_a_model_that_nobody_has_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, _, cleo, _ = await three(stack, tmp_path)
        with pytest.raises(AtmoError, match="nothing-like-it"):
            await cleo.models.pull("nothing-like-it")
        with pytest.raises(AtmoError, match=r"weights"):
            await cleo.models.pull("weights@>=2")
        assert cleo.models.local_models() == []
