"""Where an endpoint's datagrams go out: the UDP socket, or the virtual path that a pseudo address names."""

from __future__ import annotations

import errno
import ipaddress

from atmo.net.paths import VirtualPath, VirtualPaths, is_virtual, kind_of
from atmo.net.quic_config import EndpointStats, QuicConfig
from atmo.net.quic_core import SocketAddress
from atmo.net.udp import DatagramSocket, is_loopback, socket_address, to_address
from atmo.reach.config import FORWARD, RELAY
from atmo.wire.address import Address

_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_FORWARD_BYTES = 1_472
"""What a forwarded path takes as a datagram: PROTOCOL.md, section 13."""


class Outlet:
    """Sends datagrams; what cannot be sent is dropped and counted, as QUIC takes it for lost."""

    def __init__(self, sock: DatagramSocket, config: QuicConfig, stats: EndpointStats) -> None:
        self._socket = sock
        self._config = config
        self._stats = stats
        self.paths = VirtualPaths()

    def send(self, data: bytes, address: SocketAddress) -> bool:
        """Sends a datagram; never blocks. Returns False where it is longer than this machine can send there."""
        if is_virtual(address):
            if path := self.paths.find(address):
                self._stats.virtual_out += 1
                path.send(data)
            return True
        try:
            self._socket.sendto(data, address)
        except OSError as error:
            # A full buffer, no route, too long for the path: to QUIC each is a lost packet.
            self._stats.send_errors += 1
            return error.errno != errno.EMSGSIZE
        self._stats.datagrams_out += 1
        self._stats.bytes_out += len(data)
        return True

    def target(self, where: Address | VirtualPath) -> SocketAddress:
        """Returns what `send` takes for an address or a path.

        Raises:
            RemoteError: The socket cannot reach such an address.
        """
        return where.address if isinstance(where, VirtualPath) else socket_address(where, self._socket.family)

    def may_probe(self, address: Address) -> bool:
        """Says whether others may have us send a few small datagrams to an address: no broadcast, and nothing of this
        machine itself unless that is all that the socket can reach."""
        host = ipaddress.ip_address(address.host.partition("%")[0])
        if host.is_multicast or host.is_unspecified or host == _BROADCAST:
            return False
        return not host.is_loopback or is_loopback(to_address(self._socket.getsockname()))

    def datagram_bytes(self, where: Address | VirtualPath) -> int:
        """Returns how large datagrams to `where` may be."""
        loopback = isinstance(where, Address) and is_loopback(where)
        return self._config.loopback_datagram_bytes if loopback else self._config.datagram_bytes

    def sizes(self, address: SocketAddress) -> tuple[int, int]:
        """Returns how large datagrams may be without proof, and the largest that may be tried."""
        config = self._config
        if is_virtual(address):
            base, kind = config.datagram_bytes, kind_of(address)
            carries = {FORWARD: _FORWARD_BYTES, RELAY: config.probed_datagram_bytes}.get(kind)
        else:
            base, carries = self.datagram_bytes(to_address(address)), None
        if carries is None:
            carries = config.probed_datagram_bytes if self._socket.whole else config.datagram_bytes
        return base, max(base, min(carries, config.probed_datagram_bytes))
