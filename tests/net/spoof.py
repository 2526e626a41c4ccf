"""An internet in memory on which anyone may send under anyone's address, and which counts what each address gets."""

from __future__ import annotations

import socket
from collections import Counter, deque
from dataclasses import dataclass, field

import trio

from atmo.net.quic_core import SocketAddress
from atmo.wire.address import Address
from tests.net.mailbox import Mailbox

RATIO = 3
"""Bytes sent for each one that came from an address that is not proven. Source: RFC 9000 section 8.1."""


@dataclass
class Internet:
    """Who is where; what goes elsewhere arrives nowhere, and is counted.

    Attributes:
        came: Bytes that came from an address, by it.
        went: Bytes that were sent to an address, by it.
        answers: The last datagram that went to an address, by it.
    """

    sockets: dict[SocketAddress, SpoofSocket] = field(default_factory=dict)
    came: Counter[SocketAddress] = field(default_factory=Counter)
    went: Counter[SocketAddress] = field(default_factory=Counter)
    answers: dict[SocketAddress, bytes] = field(default_factory=dict)

    async def open(self, host: str, port: int, buffer_bytes: int) -> SpoofSocket:
        await trio.lowlevel.checkpoint()
        sock = self.sockets[host, port] = SpoofSocket(self, (host, port))
        return sock

    def carry(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None:
        self.came[source] += len(data)
        self.went[target] += len(data)
        self.answers[target] = data
        if sock := self.sockets.get(target):
            sock.arrive(data, source)

    def factor(self, address: SocketAddress) -> float:
        """How many bytes an address got for each one that came in its name."""
        return self.went[address] / self.came[address]


class SpoofSocket(Mailbox):
    """One socket; implements `net.udp.DatagramSocket`."""

    family = int(socket.AF_INET)
    whole = True

    def __init__(self, internet: Internet, address: SocketAddress) -> None:
        self._internet = internet
        self._address = address
        self._arrived: deque[tuple[bytes, SocketAddress]] = deque()
        self._readers = trio.lowlevel.ParkingLot()

    def getsockname(self) -> SocketAddress:
        return self._address

    def sendto(self, data: bytes, address: SocketAddress, /) -> int:
        self._internet.carry(bytes(data), self._address, address)
        return len(data)

    def arrive(self, data: bytes, source: SocketAddress) -> None:
        self._arrived.append((data, source))
        self._readers.unpark()


def host(number: int) -> str:
    """One of many addresses of the internet, each another host."""
    return str(Address(f"{11 + number // 65_536}.{number // 256 % 256}.{number % 256}.9", 1).host)
