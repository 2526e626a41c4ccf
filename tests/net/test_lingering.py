"""A link that is left, as it was silent or another one replaced it, stays for the requests under way on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from atmo.errors import RemoteError
from atmo.net.connection import Connection
from atmo.net.driver import PeerDriver
from atmo.net.ports import RequestStream
from atmo.net.requests import open_request
from atmo.peer import Revoked
from tests.net.test_driver import echo, introduce, linked, running, until

ECHO = "test/echo/1"


@asynccontextmanager
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PeerDriver, PeerDriver]]:
    monkeypatch.setattr("atmo.net.links._GRACE_S", 0.1)
    async with running("anna") as anna, running("bert") as bert:
        introduce(anna, bert)
        bert.handle(ECHO, echo)
        await until(lambda: linked(anna, bert))
        yield anna, bert


async def said(stream: RequestStream, text: bytes) -> bool:
    await stream.send(text)
    with trio.fail_after(5):
        return await stream.receive() == text


def connection_to(here: PeerDriver, there: PeerDriver) -> Connection:
    link = here.links.get(there.peer.node_id)
    assert link is not None
    return link.connection


async def test_a_request_outlives_the_link_that_fell_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(monkeypatch) as (anna, bert):
        old = connection_to(anna, bert)
        async with anna.request(bert.peer.node_id, ECHO, {}, 20) as stream:
            assert await said(stream, b"before")
            anna.links.hang_up(bert.peer.node_id, "nothing heard", lingers=True)
            assert not anna.peer.neighbours()
            await until(lambda: not bert.peer.neighbours())  # anna's gossip ended
            await trio.sleep(0.3)
            assert await said(stream, b"after")
            introduce(anna, bert)  # they find each other again
            await until(lambda: linked(anna, bert))
            assert connection_to(anna, bert) is not old
            assert await said(stream, b"beside the new link")
        await until(old.closed.is_set)
        await until(lambda: anna.endpoint.connection_count == bert.endpoint.connection_count == 1)
        assert linked(anna, bert)


async def test_without_requests_a_silent_link_ends_when_its_connection_would(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(monkeypatch) as (anna, bert):
        old = connection_to(anna, bert)
        monkeypatch.setattr(old, "config", replace(old.config, idle_timeout_s=0.5))
        anna.links.hang_up(bert.peer.node_id, "nothing heard", lingers=True)
        assert not old.closed.is_set()
        await until(old.closed.is_set)


async def test_a_request_that_its_other_end_never_heard_of_outlives_the_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair(monkeypatch) as (anna, bert):
        for one, other in ((anna, bert), (bert, anna)):  # both hear nothing, and hang up
            one.links.hang_up(other.peer.node_id, "nothing heard", lingers=True)
        lingering = anna.links.alive()[0].connection
        async with open_request(lingering, ECHO, {}, 5) as stream:  # as if it had been sent in vain before
            assert await said(stream, b"late")


async def test_a_request_outlives_the_link_that_another_one_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(monkeypatch) as (anna, bert):
        old = connection_to(anna, bert)
        monkeypatch.setattr(anna.peer, "keeps", lambda *_: False)
        monkeypatch.setattr(bert.peer, "keeps", lambda *_: False)
        async with anna.request(bert.peer.node_id, ECHO, {}, 20) as stream:
            assert await said(stream, b"before")
            anna.links.adopt(await anna.endpoint.dial(bert.endpoint.local_address, bert.peer.node_id, 5))
            await until(lambda: connection_to(anna, bert) is not old and linked(anna, bert))
            await trio.sleep(0.3)
            assert await said(stream, b"after")
        await until(old.closed.is_set)
        assert linked(anna, bert)


@pytest.mark.parametrize("first_silent", [False, True])
async def test_who_is_put_out_is_cut_off_from_requests_under_way(
    monkeypatch: pytest.MonkeyPatch, first_silent: bool
) -> None:
    async with pair(monkeypatch) as (anna, bert):
        old = connection_to(anna, bert)
        with pytest.raises(RemoteError):  # noqa: PT012
            async with anna.request(bert.peer.node_id, ECHO, {}, 20) as stream:
                if first_silent:
                    anna.links.hang_up(bert.peer.node_id, "nothing heard", lingers=True)
                anna._tell(Revoked(bert.peer.node_id))
                await until(old.closed.is_set)
                await said(stream, b"after")


async def test_links_that_linger_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(monkeypatch) as (anna, bert), trio.open_nursery() as nursery:
        seen: list[Connection] = []

        async def hold() -> None:
            with pytest.raises(RemoteError):  # noqa: PT012
                async with anna.request(bert.peer.node_id, ECHO, {}, 20) as stream:
                    await said(stream, b"x")
                    seen.append(connection_to(anna, bert))
                    await stream.receive()

        for number in range(4):
            nursery.start_soon(hold)
            await until(lambda: len(seen) == number + 1)  # noqa: B023 - it is called at once
            anna.links.hang_up(bert.peer.node_id, "nothing heard", lingers=True)
            await until(lambda: not bert.peer.neighbours())
            introduce(anna, bert)
            await until(lambda: linked(anna, bert))
        await until(lambda: [each.closed.is_set() for each in seen] == [True, True, False, False])
        for each in seen:
            each.close("enough")


async def test_a_link_that_lingers_ends_with_the_first_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(monkeypatch) as (anna, bert):
        old = connection_to(anna, bert)
        with pytest.raises(RemoteError):  # noqa: PT012
            async with anna.request(bert.peer.node_id, ECHO, {}, 20) as stream:
                assert await said(stream, b"before")
                anna.links.hang_up(bert.peer.node_id, "nothing heard", lingers=True)
                await until(lambda: not bert.peer.neighbours())
                bad = await old.open_stream()
                await bad.send_all(b"\0\0\0\1\xff")
                await until(old.closed.is_set)
                await said(stream, b"after")
        assert bert.stats.bad_requests == 1
