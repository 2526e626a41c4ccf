"""Requests to members without a link: dialled on demand, else through others, within the deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio

from atmo.engine import Contact
from atmo.errors import RemoteError
from atmo.gossip.records import Hardware
from atmo.identity import NodeId, Signer
from atmo.net.driver import PeerDriver
from atmo.net.forwarding import FORWARD, ForwardHeader
from atmo.net.ports import RequestStream
from atmo.net.quic import open_endpoint
from atmo.net.quic_config import StreamCode
from atmo.net.requests import open_request
from atmo.peer import Peer, PeerConfig
from atmo.peer.budgets import Rate
from atmo.wire.address import Address
from atmo.wire.schema import to_wire
from tests.net.test_driver import echo, introduce, keep_nothing, linked, new_peer, until


@asynccontextmanager
async def nodes(
    *names: str, hidden: str = "", peer: Callable[[Signer], Peer] = new_peer
) -> AsyncIterator[list[PeerDriver]]:
    """Yields running nodes; nobody learns the addresses of those named in `hidden`."""
    async with trio.open_nursery() as nursery:
        drivers: list[PeerDriver] = []

        async def run(name: str, ready: trio.Event) -> None:
            signer = Signer(name.encode().ljust(32))
            async with open_endpoint(signer, "127.0.0.1", 0) as endpoint:
                driver = PeerDriver(endpoint, peer(signer), keep_nothing, lambda: 0)
                addresses = [] if name in hidden.split() else [endpoint.local_address]
                driver.peer.publish_node(driver.now(), name, addresses, "0", Hardware())
                driver.handle("test/echo/1", echo)
                drivers.append(driver)
                async with trio.open_nursery() as own:
                    await own.start(driver.run)
                    ready.set()

        for name in names:
            ready = trio.Event()
            nursery.start_soon(run, name, ready)
            await ready.wait()
        yield drivers
        nursery.cancel_scope.cancel()


async def ask(one: PeerDriver, node: NodeId, body: bytes = b"hello", seconds: float = 5.0) -> bytes | None:
    async with one.request(node, "test/echo/1", {}, seconds) as stream:
        await stream.send(body)
        await stream.finish()
        return await stream.receive()


def meet(one: PeerDriver, two: PeerDriver) -> None:
    """Tells a node where another one is, without making it dial."""
    contact = Contact(two.peer.node_id, (two.endpoint.local_address,))
    one.peer.hyparview.learn(one.now(), contact, stale=True)


async def test_a_member_without_a_link_is_dialled() -> None:
    async with nodes("anna", "bert") as (anna, bert):
        meet(anna, bert)
        assert not anna.peer.linked()
        assert await ask(anna, bert.peer.node_id) == b"hello"
        assert anna.peer.linked() == [bert.peer.node_id]


async def test_who_answers_nowhere_is_no_way_at_once_and_who_is_silent_by_the_deadline() -> None:
    async with nodes("anna") as (anna,):
        began = trio.current_time()
        with pytest.raises(RemoteError, match="no way"):
            await ask(anna, NodeId(b"z" * 32))
        assert trio.current_time() - began < 3
        silent = Contact(NodeId(b"y" * 32), (Address("127.0.0.1", 9),))
        anna.peer.hyparview.learn(anna.now(), silent, stale=True)
        began = trio.current_time()
        with pytest.raises(RemoteError, match="no way"):
            await ask(anna, silent.node, seconds=0.4)
        assert 0.2 < trio.current_time() - began < 3


async def test_a_member_that_cannot_be_dialled_is_reached_through_a_neighbour() -> None:
    async with nodes("anna", "bert", "cora", hidden="anna cora") as (anna, bert, cora):
        introduce(anna, bert)
        introduce(cora, bert)
        await until(lambda: linked(anna, bert) and linked(bert, cora))
        assert await ask(anna, cora.peer.node_id, b"x" * 100_000) == b"x" * 100_000
        link = anna.links.get(cora.peer.node_id)
        assert link is not None
        assert link.connection.core.peer_address[2] == "forward", "that is how it began"
        assert bert.forwarder.stats.passed_on == 1
        await until(lambda: link.path == "lan")  # both told each other where they listen
        back = cora.links.get(anna.peer.node_id)
        assert back is not None
        await until(lambda: back.path == "lan")
        path = {view.node: view.path for view in anna.peer.links(anna.now())}[cora.peer.node_id]
        assert path == "lan"
        assert await ask(cora, anna.peer.node_id) == b"hello"  # the same link
        assert bert.forwarder.stats.passed_on == 1


async def test_two_requests_at_once_share_one_path() -> None:
    async with nodes("anna", "bert", "cora", hidden="anna cora") as (anna, bert, cora):
        introduce(anna, bert)
        introduce(cora, bert)
        await until(lambda: linked(anna, bert) and linked(bert, cora))
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, anna, cora.peer.node_id)
        assert bert.forwarder.stats.passed_on == 1


async def test_a_neighbour_dials_where_nobody_has_a_link() -> None:
    async with nodes("anna", "bert", "cora", hidden="anna cora") as (anna, bert, cora):
        introduce(anna, bert)
        await until(lambda: linked(anna, bert))
        meet(bert, cora)
        assert await ask(anna, cora.peer.node_id, seconds=10) == b"hello"
        assert bert.forwarder.stats.passed_on == 1


async def test_a_neighbour_that_does_not_forward_costs_time_only() -> None:
    async with nodes("anna", "bert", "cora", hidden="anna cora") as (anna, bert, cora):
        introduce(anna, bert)
        introduce(cora, bert)
        await until(lambda: linked(anna, bert) and linked(bert, cora))

        async def silent(stream: RequestStream) -> None:
            await trio.sleep_forever()

        bert.handle(FORWARD, silent)
        began = trio.current_time()
        with pytest.raises(RemoteError, match="no way"):
            await ask(anna, cora.peer.node_id, seconds=1.0)
        assert trio.current_time() - began < 4
        await until(lambda: not anna._reaching._forwarding and not anna._reaching._waiting)
        began = trio.current_time()
        with pytest.raises(RemoteError, match="no way"):
            await ask(anna, cora.peer.node_id, seconds=5)  # not looked for again so soon
        assert trio.current_time() - began < 1


async def test_a_link_is_held_at_both_ends_while_a_request_runs() -> None:
    async with nodes("anna", "bert") as (anna, bert):
        meet(anna, bert)
        held: list[int] = []

        def holds(one: PeerDriver, two: PeerDriver) -> int:
            link = one.peer._links.get(two.peer.node_id)
            return link.holds if link else -1

        async def look(stream: RequestStream) -> None:
            await trio.lowlevel.checkpoint()
            held.extend([holds(anna, bert), holds(bert, anna)])

        bert.handle("test/look/1", look)
        async with anna.request(bert.peer.node_id, "test/look/1", {}, 5) as stream:
            assert await stream.receive() is None
        assert held == [1, 1]
        await until(lambda: holds(anna, bert) == holds(bert, anna) == 0)


async def test_a_link_that_was_replaced_under_a_request_is_not_released_twice() -> None:
    async with nodes("anna", "bert") as (anna, bert):
        meet(anna, bert)

        async def cut() -> None:
            async with anna.request(bert.peer.node_id, "test/echo/1", {}, 5) as stream:
                for connection in list(bert.endpoint.connections):
                    await connection.aclose("power cut")
                await stream.receive()

        with pytest.raises(RemoteError):
            await cut()
        assert await ask(anna, bert.peer.node_id) == b"hello"


async def test_a_link_that_is_being_closed_is_waited_for_and_dialled_anew() -> None:
    async with nodes("anna", "bert") as (anna, bert):
        meet(anna, bert)
        assert await ask(anna, bert.peer.node_id) == b"hello"
        old = anna.links.get(bert.peer.node_id)
        assert old is not None
        old.end("idle")
        assert await ask(anna, bert.peer.node_id) == b"hello"
        assert anna.links.get(bert.peer.node_id) is not old


async def test_who_opens_too_many_requests_is_refused() -> None:
    def thrifty(signer: Signer) -> Peer:
        config = PeerConfig()
        return new_peer(signer, config=replace(config, budgets=replace(config.budgets, streams=Rate(0.1, 5.0))))

    async with nodes("anna", "bert", peer=thrifty) as (anna, bert):
        meet(anna, bert)
        for _ in range(3):  # and one each for gossip and paths
            assert await ask(anna, bert.peer.node_id) == b"hello"
        await until(lambda: next(iter(anna.endpoint.connections)).steering)
        with pytest.raises(RemoteError, match="too many requests"):
            await ask(anna, bert.peer.node_id)
        assert bert.stats.refused_requests == 1
        assert anna.peer.linked()


async def test_streams_that_are_reset_at_once_or_ask_for_nothing_known_are_charged_too() -> None:
    def thrifty(signer: Signer) -> Peer:
        config = PeerConfig()
        return new_peer(signer, config=replace(config, budgets=replace(config.budgets, streams=Rate(0.1, 20.0))))

    async with nodes("anna", "bert", peer=thrifty) as (anna, bert):
        meet(anna, bert)
        assert await ask(anna, bert.peer.node_id) == b"hello"
        link = anna.links.get(bert.peer.node_id)
        assert link is not None
        for number in range(30):
            if number % 2:
                stream = await link.connection.open_stream()
                await stream.send_all(b"x")
                stream.reset(StreamCode.CANCELLED)
            else:
                with suppress(RemoteError):
                    async with open_request(link.connection, "nobody/1", {}, 5) as request:
                        await request.receive()
        await until(lambda: bert.stats.refused_requests >= 10)


async def test_a_stranger_cannot_have_anything_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.driver._READY_S", 0.2)
    async with nodes("anna", "bert") as (anna, bert):
        async with open_endpoint(Signer(b"stranger".ljust(32)), "127.0.0.1", 0) as outside:
            connection = await outside.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
            header = to_wire(ForwardHeader(bert.peer.node_id, (bert.peer.node_id,), 1, 1_000))

            async def ask_for_it() -> None:
                async with open_request(connection, FORWARD, header, 8) as stream:
                    await stream.receive()

            with pytest.raises(RemoteError):
                await ask_for_it()
        assert anna.forwarder.stats.passed_on == 0
