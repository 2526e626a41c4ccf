"""Two endpoints on loopback sockets in one process, connected or about to be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from atmo.net.quic import Connection, Endpoint, QuicConfig, open_endpoint
from tests.net.pair import ALICE, BOB

DEADLINE_S = 5.0
PLAIN = QuicConfig()


@asynccontextmanager
async def two_endpoints(alice: QuicConfig = PLAIN, bob: QuicConfig = PLAIN) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    """Alice's and Bob's endpoints."""
    async with open_endpoint(ALICE, "127.0.0.1", 0, alice) as one, open_endpoint(BOB, "127.0.0.1", 0, bob) as two:
        yield one, two


@asynccontextmanager
async def connected(alice: QuicConfig = PLAIN, bob: QuicConfig = PLAIN) -> AsyncIterator[tuple[Connection, Connection]]:
    """A connection that Alice dialled: her end and Bob's."""
    async with two_endpoints(alice, bob) as (one, two):
        outbound = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        yield outbound, await two.accept()


async def until(condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    """Waits for something that no event tells of."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.001)


async def never_ends(work: Callable[[], Awaitable[object]], seconds: float = 0.05) -> bool:
    """Says whether `work` is still waiting after `seconds`."""
    with trio.move_on_after(seconds) as scope:
        await work()
    return scope.cancelled_caught
