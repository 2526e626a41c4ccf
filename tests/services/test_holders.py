"""Holders that die, fail, lie about chunks, come late or are gone: the download goes on with who is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from atmo.clock import Now
from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.services import downloads, fetch
from atmo.transfer.config import TransferConfig
from atmo.transfer.manifest import CHUNK_BYTES
from tests.services.hub import Node
from tests.services.kit import chunk_requests, mesh, model_file


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
        offers = iter([peer.models(b.now())] * 4)  # to choose, to see what is taken, to find rivals, and to try them
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
        told: set[NodeId] = set()
        want, up = others[-1].peer.want, others[-1].peer.holder_up

        def note_want(now: Now, transfer: str, sizes: Any, have: Any, holders: Any, **more: Any) -> None:
            told.update(holders)
            want(now, transfer, sizes, have, holders, **more)

        def note_up(now: Now, transfer: str, node: NodeId) -> None:
            told.add(node)
            up(now, transfer, node)

        others[-1].peer.want, others[-1].peer.holder_up = note_want, note_up
        for node in others:
            await node.service.pull("big")
        assert len(told) == 2


async def test_the_only_holder_whose_copy_is_damaged_is_not_asked_for_minutes(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", lonely_s=0.2) as (a, b):
        await a.service.import_model(model_file(tmp_path, 4), name="big")
        with next((tmp_path / "a" / "models").glob("big*")).open("r+b") as file:
            file.seek(2 * CHUNK_BYTES)
            file.write(b"damage")
        with pytest.raises(UserError, match="no holder is left; a: its copy is damaged"):
            await b.service.pull("big")
        assert b.misbehaved == []
