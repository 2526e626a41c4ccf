"""Failure detection on links: pings, suspicion, and Lifeguard's doubt of oneself (arXiv 1707.00788).

Of each link one end pings, the one with the smaller id, all of its links in one round; for the other end the pings are
the signs of life. A link that has been silent is suspect, and others are asked whether they hear from its node; one
that stays silent is hung up. SWIM (DSN 2002) and Lifeguard choose one member of all per round; here every link is
watched by both of its ends, as there are few.

Lifeguard slows down a node that has reason to doubt itself: all waits are multiplied by one plus its health score. What
raises the score here is a timer that was served late, or a suspicion during which this node heard nothing from anyone,
though others were asked who answer at once. A ping or a question without an answer does not raise it by itself as in
Lifeguard: when half of a mesh dies at once, the living are to notice as fast as ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from atmo.clock import Now
from atmo.engine import Effect, Emit, Hangup, Outbox, Send
from atmo.gossip.messages import Ping, Pong, ProbeAnswer, ProbeRequest
from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Periods and bounds.

    Attributes:
        period_s: Between two rounds of pings. Source: well under the 15 s after which NATs may forget a path.
        first_s: A new link is pinged within this. Source: guess.
        quiet_s: The end that does not ping does so after as much silence. Source: a period and a retransmission.
        measure_rounds: The end that does not ping does so once in as many rounds, to know the round trip.
        suspect_s: Silence after which a link is suspect, as seen in the next round. Source: with 1 % of loss and
            retransmission after 0.2, 0.4 and 0.8 s one ping in a million is that late.
        silent_s: Silence that ends a link. Source: the same with five losses in a row, one ping in ten thousand
            million.
        probe_s: A link ends no sooner than this after it became suspect. Source: guess.
        helpers: Others that are asked about a suspect. Source: Lifeguard (k).
        askers: Others that wait for word of one node at once. Source: guess, more than that node has neighbours.
        health_most: The largest health score. Source: Lifeguard (S).
        scaled_most_s: The longest silence in any health. Source: guess.
        late_s: A timer that was served later than this tells that this node is slow. Source: guess.
    """

    period_s: float = 2.5
    first_s: float = 0.1
    quiet_s: float = 3.0
    measure_rounds: int = 4
    suspect_s: float = 3.5
    silent_s: float = 7.0
    probe_s: float = 2.0
    helpers: int = 3
    askers: int = 8
    health_most: int = 8
    scaled_most_s: float = 30.0
    late_s: float = 0.5


@dataclass(slots=True)
class DetectorStats:
    """Counters since start."""

    links_up: int = 0
    links_down: int = 0
    pings: int = 0
    pings_missed: int = 0
    pongs_late: int = 0
    suspected: int = 0
    trusted: int = 0
    silent: int = 0
    probes: int = 0
    timers_late: int = 0


@dataclass(frozen=True, slots=True)
class LinkSuspect:
    """A link has been silent for too long; `LinkTrusted`, `LinkSilent` or the link's end follows."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LinkTrusted:
    """A link that was suspect was heard again."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LinkSilent:
    """A link was silent to the end and is hung up.

    Attributes:
        node: The other end.
        vouched: Another neighbour hears from it: the link is broken, not the node.
    """

    node: NodeId
    vouched: bool


@dataclass(slots=True)
class _Suspicion:
    """How a suspect is judged.

    Attributes:
        since: Monotonic seconds.
        asked: The neighbours that were asked.
        vouched: One of them hears from the suspect.
        doubted: This node has doubted itself for it.
        over: The link was given up.
    """

    since: float
    asked: tuple[NodeId, ...]
    vouched: bool = False
    doubted: bool = False
    over: bool = False


@dataclass(slots=True)
class LinkState:
    """What is known of one link.

    Attributes:
        since: Monotonic seconds at which the link was verified.
        heard: Monotonic seconds of the last message.
        rtt_s: Smoothed round trip (RFC 6298 section 2: weight 1/8), None before the first answer.
        load: Requests that the other end said it was running.
        pings: This end does.
        askers: Who wants to know whether the other end lives, each with the monotonic second until which.
    """

    since: float
    heard: float
    pings: bool
    rtt_s: float | None = None
    load: int = 0
    pinged_at: float | None = None
    nonce: int = 0
    rounds: int = 0
    suspicion: _Suspicion | None = None
    askers: list[tuple[NodeId, float]] = field(default_factory=list)


class Detector:
    """Watches all verified links.

    Args:
        config: Periods and bounds.
        own: This node.
        rng: Spreads the rounds of nodes in time, and chooses whom to ask.

    Attributes:
        links: All verified links.
        load: Requests that this node is running.
        health: Lifeguard's score: 0 when this node has no reason to doubt itself.
    """

    def __init__(self, config: DetectorConfig, own: NodeId, rng: Random) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._new: dict[NodeId, None] = {}  # links that were never pinged
        self._suspects: dict[NodeId, _Suspicion] = {}
        self._vouch_s = config.suspect_s - config.period_s
        """Who asks has heard nothing for `suspect_s` of a node that sends once in `period_s`: if that one is dead, then
        for at least this long, and nobody has heard it since."""
        self._next_first = math.inf
        self._next_round = math.inf
        self._next_verdict = math.inf
        self._heard_at = -math.inf  # from anyone
        self.out = Outbox()
        self.links: dict[NodeId, LinkState] = {}
        self.load = 0
        self.health = 0
        self.stats = DetectorStats()

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId) -> None:
        """A verified link is to be watched."""
        if not self.links:
            self._next_round = now.mono + self._rng.uniform(0.5, 1.0) * self._config.period_s
        self.links[node] = LinkState(now.mono, now.mono, self._own < node)
        self._heard_at = now.mono
        self._new[node] = None
        self._next_first = min(self._next_first, now.mono + self._rng.uniform(0.0, self._config.first_s))
        self.stats.links_up += 1

    def link_down(self, now: Now, node: NodeId) -> None:
        """A link is gone, or need not be watched any more."""
        if self.links.pop(node, None) is None:
            return
        self._new.pop(node, None)
        self._suspects.pop(node, None)
        self.stats.links_down += 1
        if not self.links:
            self._next_first = self._next_round = self._next_verdict = math.inf

    def is_suspect(self, node: NodeId) -> bool:
        """Says whether a link is silent for so long that a verdict on it is due."""
        return node in self._suspects

    # --- messages -------------------------------------------------------------------------------------------------

    def heard(self, now: Now, node: NodeId) -> None:
        """Any message of a linked node proves that it lives; to be called for each, before `receive`."""
        link = self.links.get(node)
        self._heard_at = now.mono  # also of a link that is not watched: this node is not cut off
        if link is not None:
            link.heard = now.mono
            if link.suspicion is not None:
                self._trust(node, link)
            if link.askers:
                self._vouch(now, node, link)

    def _vouch(self, now: Now, node: NodeId, link: LinkState) -> None:
        askers, link.askers = link.askers, []
        for asker, until in askers:
            if now.mono <= until:
                self.out.put(Send(asker, ProbeAnswer(node, True)))

    def _trust(self, node: NodeId, link: LinkState) -> None:
        if node in self._suspects and not self._suspects[node].over:
            del self._suspects[node]
            link.suspicion = None
            self.stats.trusted += 1
            self.out.put(Emit(LinkTrusted(node)))

    def receive(self, now: Now, source: NodeId, message: Ping | Pong | ProbeRequest | ProbeAnswer) -> None:
        """Answers pings and questions, also of a link that only the other end watches; takes answers."""
        if isinstance(message, Ping):
            self.out.put(Send(source, Pong(message.nonce, self.load)))
        elif isinstance(message, Pong):
            if link := self.links.get(source):
                self._pong(now, link, message)
        elif isinstance(message, ProbeRequest):
            self._probe(now, source, message.target)
        else:
            suspicion = self._suspects.get(message.target)
            if suspicion is not None and source in suspicion.asked:
                suspicion.vouched = suspicion.vouched or message.heard

    def _probe(self, now: Now, asker: NodeId, target: NodeId) -> None:
        """Answers at once, and again when a node of which nothing was heard just now answers a ping of ours."""
        link = self.links.get(target)
        heard = link is not None and now.mono - link.heard < self._vouch_s
        self.out.put(Send(asker, ProbeAnswer(target, heard)))
        if link is None or heard or (link.suspicion and link.suspicion.over):
            return
        if len(link.askers) < self._config.askers:
            if not link.askers:
                self._ping(now, target, link)
            link.askers.append((asker, now.mono + self._config.probe_s))

    def _pong(self, now: Now, link: LinkState, message: Pong) -> None:
        if link.pinged_at is None or message.nonce != link.nonce:
            self.stats.pongs_late += 1
            return
        sample = now.mono - link.pinged_at
        link.rtt_s = sample if link.rtt_s is None else link.rtt_s + (sample - link.rtt_s) / 8
        link.load, link.pinged_at = max(message.load, 0), None
        if self.health:
            self.health -= 1
            if self._suspects:
                self._next_verdict = now.mono  # what waited for a node in doubt may be due

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Pings who is due, suspects the silent, hangs up on those who stay silent."""
        late = now.mono - self.next_timer()
        if late > self._config.late_s:
            self._was_late(now, late)
        if now.mono >= self._next_first:
            self._next_first = math.inf
            for node in self._new:
                self._ping(now, node, self.links[node])
            self._new.clear()
        if now.mono >= self._next_round:
            self._round(now)
        if now.mono >= self._next_verdict:
            self._judge(now)

    def _was_late(self, now: Now, late_s: float) -> None:
        """This node slept: what came meanwhile may not have been read yet, so that nobody was silent."""
        self.stats.timers_late += 1
        self._doubt()
        for link in self.links.values():
            link.heard = min(link.heard + late_s, now.mono)
        for suspicion in self._suspects.values():
            suspicion.since = min(suspicion.since + late_s, now.mono)

    def _doubt(self) -> None:
        self.health = min(self.health + 1, self._config.health_most)

    def _scaled(self, seconds: float) -> float:
        return min(seconds * (1 + self.health), self._config.scaled_most_s)

    def _round(self, now: Now) -> None:
        config = self._config
        self._next_round = now.mono + config.period_s
        suspect_s = self._scaled(config.suspect_s)
        silent: list[NodeId] = []
        for node, link in self.links.items():
            if link.suspicion is not None:
                continue
            silence = now.mono - link.heard
            if silence >= suspect_s:
                silent.append(node)
            link.rounds += 1
            if link.pings or silence >= config.quiet_s or link.rounds % config.measure_rounds == 0:
                self._ping(now, node, link)
        if silent:
            self._suspect(now, silent)

    def _ping(self, now: Now, node: NodeId, link: LinkState) -> None:
        if link.pinged_at is not None:
            self.stats.pings_missed += 1
        link.nonce = self._rng.getrandbits(32)
        link.pinged_at = now.mono
        self.stats.pings += 1
        self.out.put(Send(node, Ping(link.nonce)))

    def _suspect(self, now: Now, nodes: list[NodeId]) -> None:
        """Makes links suspect, all those of one round at once: none of them is asked about another."""
        helpers = [node for node in self.links if node not in self._suspects and node not in nodes]
        for node in nodes:
            asked = tuple(self._rng.sample(helpers, min(self._config.helpers, len(helpers))))
            suspicion = _Suspicion(now.mono, asked)
            self._suspects[node] = self.links[node].suspicion = suspicion
            self._next_verdict = min(self._next_verdict, self._verdict_at(self.links[node], suspicion))
            self.stats.suspected += 1
            self.stats.probes += len(asked)
            self.out.put(Emit(LinkSuspect(node)))
            for helper in asked:
                self.out.put(Send(helper, ProbeRequest(node)))

    def _verdict_at(self, link: LinkState, suspicion: _Suspicion) -> float:
        config = self._config
        return max(link.heard + self._scaled(config.silent_s), suspicion.since + self._scaled(config.probe_s))

    def _judge(self, now: Now) -> None:
        """Ends the links whose time is up, unless nothing at all is heard: then it may be this node."""
        self._next_verdict = math.inf
        waiting = [(node, suspicion) for node, suspicion in self._suspects.items() if not suspicion.over]
        if len(self.links) > 1 and any(self._is_doubtful(now, node, suspicion) for node, suspicion in waiting):
            self._doubt()
            for _, suspicion in waiting:
                suspicion.doubted = True
        for node, suspicion in waiting:
            link = self.links[node]
            verdict = self._verdict_at(link, suspicion)
            if now.mono < verdict:
                self._next_verdict = min(self._next_verdict, verdict)
                continue
            suspicion.over = True
            self.stats.silent += 1
            self.out.put(Emit(LinkSilent(node, suspicion.vouched)))
            self.out.put(Hangup(node, f"nothing heard for {now.mono - link.heard:.1f} s", lingers=True))

    def _is_doubtful(self, now: Now, node: NodeId, suspicion: _Suspicion) -> bool:
        due = now.mono >= self._verdict_at(self.links[node], suspicion)
        return due and not suspicion.doubted and self._heard_at < suspicion.since

    def next_timer(self) -> float:
        return min(self._next_first, self._next_round, self._next_verdict)

    def drain(self) -> list[Effect]:
        return self.out.drain()
