"""The holder's end of bulk connections: gives tickets over QUIC, takes connections, has requests answered.

Whoever connects is a stranger until it shows a ticket; strangers are bounded in number, of one host and in all, and in
time, and hear nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import trio

from atmo.clock import Now
from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.bulk_config import BulkConfig, BulkStats
from atmo.net.bulk_frames import (
    HEAD_BYTES,
    MESSAGES_MOST,
    NAME_BYTES,
    REQUEST_BYTES,
    SECRET_BYTES,
    TAG_BYTES,
    TICKET_BYTES,
    Buffers,
    Direction,
    Kind,
    Ticket,
    answer_head,
    directions,
)
from atmo.net.ports import Buffer, ChunkHandler, RequestStream
from atmo.net.tcp import ByteStream, receive_exactly
from atmo.wire import codec
from atmo.wire.address import host_group
from atmo.wire.schema import to_wire

BUSY = "busy"


class Members(Protocol):
    """What this needs of the peer's shell."""

    def now(self) -> Now:
        """Returns the clocks, read once."""

    def is_linked(self, node: NodeId) -> bool:
        """Says whether a node is linked and a member."""

    def admits(self, node: NodeId) -> bool:
        """Charges a request of a node that is linked and a member; False where it is neither, or asked too much."""

    def holding(self, node: NodeId) -> AbstractContextManager[None]:
        """Keeps the link to a node open for the block."""


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

    Attributes:
        handler: Answers requests; while it is None nobody gets a ticket.
    """

    def __init__(self, node_id: NodeId, members: Members, config: BulkConfig, stats: BulkStats) -> None:
        self.handler: ChunkHandler | None = None
        self.tickets = Tickets(config)
        self._node_id = node_id
        self._members = members
        self._config = config
        self._stats = stats
        self._buffers = Buffers(config.spare_buffers)
        self._opening: Counter[str] = Counter()
        self._running: dict[NodeId, dict[trio.CancelScope, None]] = {}

    @property
    def connections(self) -> int:
        """Connections that showed a ticket."""
        return sum(len(each) for each in self._running.values())

    async def give_ticket(self, stream: RequestStream) -> None:
        """Answers `atmo/bulk/1`."""
        node = stream.node_id
        full = len(self._running.get(node, ())) >= self._config.node_connections
        ticket = None
        if self.handler is not None and not full and self.connections < self._config.connections:
            ticket = self.tickets.issue(self._members.now(), node)
        if ticket is None:
            await stream.send(codec.encode({"error": BUSY}))
            return
        self._stats.tickets += 1
        await stream.send(codec.encode(to_wire(ticket)))

    def cut(self, node: NodeId) -> None:
        """Ends all connections of a node."""
        self.tickets.forget(node)
        for scope in self._running.get(node, ()):
            self._stats.cut += 1
            scope.cancel()

    async def serve(self, stream: ByteStream, host: str) -> None:
        """Runs one connection from its first byte to its end.

        Args:
            stream: Closed at the end.
            host: From where it comes.
        """
        try:
            if found := await self._admit(stream, host_group(host)):
                node, ticket = found
                await self._run(stream, node, ticket)
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

    async def _run(self, stream: ByteStream, node: NodeId, ticket: Ticket) -> None:
        self._stats.accepted += 1
        scope = trio.CancelScope()
        self._running.setdefault(node, {})[scope] = None
        try:
            with scope, self._members.holding(node):
                await self._answer_all(stream, node, ticket)
        finally:
            del self._running[node][scope]
            if not self._running[node]:
                del self._running[node]

    async def _answer_all(self, stream: ByteStream, node: NodeId, ticket: Ticket) -> None:
        inward, outward = directions(ticket, node, self._node_id)
        name = bytearray(NAME_BYTES)
        while inward.count < MESSAGES_MOST:
            sealed = None
            with trio.move_on_after(self._config.idle_s):
                sealed = await receive_exactly(stream, REQUEST_BYTES)
            if sealed is None:
                return
            inward.open_untrusted(sealed, b"", memoryview(name))
            if self.handler is None or not self._members.admits(node):
                return
            request = _Request(node, bytes(name), stream, outward, self._buffers)
            try:
                await self.handler(request)
            finally:
                request.end()


class _Request:
    """One request; implements `net.ports.ChunkRequest`."""

    def __init__(self, node_id: NodeId, name: bytes, stream: ByteStream, outward: Direction, buffers: Buffers) -> None:
        self.node_id = node_id
        self.name = name
        self._stream = stream
        self._outward = outward
        self._buffers = buffers
        self._buffer: bytearray | None = None

    def seal(self, data: bytes) -> memoryview:
        """See `ChunkRequest`."""
        return self._seal(Kind.CHUNK, data)

    async def send(self, sealed: Buffer) -> None:
        """See `ChunkRequest`."""
        await self._stream.send_all(sealed)

    async def refuse(self, reason: str) -> None:
        """See `ChunkRequest`."""
        await self._stream.send_all(self._seal(Kind.REFUSAL, reason.encode("ascii")))

    def end(self) -> None:
        """The answer was sent, or never will be."""
        if self._buffer is not None:
            self._buffers.give(self._buffer)
            self._buffer = None

    def _seal(self, kind: Kind, data: bytes) -> memoryview:
        assert self._buffer is None, "a request has one answer"
        size = HEAD_BYTES + len(data) + TAG_BYTES
        self._buffer = self._buffers.take(size)
        answer = memoryview(self._buffer)[:size]
        answer[:HEAD_BYTES] = head = answer_head(kind, len(data))
        self._outward.seal(data, head + self.name, answer[HEAD_BYTES:])
        return answer
