"""Guessing the port of a NAT that gives every destination another one.

The NAT is played by the system: the end behind it has its main socket cut off, and each further socket that it opens
gets the next port of a range; the other end lets in only what comes from where it sent something.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from atmo.errors import UserError
from atmo.net.connection import Connection
from atmo.net.quic import Endpoint, open_endpoint
from atmo.net.quic_config import QuicConfig
from atmo.net.quic_core import SocketAddress
from atmo.net.spraying import Spraying
from atmo.net.udp import DatagramSocket, UdpSocket, open_udp
from atmo.reach.probe import MARK
from atmo.wire.address import Address
from tests.net.loopback import until
from tests.net.pair import ALICE, BOB
from tests.net.test_paths import Wire, send_and_check
from tests.net.test_steering import Cable, join


class Filter(Cable):
    """A socket behind a NAT that lets in only what comes from where something went."""

    def __init__(self, sock: DatagramSocket) -> None:
        super().__init__(sock)
        self.spoken: set[SocketAddress] = set()

    def sendto(self, data: bytes, address: SocketAddress, /) -> int:
        self.spoken.add(address)
        return super().sendto(data, address)

    def recvfrom(self, most: int, /) -> tuple[bytes, SocketAddress]:
        data, address = super().recvfrom(most)
        return (data if address in self.spoken else b""), address


class World:
    """`one` filters, `two` varies; they are joined by a virtual path."""

    def __init__(self, one: Endpoint, two: Endpoint, wire: Wire, opened: list[UdpSocket]) -> None:
        self.one, self.two, self.wire, self.opened = one, two, wire, opened
        self.scanner, self.widener = Spraying(one), Spraying(two)

    @property
    def first(self) -> int:
        """The port before that of the first extra socket."""
        return self.two.local_address.port

    async def connect(self) -> tuple[Connection, Connection]:
        return await join(self.one, self.two, self.wire)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    opened: list[UdpSocket] = []

    async def plug_one(host: str, port: int, buffer_bytes: int) -> DatagramSocket:
        return Filter(await open_udp(host, port, buffer_bytes))  # type: ignore[return-value]

    async def plug_two(host: str, port: int, buffer_bytes: int) -> DatagramSocket:
        if not opened:
            main = Cable(await open_udp(host, port, buffer_bytes))
            main.cut = True
            opened.append(main)  # type: ignore[arg-type]
            return main  # type: ignore[return-value]
        base = opened[0].getsockname()[1]
        for number in range(1, 400):
            with contextlib.suppress(OSError):
                sock = UdpSocket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.setblocking(False)
                sock.bind((host, (base + number - 1_024) % 64_000 + 1_024))
                opened.append(sock)
                return sock
            sock.close()
        raise UserError("no port", "")

    config = QuicConfig(loopback_datagram_bytes=1_200)
    async with open_endpoint(ALICE, "127.0.0.1", 0, config, plug_one) as one:
        async with open_endpoint(BOB, "127.0.0.1", 0, config, plug_two) as two, trio.open_nursery() as nursery:
            wire = Wire(one, two)
            nursery.start_soon(wire.run)
            yield World(one, two, wire, opened)
            nursery.cancel_scope.cancel()


def open_sockets(lab: World) -> int:
    return sum(each.fileno() >= 0 for each in lab.opened[1:])


async def test_one_end_opens_ports_the_other_one_finds_one_and_streams_move_there() -> None:
    async with world() as lab, trio.open_nursery() as nursery:
        near, far = await lab.connect()
        seen_two = [Address("127.0.0.1", lab.first)]
        nursery.start_soon(lab.widener.widen, far, [lab.one.local_address])
        await until(lambda: len(lab.opened) > 200)
        nursery.start_soon(lab.scanner.scan, near, seen_two)
        await until(lambda: (near.path, far.path) == ("lan", "punched"))
        assert near.remote.port != lab.first
        await send_and_check(near, far, b"x" * 100_000)
        await until(lambda: lab.scanner.stats.scanned_direct == lab.widener.stats.widened_direct == 1)
        await until(lambda: 1 <= open_sockets(lab) <= 4)  # those that were reached
        await near.aclose("done")
        await until(lambda: open_sockets(lab) == 0)


async def test_a_round_without_success_ends_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.spraying.LISTEN_S", 0.2)
    monkeypatch.setattr("atmo.net.spraying.TRIES", 20)
    async with world() as lab:
        near, far = await lab.connect()
        await lab.widener.widen(far, [lab.one.local_address])
        assert lab.widener.stats.widened == 1
        assert open_sockets(lab) == 0
        await lab.scanner.scan(near, [Address("127.0.0.1", lab.first)])
        assert (lab.scanner.stats.scanned_direct, lab.scanner.stats.ports_tried) == (0, 20)
        assert near.path == "forward"


async def test_rounds_for_one_node_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.spraying.LISTEN_S", 0.05)
    monkeypatch.setattr("atmo.net.spraying.TRIES", 5)
    async with world() as lab:
        near, far = await lab.connect()
        for _ in range(3):
            await lab.widener.widen(far, [lab.one.local_address])
            await lab.scanner.scan(near, [Address("127.0.0.1", lab.first)])
        assert (lab.widener.stats.widened, lab.scanner.stats.scanned) == (1, 1)
        await lab.widener.widen(far, [])
        await lab.scanner.scan(near, [])


async def test_each_round_in_vain_makes_the_next_one_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.spraying.TRIES", 0)
    monkeypatch.setattr("atmo.net.spraying._LAST_S", 0.0)
    async with world() as lab:
        near, _ = await lab.connect()
        clock = began = trio.current_time()
        monkeypatch.setattr("atmo.net.spraying.trio.current_time", lambda: clock)
        begun: list[float] = []
        for _ in range(600):
            clock += 1.0
            if lab.scanner._may_begin("scan", near):
                begun.append(clock - began)
        assert begun == [1.0, 9.0, 25.0, 57.0, 121.0, 217.0, 313.0, 409.0, 505.0]


async def test_what_strangers_send_to_the_extra_ports_opens_nothing() -> None:
    async with world() as lab, trio.open_nursery() as nursery:
        _, far = await lab.connect()
        nursery.start_soon(lab.widener.widen, far, [lab.one.local_address])
        await until(lambda: len(lab.opened) > 200)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for sock in lab.opened[1:40]:
                for data in (b"", b"\xc0" + bytes(1_300), bytes([MARK]) + bytes(52), b"\x00" * 20):
                    stranger.sendto(data, sock.getsockname())
        await until(lambda: lab.widener.stats.dropped >= 4 * 39)
        assert far.path == "forward"
        assert lab.two.connection_count == 1
        nursery.cancel_scope.cancel()
    assert open_sockets(lab) == 0


async def test_nobody_has_ports_of_a_broadcast_address_tried() -> None:
    async with world() as lab:
        near, _ = await lab.connect()
        await lab.scanner.scan(near, [Address("255.255.255.255", 9)])
        assert lab.scanner.stats.ports_tried == 0


async def test_fewer_sockets_than_wanted_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as lab, trio.open_nursery() as nursery:
        near, far = await lab.connect()
        full = lab.two.open_socket

        async def few(host: str, port: int, buffer_bytes: int) -> DatagramSocket:
            if len(lab.opened) > 10:
                raise UserError("Cannot listen: Too many open files", "")
            return await full(host, port, buffer_bytes)

        monkeypatch.setattr(lab.two, "open_socket", few)
        nursery.start_soon(lab.widener.widen, far, [lab.one.local_address])
        await until(lambda: len(lab.opened) > 10)
        nursery.start_soon(lab.scanner.scan, near, [Address("127.0.0.1", lab.first)])
        await until(lambda: (near.path, far.path) == ("lan", "punched"))
        nursery.cancel_scope.cancel()
