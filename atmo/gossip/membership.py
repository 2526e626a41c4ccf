"""Membership, first version: a full mesh of links, kept alive by pings.

Right for tens of nodes: every node dials every other it has heard of, up to `target_links`. HyParView's small active
view takes this place behind the same methods. A link that stays silent is hung up; a node that cannot be reached is
tried again ever more rarely, a bounded number at a time, so that a list of dead addresses delays nobody.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from random import Random

from atmo.clock import Now
from atmo.engine import Dial, Effect, Hangup, Outbox, Send
from atmo.gossip.messages import Ping, Pong
from atmo.identity import NodeId
from atmo.wire.address import Address


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """Periods and bounds.

    Attributes:
        target_links: No more dials at this many links; incoming links are still welcome up to twice this.
        dials: At most this many at once. Source: guess.
        dial_s: A dial without an outcome after this has failed; the shell gives up well before.
        ping_period_s: Between two pings on a link. Source: well under the 15 s after which NATs may forget a path.
        ping_misses: Pings in a row without any sign of life that end a link. Source: memberlist probes once and asks
            three others.
        backoff_s: Before the second dial of a node; doubles each time.
        backoff_most_s: The longest wait between dials of a node whose record is alive.
        backoff_stale_s: The same of a node that nobody has heard of for a record's lifetime.
        stable_s: A link that stood this long ends the backing off.
        revive_s: A record ends the backing off at most this often, so that no author can make others dial all the time.
        yield_s: The node with the larger id waits this much longer, so that two seldom dial each other at once.
    """

    target_links: int = 64
    dials: int = 8
    dial_s: float = 60.0
    ping_period_s: float = 2.0
    ping_misses: int = 3
    backoff_s: float = 0.5
    backoff_most_s: float = 60.0
    backoff_stale_s: float = 120.0
    stable_s: float = 10.0
    revive_s: float = 30.0
    yield_s: float = 0.3


@dataclass(slots=True)
class MembershipStats:
    """Counters since start."""

    links_up: int = 0
    links_down: int = 0
    dials: int = 0
    dial_failures: int = 0
    pings_missed: int = 0
    pongs_late: int = 0


@dataclass(slots=True)
class LinkState:
    """What is known of one neighbour.

    Attributes:
        since: Monotonic seconds at which the link was verified.
        heard: Monotonic seconds of the last message.
        rtt_s: Smoothed round trip (RFC 6298 section 2: weight 1/8), None before the first answer.
        load: Requests it said it was running.
    """

    since: float
    heard: float
    rtt_s: float | None = None
    load: int = 0
    next_ping: float = 0.0
    pinged_at: float | None = None
    nonce: int = 0
    misses: int = 0


@dataclass(slots=True)
class _Candidate:
    """A node that may be dialled at `due`, unless it is being dialled or connected."""

    addresses: tuple[Address, ...]
    due: float
    stale: bool
    failures: int = 0
    revived_at: float = -math.inf


class Membership:
    """Keeps links to the members of the mesh.

    Args:
        config: Periods and bounds.
        own: This node.
        rng: Spreads dials and pings in time.
    """

    def __init__(self, config: MembershipConfig, own: NodeId, rng: Random) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._candidates: dict[NodeId, _Candidate] = {}
        self._waiting: list[tuple[float, int, NodeId]] = []  # heap; an entry counts while its due is the candidate's
        self._counter = 0
        self._dialling: dict[NodeId, float] = {}  # when each is given up
        self._connected: dict[NodeId, None] = {}  # verified or not
        self._next_ping = math.inf
        self._out = Outbox()
        self.links: dict[NodeId, LinkState] = {}
        self.load = 0
        self.stats = MembershipStats()

    # --- who could be linked --------------------------------------------------------------------------------------

    def learn(self, now: Now, node: NodeId, addresses: tuple[Address, ...], *, stale: bool = False) -> None:
        """A record tells where a node is: dial it when there is no link, soon, for it was alive a moment ago.

        The caller bounds how many are known at once: whom it forgets, it tells by `forget`.

        Args:
            now: The clocks.
            node: Who.
            addresses: Where it listens.
            stale: The news is older than a record's lifetime.
        """
        known = self._candidates.get(node)
        if node == self._own or not addresses or (stale and known):
            return
        wait = self._rng.uniform(0.0, 0.05) + (self._config.yield_s if self._own > node else 0.0)
        if known is None:
            self._candidates[node] = _Candidate(addresses, math.inf, stale)
            self._wait(node, now.mono + wait)
            return
        known.addresses, known.stale = addresses, False
        if now.mono >= known.revived_at + self._config.revive_s:
            known.revived_at = now.mono
            known.failures = min(known.failures, 1)
            self._wait(node, min(known.due, now.mono + wait))

    def mark_stale(self, node: NodeId) -> None:
        """Nobody has heard of this node for its record's lifetime: try it rarely, for it may come back."""
        if candidate := self._candidates.get(node):
            candidate.stale = True

    def forget(self, node: NodeId) -> None:
        """Never dial this node again: it is no member any more."""
        self._candidates.pop(node, None)
        self._dialling.pop(node, None)

    def _wait(self, node: NodeId, due: float) -> None:
        self._candidates[node].due = due
        self._counter += 1
        heapq.heappush(self._waiting, (due, self._counter, node))
        if len(self._waiting) > 2 * len(self._candidates) + 64:
            self._waiting = [(row.due, number, node) for number, (node, row) in enumerate(self._candidates.items())]
            heapq.heapify(self._waiting)

    def _backoff(self, candidate: _Candidate) -> float:
        most = self._config.backoff_stale_s if candidate.stale else self._config.backoff_most_s
        return min(self._config.backoff_s * 2.0**candidate.failures, most)

    # --- what happened --------------------------------------------------------------------------------------------

    def link_pending(self, node: NodeId) -> None:
        """There is a connection, whose other end has not proved its membership: do not dial meanwhile."""
        self._dialling.pop(node, None)
        self._connected[node] = None

    def link_up(self, now: Now, node: NodeId) -> bool:
        """A verified link is there.

        Returns:
            Whether there is room for it; if not, a Hangup was asked for.
        """
        if node not in self.links and len(self.links) >= 2 * self._config.target_links:
            self._out.put(Hangup(node, "this node has as many links as it can hold"))
            return False
        self.link_pending(node)
        first_ping = now.mono + self._rng.uniform(0.0, 0.1)
        self.links[node] = LinkState(now.mono, now.mono, next_ping=first_ping)
        self._next_ping = min(self._next_ping, first_ping)
        self.stats.links_up += 1
        return True

    def link_down(self, now: Now, node: NodeId) -> None:
        """A link or an unverified connection is gone; the node is dialled again, soon if the link had stood."""
        self._connected.pop(node, None)
        link = self.links.pop(node, None)
        candidate = self._candidates.get(node)
        if link:
            self.stats.links_down += 1
            if candidate and now.mono - link.since >= self._config.stable_s:
                candidate.failures = 0
        self._retry(now, node)

    def dial_failed(self, now: Now, node: NodeId) -> None:
        """Nobody answered at any address."""
        if self._dialling.pop(node, None) is not None:
            self.stats.dial_failures += 1
            self._retry(now, node)

    def _retry(self, now: Now, node: NodeId) -> None:
        self._dialling.pop(node, None)
        candidate = self._candidates.get(node)
        if candidate is None:
            return
        wait = self._backoff(candidate) * self._rng.uniform(0.5, 1.5)  # so that not all dial in step
        candidate.failures = min(candidate.failures + 1, 16)
        self._wait(node, now.mono + wait)

    def heard(self, now: Now, node: NodeId) -> None:
        """Any message of a neighbour proves that it lives."""
        self.links[node].heard = now.mono

    def receive(self, now: Now, source: NodeId, message: Ping | Pong) -> None:
        """Answers pings and takes answers."""
        if isinstance(message, Ping):
            self._out.put(Send(source, Pong(message.nonce, self.load)))
            return
        link = self.links[source]
        if link.pinged_at is None or message.nonce != link.nonce:
            self.stats.pongs_late += 1
            return
        sample = now.mono - link.pinged_at
        link.rtt_s = sample if link.rtt_s is None else link.rtt_s + (sample - link.rtt_s) / 8
        link.load, link.pinged_at = max(message.load, 0), None

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Pings who is due, hangs up on the silent, dials who is missing."""
        if now.mono >= self._next_ping:
            for node, link in self.links.items():
                if now.mono >= link.next_ping:
                    self._ping(now, node, link)
            self._next_ping = min((link.next_ping for link in self.links.values()), default=math.inf)
        for node in [node for node, give_up in self._dialling.items() if now.mono >= give_up]:
            self.dial_failed(now, node)
        while self._next_dial() <= now.mono:
            node = heapq.heappop(self._waiting)[2]
            self._dialling[node] = now.mono + self._config.dial_s
            self.stats.dials += 1
            self._out.put(Dial(node, self._candidates[node].addresses))

    def _ping(self, now: Now, node: NodeId, link: LinkState) -> None:
        if link.pinged_at is None or link.heard > link.pinged_at:
            link.misses = 0
        else:
            link.misses += 1
            self.stats.pings_missed += 1
        link.next_ping = now.mono + self._config.ping_period_s
        if link.misses >= self._config.ping_misses:
            self._out.put(Hangup(node, f"no answer to {link.misses} pings"))
            return
        link.nonce = self._rng.getrandbits(32)
        link.pinged_at = now.mono
        self._out.put(Send(node, Ping(link.nonce)))

    def _next_dial(self) -> float:
        """Returns when the next dial is due, never while there are enough links or dials."""
        if len(self._dialling) >= min(self._config.dials, self._config.target_links - len(self.links)):
            return math.inf
        while self._waiting:
            due, _, node = self._waiting[0]
            candidate = self._candidates.get(node)
            current = candidate is not None and candidate.due == due
            if current and node not in self._dialling and node not in self._connected:
                return due
            heapq.heappop(self._waiting)
        return math.inf

    def next_timer(self) -> float:
        give_up = min(self._dialling.values(), default=math.inf)
        return min(self._next_ping, give_up, self._next_dial())

    def drain(self) -> list[Effect]:
        return self._out.drain()
