"""Membership, first version: a full mesh of links, kept alive by pings.

Right for tens of nodes: every node dials every other it has heard of, up to `target_links`. HyParView's small active
    view
takes this place behind the same methods. A link that stays silent is hung up; a node that cannot be reached is tried
again ever more rarely, a bounded number at a time, so that a list of dead addresses delays nobody.
"""

from __future__ import annotations

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
        ping_period_s: Between two pings on a link. Source: well under the 15 s after which NATs may forget a path.
        ping_misses: Pings in a row without an answer that end a link. Source: memberlist probes once and asks
            three others.
        backoff_s: Before the second dial of a node; doubles each time.
        backoff_most_s: The longest wait between dials.
        yield_s: The node with the larger id waits this much longer, so that two seldom dial each other at once.
    """

    target_links: int = 64
    dials: int = 8
    ping_period_s: float = 4.0
    ping_misses: int = 3
    backoff_s: float = 0.5
    backoff_most_s: float = 60.0
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
    addresses: tuple[Address, ...]
    due: float
    failures: int = 0
    dialling: bool = False


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
        self._out = Outbox()
        self.links: dict[NodeId, LinkState] = {}
        self.load = 0
        self.stats = MembershipStats()

    def learn(self, now: Now, node: NodeId, addresses: tuple[Address, ...]) -> None:
        """A node's addresses are known, or known anew: dial it when there is no link."""
        if node == self._own or not addresses:
            return
        known = self._candidates.get(node)
        if known and known.addresses == addresses:
            return
        delay = self._rng.uniform(0.0, 0.05) + (self._config.yield_s if self._own > node else 0.0)
        dialling = known.dialling if known else False
        self._candidates[node] = _Candidate(addresses, now.mono + delay, dialling=dialling)

    def forget(self, node: NodeId) -> None:
        """Never dial this node again: it was put out or nobody has heard of it for its record's lifetime."""
        self._candidates.pop(node, None)

    def link_up(self, now: Now, node: NodeId) -> bool:
        """A verified link is there.

        Returns:
            Whether there is room for it; if not, a Hangup was asked for.
        """
        candidate = self._candidates.get(node)
        if candidate:
            candidate.dialling, candidate.failures = False, 0
        if node not in self.links and len(self.links) >= 2 * self._config.target_links:
            self._out.put(Hangup(node, "this node has as many links as it can hold"))
            return False
        first_ping = now.mono + self._rng.uniform(0.0, 0.1)
        self.links[node] = LinkState(now.mono, now.mono, next_ping=first_ping)
        self.stats.links_up += 1
        return True

    def link_down(self, now: Now, node: NodeId) -> None:
        """A link is gone; the node is dialled again soon."""
        if self.links.pop(node, None):
            self.stats.links_down += 1
        self._retry(now, node)

    def dial_failed(self, now: Now, node: NodeId) -> None:
        """Nobody answered at any address."""
        self.stats.dial_failures += 1
        self._retry(now, node)

    def _retry(self, now: Now, node: NodeId) -> None:
        candidate = self._candidates.get(node)
        if candidate is None:
            return
        candidate.dialling = False
        wait = min(self._config.backoff_s * 2.0**candidate.failures, self._config.backoff_most_s)
        candidate.failures = min(candidate.failures + 1, 16)
        candidate.due = now.mono + wait * self._rng.uniform(0.75, 1.25)

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
        link.load, link.pinged_at, link.misses = message.load, None, 0

    def handle_timer(self, now: Now) -> None:
        """Pings who is due, hangs up on the silent, dials who is missing."""
        for node, link in self.links.items():
            if now.mono >= link.next_ping:
                self._ping(now, node, link)
        room = self._config.target_links - len(self.links)
        busy = sum(candidate.dialling for candidate in self._candidates.values())
        for node, candidate in self._waiting():
            if candidate.due > now.mono or busy >= min(self._config.dials, room):
                break
            busy += 1
            candidate.dialling = True
            self.stats.dials += 1
            self._out.put(Dial(node, candidate.addresses))

    def _ping(self, now: Now, node: NodeId, link: LinkState) -> None:
        if link.pinged_at is not None:
            link.misses += 1
            self.stats.pings_missed += 1
        link.next_ping = now.mono + self._config.ping_period_s
        if link.misses >= self._config.ping_misses:
            self._out.put(Hangup(node, f"no answer to {link.misses} pings"))
            return
        link.nonce = self._rng.getrandbits(32)
        link.pinged_at = now.mono
        self._out.put(Send(node, Ping(link.nonce)))

    def _waiting(self) -> list[tuple[NodeId, _Candidate]]:
        rows = [
            (node, candidate)
            for node, candidate in self._candidates.items()
            if not candidate.dialling and node not in self.links
        ]
        return sorted(rows, key=lambda row: row[1].due)

    def next_timer(self) -> float:
        due = [link.next_ping for link in self.links.values()]
        busy = sum(candidate.dialling for candidate in self._candidates.values())
        if busy < min(self._config.dials, self._config.target_links - len(self.links)):
            due += [candidate.due for _, candidate in self._waiting()[:1]]
        return min(due, default=math.inf)

    def drain(self) -> list[Effect]:
        return self._out.drain()
