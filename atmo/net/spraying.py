"""Direct paths to and from behind a NAT that gives every destination another port, by many ports at once.

The end behind it opens a few hundred sockets towards the other end (`widen`), the other end sends probes to many ports
of its NAT (`scan`): see `atmo.reach.prediction`. What arrives at one of the sockets becomes a virtual path of the
endpoint, of the kind `punched`, and the socket stays open for as long as the connection.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import trio

from atmo.errors import RemoteError, UserError
from atmo.identity import NodeId
from atmo.net.connection import Connection
from atmo.net.paths import VirtualPath
from atmo.net.quic import Endpoint
from atmo.net.quic_config import RECEIVE_BYTES
from atmo.net.quic_core import SocketAddress
from atmo.net.udp import DatagramSocket, to_address
from atmo.reach.config import FORWARD, PUNCHED, RELAY
from atmo.reach.prediction import SOCKETS, TRIES, ports_to_try
from atmo.reach.probe import MARK
from atmo.wire.address import Address

log = logging.getLogger(__name__)

INDIRECT = (RELAY, FORWARD)

LISTEN_S = 6.0
"""For so long the sockets wait for a probe. Source: the other end's `TRIES` take 2 s and begin a round trip later; a
NAT keeps an unanswered mapping for 30 s or so."""

PAUSE_TRIES, PAUSE_S = 16, 0.03
"""Probes in a row, and the pause after them: 530 a second, 28 KB/s. Source: guess, between a router's patience and a
person's."""

REST_S, REST_MOST_S = 8.0, 96.0
"""Between two rounds for one node of which the first one failed, twice as long after each further one, so that a liar
makes us send no more than 54 KB to an address in that time. Source: guess; `pathfinder.PUNCH_S` grows faster."""

_TARGETS_MOST = 3  # some that others saw may be of the past, or what a NAT gave one probe alone
_LAST_S = 1.0  # for the last tries to be answered
_FOUND_MOST = 4
_RESTING_MOST = 256
_SOCKET_BYTES = 256 * 1024


@dataclass(slots=True)
class SprayStats:
    """Counters since the endpoint opened.

    Attributes:
        widened, scanned: Rounds of either kind.
        widened_direct, scanned_direct: After which the path was direct.
        ports_tried: Probes sent by all scans.
        dropped: Datagrams at the extra sockets that were none of the other end's probes.
    """

    widened: int = 0
    widened_direct: int = 0
    scanned: int = 0
    scanned_direct: int = 0
    ports_tried: int = 0
    dropped: int = 0


class Spraying:
    """Rounds of an endpoint; one of either kind at a time, others that come meanwhile are left out.

    Args:
        endpoint: Whose connections get the paths.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.stats = SprayStats()
        self._endpoint = endpoint
        self._rng = Random(os.urandom(16))
        self._busy: set[str] = set()
        self._rested: OrderedDict[tuple[str, NodeId], tuple[float, float]] = OrderedDict()
        """Until when, and for how long, each rests."""

    def _may_begin(self, what: str, connection: Connection) -> bool:
        key, now = (what, connection.node_id), trio.current_time()
        until, rest_s = self._rested.get(key, (0.0, 0.0))
        if what in self._busy or now < until or connection.steering is None:
            log.debug("no %s for %s now, it rests for %.0f s", what, connection.node_id.short, max(0.0, until - now))
            return False
        rest_s = min(max(2.0 * rest_s, REST_S), REST_MOST_S)
        self._rested[key] = now + rest_s, rest_s
        self._rested.move_to_end(key)
        while len(self._rested) > _RESTING_MOST:
            self._rested.popitem(last=False)
        return True

    # --- the end whose ports are guessed --------------------------------------------------------------------------

    async def widen(self, connection: Connection, targets: Sequence[Address]) -> None:
        """Opens many ports towards the other end; returns when none was found, or the connection is closed.

        Args:
            connection: To the other end.
            targets: From where others see it.
        """
        if not targets or not self._may_begin("widen", connection):
            return
        self.stats.widened += 1
        self._busy.add("widen")
        round_ = _Round(self._endpoint, connection, self.stats)
        try:
            await round_.open(targets[:_TARGETS_MOST])
            async with trio.open_nursery() as nursery:
                for sock in round_.sockets:
                    nursery.start_soon(round_.listen, sock)
                with trio.move_on_after(LISTEN_S):
                    await round_.found.wait()
                self._busy.discard("widen")
                told = connection.node_id.short, round_.opened, ", ".join(map(str, targets[:_TARGETS_MOST]))
                log.debug("for %s %d ports towards %s: %s", *told, "found" if round_.found.is_set() else "in vain")
                if round_.found.is_set():
                    self.stats.widened_direct += 1
                    self._rested.pop(("widen", connection.node_id), None)
                    round_.end_idle()
                    await connection.closed.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._busy.discard("widen")
            round_.close()

    # --- the end that guesses -------------------------------------------------------------------------------------

    async def scan(self, connection: Connection, seen: Sequence[Address]) -> None:
        """Sends probes to many ports of the other end's NAT, until one opened a path.

        Args:
            connection: To the other end.
            seen: From where others see it.
        """
        hosts = list(dict.fromkeys(address.host for address in seen))[:1]
        if not hosts or not self._may_begin("scan", connection):
            return
        self.stats.scanned += 1
        self._busy.add("scan")
        try:
            await trio.sleep(connection.rtt_s or 0.0)  # the other end opens its ports meanwhile
            await self._try_ports(connection, hosts[0], [each.port for each in seen if each.host == hosts[0]])
            found = connection.path not in INDIRECT
            log.debug("ports of %s at %s: %s", connection.node_id.short, hosts[0], "found" if found else "in vain")
            if found and not connection.closed.is_set():
                self.stats.scanned_direct += 1
                self._rested.pop(("scan", connection.node_id), None)
        finally:
            self._busy.discard("scan")

    async def _try_ports(self, connection: Connection, host: str, seen: Sequence[int]) -> None:
        for number, port in enumerate(ports_to_try(self._rng, seen, TRIES), 1):
            if connection.path not in INDIRECT or connection.closed.is_set() or connection.steering is None:
                return
            if not connection.steering.knock(Address(host, port)):
                return
            self.stats.ports_tried += 1
            if number % PAUSE_TRIES == 0:
                await trio.sleep(PAUSE_S)
        with trio.move_on_after(_LAST_S):
            await connection.closed.wait()


class _Round:
    """The sockets of one round."""

    def __init__(self, endpoint: Endpoint, connection: Connection, stats: SprayStats) -> None:
        self.found = trio.Event()
        self.opened = 0
        self._endpoint = endpoint
        self._connection = connection
        self._stats = stats
        self._host = ""
        self._scopes: dict[DatagramSocket, trio.CancelScope] = {}
        self._paths: dict[DatagramSocket, VirtualPath] = {}

    @property
    def sockets(self) -> list[DatagramSocket]:
        """Those that are open."""
        return list(self._scopes)

    async def open(self, targets: Sequence[Address]) -> None:
        """Opens the sockets, and each one's ports in the NAT; fewer where the system gives no more."""
        self._host = targets[0].host
        steering = self._connection.steering
        assert steering is not None
        for _ in range(SOCKETS):
            try:
                sock = await self._endpoint.open_socket(self._endpoint.local_address.host, 0, _SOCKET_BYTES)
            except UserError:
                return  # no more descriptors
            self._scopes[sock] = trio.CancelScope()
            self.opened += 1
            for target in targets:
                self._send(sock, self._endpoint.target(target), steering.knocking())

    def _send(self, sock: DatagramSocket, target: SocketAddress, data: bytes) -> None:
        try:
            sock.sendto(data, target)
        except OSError:
            self._endpoint.stats.send_errors += 1  # lost, like any datagram

    async def listen(self, sock: DatagramSocket) -> None:
        """Hands what arrives to the endpoint, until another one won; then closes the socket."""
        try:
            with self._scopes[sock]:
                while True:
                    await sock.wait_readable()
                    self._read(sock)
        finally:
            self._close(sock)

    def _read(self, sock: DatagramSocket) -> None:
        try:
            data, sender = sock.recvfrom(RECEIVE_BYTES)
        except OSError:
            return  # nothing there after all, or an answer of the network to what we sent
        if path := self._path(sock, sender, data):
            path.deliver_untrusted(data)
            self._judge(sock, path)
        else:
            self._stats.dropped += 1

    def _path(self, sock: DatagramSocket, sender: SocketAddress, data: bytes) -> VirtualPath | None:
        """Returns the path of a socket; the first probe of the other end's host opens it."""
        path = self._paths.get(sock)
        if path is not None or not data or data[0] != MARK or len(self._paths) >= _FOUND_MOST:
            return path
        try:
            if to_address(sender).host != self._host:
                return None
            path = self._endpoint.open_path(PUNCHED, partial(self._send, sock, sender))
        except (ValueError, RemoteError):
            return None
        self._paths[sock] = path
        return path

    def _judge(self, sock: DatagramSocket, path: VirtualPath) -> None:
        """One path that works is enough; what was no probe of the other end's is no path."""
        steering = self._connection.steering
        known = steering.path_at(path.address) if steering else None
        if known is None:
            del self._paths[sock]
            path.close("nobody was there")
            self._stats.dropped += 1
        elif known.works:
            self.found.set()

    def end_idle(self) -> None:
        """Ends those that nothing reached. The others, which are few, stay: which of them the other end uses is its
        choice."""
        for sock, scope in self._scopes.items():
            if sock not in self._paths:
                scope.cancel()

    def close(self) -> None:
        """Closes what is open still."""
        for sock in list(self._scopes):
            self._close(sock)

    def _close(self, sock: DatagramSocket) -> None:
        self._scopes.pop(sock, None)
        sock.close()
        if path := self._paths.pop(sock, None):
            path.close("the port is closed")
