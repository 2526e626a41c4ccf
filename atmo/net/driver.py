"""The trio shell of the peer: feeds it what the network says and performs the effects that it asks for.

Holds no policy.

One link per neighbour. On each, our gossip goes out on a stream that we opened and theirs comes in on one that they
opened; every other request is a stream of its own. Whoever connects is authenticated by key; only a member whose Hello
was accepted gets to a handler, but for the join exchange.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from atmo.clock import Now
from atmo.engine import CancelFetch, Dial, Effect, Emit, FetchChunk, Hangup, Misbehaved, Send, Store
from atmo.errors import RemoteError, WireError
from atmo.gossip.messages import decode_message_untrusted, encode_message
from atmo.identity import NodeId
from atmo.net.log_pace import LogPace
from atmo.net.ports import Handler, RequestStream
from atmo.net.quic import Connection, Endpoint
from atmo.net.requests import open_request, serve_requests
from atmo.peer import AdvertLeftOut, LinkAge, LinkReady, Peer
from atmo.wire.address import Address

log = logging.getLogger(__name__)

GOSSIP = "atmo/gossip/1"
_READY_S = 5.0  # a request waits this long for its sender's Hello
_DIAL_S = 5.0
_STAGGER_S = 0.25  # Source: RFC 8305 section 8, Connection Attempt Delay
_QUEUE = 512
_STORE_S = 1.0
_LEAVE_S = 0.3
_REST = 3.0
"""For each second that one neighbour's gossip takes, so many are left to everybody else; what it sends meanwhile waits
at its end. Source: guess."""
_DEBT_S = 0.005  # shorter rests are not worth a timer
_FLUSH_S = 0.1  # a last message is one packet


@dataclass(slots=True)
class DriverStats:
    """Counters since start.

    Attributes:
        messages_dropped: For links whose queue is full.
        malformed: Messages that do not decode.
        bad_requests: Requests that broke a rule.
        misbehaved: Faults of other nodes, those among them.
    """

    messages_in: int = 0
    messages_out: int = 0
    messages_dropped: int = 0
    malformed: int = 0
    bad_requests: int = 0
    misbehaved: int = 0


@dataclass(eq=False)
class _Link:
    connection: Connection
    send: trio.MemorySendChannel[bytes]
    queue: trio.MemoryReceiveChannel[bytes]
    since: float
    ready: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    reason: str = ""
    gossiping: bool = False


class PeerDriver:
    """Runs a `Peer` over an `Endpoint`; implements `net.ports.MeshPort`.

    Args:
        endpoint: The open socket.
        peer: The engine.
        store: Keeps a batch of `Store` effects.
        load: Tells how many requests this machine is running.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        peer: Peer,
        store: Callable[[list[Store]], Awaitable[None]],
        load: Callable[[], int],
    ) -> None:
        self.endpoint = endpoint
        self.peer = peer
        self.stats = DriverStats()
        self.observers: list[Callable[[Any], None]] = []
        self.fetch: Callable[[FetchChunk], Awaitable[None]] | None = None
        self._store = store
        self._load = load
        self._links: dict[NodeId, _Link] = {}
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._fetches: dict[tuple[str, NodeId, int], trio.CancelScope] = {}
        self._stores: dict[str, Store] = {}
        self._flushing = trio.Lock()
        self._wake = trio.Event()
        self._log_pace = LogPace()
        self._nursery: trio.Nursery | None = None

    # --- MeshPort -------------------------------------------------------------------------------------------------

    def now(self) -> Now:
        """Returns the clocks, read once."""
        return Now(trio.current_time(), time.time())

    def handle(self, protocol: str, handler: Handler, *, members_only: bool = True) -> None:
        """Registers who answers requests of `protocol`; strangers get through only where `members_only` is off."""
        self._handlers[protocol] = (handler, members_only)

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[RequestStream]:
        """Opens a request to a linked node; see `net.ports.MeshPort.request`."""
        link = self._links.get(node)
        if link is None or not link.ready.is_set():
            raise RemoteError(f"there is no link to {self.peer.name(node)}")
        async with open_request(link.connection, protocol, header, deadline_s) as stream:
            yield stream

    def kick(self) -> None:
        """Performs what the peer asks for, and lets the timer look again."""
        while effects := self.peer.drain():
            for effect in effects:
                self._perform(effect)
        self._wake.set()

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; then says goodbye to the neighbours within a fraction of a second."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._accept)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._keep_stores)
                self.kick()
                task_status.started()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * _LEAVE_S):
                await self.flush()

    async def _accept(self) -> None:
        while True:
            self._adopt(await self.endpoint.accept())

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self.peer.next_timer()):
                await self._wake.wait()
                continue
            self.peer.handle_timer(self.now())
            self.kick()

    async def _keep_stores(self) -> None:
        while True:
            await trio.sleep(_STORE_S)
            await self.flush()

    async def flush(self) -> None:
        """Returns when what the peer asked to keep is on the disk."""
        async with self._flushing:
            if self._stores:
                batch, self._stores = list(self._stores.values()), {}
                await self._store(batch)

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self._send(to, encode_message(message))
            case Dial() if self._nursery:
                self._nursery.start_soon(self._dial, effect)
            case Hangup(node, reason):
                if link := self._links.get(node):
                    link.reason = reason
                    link.scope.cancel()
            case Misbehaved(peer, reason):
                self.stats.misbehaved += 1
                if self._log_pace.admits(trio.current_time(), peer):
                    log.warning("%s misbehaved: %s", self.peer.name(peer), reason)
            case Store(key):
                self._stores[key] = effect
            case FetchChunk() if self._nursery:
                scope = trio.CancelScope()  # made here, so that a CancelFetch right behind finds it
                self._fetches[(effect.transfer, effect.source, effect.index)] = scope
                self._nursery.start_soon(self._run_fetch, effect, scope)
            case CancelFetch(transfer, source, index):
                if running := self._fetches.get((transfer, source, index)):
                    running.cancel()
            case Emit(event):
                self._tell(event)

    def _tell(self, event: Any) -> None:
        if isinstance(event, LinkReady) and (link := self._links.get(event.node)):
            link.ready.set()
        elif isinstance(event, AdvertLeftOut):
            log.warning("the mesh does not learn of %r: %s", event.name, event.reason)
        for observer in self.observers:
            observer(event)

    def _send(self, to: NodeId, body: bytes) -> None:
        link = self._links.get(to)
        if link is None:
            return
        try:
            link.send.send_nowait(body)
            self.stats.messages_out += 1
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.stats.messages_dropped += 1

    async def _run_fetch(self, effect: FetchChunk, scope: trio.CancelScope) -> None:
        assert self.fetch is not None, "the model service attaches before anything is wanted"
        key = (effect.transfer, effect.source, effect.index)
        with scope:
            await self.fetch(effect)
        if self._fetches.get(key) is scope:
            del self._fetches[key]

    # --- links ----------------------------------------------------------------------------------------------------

    async def _dial(self, effect: Dial) -> None:
        connection = await self._race(effect)
        if connection is None:
            self.peer.dial_failed(self.now(), effect.node)
            self.kick()
        else:
            self._adopt(connection)

    async def _race(self, effect: Dial) -> Connection | None:
        """Dials all addresses, each a little after the one before; the first that answers as the right node wins."""
        winner: Connection | None = None

        async def attempt(address: Address, delay: float, scope: trio.CancelScope) -> None:
            nonlocal winner
            await trio.sleep(delay)
            try:
                connection = await self.endpoint.dial(address, effect.node, _DIAL_S)
            except RemoteError as error:
                log.debug("dial %s at %s: %s", effect.node.short, address, error)
                return
            if winner is None:
                winner = connection
                scope.cancel()
            else:
                await connection.aclose("another address answered first")

        async with trio.open_nursery() as nursery:
            for number, address in enumerate(effect.addresses):
                nursery.start_soon(attempt, address, number * _STAGGER_S, nursery.cancel_scope)
        return winner

    def _adopt(self, connection: Connection) -> None:
        """Makes a connection the link to its node, unless a better one is there."""
        assert self._nursery is not None
        node = connection.node_id
        old = self._links.get(node)
        if node == self.peer.node_id or (old and self._keeps(old, connection)):
            self._nursery.start_soon(connection.aclose, "there is a link already")
            return
        if old:
            old.reason = "replaced by a newer link"
            old.scope.cancel()
            self.peer.link_down(self.now(), node, old.reason)
        send, queue = trio.open_memory_channel[bytes](_QUEUE)
        link = _Link(connection, send, queue, trio.current_time())
        self._links[node] = link
        self.peer.link_up(self.now(), node, _path(connection.remote))
        self._nursery.start_soon(self._run_link, link)
        self.kick()

    def _keeps(self, old: _Link, connection: Connection) -> bool:
        if old.connection.closed.is_set():
            return False
        age = LinkAge(old.connection.outbound, old.since)
        return self.peer.keeps(self.now(), connection.node_id, age, connection.outbound)

    async def _run_link(self, link: _Link) -> None:
        node = link.connection.node_id
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_gossip, link)
                    nursery.start_soon(
                        serve_requests,
                        link.connection,
                        lambda protocol: self._serving(link, protocol),
                        lambda reason: self._bad(node, reason),
                    )
                    await link.connection.closed.wait()
                    nursery.cancel_scope.cancel()
        finally:
            reason = link.reason or link.connection.close_reason or "shutting down"
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S):
                await link.connection.aclose(reason)
            if self._links.get(node) is link:
                del self._links[node]
                self.peer.link_down(self.now(), node, reason)
                self.kick()

    def _bad(self, node: NodeId, reason: str) -> None:
        self.stats.bad_requests += 1
        self.peer.malformed(self.now(), node, reason)
        self.kick()

    async def _write_gossip(self, link: _Link) -> None:
        try:
            async with open_request(link.connection, GOSSIP, {}, math.inf) as stream:
                async for body in link.queue:
                    await stream.send(body)
        except RemoteError as error:
            link.reason = link.reason or str(error)
            link.scope.cancel()

    def _serving(self, link: _Link, protocol: str) -> Handler | None:
        if protocol == GOSSIP:
            return lambda stream: self._read_gossip(link, stream)
        if protocol not in self._handlers:
            return None
        handler, members_only = self._handlers[protocol]
        if not members_only:
            return handler

        async def guarded(stream: RequestStream) -> None:
            with trio.move_on_after(_READY_S):
                await link.ready.wait()
            if not self.peer.trust.is_member(time.time(), stream.node_id) or not link.ready.is_set():
                raise RemoteError(f"{stream.node_id.short} asks {protocol} and is no member")
            await handler(stream)

        return guarded

    async def _read_gossip(self, link: _Link, stream: RequestStream) -> None:
        if link.gossiping:
            raise RemoteError("a second gossip stream on one link")
        link.gossiping = True
        try:
            debt_s = 0.0
            while (body := await stream.receive()) is not None:
                began = trio.current_time()
                self._take(link, body)
                debt_s += _REST * (trio.current_time() - began)
                if debt_s > _DEBT_S:
                    await trio.sleep(debt_s)
                    debt_s = 0.0
                else:
                    await trio.lowlevel.checkpoint()
            link.reason = link.reason or "it ended its gossip"
        except RemoteError as error:
            link.reason = link.reason or str(error)
            raise
        finally:
            link.scope.cancel()

    def _take(self, link: _Link, body: bytes) -> None:
        node = link.connection.node_id
        if self._links.get(node) is not link:
            return
        self.stats.messages_in += 1
        self.peer.set_load(self._load())
        try:
            message = decode_message_untrusted(body)
        except WireError as error:
            self.stats.malformed += 1
            self.peer.malformed(self.now(), node, str(error))
        else:
            self.peer.receive(self.now(), node, message)
        self.kick()

    async def leave(self) -> None:
        """Says goodbye to all neighbours and gives the words a moment to go out."""
        self.peer.leave(self.now())
        self.kick()
        await trio.sleep(_FLUSH_S)


def _path(remote: Address) -> str:
    """Names the kind of path for people: `lan` for private, link-local and loopback addresses."""
    return "lan" if ipaddress.ip_address(remote.host).is_private else "direct"
