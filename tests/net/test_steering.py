"""Several paths under one connection: it moves to a better one, and back when that dies, and no stream notices."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from atmo.identity import NodeId
from atmo.net.quic import Connection, Endpoint, OpenSocket, open_endpoint
from atmo.net.quic_config import QuicConfig
from atmo.net.quic_core import SocketAddress
from atmo.net.udp import DatagramSocket, open_udp
from atmo.reach.paths import Path
from atmo.reach.probe import MARK, PROBE, Key, seal_probe
from atmo.sim.network import Network
from atmo.sim.packets.network import PacketNetwork
from atmo.wire.address import Address
from tests.net.loopback import DEADLINE_S, until
from tests.net.pair import ALICE, BOB
from tests.net.test_paths import Wire, send_and_check


class Cable:
    """A socket whose datagrams can be cut off, both ways.

    Attributes:
        first: Longer datagrams are refused: EMSGSIZE.
        carries: Longer ones vanish.
    """

    def __init__(self, sock: DatagramSocket) -> None:
        self._sock = sock
        self.cut = False
        self.first = self.carries = 65_507
        self.vanished = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def sendto(self, data: bytes, address: SocketAddress, /) -> int:
        if len(data) > self.first:
            raise OSError(errno.EMSGSIZE, "Message too long")
        if len(data) > self.carries:
            self.vanished += 1
            return len(data)
        return len(data) if self.cut else self._sock.sendto(data, address)

    def recvfrom(self, most: int, /) -> tuple[bytes, SocketAddress]:
        data, address = self._sock.recvfrom(most)
        return (b"", address) if self.cut else (data, address)


async def join(one: Endpoint, two: Endpoint, wire: Wire) -> tuple[Connection, Connection]:
    """Connects two endpoints over a virtual path, and tells both ends of each other's keys."""
    near = await one.dial(wire.ends[0], BOB.node_id, DEADLINE_S)
    far = await two.accept()
    keys = one.probing.offer(near), two.probing.offer(far)
    two.probing.begin(far, keys[0], [])
    one.probing.begin(near, keys[1], [])
    return near, far


class Both:
    """Two endpoints that are joined by a virtual path and by a cable."""

    def __init__(self, one: Endpoint, two: Endpoint, wire: Wire, cables: list[Cable]) -> None:
        self.one, self.two, self.wire, self.cables = one, two, wire, cables
        self.moves: list[str] = []
        one.probing.moved = lambda connection, path, reason: self.moves.append(path.kind)

    def narrow(self, carries: int = 65_507, first: int = 65_507) -> None:
        for cable in self.cables:
            cable.carries, cable.first = carries, first

    def cut(self, value: bool = True) -> None:
        for cable in self.cables:
            cable.cut = value

    async def connect(self) -> tuple[Connection, Connection]:
        """Connects over the virtual path, and tells both ends of each other's keys."""
        return await join(self.one, self.two, self.wire)

    def introduce(self, near: Connection) -> None:
        """Tells the near end where the far one listens."""
        self.one.probing.begin(near, self.two.probing.offer(near), [self.two.local_address])


@asynccontextmanager
async def both() -> AsyncIterator[Both]:
    cables: list[Cable] = []

    async def plug(host: str, port: int, buffer_bytes: int) -> DatagramSocket:
        cables.append(Cable(await open_udp(host, port, buffer_bytes)))
        return cables[-1]  # type: ignore[return-value]

    config = QuicConfig(loopback_datagram_bytes=1_200)
    async with open_endpoint(ALICE, "127.0.0.1", 0, config, plug) as one:
        async with open_endpoint(BOB, "127.0.0.1", 0, config, plug) as two, trio.open_nursery() as nursery:
            wire = Wire(one, two)
            nursery.start_soon(wire.run)
            yield Both(one, two, wire, cables)
            nursery.cancel_scope.cancel()


async def test_a_connection_moves_to_a_better_path_and_its_streams_do_not_notice() -> None:
    async with both() as world:
        near, far = await world.connect()
        await send_and_check(near, far, b"x" * 100_000)
        assert (near.path, far.path) == ("forward", "forward")
        world.introduce(near)
        await until(lambda: (near.path, far.path) == ("lan", "lan"))
        assert near.remote == world.two.local_address
        assert far.remote == world.one.local_address, "the far end learned it from the probes"
        carried = world.wire.carried
        await send_and_check(near, far, b"x" * 300_000)
        assert world.wire.carried < carried + 20
        assert world.one.probing.seen == {world.one.local_address: world.one.probing.seen.total()}


async def test_it_falls_back_when_the_path_dies_in_the_middle_of_a_stream_and_returns() -> None:
    async with both() as world:
        near, far = await world.connect()
        world.introduce(near)
        await until(lambda: (near.path, far.path) == ("lan", "lan"))
        async with await near.open_stream() as stream:
            await stream.send_all(b"a" * 50_000)
            world.cut()
            await stream.send_all(b"b" * 50_000)
            await stream.send_eof()
            got = bytearray()
            with trio.fail_after(20.0):
                incoming = await far.accept_stream()
                while part := await incoming.receive_some():
                    got += part
                await incoming.send_eof()
                assert await stream.receive_some() == b""
            assert got == b"a" * 50_000 + b"b" * 50_000
        await until(lambda: (near.path, far.path) == ("forward", "forward"), 20.0)
        world.cut(False)
        await until(lambda: near.path == "lan", 40.0)
        assert world.moves == ["lan", "forward", "lan"]


async def test_a_path_that_is_closed_is_left_and_the_connection_stays() -> None:
    async with both() as world:
        near, far = await world.connect()
        world.introduce(near)
        await until(lambda: (near.path, far.path) == ("lan", "lan"))
        for end in world.wire.ends:
            end.close("it is over")
        await send_and_check(near, far, b"x" * 10_000)
        assert not near.closed.is_set()


async def test_probes_of_strangers_are_dropped_and_counted() -> None:
    async with both() as world:
        near, far = await world.connect()
        key = world.two.probing.offer(far)
        for data in (
            bytes([MARK]),
            seal_probe(Key(key.session, bytes(32)), PROBE, bytes(8)),
            seal_probe(Key(bytes(8), key.secret), PROBE, bytes(8)),
        ):
            world.one.send_other(data, world.two.local_address)
        await until(lambda: world.two.stats.dropped_probes >= 3)  # and what the other end sent before its key was known
        assert far.path == "forward"
        near.close("done")
        await until(lambda: far.closed.is_set())
        await until(lambda: world.two.connection_count == 0)
        dropped = world.two.stats.dropped_probes
        world.one.send_other(seal_probe(key, PROBE, bytes(8)), world.two.local_address)
        await until(lambda: world.two.stats.dropped_probes > dropped)


async def test_a_probe_before_this_end_knows_the_key_of_the_other_is_not_answered() -> None:
    async with both() as world:
        near = await world.one.dial(world.wire.ends[0], BOB.node_id, DEADLINE_S)
        far = await world.two.accept()
        key = world.two.probing.offer(far)
        assert world.two.probing.offer(far) is key
        world.one.send_other(seal_probe(key, PROBE, bytes(8)), world.two.local_address)
        await until(lambda: world.two.stats.dropped_probes == 1)
        assert near.steering is None


async def test_addresses_that_the_socket_cannot_reach_are_left_out_and_strays_are_forgotten() -> None:
    async with both() as world:
        near, _ = await world.connect()
        steering = world.one.probing.begin(near, world.two.probing.offer(near), [Address("::1", 9)])
        kinds = [path.kind for path in steering.paths.all()]
        assert kinds == ["forward"]
        for port in range(1, 200):
            steering.came(("198.51.100.1", port))
            steering.heard(trio.current_time())
        assert len(steering._places) <= 65
        assert len(steering.paths.all()) <= 24
        assert isinstance(steering.paths.active, Path)


async def test_a_burst_of_packets_from_ever_new_addresses_breaks_nothing() -> None:
    async with both() as world:
        near, _ = await world.connect()
        steering = near.steering
        assert steering is not None
        for batch in range(40):
            for port in range(1, 65):
                steering.came(("198.51.100.1", 64 * batch + port))
            steering.heard(1_000.0 * (1 + batch))
        assert len(steering.paths.all()) <= 24
        assert steering.kind == "forward"


def sizes(*ends: Connection) -> list[int]:
    return [end.core.datagram_bytes for end in ends]


async def moved(world: Both) -> tuple[Connection, Connection]:
    """Connects, and lets both ends find the cable."""
    near, far = await world.connect()
    world.introduce(near)
    await until(lambda: (near.path, far.path) == ("lan", "lan"))
    return near, far


@pytest.mark.parametrize(("carries", "size"), [(65_507, 8_192), (1_472, 1_452)])
async def test_datagrams_grow_to_what_the_path_carries(carries: int, size: int) -> None:
    async with both() as world:
        world.narrow(first=carries)
        near, far = await moved(world)
        await until(lambda: sizes(near, far) == [size, size])
        await send_and_check(near, far, b"x" * 300_000)
        assert sizes(near, far) == [size, size]
        assert world.one.stats.send_errors == (0 if size == 8_192 else 1), "one probe"


async def test_a_forwarded_path_is_asked_for_no_more_than_it_takes() -> None:
    async with both() as world:
        near, far = await world.connect()
        await until(lambda: sizes(near, far) == [1_452, 1_452])
        await send_and_check(near, far, b"x" * 100_000)


async def test_the_size_is_that_of_the_path_that_is_used() -> None:
    async with both() as world:
        near, far = await moved(world)
        await until(lambda: sizes(near, far) == [8_192, 8_192])
        world.cut()
        await (await near.open_stream()).send_all(b"x" * 10_000)
        await until(lambda: (near.path, far.path) == ("forward", "forward"), 20.0)
        await until(lambda: sizes(near, far) == [1_452, 1_452], 20.0)


@pytest.mark.parametrize("refused", [False, True], ids=["vanish", "refused"])
async def test_a_path_that_carries_less_in_the_middle_of_a_transfer_does_not_end_it(refused: bool) -> None:
    async with both() as world:
        near, far = await moved(world)
        await until(lambda: sizes(near, far) == [8_192, 8_192])
        for end in world.wire.ends:
            end.close("there is no other way")
        async with await near.open_stream() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"x" * 2_000_000)
            incoming = await far.accept_stream()
            got = len(await incoming.receive_some())
            world.narrow(*((65_507, 1_300) if refused else (1_300, 65_507)))
            with trio.fail_after(20.0):
                while got < 2_000_000:
                    got += len(await incoming.receive_some())
        await until(lambda: near.core.datagram_bytes == 1_200)
        assert refused or world.cables[0].vanished
        await send_and_check(near, far, b"x" * 100_000)


async def test_where_datagrams_may_be_cut_on_the_way_none_larger_is_tried() -> None:
    async with both() as world:
        for cable in world.cables:
            cable.whole = False  # type: ignore[attr-defined]
        near, far = await moved(world)
        await send_and_check(near, far, b"x" * 100_000)
        assert sizes(near, far) == [1_200, 1_200]


async def test_what_the_system_refuses_is_no_error_of_the_connection() -> None:
    async with open_endpoint(ALICE, "127.0.0.1", 0) as one:
        assert one._socket.whole
        assert one._outlet.send(bytes(1_200), ("127.0.0.1", 9))
        assert not one._outlet.send(bytes(65_508), ("127.0.0.1", 9)), "more than UDP has"
        assert one.stats.send_errors == 1


async def test_a_connection_at_rest_costs_a_ping_and_its_acknowledgement(autojump_clock: MockClock) -> None:
    network = PacketNetwork(Network())

    def plug(node: NodeId, host: str) -> OpenSocket:
        async def opened(_: str, port: int, buffer_bytes: int) -> DatagramSocket:
            return await network.open(node, host, port, buffer_bytes)

        return opened

    async def carry() -> None:
        while True:
            network.deliver(trio.current_time())
            await trio.sleep(0.02)

    one_plug, two_plug = plug(ALICE.node_id, "10.0.0.1"), plug(BOB.node_id, "10.0.0.2")
    async with open_endpoint(ALICE, "10.0.0.1", 7, open_socket=one_plug) as one:
        async with open_endpoint(BOB, "10.0.0.2", 7, open_socket=two_plug) as two, trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            near = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
            far = await two.accept()
            keys = one.probing.offer(near), two.probing.offer(far)
            two.probing.begin(far, keys[0], [])
            one.probing.begin(near, keys[1], [])
            await trio.sleep(30.0)
            assert sizes(near, far) == [1_452, 1_452], "an Ethernet"
            sent, probes = network.stats.sent, one.stats.probes_in + two.stats.probes_in
            await trio.sleep(120.0)
            assert network.stats.sent - sent <= 2 * 120 / 12
            assert one.stats.probes_in + two.stats.probes_in == probes
            assert not near.closed.is_set()
            nursery.cancel_scope.cancel()
