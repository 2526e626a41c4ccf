"""Every link of this node and every dial, whoever wants it.

A link is new (the transport authenticated the other node's key), then ready (its `Hello` showed a valid certificate of
this mesh), then closing (its end was asked for). Engines that want a link ask here, so that no node is dialled twice;
what is to be said to a node without a link waits until there is one. A link that is no neighbour's, that nobody holds
and nobody uses is closed after a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from atmo.clock import Now
from atmo.engine import Contact, Dial, Hangup, Message, Outbox, Send
from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class LinksConfig:
    """Bounds and times.

    Attributes:
        hello_s: A link whose other end has not proved its membership by then is closed. Source: guess.
        unverified: Links at once that others opened and whose other end has not proved its membership. They are no part
            of `most`, and what this node dials itself is no part of them, so that strangers crowd nobody out. Source:
            guess.
        most: Links at once of members; the one unused for longest makes room, neighbours never. Source: guess.
        dials: At most this many at once; others wait for their turn. Source: guess.
        waiting: Dials that wait. Source: guess; what is beyond fails at once.
        dial_s: A dial without an outcome after this has failed; the shell gives up well before.
        asks: Messages that wait for one link. Source: guess.
        idle_s: A link that nobody needs is closed by its dialler after this, by the other end after twice as long.
            Source: guess; a lookup comes back to the same node within seconds.
        look_s: Between two looks for idle links.
    """

    hello_s: float = 5.0
    unverified: int = 256
    most: int = 160
    dials: int = 16
    waiting: int = 256
    dial_s: float = 60.0
    asks: int = 16
    idle_s: float = 20.0
    look_s: float = 5.0


@dataclass(eq=False, slots=True)
class Link:
    """What is known of one link.

    Attributes:
        path: `lan`, `direct`, `relay` or `forward`.
        since: Monotonic seconds at which it came up.
        dialled: This node opened it.
        hello_by: Until when its Hello has to come; infinite once it is ready.
        ready: The other end proved its membership.
        closing: Its end was asked for: nothing that still comes over it counts.
        used_at: Monotonic seconds of the last message that was no ping.
        holds: Streams and others that need it.
        told: Its one `Successions` came.
        introduced_at: Monotonic seconds at which the other end asked for near records and got them.
    """

    path: str
    since: float
    dialled: bool
    hello_by: float
    used_at: float
    ready: bool = False
    closing: bool = False
    holds: int = 0
    told: bool = False
    introduced_at: float = -math.inf


class Links:
    """The table of links, and the dials under way.

    Args:
        config: Bounds and times.
        out: Takes the effects for the shell.
        may_dial: Says whether a dial of a node could succeed.
        is_neighbour: Says whether a node is in the active view.
        unreachable: Told of each node that was wanted and cannot be reached.
    """

    def __init__(
        self,
        config: LinksConfig,
        out: Outbox,
        may_dial: Callable[[Now, NodeId], bool],
        is_neighbour: Callable[[NodeId], bool],
        unreachable: Callable[[Now, NodeId], None],
    ) -> None:
        self._config = config
        self._out = out
        self._may_dial = may_dial
        self._is_neighbour = is_neighbour
        self._unreachable = unreachable
        self._links: dict[NodeId, Link] = {}
        self._new: dict[NodeId, None] = {}
        self._dialling: dict[NodeId, float] = {}  # when each is given up
        self._waiting: dict[NodeId, Contact] = {}
        self._asks: dict[NodeId, list[Message]] = {}
        self._next = math.inf
        self._next_look = math.inf

    # --- wants ----------------------------------------------------------------------------------------------------

    def dial(self, now: Now, contact: Contact) -> None:
        """Opens a link unless there is one or it is being opened; `unreachable` is told when it could not be."""
        node = contact.node
        link = self._links.get(node)
        if link and link.closing:
            self._fail(now, node)
            return
        if link or node in self._dialling or node in self._waiting:
            return
        if not contact.addresses or len(self._waiting) >= self._config.waiting or not self._may_dial(now, node):
            self._fail(now, node)
            return
        self._waiting[node] = contact
        self._dial_next(now)

    def ask(self, now: Now, contact: Contact, message: Message) -> None:
        """Sends a message, over a link that is opened for it where there is none."""
        node = contact.node
        link = self._links.get(node)
        if link and link.ready:
            if not link.closing:
                link.used_at = now.mono
                self._out.put(Send(node, message))
                return
            self._fail(now, node)
            return
        asks = self._asks.setdefault(node, [])
        if len(asks) < self._config.asks:
            asks.append(message)
        self.dial(now, contact)

    def hold(self, now: Now, node: NodeId) -> None:
        """Something needs this link until `release`."""
        if link := self._links.get(node):
            link.holds += 1
            link.used_at = now.mono

    def release(self, now: Now, node: NodeId) -> None:
        """The counterpart of `hold`."""
        if (link := self._links.get(node)) and link.holds:
            link.holds -= 1
            link.used_at = now.mono

    def _dial_next(self, now: Now) -> None:
        while self._waiting and len(self._dialling) < self._config.dials:
            node = next(iter(self._waiting))
            contact = self._waiting.pop(node)
            give_up = self._dialling[node] = now.mono + self._config.dial_s
            self._next = min(self._next, give_up)
            self._out.put(Dial(node, contact.addresses))

    def _fail(self, now: Now, node: NodeId) -> None:
        self._asks.pop(node, None)
        self._unreachable(now, node)

    # --- what happened --------------------------------------------------------------------------------------------

    def up(self, now: Now, node: NodeId, path: str) -> Link | None:
        """There is a connection; returns None where too many of strangers wait, and asks for its end."""
        dialled = self._dialling.pop(node, None) is not None
        self._waiting.pop(node, None)
        link = self._links[node] = Link(path, now.mono, dialled, now.mono + self._config.hello_s, now.mono)
        self._dial_next(now)
        if not dialled and len(self._new) >= self._config.unverified:
            self.hang_up(node, "too many links at once")
            return None
        self._new[node] = None
        self._next = min(self._next, link.hello_by)
        self._next_look = min(self._next_look, now.mono + self._config.look_s)
        return link

    def _make_room(self) -> None:
        """Of too many links of members the one unused for longest goes: the newest where all others are needed."""
        if len(self._links) > self._config.most and len(self.ready()) > self._config.most:
            spare = [node for node, link in self._links.items() if self._is_spare(node, link)]
            if spare:
                self.hang_up(min(spare, key=lambda node: self._links[node].used_at), "making room for another link")

    def _is_spare(self, node: NodeId, link: Link) -> bool:
        return link.ready and not link.closing and not link.holds and not self._is_neighbour(node)

    def verified(self, now: Now, node: NodeId) -> None:
        """The other end proved its membership: what waits for this link is sent."""
        link = self._links[node]
        del self._new[node]
        link.ready, link.hello_by, link.used_at = True, math.inf, now.mono
        for message in self._asks.pop(node, ()):
            self._out.put(Send(node, message))
        self._make_room()

    def down(self, now: Now, node: NodeId, *, replaced: bool = False) -> Link | None:
        """The connection is gone, or another one takes its place; returns what was known of it."""
        link = self._links.pop(node, None)
        self._new.pop(node, None)
        if link and not link.ready and not replaced:
            self._fail(now, node)
        self._dial_next(now)
        return link

    def dial_failed(self, now: Now, node: NodeId) -> None:
        """Nobody answered at any address."""
        if self._dialling.pop(node, None) is not None:
            self._fail(now, node)
            self._dial_next(now)

    def forget(self, node: NodeId) -> None:
        """A node is no member any more: it is not dialled."""
        self._waiting.pop(node, None)
        self._asks.pop(node, None)

    def hang_up(self, node: NodeId, reason: str, *, lingers: bool = False) -> None:
        """Asks for the end of a link; nothing that still comes over it counts. See `Hangup` for `lingers`."""
        link = self._links[node]
        if not link.closing:
            link.closing = True
            self._new.pop(node, None)
            self._asks.pop(node, None)
            self._out.put(Hangup(node, reason, lingers))

    # --- queries --------------------------------------------------------------------------------------------------

    def get(self, node: NodeId) -> Link | None:
        """Returns what is known of a link."""
        return self._links.get(node)

    def nodes(self) -> list[NodeId]:
        """Returns the other ends of all links, ready or not."""
        return list(self._links)

    def ready(self) -> list[NodeId]:
        """Returns the other ends that proved their membership and are not being hung up on."""
        return [node for node, link in self._links.items() if link.ready and not link.closing]

    def is_ready(self, node: NodeId) -> bool:
        """Says whether `node` is linked, proved its membership, and is not being hung up on."""
        link = self._links.get(node)
        return link is not None and link.ready and not link.closing

    def is_dialling(self, node: NodeId) -> bool:
        """Says whether a dial is under way or waits for its turn."""
        return node in self._dialling or node in self._waiting

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Gives up what is late, closes what is idle."""
        if now.mono >= self._next:
            for node in [node for node in self._new if now.mono >= self._links[node].hello_by]:
                self.hang_up(node, "no Hello in time")
            for node in [node for node, give_up in self._dialling.items() if now.mono >= give_up]:
                self.dial_failed(now, node)
            hellos = min((self._links[node].hello_by for node in self._new), default=math.inf)
            self._next = min(hellos, min(self._dialling.values(), default=math.inf))
        if now.mono >= self._next_look:
            self._next_look = now.mono + self._config.look_s if self._links else math.inf
            for node, link in self._links.items():
                idle_s = self._config.idle_s * (1.0 if link.dialled else 2.0)
                if now.mono >= link.used_at + idle_s and self._is_spare(node, link):
                    self.hang_up(node, "idle")

    def next_timer(self) -> float:
        """Returns when something is due."""
        return min(self._next, self._next_look)
