"""The asker's end of bulk connections: a few to each holder, opened when a chunk is wanted, one request each at a time.

Whether a holder's TCP port is reachable is found by trying. Whatever goes wrong, the chunk is fetched over QUIC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.bulk_config import BulkConfig, BulkStats
from atmo.net.bulk_frames import (
    BULK,
    HEAD_BYTES,
    MESSAGES_MOST,
    REASON_BYTES,
    REQUEST_BYTES,
    TAG_BYTES,
    Buffers,
    Kind,
    Ticket,
    directions,
    read_head_untrusted,
    read_reason_untrusted,
    read_ticket_untrusted,
)
from atmo.net.ports import Buffer, ChunkRefused, NoFastPath, RequestStream, Take
from atmo.net.tcp import ByteStream
from atmo.reach.config import DIRECT, LAN
from atmo.wire.address import Address

REACHABLE: Final = (LAN, DIRECT)
"""Kinds of path at whose end a TCP port may answer; a NAT that was punched for UDP lets no TCP in."""


class Way(Protocol):
    """What this needs of the QUIC connection to a holder."""

    @property
    def path(self) -> str:
        """The kind of path that its packets take now."""

    @property
    def remote(self) -> Address:
        """Where they go."""

    @property
    def rtt_s(self) -> float | None:
        """Its round-trip time."""


class Ways(Protocol):
    """What this needs of the peer's shell."""

    def way(self, node: NodeId) -> Way | None:
        """Returns the connection to a node that is linked and a member."""

    def announced(self, node: NodeId) -> tuple[Address, ...]:
        """Returns where a node says it listens."""

    def holding(self, node: NodeId) -> AbstractContextManager[None]:
        """Keeps the link to a node open for the block."""

    def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AbstractAsyncContextManager[RequestStream]:
        """As `net.ports.MeshPort.request`."""


Connect = Callable[[Address], Awaitable[ByteStream]]


class Channel:
    """One connection to a holder.

    Args:
        stream: Open; nothing was sent.
        ticket: Good for it.
        asker: This node.
        holder: The other one.
        buffers: For chunks.

    Attributes:
        proven: The holder has sent something that only it could seal.
        idle_since: Monotonic seconds.
        closing: Called when it is closed.
    """

    def __init__(self, stream: ByteStream, ticket: Ticket, asker: NodeId, holder: NodeId, buffers: Buffers) -> None:
        self.proven = False
        self.idle_since = 0.0
        self.closing = ExitStack()
        self._stream = stream
        self._first: bytes = ticket.ticket
        self._buffers = buffers
        self._outward, self._inward = directions(ticket, asker, holder)

    @property
    def used_up(self) -> bool:
        """No further request may be sent."""
        return self._outward.count >= MESSAGES_MOST

    def close(self) -> None:
        """Ends it; who waits in it gets a `RemoteError`."""
        self._stream.close()
        self.closing.close()

    async def fetch(self, name: bytes, size: int, take: Take, limiter: trio.CapacityLimiter) -> bool:
        """Asks for a chunk; see `net.ports.BulkPort.fetch`. After any error but a refusal it must be closed.

        Raises:
            RemoteError: The connection broke.
            WireError: What came was not sealed by the holder, or is no answer.
            ChunkRefused: The holder does not send it.
        """
        request = bytearray(self._first + bytes(REQUEST_BYTES))
        self._outward.seal(name, b"", memoryview(request)[len(self._first) :])
        self._first = b""
        await self._stream.send_all(request)
        most = HEAD_BYTES + max(size, REASON_BYTES) + TAG_BYTES
        buffer = self._buffers.take(most)
        try:
            kind, head, sealed = await self._receive_untrusted(memoryview(buffer)[:most], size)
            if kind is Kind.CHUNK:
                return await trio.to_thread.run_sync(self._open_and_take, sealed, head + name, take, limiter=limiter)
            reason = bytearray(len(sealed) - TAG_BYTES)
            self._open_untrusted(sealed, head + name, memoryview(reason))
            raise ChunkRefused(read_reason_untrusted(reason))
        finally:
            self._buffers.give(buffer)

    def _open_and_take(self, sealed: memoryview, associated: bytes, take: Take) -> bool:
        size = len(sealed) - TAG_BYTES
        buffer = self._buffers.take(size)
        try:
            chunk = memoryview(buffer)[:size]
            self._open_untrusted(sealed, associated, chunk)
            return take(chunk)
        finally:
            self._buffers.give(buffer)

    def _open_untrusted(self, sealed: Buffer, associated: bytes, room: memoryview) -> None:
        self._inward.open_untrusted(sealed, associated, room)
        self.proven = True

    async def _receive_untrusted(self, room: memoryview, size: int) -> tuple[Kind, bytes, memoryview]:
        """Receives an answer; `room` is as large as one may be, and no byte of it is read on the holder's word.

        Raises:
            RemoteError: The connection broke.
            WireError: It is no answer.
        """
        kind, have, need = Kind.REFUSAL, 0, HEAD_BYTES
        while have < need:
            count = await self._stream.receive_into(room[have:])
            if not count:
                raise RemoteError("the holder closed the TCP connection")
            if have < HEAD_BYTES <= have + count:
                kind, body = read_head_untrusted(room[:HEAD_BYTES], size)
                need = HEAD_BYTES + body
            have += count
        if have > need:
            raise WireError("more than an answer")
        return kind, bytes(room[:HEAD_BYTES]), room[HEAD_BYTES:need]


@dataclass(eq=False, slots=True)
class _Holder:
    """What is known of one holder.

    Attributes:
        turns: Who has one may use a connection.
        free: Connections that nobody uses, the one used last at the end.
        all: All of them.
        rests_until: Until when no connection is tried.
        users: Tasks that have or wait for a turn.
    """

    turns: trio.Semaphore
    free: list[Channel] = field(default_factory=list)
    all: dict[Channel, None] = field(default_factory=dict)
    rests_until: float = 0.0
    users: int = 0


class Asker:
    """Fetches chunks over TCP.

    Args:
        node_id: Of this node.
        ways: The links to holders.
        config: The limits.
        stats: Counts.
        connect: Makes a TCP connection.
    """

    def __init__(self, node_id: NodeId, ways: Ways, config: BulkConfig, stats: BulkStats, connect: Connect) -> None:
        self._node_id = node_id
        self._ways = ways
        self._config = config
        self._stats = stats
        self._connect = connect
        self._buffers = Buffers(config.spare_buffers)
        self._holders: dict[NodeId, _Holder] = {}
        self._count = 0

    @property
    def connections(self) -> int:
        """Open ones, and those that are being opened."""
        return self._count

    async def fetch(self, node: NodeId, name: bytes, size: int, take: Take, limiter: trio.CapacityLimiter) -> bool:
        """See `net.ports.BulkPort`."""
        holder = self._holder(node)
        holder.users += 1
        try:
            async with holder.turns:
                way = self._ways.way(node)
                if way is None or way.path not in REACHABLE:
                    raise NoFastPath(f"there is no direct path to {node.short}")
                if trio.current_time() < holder.rests_until:
                    raise NoFastPath(f"TCP to {node.short} failed a moment ago")
                channel = holder.free.pop() if holder.free else await self._open(node, holder, way)
                return await self._use(holder, channel, name, size, take, limiter)
        finally:
            holder.users -= 1

    def cut(self, node: NodeId) -> None:
        """Closes all connections to a node."""
        if holder := self._holders.get(node):
            self._stats.cut += len(holder.all)
            self._close(holder, list(holder.all))

    def close_idle(self) -> None:
        """Closes the connections that were not used for a while; call it now and then."""
        until = trio.current_time() - self._config.rest_open_s
        for holder in self._holders.values():
            self._close(holder, [channel for channel in holder.free if channel.idle_since <= until])

    def close_all(self) -> None:
        """Closes all connections."""
        for holder in self._holders.values():
            self._close(holder, list(holder.all))

    def _holder(self, node: NodeId) -> _Holder:
        holder = self._holders.get(node)
        if holder is None:
            if len(self._holders) >= self._config.holders:
                now = trio.current_time()
                for each, old in list(self._holders.items()):
                    if not old.users and not old.all and old.rests_until <= now:
                        del self._holders[each]
            if len(self._holders) >= self._config.holders:
                raise NoFastPath("too many holders are remembered")
            holder = self._holders[node] = _Holder(trio.Semaphore(self._config.asked_node_connections))
        return holder

    async def _use(
        self, holder: _Holder, channel: Channel, name: bytes, size: int, take: Take, limiter: trio.CapacityLimiter
    ) -> bool:
        """Fetches over one connection, which is free afterwards, or closed."""
        keep = False
        try:
            right = await channel.fetch(name, size, take, limiter)
            keep = True
            return right
        except ChunkRefused:
            keep = True
            raise
        except (RemoteError, WireError) as error:
            if channel in holder.all:
                self._stats.broken += 1
                rest = self._config.broken_s if channel.proven else self._config.failed_s
                holder.rests_until = trio.current_time() + rest
            raise NoFastPath(str(error)) from error
        finally:
            if keep and channel in holder.all and not channel.used_up:
                channel.idle_since = trio.current_time()
                holder.free.append(channel)
            else:
                self._close(holder, [channel])

    def _close(self, holder: _Holder, channels: list[Channel]) -> None:
        for channel in channels:
            channel.close()
            if channel in holder.all:
                del holder.all[channel]
                self._count -= 1
            if channel in holder.free:
                holder.free.remove(channel)

    # --- opening --------------------------------------------------------------------------------------------------

    async def _open(self, node: NodeId, holder: _Holder, way: Way) -> Channel:
        """Opens a connection, or has the holder rest.

        Raises:
            NoFastPath: There is none.
        """
        self._make_room()
        self._count += 1
        channel = None
        within_s = self._config.connect_s + 4 * (way.rtt_s or 0.0)
        why = f"TCP to {node.short} did not answer within {within_s:.1f} s"
        try:
            with trio.move_on_after(within_s):
                channel = await self._try(node, way, within_s)
        except (RemoteError, WireError) as error:
            why = str(error)
        finally:
            self._count -= channel is None
        if channel is None:
            self._stats.failed += 1
            holder.rests_until = trio.current_time() + self._config.failed_s
            raise NoFastPath(why)
        self._stats.opened += 1
        holder.all[channel] = None
        channel.closing.enter_context(self._ways.holding(node))
        return channel

    def _make_room(self) -> None:
        """Closes the connection that was not used for longest, where there are as many as there may be."""
        if self._count < self._config.asked_connections:
            return
        free = [(channel.idle_since, holder, channel) for holder in self._holders.values() for channel in holder.free]
        if not free:
            raise NoFastPath(f"{self._count} TCP connections are in use, which is the limit")
        _, holder, channel = min(free, key=lambda each: each[0])
        self._close(holder, [channel])

    async def _try(self, node: NodeId, way: Way, within_s: float) -> Channel:
        """Gets a ticket and connects with it, to where the QUIC path goes and then where the holder says it listens.

        Raises:
            RemoteError: The holder gives no ticket, or is not reachable over TCP.
            WireError: Its answer is none.
        """
        async with self._ways.request(node, BULK, {}, within_s) as stream:
            answer = await stream.receive()
        if answer is None:
            raise RemoteError("the node ended the request without an answer")
        ticket = read_ticket_untrusted(answer)
        addresses = list(dict.fromkeys((way.remote, *self._ways.announced(node))))[: self._config.addresses]
        problem = "it says of no address where it listens"
        for address in addresses:
            with trio.move_on_after(within_s / len(addresses)):
                try:
                    return Channel(await self._connect(address), ticket, self._node_id, node, self._buffers)
                except RemoteError as error:
                    problem = str(error)
        raise RemoteError(problem)
