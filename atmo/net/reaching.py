"""A link to any member, for a request: the one there is, a dial, else a path through others (`net.forwarding`).

The peer says whom it can dial and who has a route; this waits for its events, within the deadline of whoever asks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.connection import Connection
from atmo.net.forwarding import Forwarder
from atmo.net.link import Link
from atmo.net.links import Links
from atmo.net.quic import Endpoint
from atmo.peer.events import LinkReady, Unreachable
from atmo.peer.route_messages import RouteEnded, RouteFound

log = logging.getLogger(__name__)

_DIRECT_SHARE = 0.6
"""Of the deadline, for a dial; the rest is for a way through others. Source: guess."""
_DIRECT_S = 10.0
"""The most for a dial. Source: one takes 5 s at most, and may wait for its turn."""
_FORWARD_S = 15.0
"""The most for a way through others. Source: `ForwardConfig.deadline_s`."""
_HOPELESS_S = 5.0
"""No way is looked for again so soon after there was none: a search costs up to 170 messages. Source: guess."""
_HOPELESS_NODES = 256
_SHORTEST_S = 2.0
"""A route gets half of the time that is left, but so long where there is so much. Source: guess: a handshake over four
hops at 0.3 s each takes 1.2 s."""
_BLIND_ROUTES = 2
"""Neighbours that are asked to dial the target themselves where nobody has a link to it. Source: guess."""
_ROUTES = 8


class Reacher(Protocol):
    """What this needs of the peer."""

    def name(self, node: NodeId) -> str:
        """Returns what a node calls itself."""

    def reach(self, now: Now, node: NodeId) -> None:
        """Opens a link; `LinkReady` or `Unreachable` follows."""

    def hold(self, now: Now, node: NodeId) -> None:
        """The link to `node` is needed until `release`."""

    def release(self, now: Now, node: NodeId) -> None:
        """The counterpart of `hold`."""

    def find_route(self, now: Now, target: NodeId, deadline: float) -> int:
        """Looks for ways; `RouteFound` for some, then `RouteEnded` follow."""

    def cancel_route(self, now: Now, search: int) -> None:
        """Ends such a search."""


class Reaching:
    """Gets links for requests, and for the hops of forwarded paths; implements `net.forwarding.LinkSource`.

    Args:
        endpoint: The open socket.
        peer: Opens links and finds routes.
        links: The table of links.
        now: Reads the clocks.
        kick: Performs the peer's effects.
    """

    def __init__(
        self, endpoint: Endpoint, peer: Reacher, links: Links, now: Callable[[], Now], kick: Callable[[], None]
    ) -> None:
        self.nursery: trio.Nursery | None = None
        self.forwarder = Forwarder(endpoint, self)
        self._peer = peer
        self._links = links
        self._now = now
        self._kick = kick
        self._waiting: dict[NodeId, dict[trio.Event, bool]] = {}
        """Who waits for a link to a node, and whether a dial that failed is news to it."""
        self._forwarding: dict[NodeId, None] = {}
        self._hopeless: dict[NodeId, float] = {}
        """Until when no way through others is looked for."""
        self._searches: dict[int, trio.MemorySendChannel[tuple[NodeId, ...]]] = {}

    # --- for requests ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def reserve(self, node: NodeId, deadline_s: float, *, forwarded: bool = False) -> AsyncIterator[Connection]:
        """Gives the block a link that is kept open meanwhile.

        Args:
            node: To whom.
            deadline_s: For getting it.
            forwarded: A way through others will do, too.

        Raises:
            RemoteError: There is no way to the node, or none in time.
        """
        link = await self._get(node, trio.current_time() + deadline_s, forwarded)
        with self.holding(link):
            yield link.connection

    def holding(self, link: Link) -> _Hold:
        """Keeps a link open for the block."""
        return _Hold(self._peer, self._links, link, self._now, self._kick)

    async def _get(self, node: NodeId, until: float, forwarded: bool) -> Link:
        link = self._links.get(node)
        if link is not None and link.ending:
            with trio.move_on_at(until):
                await link.gone.wait()
        link = self._ready(node)
        if link is None:
            now = trio.current_time()
            share = _DIRECT_SHARE if forwarded else 1.0
            direct = now + min(share * (until - now), _DIRECT_S)
            link = await self._wait(node, direct, lambda: self._peer.reach(self._now(), node), dials=True)
        if link is None and forwarded and self._may_forward(node):
            until = min(until, trio.current_time() + _FORWARD_S)
            link = await self._wait(node, until, lambda: self._forward(node, until))
        if link is None or (link.path == "forward" and not forwarded):
            raise RemoteError(f"there is no way to {self._peer.name(node)}")
        return link

    def _ready(self, node: NodeId) -> Link | None:
        link = self._links.get(node)
        return link if link and link.ready.is_set() and not link.ending else None

    async def _wait(self, node: NodeId, until: float, begin: Callable[[], None], *, dials: bool = False) -> Link | None:
        """Waits for the next news of a node; returns its link, None where the news is bad or late.

        Args:
            node: Of whom.
            until: Monotonic seconds.
            begin: Asks for the link.
            dials: A dial that failed is news.
        """
        event = trio.Event()
        self._waiting.setdefault(node, {})[event] = dials
        try:
            begin()
            self._kick()
            if self._ready(node) is None:
                with trio.move_on_at(until):
                    await event.wait()
        finally:
            waiting = self._waiting[node]
            del waiting[event]
            if not waiting:
                del self._waiting[node]
        return self._ready(node)

    # --- events of the peer ---------------------------------------------------------------------------------------

    def on_event(self, event: Any) -> None:
        """Takes what the peer tells; the link of a `LinkReady` must be marked before."""
        match event:
            case LinkReady(node):
                self._news(node)
            case Unreachable(node):
                self._news(node, of_dials=True)
            case RouteFound(search, route) if channel := self._searches.get(search):
                try:
                    channel.send_nowait(route)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    log.debug("a route too many: %s", route)
            case RouteEnded(search) if channel := self._searches.pop(search, None):
                channel.close()

    def _news(self, node: NodeId, *, of_dials: bool = False) -> None:
        for event, dials in self._waiting.get(node, {}).items():
            if dials or not of_dials:
                event.set()

    # --- ways through others --------------------------------------------------------------------------------------

    def _may_forward(self, node: NodeId) -> bool:
        now = trio.current_time()
        if len(self._hopeless) >= _HOPELESS_NODES:
            self._hopeless = {each: until for each, until in self._hopeless.items() if until > now}
        return self.nursery is not None and self._hopeless.get(node, now) <= now

    def _forward(self, node: NodeId, until: float) -> None:
        """Looks for a way through others, unless that is under way."""
        if self.nursery is not None and node not in self._forwarding:
            self._forwarding[node] = None
            self.nursery.start_soon(self._run_forward, node, until)

    async def _run_forward(self, node: NodeId, until: float) -> None:
        try:
            if not (await self._try_found(node, until) or await self._try_blind(node, until)):
                self._hopeless[node] = trio.current_time() + _HOPELESS_S
        finally:
            del self._forwarding[node]
            self._news(node)

    async def _try_found(self, node: NodeId, until: float) -> bool:
        """Tries the routes that others tell, in the order in which they come."""
        send, routes = trio.open_memory_channel[tuple[NodeId, ...]](_ROUTES)
        search = self._peer.find_route(self._now(), node, until)
        self._searches[search] = send
        self._kick()
        try:
            with trio.move_on_at(until), routes:
                async for route in routes:
                    if await self._try(node, route, until):
                        return True
        finally:
            if self._searches.pop(search, None):
                send.close()
                self._peer.cancel_route(self._now(), search)
                self._kick()
        return False

    async def _try_blind(self, node: NodeId, until: float) -> bool:
        """Tries routes over the nearest neighbours, which may be able to dial where this node is not."""
        near = [link for link in self._links.ready() if link.path != "forward"]
        near.sort(key=lambda link: link.connection.rtt_s or math.inf)
        for link in near[:_BLIND_ROUTES]:
            if await self._try(node, (link.connection.node_id, node), until):
                return True
        return False

    async def _try(self, node: NodeId, route: tuple[NodeId, ...], until: float) -> bool:
        """Connects along a route; says whether there is a link now, by whatever way."""
        assert self.nursery is not None
        left = until - trio.current_time()
        if self._ready(node) or left <= 0:
            return self._ready(node) is not None
        until = trio.current_time() + min(left, max(left / 2, _SHORTEST_S))
        try:
            connection = await self.forwarder.dial(self.nursery, route, until - trio.current_time())
        except RemoteError as error:
            log.debug("no way to %s through %s: %s", node.short, route[0].short, error)
            return self._ready(node) is not None
        return await self._wait(node, until, lambda: self._links.adopt(connection)) is not None


class _Hold:
    """Tells the peer that a link is needed, for as long as it is the link to its node."""

    def __init__(
        self, peer: Reacher, links: Links, link: Link, now: Callable[[], Now], kick: Callable[[], None]
    ) -> None:
        self._peer = peer
        self._links = links
        self._link = link
        self._now = now
        self._kick = kick
        self._told = False

    def __enter__(self) -> None:
        self._link.hold()
        if self._is_the_link():
            self._told = True
            self._peer.hold(self._now(), self._link.connection.node_id)
            self._kick()

    def __exit__(self, *_: object) -> None:
        self._link.release()
        if self._told and self._is_the_link():
            self._peer.release(self._now(), self._link.connection.node_id)
            self._kick()

    def _is_the_link(self) -> bool:
        return self._links.get(self._link.connection.node_id) is self._link
