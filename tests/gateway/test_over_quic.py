"""`atmo/execute/1` over the real transport: what a memory stream may have hidden."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
import trio

from atmo.backends.base import as_object
from atmo.backends.pool import BackendPool
from atmo.errors import RequestError
from atmo.gateway.remote import PROTOCOL, Outgoing, RemoteParts, open_remote
from atmo.gateway.serving import ExecuteServer
from atmo.identity import Signer
from atmo.net.ports import MeshPort
from atmo.net.quic import Connection, open_endpoint
from atmo.net.requests import open_request, serve_requests
from atmo.router.capability import CHAT, Capability
from atmo.router.offer import Offer
from tests.gateway.world import Echo, Failing, chat

FAILING = Capability("echo:echo", CHAT, "echo", general=True)
ECHO = Capability("echo:two", CHAT, "two")
GONE = Capability("echo:gone", CHAT, "gone")


class Port:
    """Requests over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def request(self, _node: Any, protocol: str, header: Any, deadline_s: float) -> AbstractAsyncContextManager[Any]:
        return open_request(self.connection, protocol, header, deadline_s)


@dataclass
class Link:
    """A connection to a node that runs two backends."""

    connection: Connection
    pool: BackendPool
    server: ExecuteServer
    failing: Failing
    echo: Echo

    def ask(
        self, capability: Capability, text: str = "abc", *, stream: bool = False, trace: str = ""
    ) -> AbstractAsyncContextManager[RemoteParts]:
        offer = Offer(self.connection.node_id, "beta", capability, False, None, 0, "direct")
        body = json.dumps(chat(text)).encode()
        return open_remote(
            cast(MeshPort, Port(self.connection)),
            Outgoing(offer, offer.capability.operation, body, stream, 20.0, "r", 20.0, trace, lambda _head: None),
        )

    async def until_idle(self) -> None:
        with trio.fail_after(5):
            while self.pool.in_flight:
                await trio.sleep(0.005)


@asynccontextmanager
async def link() -> AsyncIterator[Link]:
    alpha, beta = Signer(b"a" * 32), Signer(b"b" * 32)
    failing = Failing(FAILING, after=2)
    echo = Echo(ECHO)
    pool = BackendPool([failing, echo])
    server = ExecuteServer(pool)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        async with open_endpoint(alpha, "127.0.0.1", 0) as here, open_endpoint(beta, "127.0.0.1", 0) as there:

            async def accept() -> None:
                connection = await there.accept()
                await serve_requests(connection, lambda name: server.serve if name == PROTOCOL else None, print)

            nursery.start_soon(accept)
            connection = await here.dial(there.local_address, beta.node_id, 5)
            yield Link(connection, pool, server, failing, echo)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [3, 1_500_000])
async def test_bodies_and_answers_of_any_size(size: int) -> None:
    async with link() as net, net.ask(ECHO, "x" * size) as parts:
        (part,) = [as_object(part) async for part in parts]
    assert part["choices"][0]["message"]["content"] == "x" * size
    assert net.server.stats.served == 1


async def test_a_trace_goes_with_the_request() -> None:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    async with link() as net:
        for given in (trace, "", "no trace", "00-" + "0" * 32):
            async with net.ask(ECHO, trace=given) as parts:
                assert [part async for part in parts]
    assert [call.trace for call in net.echo.calls] == [trace, "", "", ""]


@pytest.mark.parametrize("how", ["leave", "cancel"])
async def test_going_away_stops_the_work(how: str) -> None:
    async with link() as net:
        with trio.CancelScope() as scope:
            async with net.ask(FAILING, stream=True) as parts:
                await anext(parts)
                if how == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
        await net.until_idle()
        assert net.failing.cancelled == 1
        with trio.fail_after(5):  # it is counted when the backend has let go
            while net.server.stats.abandoned != 1:
                await trio.sleep(0.005)


async def test_a_large_request_that_is_refused_hears_why() -> None:
    async with link() as net, net.ask(GONE, "x" * 1_500_000) as parts:
        with pytest.raises(RequestError, match="does not offer that capability"):
            await anext(parts)
