"""The bridge in a mesh: models of other programs travel from where they lie, and only right bytes do."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from atmo.errors import UserError
from atmo.services.bridge import BridgeService
from atmo.services.downloads import TRAVELLING
from atmo.storage.bridge import Bridge
from atmo.storage.bridge_find import BridgePlaces
from tests.services.machines import Machine, machine, names_seen
from tests.storage import samples
from tests.storage.bridge_kit import REVISION, gguf, hub_file, ollama_file, sha256

MIB = 2**20
GGUF = gguf(8 * MIB + 48)
TINY = "org/tiny:tiny.gguf"


def places(folder: Path) -> BridgePlaces:
    return BridgePlaces(folder / "farm", folder / "hub", folder / "ollama")


@asynccontextmanager
async def bridged(one: Machine, where: BridgePlaces, interval_s: float = 300) -> AsyncIterator[BridgeService]:
    """Runs the bridge of a node."""
    bridge = Bridge(one.database, one.signer, "kitchen", where, TRAVELLING)
    service = BridgeService(one.models, bridge, interval_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        yield service
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pulling(one: Machine) -> AsyncIterator[None]:
    """Pulls the model as long as the block runs, whatever becomes of it."""

    async def pull() -> None:
        with suppress(UserError):
            await one.models.pull(TINY)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull)
        yield
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not true():
            await trio.sleep(0.02)


def has(one: Machine, *names: str) -> Callable[[], bool]:
    return lambda: {row.name for row in one.models.rows("mesh")} == set(names)


@asynccontextmanager
async def two(tmp_path: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    async with AsyncExitStack() as stack:
        anna, bert = [await stack.enter_async_context(machine(tmp_path, name)) for name in ("anna", "bert")]
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite())["code"])
        await names_seen(bert, {"anna", "bert"})
        yield anna, bert


async def test_a_blob_of_huggingface_s_cache_goes_to_another_node(tmp_path: Path) -> None:
    blob = hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
    ollama_file(tmp_path / "ollama", "llama3:8b", samples.gguf())
    async with two(tmp_path) as (anna, bert), bridged(anna, places(tmp_path)):
        await until(has(bert, TINY, "llama3:8b"))
        row = await bert.models.pull(f"{TINY}@==0+g{REVISION[:8]}")
        assert (row.sha256, row.source, row.nodes) == (blob.name, "", ["bert", "anna"])
        (model,) = bert.models.local_models()
        assert model.path.read_bytes() == GGUF
        assert hashlib.sha256(model.path.read_bytes()).hexdigest() == blob.name
        assert anna.models.server.stats.chunks > 0
        assert not list((tmp_path / "anna" / "models").glob("*.gguf")), "nothing was copied"


async def test_the_same_blob_in_two_caches_has_two_sources(tmp_path: Path) -> None:
    for name in ("anna", "bert"):
        hub_file(tmp_path / f"{name}s", "org/tiny", "tiny.gguf", GGUF)
    async with AsyncExitStack() as stack:
        anna, bert = await stack.enter_async_context(two(tmp_path))
        cleo = await stack.enter_async_context(machine(tmp_path, "cleo"))
        await cleo.service.join((await anna.service.invite())["code"])
        for one, name in ((anna, "anna"), (bert, "bert")):
            await stack.enter_async_context(bridged(one, BridgePlaces(huggingface=tmp_path / f"{name}s")))
        await until(lambda: {node for row in cleo.models.rows("mesh") for node in row.nodes} == {"anna", "bert"})
        row = await cleo.models.pull(TINY)
        assert row.sha256 == sha256(GGUF)
        assert min(one.models.server.stats.chunks for one in (anna, bert)) > 0


async def test_what_changes_while_it_is_pulled_never_arrives(tmp_path: Path) -> None:
    blob = hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
    async with two(tmp_path) as (anna, bert), bridged(anna, places(tmp_path)):
        await until(has(bert, TINY))
        storage = anna.models._storage
        honest, honest_into = storage.read_chunk, storage.read_chunk_into
        served: list[bytes] = []

        def note(name: bytes) -> None:
            if len(served) == 2:
                with blob.open("r+b") as file:
                    file.truncate(4 * MIB)
            served.append(name)

        def read(name: bytes) -> bytes:
            note(name)
            return honest(name)

        def read_into(name: bytes, room: memoryview) -> None:
            note(name)
            honest_into(name, room)

        storage.read_chunk = read  # type: ignore[method-assign]
        storage.read_chunk_into = read_into  # type: ignore[method-assign]
        async with pulling(bert):
            await until(lambda: len(served) > 2)
            await until(has(bert))
        assert bert.models.local_models() == []
        assert not bert.driver.peer.stats.misbehaved, "a holder whose file changed is no liar"


async def test_offers_follow_the_files(tmp_path: Path) -> None:
    where = places(tmp_path)
    async with two(tmp_path) as (anna, bert), bridged(anna, where) as service:
        await service.rescan()
        assert has(bert)()
        blob = hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
        await service.rescan()
        await until(has(bert, TINY))
        blob.unlink()
        await service.rescan()
        await until(has(bert))
        assert service.view() == {"enabled": True, "offered": 0, "waiting": 0, "not_offered": [], "note": ""}


async def test_a_chunk_asked_of_a_file_that_changed_brings_a_new_look(tmp_path: Path) -> None:
    blob = hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
    async with two(tmp_path) as (anna, bert), bridged(anna, places(tmp_path), interval_s=86_400):
        await until(has(bert, TINY))
        blob.unlink()
        async with pulling(bert):
            await until(has(anna))


async def test_a_pulled_model_takes_the_place_of_the_bridged_one(tmp_path: Path) -> None:
    blob = hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
    async with machine(tmp_path, "anna", online=False) as anna, bridged(anna, places(tmp_path)) as service:
        await until(lambda: service.view()["offered"] == 1)
        row = (await anna.models.import_model(blob.rename(tmp_path / "t.gguf"), name=TINY, version="0+g01234567")).name
        (tmp_path / "t.gguf").rename(blob)
        assert [(row.name, row.source) for row in anna.models.rows("local")] == [(row, "")]
        assert [str(model.path.parent) for model in service.entries()] == [str(tmp_path / "anna" / "models")]


async def test_a_database_that_fails_does_not_end_the_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)

    def fail(*_: object) -> None:
        raise UserError("Cannot use the database.", "Check free space.")

    async with machine(tmp_path, "anna", online=False) as anna:
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(Bridge, "work", fail)
            async with bridged(anna, places(tmp_path)) as service:
                await until(lambda: "could not be read" in caplog.text)
                patch.setattr(Bridge, "scan", fail)
                await service.rescan()
                assert "could not be looked for" in caplog.text
                patch.undo()
                await service.rescan()
                await until(lambda: service.view()["offered"] == 1)


async def test_a_limit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        hub_file(tmp_path / "hub", "org/tiny", f"{number}.gguf", samples.gguf(tensor_bytes=128 + 16 * number))
    monkeypatch.setattr("atmo.storage.bridge_find.FILES_MOST", 2)
    async with machine(tmp_path, "anna", online=False) as anna, bridged(anna, places(tmp_path)) as service:
        await until(lambda: service.view()["offered"] == 2)
        assert "the first 2 are looked at" in caplog.text
        assert "the first 2" in service.view()["note"]
