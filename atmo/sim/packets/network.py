"""Virtual UDP: sockets whose datagrams meet the rules of a `Network` instead of a wire.

A node is behind one address, `ip:port`, from which what it sends comes and at which others reach it. It can lose that
address for another one, as when its NAT gives it a new port: what goes to the old one is lost from then on.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import math
import socket
from collections import deque
from dataclasses import dataclass

import trio

from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.net.quic_core import SocketAddress
from atmo.sim.network import LOST, Network

_ETHERNET_BYTES = 1_472
"""The longest datagram: every node is on an Ethernet."""

_PORT_STEP = 7
"""Between the external ports of a node, one after the other: any number other than 0."""

_QUEUE_S = 0.02
"""Jitter is the length of queues, which keep their order: by no less may a datagram overtake another. Source: guess."""


@dataclass(slots=True)
class PacketStats:
    """Counters since start, in datagrams.

    Attributes:
        sent: By all nodes.
        sent_bytes: The same in bytes of UDP payload.
        lost: Where a rule said so.
        unreachable: To an address at which nobody is.
        overflowed: At a receiver whose buffer was full.
    """

    sent: int = 0
    sent_bytes: int = 0
    lost: int = 0
    unreachable: int = 0
    overflowed: int = 0


class VirtualSocket:
    """The socket of one node; implements `net.udp.DatagramSocket`.

    Args:
        network: Carries what is sent.
        node: Whose it is.
        inside: What it is bound to.
        buffer_bytes: Datagrams that nobody has read yet; what comes on top is dropped.

    Attributes:
        outside: As others see it.
    """

    family = int(socket.AF_INET)
    whole = True

    def __init__(self, network: PacketNetwork, node: NodeId, inside: tuple[str, int], buffer_bytes: int) -> None:
        self.node = node
        self.outside = inside
        self._network = network
        self._inside = inside
        self._room = buffer_bytes
        self._arrived: deque[tuple[bytes, SocketAddress]] = deque()
        self._readers = trio.lowlevel.ParkingLot()

    def getsockname(self) -> SocketAddress:
        """See `DatagramSocket`."""
        return self._inside

    def sendto(self, data: bytes, address: SocketAddress, /) -> int:
        """See `DatagramSocket`."""
        if len(data) > _ETHERNET_BYTES:
            raise OSError(errno.EMSGSIZE, "Message too long")
        self._network.send(self, bytes(data), address)
        return len(data)

    def recvfrom(self, most: int, /) -> tuple[bytes, SocketAddress]:
        """See `DatagramSocket`."""
        if not self._arrived:
            raise BlockingIOError("no datagram is there")
        data, source = self._arrived.popleft()
        self._room += len(data)
        return data[:most], source

    async def wait_readable(self) -> None:
        """See `DatagramSocket`."""
        if self._arrived:
            await trio.lowlevel.checkpoint()
        else:
            await self._readers.park()

    def close(self) -> None:
        """See `DatagramSocket`."""
        self._network.close(self)

    def take(self, data: bytes, source: SocketAddress) -> bool:
        """Takes a datagram that has arrived; says whether there was room for it."""
        if len(data) > self._room:
            return False
        self._room -= len(data)
        self._arrived.append((data, source))
        self._readers.unpark()
        return True


class PacketNetwork:
    """Carries datagrams between virtual sockets.

    Args:
        rules: What becomes of each.
    """

    def __init__(self, rules: Network) -> None:
        self.stats = PacketStats()
        self._rules = rules
        self._at: dict[tuple[str, int], VirtualSocket] = {}
        self._of: dict[NodeId, VirtualSocket] = {}
        self._flying: list[tuple[float, int, VirtualSocket, tuple[str, int], bytes, SocketAddress]] = []
        self._last: dict[tuple[NodeId, NodeId], float] = {}
        """When the datagram that one node sent last to another arrives."""
        self._sequence = itertools.count()

    async def open(self, node: NodeId, host: str, port: int, buffer_bytes: int) -> VirtualSocket:
        """Opens the socket of a node, as `net.udp.open_udp` does.

        Raises:
            UserError: The port is taken.
        """
        await trio.lowlevel.checkpoint()
        if (host, port) in self._at:
            raise UserError(f"Cannot listen on UDP {host}:{port}: it is taken.")
        opened = VirtualSocket(self, node, (host, port), buffer_bytes)
        self._at[host, port] = self._of[node] = opened
        return opened

    def unplug(self, node: NodeId) -> None:
        """Takes a node off the network: nothing reaches it, nothing of it reaches anybody. Once is enough."""
        if sock := self._of.pop(node, None):
            del self._at[sock.outside]

    def close(self, sock: VirtualSocket) -> None:
        """Takes the node of a socket off, unless it has another one by now."""
        if self._of.get(sock.node) is sock:
            self.unplug(sock.node)

    def address(self, node: NodeId) -> tuple[str, int]:
        """Returns from where others see a node's datagrams come."""
        return self._of[node].outside

    def rebind(self, node: NodeId) -> tuple[str, int]:
        """Gives a node another external port, as a NAT that forgot it does; returns its new address."""
        sock = self._of[node]
        del self._at[sock.outside]
        host, port = sock.outside
        while (host, port) in self._at or (host, port) == sock.outside:
            port += _PORT_STEP
        sock.outside = (host, port)
        self._at[sock.outside] = sock
        return sock.outside

    def send(self, sock: VirtualSocket, data: bytes, address: SocketAddress) -> None:
        """Lets a datagram go."""
        if self._of.get(sock.node) is not sock:
            return
        self.stats.sent += 1
        self.stats.sent_bytes += len(data)
        to = (str(address[0]), int(address[1]))
        target = self._at.get(to)
        if target is None:
            self.stats.unreachable += 1
            return
        now = trio.current_time()
        delay = self._rules.route(now, sock.node, target.node, len(data))
        if delay == LOST:
            self.stats.lost += 1
            return
        pair = (sock.node, target.node)
        arrives, last = now + delay, self._last.get(pair, 0.0)
        if last - _QUEUE_S < arrives < last:
            arrives = last
        self._last[pair] = arrives
        heapq.heappush(self._flying, (arrives, next(self._sequence), target, to, data, sock.outside))

    @property
    def next_arrival(self) -> float:
        """When the next datagram arrives, `math.inf` where none is on its way."""
        return self._flying[0][0] if self._flying else math.inf

    def deliver(self, now: float) -> None:
        """Hands out what has arrived by now; what went to an address that is somebody else's or nobody's is lost."""
        flying = self._flying
        while flying and flying[0][0] <= now:
            _, _, target, address, data, source = heapq.heappop(flying)
            if self._at.get(address) is not target:
                self.stats.unreachable += 1
            elif not target.take(data, source):
                self.stats.overflowed += 1
