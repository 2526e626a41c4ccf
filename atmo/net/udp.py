"""The UDP socket and its addresses: opening, and one form for IPv4, IPv6 and IPv4 on an IPv6 socket."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
from typing import Protocol

import trio

from atmo.errors import RemoteError, UserError
from atmo.net.quic_core import SocketAddress
from atmo.wire.address import Address

_MAPPED = "::ffff:"  # RFC 4291 section 2.5.5.2
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
"""Of Linux (`linux/in.h`, `linux/in6.h`), which Python does not name: datagrams are sent as they are or not at all, and
what others say about the path (ICMP) is left aside."""


class DatagramSocket(Protocol):
    """What an endpoint needs of a UDP socket: the methods of the same names of Python's, and a way to wait."""

    @property
    def family(self) -> int:
        """`AF_INET` or `AF_INET6`."""

    @property
    def whole(self) -> bool:
        """True where no datagram is sent in fragments, so that one that arrives shows what the path carries."""

    def getsockname(self) -> SocketAddress:
        """Returns what it is bound to."""

    def sendto(self, data: bytes, address: SocketAddress, /) -> int:
        """Sends a datagram or raises `OSError`; never blocks."""

    def recvfrom(self, most: int, /) -> tuple[bytes, SocketAddress]:
        """Returns a datagram and its sender, or raises `BlockingIOError` where there is none."""

    async def wait_readable(self) -> None:
        """Returns when `recvfrom` may have something."""

    def close(self) -> None:
        """Lets go of the port."""


class UdpSocket(socket.socket):
    """The system's."""

    whole = False

    async def wait_readable(self) -> None:
        """See `DatagramSocket`."""
        await trio.lowlevel.wait_readable(self)


async def open_udp(host: str, port: int, buffer_bytes: int) -> DatagramSocket:
    """Opens and binds a non-blocking socket with large buffers; `::` takes IPv4 too.

    Raises:
        UserError: The address is not ours, or the port is taken.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = UdpSocket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
        sock.whole = _forbid_fragments(sock)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _cannot_listen(host, port, error) from error
    return sock


def _forbid_fragments(sock: socket.socket) -> bool:
    """Has datagrams sent whole or not at all (RFC 9000 section 14); says whether the system can do that."""
    if sys.platform == "linux":
        options = [(socket.IPPROTO_IP, _IP_MTU_DISCOVER), (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)]
        value = _PMTUDISC_PROBE
    else:
        names = [(socket.IPPROTO_IP, "IP_DONTFRAG"), (socket.IPPROTO_IPV6, "IPV6_DONTFRAG")]
        options = [(level, getattr(socket, name, -1)) for level, name in names]
        value = 1
    try:
        for level, option in options[: 2 if sock.family == socket.AF_INET6 else 1]:
            sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def socket_address(address: Address, family: int) -> SocketAddress:
    """Returns the very tuple that a socket of `family` uses for an address, both to send and to report a sender.

    Raises:
        RemoteError: An IPv6 address on an IPv4 socket, or a scope that this machine does not have.
    """
    flags = socket.AI_NUMERICHOST | (socket.AI_V4MAPPED if family == socket.AF_INET6 else 0)
    try:
        found = socket.getaddrinfo(address.host, address.port, family=family, type=socket.SOCK_DGRAM, flags=flags)
    except OSError as error:
        raise RemoteError(f"{address} cannot be reached from this node's socket: {error.strerror}") from error
    return found[0][4]


def to_address(address: SocketAddress) -> Address:
    """Returns the address a socket reports; an IPv4 address on an IPv6 socket is shown as IPv4.

    Raises:
        ValueError: The port is 0, which a forged datagram can have.
    """
    host = str(address[0])
    if host.startswith(_MAPPED) and "." in host:
        host = host.removeprefix(_MAPPED)
    elif len(address) == 4 and address[3] and "%" not in host:
        host = f"{host}%{address[3]}"
    return Address(host, int(address[1]))


def is_loopback(address: Address) -> bool:
    """Says whether an address is this machine's own loopback interface."""
    return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    why = error.strerror or str(error)
    return UserError(
        f"Cannot listen on UDP {f'[{host}]' if ':' in host else host}:{port}: {why}.",
        "Choose another address or port with --listen HOST:PORT.",
    )
