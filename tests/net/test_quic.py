"""Two endpoints on loopback sockets, one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from atmo.errors import RemoteError
from atmo.identity import Signer
from atmo.net.quic import Connection, Endpoint, QuicConfig, open_endpoint

ALICE, BOB, EVE = Signer(b"a" * 32), Signer(b"b" * 32), Signer(b"e" * 32)
DEADLINE_S = 5.0


@asynccontextmanager
async def two_endpoints(
    alice: QuicConfig = QuicConfig(), bob: QuicConfig = QuicConfig()
) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    async with open_endpoint(ALICE, "127.0.0.1", 0, alice) as one, open_endpoint(BOB, "127.0.0.1", 0, bob) as two:
        yield one, two


@asynccontextmanager
async def connected(
    alice: QuicConfig = QuicConfig(), bob: QuicConfig = QuicConfig()
) -> AsyncIterator[tuple[Connection, Connection]]:
    with trio.fail_after(DEADLINE_S):
        async with two_endpoints(alice, bob) as (one, two):
            outbound = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
            yield outbound, await two.accept()


async def test_both_ends_know_each_other_by_node_id() -> None:
    async with connected() as (outbound, inbound):
        assert outbound.node_id == BOB.node_id
        assert inbound.node_id == ALICE.node_id
        assert outbound.outbound
        assert not inbound.outbound


async def test_another_node_than_the_expected_is_refused() -> None:
    async with two_endpoints() as (one, two):
        with pytest.raises(RemoteError, match="who was called"):
            await one.dial(two.local_address, EVE.node_id, DEADLINE_S)
        assert one.stats.refused_identity == 1
        assert two.stats.accepted == 0


async def test_the_close_reason_reaches_the_other_end() -> None:
    async with connected() as (outbound, inbound):
        await outbound.aclose("had enough")
        await inbound.closed.wait()
        assert inbound.close_reason == "had enough"
