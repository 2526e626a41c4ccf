"""One download: continued, shared by several pulls, taken over, and only of what is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from atmo.errors import UserError
from atmo.services.progress import Progress
from atmo.transfer.manifest import CHUNK_BYTES
from tests.services.hub import Node
from tests.services.kit import chunk_requests, mesh, model_file


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
