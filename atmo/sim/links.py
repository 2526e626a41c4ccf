"""Links between simulated nodes: what QUIC gives the peer's shell, without packets of its own.

A link is a pair of reliable, ordered streams. A message whose packet is dropped is sent again after ever longer waits,
and what was sent after it waits behind it; when nothing gets across for the idle timeout, both ends lose the link. A
node that crashes tells nobody. Of two links to one node, the node's peer says which to keep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atmo.identity import NodeId
from atmo.peer import LinkAge
from atmo.sim.loop import Loop
from atmo.sim.network import Deliver, Network


@dataclass(frozen=True, slots=True)
class LinksConfig:
    """Times and bounds of the virtual transport.

    Attributes:
        resend_s: Before a lost packet is sent again; doubles. Source: guess, about RFC 9002's initial probe timeout.
        idle_s: A link over which nothing gets across is dead after this. Source: `net.quic_config`.
        dial_s: A dial nobody answers fails after this. Source: `net.driver`.
        queue: Messages waiting in one direction; more are dropped. Source: `net.driver`.
        hello_bytes: Size of a handshake packet. Source: RFC 9000 section 14.1.
    """

    resend_s: float = 0.2
    idle_s: float = 30.0
    dial_s: float = 5.0
    queue: int = 512
    hello_bytes: int = 1_200


@dataclass(eq=False, slots=True)
class _End:
    other: NodeId
    open: bool = False
    told: bool = False  # that the link is down
    queue: deque[tuple[Any, int]] = field(default_factory=deque)
    blocked_since: float | None = None
    resends: int = 0
    clear_at: float = 0.0  # when the last message sent arrives: nothing overtakes it


@dataclass(eq=False, slots=True)
class Link:
    """A connection of two nodes.

    Attributes:
        dialler: Who opened it.
        since: Virtual seconds.
        ends: What each node knows of it.
    """

    dialler: NodeId
    since: float
    ends: dict[NodeId, _End]


Keeps = Callable[[NodeId, NodeId, LinkAge, bool], bool]
"""Says whether a node keeps its link to another although there is a new one; as `Peer.keeps`."""


@dataclass(frozen=True, slots=True)
class Up:
    """An input for the peer: there is a link to `other`."""

    link: Link
    other: NodeId


@dataclass(frozen=True, slots=True)
class Down:
    """An input for the peer: the link to `other` is gone."""

    link: Link
    other: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """An input for the peer: a message of `source`."""

    link: Link
    source: NodeId
    message: Any


@dataclass(frozen=True, slots=True)
class DialFailed:
    """An input for the peer: `other` did not answer."""

    other: NodeId


@dataclass(frozen=True, slots=True)
class _Handshake:
    other: NodeId
    started: float
    resends: int


@dataclass(frozen=True, slots=True)
class _Established:
    other: NodeId
    lives: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Resend:
    link: Link


class Links:
    """The transport of a simulated world. What it has to say to nodes it puts on the loop.

    Args:
        loop: Virtual time.
        network: What becomes of packets.
        keeps: Asks a node's peer.
        config: Times and bounds.
    """

    def __init__(self, loop: Loop, network: Network, keeps: Keeps, config: LinksConfig = LinksConfig()) -> None:
        self._loop = loop
        self._network = network
        self._keeps = keeps
        self._config = config
        self._lives: dict[NodeId, int] = {}  # how often each node has started
        self._running: dict[NodeId, None] = {}
        self._current: dict[tuple[NodeId, NodeId], Link] = {}

    def start(self, node: NodeId) -> None:
        """A node runs and can be reached."""
        self._lives[node] = self._lives.get(node, 0) + 1
        self._running[node] = None

    def crash(self, node: NodeId) -> None:
        """A node stops without a word: the other ends of its links find out by themselves."""
        del self._running[node]
        for (end, other), link in list(self._current.items()):
            if end == node:
                self._detach(link, node)
                link.ends[node].told = True
                del self._current[end, other]

    def linked(self, node: NodeId, other: NodeId) -> bool:
        """Says whether `node` believes that it has a link to `other`."""
        return (node, other) in self._current

    def dial(self, source: NodeId, target: NodeId) -> None:
        """Begins to open a link; the outcome is `Up` at both ends or `DialFailed` at `source`."""
        self._shake_hands(source, _Handshake(target, self._loop.now, 0))

    def send(self, source: NodeId, target: NodeId, message: Any, size: int) -> None:
        """Sends a message over the link of two nodes, if `source` has one and its queue has room."""
        link = self._current.get((source, target))
        if link and len(link.ends[source].queue) < self._config.queue:
            link.ends[source].queue.append((message, size))
            if link.ends[source].blocked_since is None:
                self._flush(source, link)

    def hang_up(self, source: NodeId, target: NodeId, reason: str) -> None:
        """Ends a link from one end; what it has not sent yet is lost."""
        link = self._current.pop((source, target), None)
        if link:
            self._detach(link, source)
            self._loop.put(self._loop.now, source, Down(link, target, reason))
            self._tell_closed(link, source, reason)

    def handle(self, node: NodeId, event: Any) -> Any:
        """Takes an event off the loop; returns what the node's peer is to be told, None for nothing."""
        match event:
            case _Handshake():
                self._shake_hands(node, event)
            case _Established():
                self._establish(node, event)
            case _Resend(link):
                self._flush(node, link)
            case Arrived(link) if link.ends[node].open:
                return event
            case Up(link) if link.ends[node].open:
                return event
            case Down(link, other) if not link.ends[node].told:
                self._detach(link, node)
                link.ends[node].told = True
                if self._current.get((node, other)) is link:
                    del self._current[node, other]
                return event
            case DialFailed() if node in self._running:
                return event
        return None

    # --- opening --------------------------------------------------------------------------------------------------

    def _shake_hands(self, source: NodeId, attempt: _Handshake) -> None:
        now, target = self._loop.now, attempt.other
        if source not in self._running:
            return
        there = self._network.route(now, source, target, self._config.hello_bytes)
        if isinstance(there, Deliver) and target in self._running:
            back = self._network.route(now, target, source, self._config.hello_bytes)
            if isinstance(back, Deliver):
                lives = (self._lives[source], self._lives[target])
                self._loop.put(now + there.delay_s + back.delay_s, source, _Established(target, lives))
                return
        again = now + self._config.resend_s * 2.0**attempt.resends
        give_up = attempt.started + self._config.dial_s
        if again < give_up:
            self._loop.put(again, source, _Handshake(target, attempt.started, attempt.resends + 1))
        else:
            self._loop.put(give_up, source, DialFailed(target))

    def _establish(self, source: NodeId, event: _Established) -> None:
        target, now = event.other, self._loop.now
        if (self._lives[source], self._lives[target]) != event.lives:
            return
        if source not in self._running or target not in self._running:
            return
        link = Link(source, now, {source: _End(target), target: _End(source)})
        welcome = [node for node in (target, source) if self._attach(node, link)]
        if len(welcome) == 1:
            refusing = link.ends[welcome[0]].other
            self._tell_closed(link, refusing, "there is a link already")

    def _attach(self, node: NodeId, link: Link) -> bool:
        other = link.ends[node].other
        old = self._current.get((node, other))
        if old and self._keeps(node, other, LinkAge(old.dialler == node, old.since), link.dialler == node):
            return False
        if old:
            self.hang_up(node, other, "replaced by a newer link")
        self._current[node, other] = link
        link.ends[node].open = True
        self._loop.put(self._loop.now, node, Up(link, other))
        return True

    # --- sending --------------------------------------------------------------------------------------------------

    def _flush(self, source: NodeId, link: Link) -> None:
        """Sends what waits, in order, up to the first message whose packet is lost."""
        now, end = self._loop.now, link.ends[source]
        while end.queue:
            message, size = end.queue[0]
            fate = self._network.route(now, source, end.other, size)
            if not isinstance(fate, Deliver):
                self._resend_later(source, link)
                return
            end.queue.popleft()
            end.blocked_since, end.resends = None, 0
            end.clear_at = max(end.clear_at, now + fate.delay_s)
            self._loop.put(end.clear_at, end.other, Arrived(link, source, message))
        end.blocked_since = None

    def _resend_later(self, source: NodeId, link: Link) -> None:
        now, end = self._loop.now, link.ends[source]
        if end.blocked_since is None:
            end.blocked_since, end.resends = now, 0
        if now - end.blocked_since >= self._config.idle_s:
            for node in link.ends:
                self._loop.put(now, node, Down(link, link.ends[node].other, "timed out"))
            return
        give_up = end.blocked_since + self._config.idle_s
        self._loop.put(min(now + self._config.resend_s * 2.0**end.resends, give_up), source, _Resend(link))
        end.resends += 1

    # --- closing --------------------------------------------------------------------------------------------------

    def _tell_closed(self, link: Link, source: NodeId, reason: str) -> None:
        """Tells the other end, which has to wait for its timeout where the word is lost."""
        end = link.ends[source]
        fate = self._network.route(self._loop.now, source, end.other, self._config.hello_bytes)
        if isinstance(fate, Deliver):
            at, why = max(end.clear_at, self._loop.now + fate.delay_s), f"closed by the other end: {reason}"
        else:
            at, why = self._loop.now + self._config.idle_s, "timed out"
        self._loop.put(at, end.other, Down(link, source, why))

    @staticmethod
    def _detach(link: Link, node: NodeId) -> None:
        link.ends[node].open = False
        link.ends[node].queue.clear()
