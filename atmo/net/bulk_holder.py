"""The holder's end of bulk connections: gives tickets over QUIC, takes connections, has requests answered.

Whoever connects is a stranger until it shows a ticket; strangers are bounded in number, of one host and in all, and in
time, and hear nothing.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable

import trio

from atmo.clock import Now
from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.bulk_answers import Connection, Leave, Members
from atmo.net.bulk_config import BulkConfig, BulkStats
from atmo.net.bulk_frames import (
    SECRET_BYTES,
    TICKET_BYTES,
    Buffers,
    Ticket,
    directions,
)
from atmo.net.interfaces import is_near
from atmo.net.ports import ChunkService, RequestStream
from atmo.net.tcp import ByteStream, receive_exactly
from atmo.wire import codec
from atmo.wire.address import host_group
from atmo.wire.schema import to_wire

BUSY = "busy"


class Tickets:
    """Tickets that were given and not used.

    Args:
        config: How many, and for how long.
        random: Draws bytes.
    """

    def __init__(self, config: BulkConfig, random: Callable[[int], bytes] = os.urandom) -> None:
        self._config = config
        self._random = random
        self._open: dict[bytes, tuple[NodeId, Ticket, float]] = {}
        """In the order in which they expire."""

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, now: Now, node: NodeId) -> Ticket | None:
        """Gives a node a ticket, None where too many are out."""
        self._expire(now)
        own = [key for key, (owner, _, _) in self._open.items() if owner == node]
        if len(own) >= self._config.node_tickets:
            del self._open[own[0]]
        if len(self._open) >= self._config.tickets:
            return None
        ticket = Ticket(self._random(TICKET_BYTES), self._random(SECRET_BYTES))
        self._open[ticket.ticket] = (node, ticket, now.mono + self._config.ticket_s)
        return ticket

    def redeem_untrusted(self, now: Now, shown: bytes) -> tuple[NodeId, Ticket] | None:
        """Takes a ticket back, which is worth nothing from then on; None where there is no such one."""
        self._expire(now)
        found = self._open.pop(shown, None)
        return found[:2] if found else None

    def forget(self, node: NodeId) -> None:
        """Makes the tickets of a node worthless."""
        self._open = {key: value for key, value in self._open.items() if value[0] != node}

    def _expire(self, now: Now) -> None:
        while self._open:
            first, (_, _, until) = next(iter(self._open.items()))
            if until > now.mono:
                return
            del self._open[first]


class Holder:
    """Serves chunks over TCP.

    Args:
        node_id: Of this node.
        members: Says who may ask.
        config: The limits.
        stats: Counts.
        near: Says whether a host is on a LAN of this machine.

    Attributes:
        service: Answers requests; while it is None nobody gets a ticket.
    """

    def __init__(
        self,
        node_id: NodeId,
        members: Members,
        config: BulkConfig,
        stats: BulkStats,
        near: Callable[[str], bool] = is_near,
    ) -> None:
        self.service: ChunkService | None = None
        self.tickets = Tickets(config)
        self._node_id = node_id
        self._members = members
        self._config = config
        self._stats = stats
        self._near = near
        self._buffers = Buffers(config.spare_buffers)
        self._opening: Counter[str] = Counter()
        self._running: dict[NodeId, dict[Connection, None]] = {}
        self._threads = trio.CapacityLimiter(config.connections)
        self._places = threading.BoundedSemaphore(config.answering)

    @property
    def connections(self) -> int:
        """Connections that showed a ticket."""
        return sum(len(each) for each in self._running.values())

    async def give_ticket(self, stream: RequestStream) -> None:
        """Answers `atmo/bulk/1`."""
        node = stream.node_id
        full = len(self._running.get(node, ())) >= self._config.node_connections
        ticket = None
        if self.service is not None and not full and self.connections < self._config.connections:
            ticket = self.tickets.issue(self._members.now(), node)
        if ticket is None:
            await stream.send(codec.encode({"error": BUSY}))
            return
        self._stats.tickets += 1
        await stream.send(codec.encode(to_wire(ticket)))

    def cut(self, node: NodeId) -> None:
        """Ends all connections of a node."""
        self.tickets.forget(node)
        for connection in self._running.get(node, ()):
            self._stats.cut += 1
            connection.close()

    def close_late(self) -> None:
        """Closes connections that were idle for long, or take an answer too slowly; call it now and then."""
        config, now = self._config, trio.current_time()
        for connection in [connection for each in self._running.values() for connection in each]:
            if now - connection.since >= (config.answer_s if connection.answers else config.idle_s):
                connection.close()

    async def serve(self, stream: ByteStream, host: str) -> None:
        """Runs one connection from its first byte to its end.

        Args:
            stream: Closed at the end.
            host: From where it comes.
        """
        try:
            if found := await self._admit(stream, host_group(host)):
                node, ticket = found
                await self._run(stream, node, ticket, clear=self._config.clear_on_lan and self._near(host))
        except (RemoteError, WireError):
            self._stats.broken += 1
        finally:
            stream.close()

    async def _admit(self, stream: ByteStream, group: str) -> tuple[NodeId, Ticket] | None:
        """Waits for a ticket; None where none comes that counts."""
        config = self._config
        if self._opening.total() >= config.opening or self._opening[group] >= config.host_opening:
            self._stats.refused_full += 1
            return None
        self._opening[group] += 1
        shown = None
        try:
            with trio.move_on_after(config.opening_s) as scope:
                shown = await receive_exactly(stream, TICKET_BYTES)
        finally:
            self._opening[group] -= 1
            if not self._opening[group]:
                del self._opening[group]
        if shown is None:
            self._stats.late += scope.cancelled_caught
            return None
        found = self.tickets.redeem_untrusted(self._members.now(), shown)
        if found is None or not self._members.is_linked(found[0]):
            self._stats.refused_tickets += 1
            return None
        if self.connections >= config.connections or len(self._running.get(found[0], ())) >= config.node_connections:
            self._stats.refused_full += 1
            return None
        return found

    async def _run(self, stream: ByteStream, node: NodeId, ticket: Ticket, *, clear: bool) -> None:
        self._stats.accepted += 1
        service = self.service
        if service is None:
            return
        keys = directions(ticket, node, self._node_id)
        leave = Leave(node, service, self._members, self._config)
        connection = Connection(stream, keys, leave, self._buffers, self._places, clear=clear)
        self._running.setdefault(node, {})[connection] = None
        try:
            with self._members.holding(node):
                await connection.run(self._threads)
        finally:
            connection.close()
            del self._running[node][connection]
            if not self._running[node]:
                del self._running[node]
