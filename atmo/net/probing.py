"""The probes of an endpoint: keys for its connections, and who takes what comes in under them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable

import trio

from atmo.errors import WireError
from atmo.net.connection import Connection
from atmo.net.outlet import Outlet
from atmo.net.quic_config import EndpointStats
from atmo.net.quic_core import SocketAddress
from atmo.net.steering import Steering
from atmo.reach.config import DIRECT, PUNCHED, MtuConfig, PathsConfig
from atmo.reach.paths import Path
from atmo.reach.probe import DOUBT, KEY_BYTES, PROBE, SESSION_BYTES, Key, open_probe_untrusted
from atmo.wire.address import Address

_SEEN_MOST = 16
_SEEN_EACH = 3
"""Addresses that one other end may say at a time: one of each IP version, and one of the LAN."""


class Probing:
    """Gives connections several paths, once both ends want it.

    Args:
        outlet: Sends datagrams.
        stats: Counts.
        touch: Told of connections whose timer may have moved.
        config: Of every connection's paths.
        mtu: Of the sizes of datagrams on them.

    Attributes:
        moved: Called when a connection takes another path, with the reason.
        seen: By which addresses others see this endpoint, and how many of them do.
    """

    def __init__(
        self,
        outlet: Outlet,
        stats: EndpointStats,
        touch: Callable[[Connection], None],
        config: PathsConfig = PathsConfig(),
        mtu: MtuConfig = MtuConfig(),
    ) -> None:
        self.moved: Callable[[Connection, Path, str], None] = lambda connection, path, reason: None
        self.seen: Counter[Address] = Counter()
        self._outlet = outlet
        self._stats = stats
        self._touch = touch
        self._config = config
        self._mtu = mtu
        self._connections: dict[bytes, Connection] = {}
        self._told: dict[Connection, dict[Address, None]] = {}

    def offer(self, connection: Connection) -> Key:
        """Returns what the other end needs to send probes to this one; the same for as long as the connection lives."""
        key = connection.probe_key
        if key is None:
            key = connection.probe_key = Key(os.urandom(SESSION_BYTES), os.urandom(KEY_BYTES))
            self._connections[key.session] = connection
        return key

    def begin(
        self, connection: Connection, theirs: Key, listens: Iterable[Address], seen: Iterable[Address] = ()
    ) -> Steering:
        """The other end told its key, where it listens and from where others saw it; told again, there are just more
        such addresses.
        """
        now = trio.current_time()
        steering = connection.steering
        if steering is None:
            steering = connection.steering = Steering(
                self._outlet,
                connection.core.peer_address,
                theirs,
                follows=not connection.outbound,
                now=now,
                moved=lambda path, reason: self._moved(connection, path, reason),
                seen=lambda address: self._seen_by(connection, address),
                resized=connection.core.resize,
                config=self._config,
                mtu=self._mtu,
            )
        steering.add(now, listens, DIRECT)
        steering.add(now, seen, PUNCHED)
        self._touch(connection)
        return steering

    def _moved(self, connection: Connection, path: Path, reason: str) -> None:
        connection.core.hurry()
        self.moved(connection, path, reason)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        if connection.probe_key is not None:
            self._connections.pop(connection.probe_key.session, None)
        for address in self._told.pop(connection, ()):
            self._withdraw(address)

    def take_untrusted(self, data: bytes, address: SocketAddress, now: float) -> None:
        """Takes a datagram whose first byte is that of probes."""
        try:
            probe = open_probe_untrusted(data, self._secret)
        except WireError:
            self._stats.dropped_probes += 1
            return
        connection = self._connections[probe.session]
        if connection.steering is None:  # the other end knows our key, and we not yet its
            self._stats.dropped_probes += 1
            return
        self._stats.probes_in += 1
        if probe.kind in (PROBE, DOUBT):
            connection.steering.probed(now, address, probe.nonce, doubting=probe.kind == DOUBT)
        else:
            connection.steering.replied(now, address, probe.nonce, probe.observed)
        self._touch(connection)

    def _secret(self, session: bytes) -> bytes | None:
        connection = self._connections.get(session)
        return connection.probe_key.secret if connection and connection.probe_key else None

    def saw(self, address: Address) -> None:
        """Somebody sees this endpoint at an address; of too many the one that the fewest see is left out."""
        self.seen[address] += 1
        while len(self.seen) > _SEEN_MOST:
            del self.seen[min(self.seen, key=self.seen.__getitem__)]

    def forget_seen(self) -> None:
        """The network is another one."""
        self.seen.clear()
        self._told.clear()

    def _seen_by(self, connection: Connection, address: Address) -> None:
        """The other end of a connection says where it sees this one: that counts once, however often it says so."""
        told = self._told.setdefault(connection, {})
        if address in told and address in self.seen:
            return
        told[address] = None
        if len(told) > _SEEN_EACH:
            oldest = next(iter(told))
            del told[oldest]
            self._withdraw(oldest)
        self.saw(address)

    def _withdraw(self, address: Address) -> None:
        if address in self.seen:
            self.seen[address] -= 1
            if not self.seen[address]:
                del self.seen[address]
