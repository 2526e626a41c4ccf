"""Virtual paths: QUIC connections whose datagrams the socket never sees."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from atmo.errors import RemoteError
from atmo.net import paths
from atmo.net.paths import VirtualPath, is_virtual
from atmo.net.quic import Connection, Endpoint
from tests.net.loopback import DEADLINE_S, two_endpoints, until
from tests.net.pair import ALICE, BOB


class Wire:
    """Joins a path of each endpoint; may lose, double and hold back what it carries."""

    def __init__(self, one: Endpoint, two: Endpoint, loss: float = 0.0) -> None:
        self.random = Random(1)
        self.loss = loss
        self.carried = 0
        self._sender, self._queue = trio.open_memory_channel[tuple[bool, bytes]](10_000)
        self.ends: tuple[VirtualPath, VirtualPath] = (
            one.open_path("forward", lambda data: self._sender.send_nowait((True, data))),
            two.open_path("forward", lambda data: self._sender.send_nowait((False, data))),
        )

    async def run(self) -> None:
        async for forth, data in self._queue:
            self.carried += 1
            for _ in range(2 if self.random.random() < self.loss else 1):
                if self.random.random() >= self.loss:
                    self.ends[forth].deliver_untrusted(data)


@asynccontextmanager
async def wired(loss: float = 0.0) -> AsyncIterator[tuple[Endpoint, Endpoint, Wire]]:
    async with two_endpoints() as (one, two), trio.open_nursery() as nursery:
        wire = Wire(one, two, loss)
        nursery.start_soon(wire.run)
        yield one, two, wire
        nursery.cancel_scope.cancel()


async def send_and_check(near: Connection, far: Connection, data: bytes) -> None:
    async def send() -> None:
        async with await near.open_stream() as stream:
            await stream.send_all(data)
            await stream.send_eof()
            assert await stream.receive_some() == b"thanks"

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async with await far.accept_stream() as stream:
                got = b""
                while part := await stream.receive_some():
                    got += part
                assert got == data
                await stream.send_all(b"thanks")


async def test_a_connection_runs_over_a_virtual_path_alone() -> None:
    async with wired() as (one, two, wire):
        outbound = await one.dial(wire.ends[0], BOB.node_id, DEADLINE_S)
        inbound = await two.accept()
        assert inbound.node_id == ALICE.node_id
        assert outbound.path == "forward"
        assert inbound.path == "forward"
        await send_and_check(outbound, inbound, b"x" * 300_000)
        for endpoint in (one, two):
            assert endpoint.stats.datagrams_in == endpoint.stats.datagrams_out == 0
            assert endpoint.stats.virtual_in > 10
        assert wire.carried == one.stats.virtual_out + two.stats.virtual_out


async def test_losses_and_duplicates_on_the_path_are_made_good() -> None:
    async with wired(loss=0.1) as (one, two, wire):
        outbound = await one.dial(wire.ends[0], BOB.node_id, DEADLINE_S)
        await send_and_check(outbound, await two.accept(), b"x" * 100_000)


async def test_both_kinds_of_paths_at_once() -> None:
    async with wired() as (one, two, wire):
        direct = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        far = await two.accept()
        forwarded = await one.dial(wire.ends[0], BOB.node_id, DEADLINE_S)
        await send_and_check(forwarded, await two.accept(), b"one way")
        await send_and_check(direct, far, b"the other")
        assert direct.path != "forward"


async def test_a_path_that_closes_takes_its_connections_along() -> None:
    async with wired() as (one, two, wire):
        outbound = await one.dial(wire.ends[0], BOB.node_id, DEADLINE_S)
        inbound = await two.accept()
        wire.ends[0].close("no carrier")
        wire.ends[0].close("once more")
        assert outbound.closed.is_set()
        assert outbound.close_reason == "no carrier"
        assert not inbound.closed.is_set()
        wire.ends[0].deliver_untrusted(b"\xff" * 1_200)  # nothing any more
        await until(lambda: not one.connection_count)
        with pytest.raises(RemoteError, match=r"did not connect|no answer"):
            await one.dial(wire.ends[0], BOB.node_id, 0.05)


async def test_the_wrong_node_at_the_end_is_refused() -> None:
    async with wired() as (one, _, wire):
        with pytest.raises(RemoteError, match="who was called"):
            await one.dial(wire.ends[0], ALICE.node_id, DEADLINE_S)


async def test_what_is_no_quic_is_dropped_on_a_path() -> None:
    async with wired() as (one, _, wire):
        one.on_other = lambda data, address: pytest.fail("a hole is punched on sockets only")
        for garbage in (b"", b"\0" * 30, b"\x40" * 30, b"\xff" * 6, b"\xff" * 1_300):
            wire.ends[0].deliver_untrusted(garbage)
        assert one.stats.virtual_in == 5
        assert not one.connection_count


async def test_paths_are_bounded_and_their_addresses_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PATHS_MOST", 3)
    async with two_endpoints() as (one, _):
        opened = [one.open_path("forward", lambda data: None) for _ in range(3)]
        assert len({path.host for path in opened}) == 3
        with pytest.raises(RemoteError, match="its limit"):
            one.open_path("forward", lambda data: None)
        opened[0].close("done")
        again = one.open_path("forward", lambda data: None)
        assert again.host not in {path.host for path in opened}
        assert all(ipaddress.ip_address(path.host) in ipaddress.ip_network("100::/64") for path in opened)
        assert is_virtual(again.address)
        assert not is_virtual((again.host, 1))
        assert not is_virtual((again.host, 1, 0, 0))
        assert again.host in repr(again)
