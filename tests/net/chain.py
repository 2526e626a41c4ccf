"""Endpoints in a row on loopback sockets, each linked to the next, all of them forwarding."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from atmo.errors import RemoteError
from atmo.identity import NodeId, Signer
from atmo.net.forwarding import FORWARD, ForwardConfig, Forwarder
from atmo.net.ports import Handler, RequestStream
from atmo.net.quic import Connection, Endpoint, open_endpoint
from atmo.net.requests import serve_requests

PLAIN = ForwardConfig()


async def echo(stream: RequestStream) -> None:
    while (body := await stream.receive()) is not None:
        await stream.send(body)


class Hop:
    """One node: an endpoint, its links and its forwarder."""

    def __init__(self, endpoint: Endpoint, nursery: trio.Nursery, config: ForwardConfig) -> None:
        self.endpoint = endpoint
        self.node_id = endpoint.node_id
        self.nursery = nursery
        self.links: dict[NodeId, Connection] = {}
        self.held = 0
        self.bad: list[str] = []
        self.forwarded: list[Connection] = []
        self.forwarder = Forwarder(endpoint, self, config)
        self.handlers: dict[str, Handler] = {FORWARD: self.forwarder.serve, "test/echo/1": echo}

    @asynccontextmanager
    async def reserve(self, node: NodeId, deadline_s: float) -> AsyncIterator[Connection]:
        await trio.lowlevel.checkpoint()
        if node not in self.links:
            raise RemoteError(f"there is no link to {node.short}")
        self.held += 1
        try:
            yield self.links[node]
        finally:
            self.held -= 1

    async def link(self, other: Hop) -> None:
        await self.adopt(await self.endpoint.dial(other.endpoint.local_address, other.node_id, 5))
        with trio.fail_after(5):
            while self.node_id not in other.links:
                await trio.sleep(0.001)

    async def accept(self) -> None:
        while True:
            await self.adopt(await self.endpoint.accept())

    async def adopt(self, connection: Connection) -> None:
        if connection.path == "forward":
            self.forwarded.append(connection)
        else:
            self.links[connection.node_id] = connection
        self.nursery.start_soon(serve_requests, connection, self.handlers.get, self.bad.append)
        await trio.lowlevel.checkpoint()

    async def reach(self, *route: Hop, seconds: float = 5.0) -> Connection:
        return await self.forwarder.dial(self.nursery, tuple(hop.node_id for hop in route), seconds)


@asynccontextmanager
async def chain(
    count: int, config: ForwardConfig = PLAIN, configure: Callable[[int], ForwardConfig] | None = None
) -> AsyncIterator[list[Hop]]:
    """Yields `count` nodes, each linked to the next."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        hops = []
        for number in range(count):
            signer = Signer(bytes([65 + number]) * 32)
            endpoint = await stack.enter_async_context(open_endpoint(signer, "127.0.0.1", 0))
            hops.append(Hop(endpoint, nursery, configure(number) if configure else config))
            nursery.start_soon(hops[-1].accept)
        for one, two in itertools.pairwise(hops):
            await one.link(two)
        yield hops
        nursery.cancel_scope.cancel()
