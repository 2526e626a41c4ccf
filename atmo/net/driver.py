"""The trio shell of the peer: feeds it what the network says and performs the effects that it asks for.

Holds no policy.

One link per neighbour. On each, our gossip goes out on a stream that we opened and theirs comes in on one that they
opened; every other request is a stream of its own. Whoever connects is authenticated by key; only a member whose Hello
was accepted gets to a handler, but for the join exchange.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import trio

from atmo.clock import Now
from atmo.engine import CancelFetch, Dial, Effect, Emit, FetchChunk, Hangup, Misbehaved, Send, Store
from atmo.errors import RemoteError, UserError
from atmo.gossip.records import NODE
from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.net.forwarding import FORWARD
from atmo.net.link import DriverStats, Link, Shell
from atmo.net.links import GOSSIP, Links
from atmo.net.log_pace import LogPace
from atmo.net.path_report import PathReport
from atmo.net.pathfinder import PATHS, Pathfinder
from atmo.net.ports import BulkPort, Handler, RequestStream
from atmo.net.quic import Connection, Endpoint
from atmo.net.reaching import Reaching
from atmo.net.relayed import RelayPaths
from atmo.net.requests import open_request
from atmo.peer import AdvertLeftOut, LinkReady, Peer, Revoked
from atmo.peer.messages import encode_message
from atmo.reach.paths import Path
from atmo.wire.address import Address

log = logging.getLogger(__name__)

__all__ = ["GOSSIP", "DriverStats", "PeerDriver"]

_READY_S = 5.0  # a request waits this long for its sender's Hello
_STORE_S = 1.0
_STORE_AGAIN_S = 10.0  # after a try that failed, as where the disk is full or another program holds the database
_LEAVE_S = 0.3
_HELLO = "Hello: "  # so begins the reason where who is or was a member is not let in: that is no fault
_FLUSH_S = 0.1  # a last message is one packet


class PeerDriver:
    """Runs a `Peer` over an `Endpoint`; implements `net.ports.MeshPort`.

    Args:
        endpoint: The open socket.
        peer: The engine.
        store: Keeps a batch of `Store` effects.
        load: Tells how many requests this machine is running.
        wall: Reads the wall clock, in Unix seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        peer: Peer,
        store: Callable[[list[Store]], Awaitable[None]],
        load: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.endpoint = endpoint
        self.peer = peer
        self.bulk: BulkPort | None = None
        self.stats = DriverStats()
        self.observers: list[Callable[[Any], None]] = []
        self.fetch: Callable[[FetchChunk], Awaitable[None]] | None = None
        self._store = store
        self._wall = wall
        self.links = Links(endpoint, peer, self.stats, Shell(self.now, self.kick, load, self._dispatch, self.admits))
        self._reaching = Reaching(endpoint, peer, self.links, self.now, self.kick)
        self.forwarder = self._reaching.forwarder
        self.pathfinder = Pathfinder(endpoint, peer.addresses)
        endpoint.probing.moved = self._moved
        self._handlers: dict[str, tuple[Handler, bool]] = {FORWARD: (self.forwarder.serve, True)}
        self._fetches: dict[tuple[str, NodeId, int], trio.CancelScope] = {}
        self._stores: dict[str, Store] = {}
        self._flushing = trio.Lock()
        self._wake = trio.Event()
        self._log_pace = LogPace()
        self._nursery: trio.Nursery | None = None

    # --- MeshPort -------------------------------------------------------------------------------------------------

    def now(self) -> Now:
        """Returns the clocks, read once."""
        return Now(trio.current_time(), self._wall())

    def handle(self, protocol: str, handler: Handler, *, members_only: bool = True) -> None:
        """Registers who answers requests of `protocol`; strangers get through only where `members_only` is off."""
        self._handlers[protocol] = (handler, members_only)

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[RequestStream]:
        """Opens a request to a member; see `net.ports.MeshPort.request`."""
        until = trio.current_time() + deadline_s
        async with self._reaching.reserve(node, deadline_s, forwarded=True) as connection:
            left = max(0.0, until - trio.current_time())
            async with open_request(connection, protocol, header, left) as stream:
                yield stream

    def kick(self) -> None:
        """Performs what the peer asks for, and lets the timer look again."""
        while effects := self.peer.drain():
            for effect in effects:
                self._perform(effect)
        self._wake.set()

    def path(self, node: NodeId) -> PathReport | None:
        """Returns by which path a node is reached, None where there is no link."""
        link = self.links.get(node)
        return self.pathfinder.report(link.connection) if link is not None and link.ready.is_set() else None

    def addresses_changed(self) -> None:
        """This machine has other addresses, or is seen from others: the other ends of links learn it at once."""
        if self._nursery is not None:
            for link in self.links.alive():
                self._nursery.start_soon(self.pathfinder.tell, link.connection)

    def use_relays(self, relayed: RelayPaths) -> None:
        """Reaches nodes over relays, too, from now on."""
        self.links.relayed = self.pathfinder.relayed = relayed
        relayed.changed.append(lambda state: self._relay_moved())

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; then says goodbye to the neighbours within a fraction of a second."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = self.links.nursery = self._reaching.nursery = self.pathfinder.nursery = nursery
                nursery.start_soon(self.links.accept_forever)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._keep_stores)
                self.kick()
                task_status.started()
        finally:
            self._nursery = self.links.nursery = self._reaching.nursery = self.pathfinder.nursery = None
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * _LEAVE_S):
                await self._try_to_flush(quiet=False)

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self.peer.next_timer()):
                await self._wake.wait()
                continue
            self.peer.handle_timer(self.now())
            self.kick()

    async def _keep_stores(self) -> None:
        kept = True
        while True:
            await trio.sleep(_STORE_S if kept else _STORE_AGAIN_S)
            kept = await self._try_to_flush(quiet=not kept)

    async def _try_to_flush(self, *, quiet: bool) -> bool:
        """Says whether it is kept; a disk that fails does not end the node, which needs it only at its next start."""
        try:
            await self.flush()
        except UserError as error:
            log.log(logging.DEBUG if quiet else logging.WARNING, "what is new in the mesh is not kept yet: %s", error)
            return False
        return True

    async def flush(self) -> None:
        """Returns when what the peer asked to keep is on the disk.

        Raises:
            UserError: The disk fails; it is tried again later.
        """
        async with self._flushing:
            if self._stores:
                batch, self._stores = self._stores, {}
                try:
                    await self._store(list(batch.values()))
                except BaseException:
                    self._stores = batch | self._stores  # what was asked for meanwhile is newer
                    raise

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self.links.send(to, encode_message(message))
            case Dial() if self._nursery:
                self._nursery.start_soon(self.links.dial, effect)
            case Hangup(node, reason, lingers):
                self.links.hang_up(node, reason, lingers=lingers)
            case Misbehaved(peer, reason):
                self.stats.misbehaved += 1
                if self._log_pace.admits(trio.current_time(), peer):
                    told = "was not let in" if reason.startswith(_HELLO) else "misbehaved"
                    log.warning("%s %s: %s", self.peer.name(peer), told, reason.removeprefix(_HELLO))
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

    def _moved(self, connection: Connection, path: Path, reason: str) -> None:
        """A connection takes another path."""
        node = connection.node_id
        where = f"{path.kind} {path.place}" if isinstance(path.place, Address) else path.kind
        log.info("what goes to %s goes by %s now: %s", self.peer.name(node), where, reason)
        self.pathfinder.moved(connection)
        link = self.links.get(node)
        if link is not None and link.connection is connection:
            self.peer.path_changed(self.now(), node, path.kind)
            self.kick()

    def _relay_moved(self) -> None:
        """This node is at another relay: others who are there, too, are reached over it, whatever they said before."""
        home = self.links.relayed.home() if self.links.relayed else None
        for link in self.links.alive():
            self.pathfinder.try_relay(link.connection, home)

    def _tell(self, event: Any) -> None:
        if isinstance(event, LinkReady) and (link := self.links.get(event.node)):
            link.ready.set()
            if link.connection.outbound and self._nursery:
                self._nursery.start_soon(self.pathfinder.keep, link)
        elif isinstance(event, RecordChanged) and event.kind == NODE and (link := self.links.get(event.author)):
            self.pathfinder.try_relay(link.connection, self.peer.relay_of(event.author))
        elif isinstance(event, Revoked):
            self.links.hang_up(event.node, "it was revoked", lingers=False)
        elif isinstance(event, AdvertLeftOut):
            log.warning("the mesh does not learn of %r: %s", event.name, event.reason)
        self._reaching.on_event(event)
        for observer in self.observers:
            observer(event)

    async def _run_fetch(self, effect: FetchChunk, scope: trio.CancelScope) -> None:
        assert self.fetch is not None, "the model service attaches before anything is wanted"
        key = (effect.transfer, effect.source, effect.index)
        with scope:
            await self.fetch(effect)
        if self._fetches.get(key) is scope:
            del self._fetches[key]

    # --- requests of others ---------------------------------------------------------------------------------------

    def _dispatch(self, link: Link, protocol: str) -> Handler | None:
        if protocol == PATHS:
            return self._guarded(link, lambda stream: self.pathfinder.serve(link.connection, stream), holds=False)
        if protocol not in self._handlers:
            return None
        handler, members_only = self._handlers[protocol]
        return self._guarded(link, handler, members_only=members_only)

    def _guarded(self, link: Link, handler: Handler, *, members_only: bool = True, holds: bool = True) -> Handler:
        async def guarded(stream: RequestStream) -> None:
            if not members_only:
                await handler(stream)
                return
            with trio.move_on_after(_READY_S):
                await link.ready.wait()
            if not self.peer.trust.is_member(self._wall(), stream.node_id) or not link.ready.is_set():
                raise RemoteError(f"{stream.node_id.short} asks {stream.protocol} and is no member")
            with self._reaching.holding(link) if holds else nullcontext():
                await handler(stream)

        return guarded

    def admits(self, node: NodeId) -> bool:
        """Charges a request of a node; returns whether it is within its budget."""
        if self.peer.admits_stream(self.now(), node):
            return True
        self.stats.refused_requests += 1
        self.kick()
        return False

    def member_link(self, node: NodeId) -> Link | None:
        """Returns the link to a node that proved its membership and is a member still."""
        link = self.links.get(node)
        up = link is not None and link.ready.is_set() and not link.ending
        return link if up and self.peer.trust.is_member(self._wall(), node) else None

    def holding(self, link: Link) -> AbstractContextManager[None]:
        """Keeps a link open for the block."""
        return self._reaching.holding(link)

    async def leave(self) -> None:
        """Says goodbye to all neighbours and gives the words a moment to go out."""
        self.peer.leave(self.now())
        self.kick()
        await trio.sleep(_FLUSH_S)
