"""An internet in memory: an endpoint behind a NAT of any kind, and STUN servers by another implementation than ours."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import trio
from aioice import stun

from atmo.net.quic_core import SocketAddress
from atmo.reach.prediction import ADDRESS, ENDPOINT, NONE
from atmo.wire.address import Address
from tests.net.mailbox import Mailbox

Reply = tuple[Address, bytes]
Host = Callable[[bytes, Address, Address], Iterable[Reply]]
"""Takes a datagram, where it comes from and where it arrived; returns datagrams and from where each is sent."""

INSIDE = Address("192.168.1.2", 7)
OUTSIDE = "9.9.9.9"
KEEPS_S = 300.0
"""For so long the NAT lets in where something was sent (RFC 4787 section 4.3)."""


@dataclass
class NatSocket(Mailbox):
    """The socket of one endpoint; implements `net.udp.DatagramSocket`.

    Attributes:
        hosts: Who is where.
        mapping, filtering: How the NAT behaves (RFC 4787).
        sent: Where it went, and when.
        cut: Nothing goes out.
        linux: Who was not let in has the port for 30 s: what is sent there gets another one.
        kept_out: Datagrams that were not let in.
    """

    hosts: dict[Address, Host] = field(default_factory=dict)
    mapping: str = ENDPOINT
    filtering: str = ENDPOINT
    sent: list[tuple[float, Address]] = field(default_factory=list)
    outside: str = OUTSIDE
    cut: bool = False
    family: int = int(socket.AF_INET)
    whole: bool = True
    linux: bool = False
    kept_out: int = 0
    _claims: dict[Address, float] = field(default_factory=dict)
    _arrived: deque[tuple[bytes, SocketAddress]] = field(default_factory=deque)
    _ports: dict[object, Address] = field(default_factory=dict)
    _readers: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    async def open(self, host: str, port: int, buffer_bytes: int) -> NatSocket:
        await trio.lowlevel.checkpoint()
        return self

    def reset(self, outside: str) -> None:
        """The NAT forgets all mappings and has another address."""
        self.outside = outside
        self._ports.clear()

    def _external(self, target: Address) -> Address:
        if self.mapping == NONE:
            return INSIDE
        if self.linux and trio.current_time() < self._claims.get(target, 0.0):
            return Address(self.outside, 50_000 + target.port % 1_000)
        key = {ENDPOINT: None, ADDRESS: target.host}.get(self.mapping, target)
        return self._ports.setdefault(key, Address(self.outside, 40_000 + len(self._ports)))

    def _lets_in(self, source: Address) -> bool:
        sent = {address for at, address in self.sent if at >= trio.current_time() - KEEPS_S}
        return (
            self.filtering == ENDPOINT
            or source in sent
            or (self.filtering == ADDRESS and source.host in {address.host for address in sent})
        )

    def getsockname(self) -> SocketAddress:
        return INSIDE.host, INSIDE.port

    def sendto(self, data: bytes, address: SocketAddress, /) -> int:
        target = Address(str(address[0]), int(address[1]))
        self.sent.append((trio.current_time(), target))
        if target in self.hosts and not self.cut:
            for source, answer in self.hosts[target](bytes(data), self._external(target), target):
                self.arrive(answer, source)
        return len(data)

    def arrive(self, data: bytes, source: Address) -> None:
        """Something comes to the external port that the source knows of."""
        if self._lets_in(source):
            self._arrived.append((data, (source.host, source.port)))
            self._readers.unpark()
        else:
            self.kept_out += 1
            self._claims[source] = trio.current_time() + 30


def answer_to(data: bytes, **attributes: object) -> bytes:
    """Returns the answer to a binding request, with FINGERPRINT and SOFTWARE."""
    found = {name.replace("_", "-"): value for name, value in attributes.items()}
    request = stun.parse_message(data)
    answer = stun.Message(
        stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id, {"SOFTWARE": "a server", **found}
    )
    answer.add_fingerprint()
    return bytes(answer)


def plain_server(lie: Address | None = None) -> Host:
    """A server with one address, which may lie."""

    def serve(data: bytes, source: Address, here: Address) -> list[Reply]:
        seen = lie or source
        return [(here, answer_to(data, XOR_MAPPED_ADDRESS=(seen.host, seen.port)))]

    return serve


def full_server(one: Address, other: Address) -> dict[Address, Host]:
    """The server of RFC 5780 at four addresses."""

    def serve(data: bytes, source: Address, here: Address) -> list[Reply]:
        change = stun.parse_message(data).attributes.get("CHANGE-REQUEST", 0)
        away = other if here.host == one.host else one
        origin = Address(away.host if change & 4 else here.host, _swap(here.port) if change & 2 else here.port)
        answer = answer_to(
            data,
            MAPPED_ADDRESS=(source.host, source.port),
            XOR_MAPPED_ADDRESS=(source.host, source.port),
            RESPONSE_ORIGIN=(origin.host, origin.port),
            OTHER_ADDRESS=(away.host, _swap(here.port)),
        )
        return [(origin, answer)]

    def _swap(port: int) -> int:
        return other.port if port == one.port else one.port

    return {Address(host, port): serve for host in (one.host, other.host) for port in (one.port, other.port)}
