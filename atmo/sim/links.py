"""Links between simulated nodes: what QUIC gives the peer's shell, without packets of its own.

A link is a pair of reliable, ordered streams. What is lost is sent again after ever longer waits, and what was sent
after it waits behind it; when nothing gets across for the idle timeout, both ends lose the link. A node that crashes
tells nobody. Of two links to one node, the node's peer says which to keep.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from atmo.identity import NodeId
from atmo.peer import LinkAge
from atmo.sim.loop import Loop
from atmo.sim.network import LOST, PACKET_BYTES, Network
from atmo.sim.sizes import packets_bytes

PACKET_TRIES = 5
"""A packet that is lost so often in a row holds its message up as a whole."""


@dataclass(frozen=True, slots=True)
class LinksConfig:
    """Times and bounds of the virtual transport.

    Attributes:
        resend_s: Before a lost packet is sent again; doubles. Source: guess, about RFC 9002's probe timeout for a round
            trip of 100 ms.
        idle_s: A link over which nothing gets across is dead after this. Source: `net.quic_config`.
        dial_s: A dial nobody answers fails after this. Source: `net.driver`.
        queue: Messages waiting in one direction; more are dropped. Source: `net.driver`.
    """

    resend_s: float = 0.2
    idle_s: float = 30.0
    dial_s: float = 5.0
    queue: int = 512


@dataclass(eq=False, slots=True)
class Port:
    """What the transport knows of one node.

    Attributes:
        id: The node.
        up: Whether it is on.
        life: How often it has started.
        ends: Its links.
    """

    id: NodeId
    up: bool = False
    life: int = 0
    ends: dict[NodeId, End] = field(default_factory=dict)


class End:
    """What one node knows of a link.

    Attributes:
        port: Whose end it is.
        far: The other end.
        age: As the peer sees it.
        open: Whether it takes part still.
        told: Whether its node knows that the link is down.
        queue: Messages and their sizes that a lost packet holds up.
        blocked_since: When that one was first lost.
        resends: How often it was sent again.
        clear_at: When the last message sent arrives: nothing overtakes it.
    """

    __slots__ = ("age", "blocked_since", "clear_at", "far", "open", "port", "queue", "resends", "told")

    far: End

    def __init__(self, port: Port, age: LinkAge) -> None:
        self.port = port
        self.age = age
        self.open = False
        self.told = False
        self.queue: deque[tuple[Any, int]] | None = None
        self.blocked_since = 0.0
        self.resends = 0
        self.clear_at = 0.0


class Hears(Protocol):
    """Who is told what happens to nodes: the world."""

    def arrived(self, port: Port, source: Port, message: Any, size: int) -> None:
        """A message of `source`."""

    def link_up(self, port: Port, other: NodeId) -> None:
        """There is a link to `other`."""

    def link_down(self, port: Port, other: NodeId, reason: str) -> None:
        """The link to `other` is gone."""

    def dial_failed(self, port: Port, other: NodeId) -> None:
        """`other` did not answer."""

    def keeps(self, port: Port, other: NodeId, old: LinkAge, outbound: bool) -> bool:
        """Says whether a node keeps its link to another although there is a new one; as `Peer.keeps`."""


class Links:
    """The transport of a simulated world.

    Args:
        loop: Virtual time.
        network: What becomes of packets.
        hears: Is told what happens.
        config: Times and bounds.
    """

    def __init__(self, loop: Loop, network: Network, hears: Hears, config: LinksConfig = LinksConfig()) -> None:
        self._loop = loop
        self._route = network.route
        self._hears = hears
        self._config = config
        self._deliver = self._arrive

    def start(self, port: Port) -> None:
        """A node runs and can be reached."""
        port.life += 1
        port.up = True

    def crash(self, port: Port) -> None:
        """A node stops without a word: the other ends of its links find out by themselves."""
        port.up = False
        for end in port.ends.values():
            _detach(end)
            end.told = True
        port.ends.clear()

    def dial(self, source: Port, target: Port) -> None:
        """Begins to open a link; both ends are told of it, or the source that it failed."""
        self._shake_hands(source, target, source.life, self._loop.now, 0)

    def send(self, source: Port, target: NodeId, message: Any, size: int) -> None:
        """Sends a message of `size` bytes over the link of two nodes, if `source` has one and its queue has room."""
        end = source.ends.get(target)
        if end is None:
            return
        if end.queue is not None:
            if len(end.queue) < self._config.queue:
                end.queue.append((message, size))
            return
        now = self._loop.now
        whole = packets_bytes(size)
        if whole <= PACKET_BYTES:
            delay = self._route(now, source.id, target, whole)
        else:
            delay = self._route_all(now, source.id, target, whole)
        if delay == LOST:
            end.queue = deque(((message, size),))
            end.blocked_since, end.resends = now, 0
            self._resend_later(end)
            return
        arrives = now + delay
        if arrives < end.clear_at:
            arrives = end.clear_at
        end.clear_at = arrives
        self._loop.put(arrives, self._deliver, end.far, message, size)

    def hang_up(self, source: Port, target: NodeId, reason: str) -> None:
        """Ends a link from one end; what it has not sent yet is lost."""
        end = source.ends.pop(target, None)
        if end is not None:
            _detach(end)
            self._loop.put(self._loop.now, self._down, end, reason)
            self._tell_closed(end, reason)

    # --- opening --------------------------------------------------------------------------------------------------

    def _shake_hands(self, source: Port, target: Port, life: int, started: float, resends: int) -> None:
        now, config = self._loop.now, self._config
        if source.life != life or not source.up:
            return
        there = self._route(now, source.id, target.id, PACKET_BYTES)
        if there != LOST and target.up:
            back = self._route(now, target.id, source.id, PACKET_BYTES)  # as it is now, see `_route_again`
            if back != LOST:
                self._loop.put(now + there + back, self._establish, source, target, life, target.life)
                return
        again, give_up = now + config.resend_s * 2.0**resends, started + config.dial_s
        if again < give_up:
            self._loop.put(again, self._shake_hands, source, target, life, started, resends + 1)
        else:
            self._loop.put(give_up, self._dial_failed, source, target.id, life)

    def _dial_failed(self, source: Port, target: NodeId, life: int) -> None:
        if source.up and source.life == life:
            self._hears.dial_failed(source, target)

    def _establish(self, source: Port, target: Port, source_life: int, target_life: int) -> None:
        if (source.life, target.life) != (source_life, target_life) or not (source.up and target.up):
            return
        now = self._loop.now
        near, far = End(source, LinkAge(True, now)), End(target, LinkAge(False, now))
        near.far, far.far = far, near
        welcome = [end for end in (far, near) if self._attach(end)]
        if len(welcome) == 1:
            self._tell_closed(welcome[0].far, "there is a link already")

    def _attach(self, end: End) -> bool:
        port, other = end.port, end.far.port.id
        old = port.ends.get(other)
        if old is not None:
            if self._hears.keeps(port, other, old.age, end.age.outbound):
                return False
            self.hang_up(port, other, "replaced by a newer link")
        port.ends[other] = end
        end.open = True
        self._loop.put(self._loop.now, self._up, end)
        return True

    def _up(self, end: End) -> None:
        if end.open:
            self._hears.link_up(end.port, end.far.port.id)

    # --- sending --------------------------------------------------------------------------------------------------

    def _arrive(self, end: End, message: Any, size: int) -> None:
        if end.open:
            self._hears.arrived(end.port, end.far.port, message, size)

    def _route_all(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        """Returns when the last packet of a message arrives; of several, those that are lost are sent again alone."""
        if size <= PACKET_BYTES:
            return self._route(now, source, target, size)
        delay, rest = 0.0, size
        while rest > 0:
            way = self._route_again(now, source, target, min(rest, PACKET_BYTES))
            if way == LOST:
                return LOST
            rest -= PACKET_BYTES
            delay = max(delay, way)
        return delay

    def _route_again(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        """Returns when a packet arrives that is sent until it does.

        The network is asked as it is now: of seconds to come it must not hear, or what waits in no queue yet would hold
        up what is sent until then.
        """
        late = 0.0
        for attempt in range(PACKET_TRIES):
            way = self._route(now, source, target, size)
            if way != LOST:
                return late + way
            late += self._config.resend_s * 2.0**attempt
        return LOST

    def _flush(self, end: End) -> None:
        """Sends what waits, in order, up to the first message whose packet is lost."""
        now, queue = self._loop.now, end.queue
        if queue is None:
            return
        while queue:
            message, size = queue[0]
            delay = self._route_all(now, end.port.id, end.far.port.id, packets_bytes(size))
            if delay == LOST:
                self._resend_later(end)
                return
            queue.popleft()
            end.blocked_since, end.resends = now, 0
            end.clear_at = max(end.clear_at, now + delay)
            self._loop.put(end.clear_at, self._deliver, end.far, message, size)
        end.queue = None

    def _resend_later(self, end: End) -> None:
        now, config = self._loop.now, self._config
        give_up = end.blocked_since + config.idle_s
        if now >= give_up:
            for side in (end.far, end):
                self._loop.put(now, self._down, side, "timed out")
            return
        again = min(now + config.resend_s * 2.0**end.resends, give_up)
        end.resends += 1
        self._loop.put(again, self._flush, end)

    # --- closing --------------------------------------------------------------------------------------------------

    def _tell_closed(self, end: End, reason: str) -> None:
        """Tells the other end, which has to wait for its timeout where the word is lost."""
        delay = self._route(self._loop.now, end.port.id, end.far.port.id, PACKET_BYTES)
        if delay == LOST:
            self._loop.put(self._loop.now + self._config.idle_s, self._down, end.far, "timed out")
        else:
            at = max(end.clear_at, self._loop.now + delay)
            self._loop.put(at, self._down, end.far, f"closed by the other end: {reason}")

    def _down(self, end: End, reason: str) -> None:
        if end.told:
            return
        _detach(end)
        end.told = True
        port, other = end.port, end.far.port.id
        if port.ends.get(other) is end:
            del port.ends[other]
        self._hears.link_down(port, other, reason)


def _detach(end: End) -> None:
    end.open = False
    end.queue = None
