"""New versions of a model over real QUIC: light fine-tunes travel as deltas, and who lies in them is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
import zstandard

from atmo.net.ports import RequestStream
from atmo.services import deltas
from atmo.services.care import Care
from atmo.services.progress import Progress
from atmo.services.serve import DELTA_PROTOCOL
from atmo.wire import codec
from tests.services.machines import Machine, machine, names_seen
from tests.services.test_pull_over_quic import has_holders

LAYERS, WEIGHTS = 4, 1_000_000
LAYER_BYTES = 2 * WEIGHTS
HEAD_BYTES_MOST = 1_024


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source counts as slow, however fast this machine is."""
    monkeypatch.setattr(deltas, "FAST_BYTES_S", float("inf"))


def first_layers() -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(1)
    return [random.standard_normal(WEIGHTS).astype(np.float16) for _ in range(LAYERS)]


def moved(layers: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """All weights moved by about 1e-3 of themselves."""
    random = np.random.default_rng(2)
    return [(w * (1 + 1e-3 * random.standard_normal(WEIGHTS))).astype(np.float16) for w in layers]


def one_changed(layers: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    return [*layers[:2], np.random.default_rng(3).standard_normal(WEIGHTS).astype(np.float16), *layers[3:]]


def write(path: Path, layers: list[np.ndarray[Any, Any]]) -> Path:
    spans = {
        f"layer{n}": {"dtype": "F16", "shape": [WEIGHTS], "data_offsets": [n * LAYER_BYTES, (n + 1) * LAYER_BYTES]}
        for n in range(len(layers))
    }
    head = json.dumps(spans).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(layer.tobytes() for layer in layers))
    return path


async def mesh_of(stack: AsyncExitStack, folder: Path, *names: str, use_tcp: bool = False) -> list[Machine]:
    """A mesh in which all have `m` 1.0, that the first has imported."""
    machines = [await stack.enter_async_context(machine(folder, name, use_tcp=use_tcp)) for name in names]
    first, *others = machines
    await first.service.create("home")
    for guest in others:
        await guest.service.join((await first.service.invite())["code"])
    for one in machines:
        await names_seen(one, set(names))
    await first.models.import_model(write(folder / "1.safetensors", first_layers()), name="m", version="1.0")
    for guest in others:
        await has_holders(guest, set(names[: machines.index(guest)]))
        await guest.models.pull("m")
    return machines


async def publish(one: Machine, folder: Path, layers: list[np.ndarray[Any, Any]], version: str = "2.0") -> Path:
    source = write(folder / f"{version}.safetensors", layers)
    await one.models.import_model(source, name="m", version=version)
    return source


def care_of(one: Machine) -> Care:
    return Care(one.models, one.storage, one.host.mesh)


async def announced(one: Machine, version: str, wanted: set[str]) -> None:
    """Waits until a node has heard that these have a version, and nobody else."""
    with trio.fail_after(10):
        while {node for row in one.models.rows("mesh") if row.version == version for node in row.nodes} != wanted:
            await trio.sleep(0.02)


async def pull(one: Machine, reports: list[Progress], holders: set[str], version: str = "2.0") -> bytes:
    """Pulls a version once these nodes are known to have it, and returns its bytes."""
    await announced(one, version, holders)
    await one.models.pull(f"m@=={version}", reports.append)
    (model,) = [model for model in one.models.local_models() if model.version == version]
    return model.path.read_bytes()


async def test_a_light_fine_tune_travels_in_under_a_third(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert = await mesh_of(stack, tmp_path, "anna", "bert")
        source = await publish(anna, tmp_path, moved(first_layers()))
        before, sent = bert.models.fetching.travelled_bytes, anna.models.server.stats.chunks
        foreseen = await care_of(anna).diff("m@1.0", "m@2.0", None)
        assert (foreseen["deltas_measured"], foreseen["exact"]) == (True, True)
        await announced(bert, "2.0", {"anna"})
        afar = await care_of(bert).diff("m@1.0", "m@2.0", None)
        assert (afar["deltas_measured"], afar["exact"]) == (False, False)
        assert anna.models.server.stats.chunks == sent, "only its manifest was fetched"
        reports: list[Progress] = []
        assert await pull(bert, reports, {"anna"}) == source.read_bytes()
        size = source.stat().st_size
        travelled = bert.models.fetching.travelled_bytes - before
        assert travelled == foreseen["travels_bytes"] < 0.3 * size
        assert size - HEAD_BYTES_MOST < afar["travels_bytes"] <= size
        last = reports[-1]
        assert (last.phase, last.bytes_done, last.travelled_bytes) == ("done", size, travelled)
        assert last.copied_bytes < HEAD_BYTES_MOST, "only the head is the same"
        (row,) = [row for row in await bert.models.transfers.rows(over=True) if row.version == "2.0"]
        assert (row.travelled_bytes, row.copied_bytes) == (travelled, last.copied_bytes)
        served, fetched = anna.models.server.stats, bert.models.fetching
        assert served.deltas == fetched.deltas > 0
        assert served.spared_bytes == fetched.spared_bytes > 0.7 * size
        assert served.bytes == fetched.travelled_bytes
        assert bert.driver.peer.stats.misbehaved == 0


async def test_of_a_changed_layer_no_more_than_the_layer_travels(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert = await mesh_of(stack, tmp_path, "anna", "bert")
        source = await publish(anna, tmp_path, one_changed(first_layers()))
        reports: list[Progress] = []
        assert await pull(bert, reports, {"anna"}) == source.read_bytes()
        assert reports[-1].travelled_bytes <= LAYER_BYTES
        assert reports[-1].copied_bytes + LAYER_BYTES == source.stat().st_size


async def test_over_a_fast_network_whole_chunks_come_over_tcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "FAST_BYTES_S", 0.0)
    async with AsyncExitStack() as stack:
        anna, bert = await mesh_of(stack, tmp_path, "anna", "bert", use_tcp=True)
        source = await publish(anna, tmp_path, moved(first_layers()))
        assert await pull(bert, [], {"anna"}) == source.read_bytes()
        assert bert.models.fetching.deltas == 0
        assert bert.models.fetching.tcp_chunks


@pytest.mark.parametrize("path", ["direct", "relay", None])
async def test_where_tcp_is_on_deltas_come_over_slow_paths(tmp_path: Path, path: str | None) -> None:
    async with AsyncExitStack() as stack:
        anna, bert = await mesh_of(stack, tmp_path, "anna", "bert", use_tcp=True)
        source = await publish(anna, tmp_path, moved(first_layers()))
        bert.driver.path = lambda node: path and SimpleNamespace(path=path)  # type: ignore[method-assign,assignment,return-value]
        assert await pull(bert, [], {"anna"}) == source.read_bytes()
        assert bert.models.fetching.deltas >= LAYERS
        assert bert.models.fetching.spared_bytes > 0.7 * source.stat().st_size


def same_as_base(size: int) -> bytes:
    """A sound delta that tells no difference."""
    return b"\x02" + zstandard.ZstdCompressor().compress(bytes(size))


LIES: dict[str, tuple[dict[str, Any], Callable[[int], bytes]]] = {
    "a delta of other bytes": ({"delta": True}, same_as_base),
    "a delta of a smaller chunk": ({"delta": True}, lambda size: same_as_base(size - 2)),
    "a bomb": ({"delta": True}, lambda size: same_as_base(2**28)),
    "no delta": ({"delta": True}, lambda size: bytes(100)),
    "a delta larger than the chunk": ({"delta": True}, lambda size: bytes(size + 1)),
    "more than a chunk may have": ({"size": 2**40, "delta": False}, lambda size: b""),
    "too little": ({"delta": False}, lambda size: b"short"),
    "other bytes": ({"delta": False}, bytes),
    "neither": ({}, bytes),
    "no truth": ({"delta": 1}, bytes),
}


@pytest.mark.parametrize("lie", LIES)
async def test_who_lies_is_dropped_and_the_result_is_right(tmp_path: Path, lie: str) -> None:
    said, make = LIES[lie]
    async with AsyncExitStack() as stack:
        anna, bert, cleo = await mesh_of(stack, tmp_path, "anna", "bert", "cleo")
        source = await publish(anna, tmp_path, moved(first_layers()))
        await pull(bert, [], {"anna"})
        (model,) = [model for model in anna.models.local_models() if model.version == "2.0"]
        sizes = {place.hash: place.size for place in model.manifest.chunk_places()}

        async def lying(stream: RequestStream) -> None:
            data = make(sizes[stream.header["chunk"]])
            await stream.send(codec.encode({"size": len(data)} | said))
            await stream.send_raw(data)

        bert.driver.handle(DELTA_PROTOCOL, lying)
        reports: list[Progress] = []
        assert await pull(cleo, reports, {"anna", "bert"}) == source.read_bytes()
        assert cleo.driver.peer.stats.misbehaved >= 1
        assert {name for report in reports for name in report.sources} <= {"anna"}
