"""The asker's end of bulk connections: a few to each holder, opened when a chunk is wanted, one request each at a time.

What is asked of one holder waits in one queue. A connection with something to do has a thread, which takes one order
after the other; the loop is told of what is done, of several at once where it is busy.

Whether a holder's TCP port is reachable is found by trying. Whatever goes wrong, the chunk is fetched over QUIC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Protocol

import trio
from outcome import Error, Outcome, Value

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.bulk_channel import Channel
from atmo.net.bulk_config import BulkConfig, BulkStats
from atmo.net.bulk_frames import BULK, Buffers, read_ticket_untrusted
from atmo.net.bulk_orders import Order, Source, Workers
from atmo.net.interfaces import is_near
from atmo.net.ports import ChunkRefused, NoFastPath, RequestStream, Take
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


class Asker:
    """Fetches chunks over TCP.

    Args:
        node_id: Of this node.
        ways: The links to holders.
        config: The limits.
        stats: Counts.
        connect: Makes a TCP connection.
        near: Says whether a host is on a LAN of this machine.
    """

    def __init__(
        self,
        node_id: NodeId,
        ways: Ways,
        config: BulkConfig,
        stats: BulkStats,
        connect: Connect,
        near: Callable[[str], bool] = is_near,
    ) -> None:
        self._node_id = node_id
        self._ways = ways
        self._config = config
        self._stats = stats
        self._connect = connect
        self._near = near
        self._buffers = Buffers(config.spare_buffers)
        self._holders: dict[NodeId, Source] = {}
        self._count = 0
        self._workers = Workers(self._settle)

    @property
    def connections(self) -> int:
        """Open ones, and those that are being opened."""
        return self._count

    async def fetch(self, node: NodeId, name: bytes, size: int, take: Take) -> bool:
        """See `net.ports.BulkPort`."""
        holder = self._holder(node)
        holder.users += 1
        try:
            right = None
            while right is None:
                way = self._ways.way(node)
                if way is None or way.path not in REACHABLE:
                    raise NoFastPath(f"there is no direct path to {node.short}")
                if trio.current_time() < holder.rests_until:
                    raise NoFastPath(f"TCP to {node.short} failed a moment ago")
                channel = await self._channel(node, holder, way)
                right = await self._wait(holder, channel, Order(name, size, take))
            return right
        finally:
            holder.users -= 1

    def cut(self, node: NodeId) -> None:
        """Closes all connections to a node."""
        if holder := self._holders.get(node):
            self._stats.cut += len(holder.all)
            self._close(holder, list(holder.all))
            holder.tell_waiting(lambda: Error(NoFastPath(f"the link to {node.short} is gone")))

    def close_idle(self) -> None:
        """Closes the connections that were not used for a while; call it now and then."""
        until = trio.current_time() - self._config.rest_open_s
        for holder in self._holders.values():
            self._close(holder, [channel for channel in holder.free if channel.idle_since <= until])

    def close_all(self) -> None:
        """Closes all connections."""
        for holder in self._holders.values():
            self._close(holder, list(holder.all))

    def _holder(self, node: NodeId) -> Source:
        holder = self._holders.get(node)
        if holder is None:
            if len(self._holders) >= self._config.holders:
                now = trio.current_time()
                for each, old in list(self._holders.items()):
                    if not old.users and not old.all and old.rests_until <= now:
                        del self._holders[each]
            if len(self._holders) >= self._config.holders:
                raise NoFastPath("too many holders are remembered")
            holder = self._holders[node] = Source()
        return holder

    def _close(self, holder: Source, channels: list[Channel]) -> None:
        for channel in channels:
            channel.close()
            self._count -= holder.forget(channel)

    # --- orders ---------------------------------------------------------------------------------------------------

    async def _wait(self, holder: Source, channel: Channel | None, order: Order) -> bool | None:
        """Gives an order to a connection, or to the first that has time, and waits; None where none is left."""
        order.task = trio.lowlevel.current_task()
        order.channel = channel = channel or (holder.free.pop() if holder.free else None)
        if channel is None:
            holder.add(order)
        else:
            self._workers.begin(holder, channel, order)

        def abort(_: object) -> trio.lowlevel.Abort:
            order.task = None
            running = holder.take_back(order)
            if running is not None:
                self._close(holder, [running])
            return trio.lowlevel.Abort.SUCCEEDED

        right: bool | None = await trio.lowlevel.wait_task_rescheduled(abort)
        return right

    def _settle(self, holder: Source, channel: Channel, order: Order, outcome: Outcome[bool], last: bool) -> None:
        """Takes what a thread says of an order; in the loop."""
        told: Outcome[Any] = outcome
        if isinstance(outcome, Error) and not isinstance(outcome.error, ChunkRefused):
            told = self._broken(holder, channel, outcome.error)
        elif last:
            self._rest(holder, channel)
        order.tell(told)

    def _broken(self, holder: Source, channel: Channel, error: BaseException) -> Outcome[Any]:
        """A connection ended by an error; returns what its order is told."""
        broke, known = isinstance(error, RemoteError | WireError), channel in holder.all
        self._close(holder, [channel])
        if broke and known:
            self._stats.broken += 1
            rest = self._config.broken_s if channel.proven else self._config.failed_s
            holder.rests_until = trio.current_time() + rest
            holder.tell_waiting(lambda: Error(NoFastPath(f"TCP failed: {error}")))
        elif not holder.all:
            holder.tell_waiting(lambda: Value(None))
        if not broke:
            return Error(error)
        failed = NoFastPath(str(error))
        failed.__cause__ = error
        return Error(failed)

    def _rest(self, holder: Source, channel: Channel) -> None:
        """A connection has nothing to do, or may do nothing more."""
        if channel not in holder.all:
            return
        if channel.used_up:
            self._close(holder, [channel])
            holder.tell_waiting(lambda: Value(None))
            return
        if order := holder.next(channel):
            self._workers.begin(holder, channel, order)
        else:
            channel.idle_since = trio.current_time()
            holder.free.append(channel)

    # --- opening --------------------------------------------------------------------------------------------------

    async def _channel(self, node: NodeId, holder: Source, way: Way) -> Channel | None:
        """Opens a connection where all are busy and there may be another."""
        config = self._config
        most = config.asked_lan_connections if way.path == LAN else config.asked_node_connections
        if holder.free or len(holder.all) + holder.opening >= most:
            return None
        return await self._open(node, holder, way)

    async def _open(self, node: NodeId, holder: Source, way: Way) -> Channel:
        """Opens a connection, or has the holder rest.

        Raises:
            NoFastPath: There is none.
        """
        self._make_room()
        self._count += 1
        holder.opening += 1
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
            holder.opening -= 1
            if channel is None and not holder.all:
                # a cancelled task opens it no more; where it rests, they learn that
                holder.tell_waiting(lambda: Value(None))
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
                    clear = self._config.clear_on_lan and self._near(address.host)
                    made = await self._connect(address)
                    return Channel(made, ticket, self._node_id, node, self._buffers, clear=clear)
                except RemoteError as error:
                    problem = str(error)
        raise RemoteError(problem)
