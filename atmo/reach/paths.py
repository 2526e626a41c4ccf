"""The paths under one connection: which of them work, and over which one to send now.

A path is a place of the other end. It is a candidate until a probe to it is answered, which proves both directions; of
the paths that work the best is active, and one or two stand by, kept open. Each end chooses for what it sends. Where
what is sent is followed by silence, the active path is in doubt: all others are probed, what is sent goes out twice,
and the first path that answers takes over unless the doubted one does.

QUIC above sees one address that never changes, so that streams survive whatever happens here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from atmo.clock import Now
from atmo.reach.config import RANK, PathsConfig, Place
from atmo.reach.probe import NONCE_BYTES
from atmo.wire.address import Address


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Send a probe to a place; `doubting` says that this end's path is in doubt."""

    place: Place
    nonce: bytes
    doubting: bool = False


@dataclass(frozen=True, slots=True)
class SendReply:
    """Answer a probe: to the place from which it came, which the reply tells."""

    place: Place
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Switched:
    """What is sent goes another way from now on."""

    old: Place
    new: Place
    reason: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The other end saw a probe of ours come from this address."""

    address: Address


PathEffect = SendProbe | SendReply | Switched | Observed


@dataclass(eq=False, slots=True)
class Path:
    """What is known of one place.

    Attributes:
        place: Where.
        kind, since: `lan`, `direct`, `punched`, `relay` or `forward`; and when it became known, in monotonic seconds.
        appeared: Nobody told of it: packets came from there.
        told: The other end told of it; else something came from there, which anyone on the way can forge.
        rtt_s: Smoothed round-trip time, None before the first reply.
        replied_at: When it last answered a probe.
        heard_at: When anything authentic last came from there.
        works: It answered, and has not failed since.
        tries: Probes since the last reply.
        probed_at, next_at: When it was probed last, and when it is next.
    """

    place: Place
    kind: str
    since: float
    appeared: bool = False
    told: bool = True
    rtt_s: float | None = None
    replied_at: float = -math.inf
    heard_at: float = -math.inf
    works: bool = False
    tries: int = 0
    rests: int = 0
    losts: int = 0
    probed_at: float = -math.inf
    next_at: float = math.inf
    pending: dict[bytes, float] = field(default_factory=dict)

    @property
    def may_rest(self) -> bool:
        """It is tried again after a rest: the other end told of it, or answered from there."""
        return self.told or self.replied_at > -math.inf

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts paths: the best first."""
        return RANK[self.kind], self.rtt_s if self.rtt_s is not None else math.inf


class Paths:
    """The engine for one connection.

    Args:
        config: Periods and bounds.
        rng: Draws nonces.
        place, kind: Over which the connection was made.
        follows: Among paths of one rank this end takes the one that the other end takes, so that both use the same.

    Attributes:
        active: Where datagrams go.
        active_since: Since when, in monotonic seconds.
    """

    def __init__(
        self, config: PathsConfig, rng: Random, now: Now, place: Place, kind: str, *, follows: bool = False
    ) -> None:
        self._config = config
        self._rng = rng
        self._follows = follows
        self.active = Path(place, kind, now.mono, heard_at=now.mono, works=True, next_at=now.mono)
        self.active_since = now.mono
        self._paths: dict[Place, Path] = {place: self.active}
        self._unanswered_since = math.inf  # what was sent on the active path and followed by nothing
        self._doubted_at = math.inf
        self._room = float(config.learns)
        self._learned_at = self._punched_at = -math.inf
        self._punches = 0.0  # that may follow
        self._elsewhere = False  # what answers since then comes another way
        self._out: list[PathEffect] = []

    # --- queries --------------------------------------------------------------------------------------------------

    def all(self) -> list[Path]:
        """Returns all paths, the active one first, then the best first."""
        return sorted(self._paths.values(), key=lambda path: (path is not self.active, not path.works, path.rank))

    def find(self, place: Place) -> Path | None:
        """Returns the path to a place, if it is known."""
        return self._paths.get(place)

    @property
    def doubted(self) -> bool:
        """True while the active path is in doubt."""
        return self._doubted_at < math.inf

    def routes(self) -> tuple[Place, ...]:
        """Returns where to send a datagram now: more than one place while the active path is in doubt."""
        if self._doubted_at == math.inf:
            return (self.active.place,)
        standby = self._best(self.active)
        return (self.active.place, standby.place) if standby else (self.active.place,)

    def _best(self, beside: Path) -> Path | None:
        working = [path for path in self._paths.values() if path.works and path is not beside]
        return min(working, key=lambda path: path.rank, default=None)

    # --- inputs ---------------------------------------------------------------------------------------------------

    def add(self, now: Now, place: Place, kind: str) -> None:
        """The other end may be reached at a place: it is tried, unless it was already."""
        path = self._paths.get(place)
        if path is None:
            path = self._learn(now, place, kind)
            if path is not None:
                self._burst(now, path)
        elif not path.told:
            path.told = True
            if not path.works and path.next_at == math.inf:
                self._burst(now, path)

    def _learn(self, now: Now, place: Place, kind: str, *, told: bool = True) -> Path | None:
        self._room = min(self._config.learns, self._room + (now.mono - self._learned_at) / self._config.learn_s)
        self._learned_at = now.mono
        if self._room < 1.0:
            return None
        if len(self._paths) >= self._config.places:
            spare = [path for path in self._paths.values() if path is not self.active and not path.works]
            if not spare:
                return None
            del self._paths[min(spare, key=lambda path: (path.may_rest, path.since)).place]
        self._room -= 1.0
        path = self._paths[place] = Path(place, kind, now.mono, told=told)
        return path

    def punch(self, now: Now) -> None:
        """Both ends fire now: all places that do not work are tried at once."""
        config, passed_s = self._config, now.mono - self._punched_at
        if passed_s < config.punch_s:
            return
        self._punched_at = now.mono
        self._punches = min(config.punches, self._punches + passed_s / config.punches_s)
        if self._punches >= 1.0:
            self._punches -= 1.0
            self._try_all(now)

    def _try_all(self, now: Now) -> None:
        for path in self._paths.values():
            if not path.works and path.may_rest:
                self._burst(now, path)

    def lost(self, now: Now, place: Place) -> None:
        """The shell cannot send there any more, as when a relay is gone."""
        if path := self._paths.get(place):
            path.works = False
            if path is self.active:
                self._leave(now, "is gone")
            if path is not self.active:
                del self._paths[place]

    def heard(self, now: Now, place: Place, kind: str) -> None:
        """A packet of the other end came from a place; one that nobody knew is tried: a NAT may have moved it."""
        path = self._paths.get(place)
        if path is None:
            if path := self._learn(now, place, kind, told=False):
                path.appeared = True
                self._burst(now, path)
            return
        path.heard_at = now.mono
        if path is self.active:
            self._is_answered()
        elif self._follows and path.works and self.active.works and RANK[path.kind] == RANK[self.active.kind]:
            self._switch(now, path, "the other end takes it")
        else:
            self._elsewhere = True

    def _is_answered(self) -> None:
        self._unanswered_since = self._doubted_at = math.inf
        self._elsewhere = False

    def sent(self, now: Now, *, awaited: bool = True) -> None:
        """A datagram went out.

        Args:
            awaited: The other end will not leave it unanswered for long. An acknowledgement is not answered, but where
                what arrives comes another way it may be why: the other end may not get it.
        """
        if awaited or self._elsewhere:
            self._unanswered_since = min(self._unanswered_since, now.mono)

    def probed(self, now: Now, place: Place, kind: str, nonce: bytes, *, doubting: bool = False) -> None:
        """A probe came: it is answered, and where it came from is tried. Where the other end doubts its path, and this
        one has not heard from its own lately, that is in doubt at once: who only acknowledges would not notice.
        """
        path = self._paths.get(place) or self._learn(now, place, kind, told=False)
        if path is None:
            return
        self._out.append(SendReply(place, nonce))
        path.heard_at = now.mono
        rested = now.mono >= path.probed_at + self._config.burst_s[0]  # else two ends would drive each other on
        if not path.works and rested:  # now that it let something out, it may let something in
            self._burst(now, path)
        silent_s = now.mono - self.active.heard_at
        if doubting and not self.doubted and self.active.works and silent_s >= self._config.hint_s:
            self._doubt(now)

    def replied(self, now: Now, place: Place, nonce: bytes, observed: Address | None) -> None:
        """A reply came; one that was not waited for, or comes from elsewhere, proves nothing."""
        path = self._paths.get(place)
        sent_at = path.pending.pop(nonce, None) if path else None
        if path is None or sent_at is None:
            return
        sample = now.mono - sent_at
        path.rtt_s = sample if path.rtt_s is None else path.rtt_s + (sample - path.rtt_s) / 4
        path.replied_at = path.heard_at = now.mono
        path.works, path.tries, path.rests, path.losts = True, 0, 0, 0
        path.pending = {each: at for each, at in path.pending.items() if at > sent_at}
        path.next_at = now.mono + self._config.keep_s
        if observed is not None:
            self._out.append(Observed(observed))
        if path is self.active:
            self._is_answered()
        else:
            self._consider(now, path)

    def _consider(self, now: Now, path: Path) -> None:
        """Says whether a path that just answered takes the active one's place."""
        active, config = self.active, self._config
        if not active.works:
            self._switch(now, path, "the path before it is dead")
        elif RANK[path.kind] < RANK[active.kind]:
            self._switch(now, path, "it is a better one")
        elif RANK[path.kind] == RANK[active.kind] and path.appeared and active.heard_at < path.since:
            self._switch(now, path, "the other end moved")
        elif RANK[path.kind] == RANK[active.kind] and path.rtt_s is not None and active.rtt_s is not None:
            gain_s = active.rtt_s - path.rtt_s
            if gain_s > max(config.gain * active.rtt_s, config.gain_least_s):
                self._switch(now, path, "it is a shorter one")

    def _switch(self, now: Now, path: Path, reason: str) -> None:
        old, self.active, self.active_since = self.active, path, now.mono
        self._is_answered()
        old.next_at = min(old.next_at, now.mono + self._config.keep_s)
        self._out.append(Switched(old.place, path.place, reason))

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Probes what is due, doubts a silent path, leaves a dead one."""
        if self._doubted_at == math.inf and now.mono >= self._doubt_at():
            self._doubt(now)
        if now.mono >= self._dead_at():
            self.active.works = False
            self._leave(now, "is silent")
        for path in list(self._paths.values()):
            if now.mono >= path.next_at:
                self._due(now, path)

    def _doubt(self, now: Now) -> None:
        self._doubted_at = now.mono
        for path in self._paths.values():
            if path is self.active or path.works:
                self._burst(now, path)

    def _leave(self, now: Now, reason: str) -> None:
        """The active path is dead: the best one that works takes over, else everything is tried."""
        best = self._best(self.active)
        if best is not None:
            self._switch(now, best, f"the one before {reason}")
        else:
            self._is_answered()
            for path in self._paths.values():
                path.losts = 0
            self._try_all(now)

    def _due(self, now: Now, path: Path) -> None:
        config = self._config
        if path.works and path is not self.active and not self._stands_by(path):
            path.next_at = math.inf
        elif path.works and path.rtt_s is not None and not path.tries and now.mono < path.heard_at + config.keep_s:
            path.next_at = path.heard_at + config.keep_s
        elif path.tries <= len(config.burst_s):
            self._probe(now, path)
        else:
            self._give_up(now, path)

    def _give_up(self, now: Now, path: Path) -> None:
        """A burst without a reply: a path that worked does not any more, and is tried again after a rest."""
        config, worked = self._config, path.works
        path.works = False
        path.tries, path.pending = 0, {}
        if path is self.active and worked:
            path.next_at = now.mono + config.lost_s
            self._leave(now, "does not answer")
        elif not path.may_rest:
            path.next_at = math.inf  # who is there sends more
        elif not self.active.works and path.losts < config.losts:
            path.next_at = now.mono + config.lost_s
            path.losts += 1
        elif self.active.works and RANK[path.kind] >= RANK[self.active.kind]:
            path.next_at = math.inf  # nothing would be gained
        else:
            path.next_at = now.mono + min(config.rest_s * 2.0**path.rests, config.rest_most_s)
            path.rests += 1

    def _stands_by(self, path: Path) -> bool:
        """Says whether a path is one of the best that are kept open beside the active one; a relay always is."""
        if RANK[path.kind] > RANK[self.active.kind]:
            return True
        others = sorted((each for each in self._paths.values() if each.works and each is not self.active), key=_rank)
        return path in others[: self._config.standbys]

    def _burst(self, now: Now, path: Path) -> None:
        path.tries = 0
        self._probe(now, path)

    def _probe(self, now: Now, path: Path) -> None:
        nonce = self._rng.randbytes(NONCE_BYTES)
        if len(path.pending) >= self._config.pending:
            del path.pending[next(iter(path.pending))]
        path.pending[nonce] = path.probed_at = now.mono
        waits = self._config.burst_s
        path.next_at = now.mono + waits[min(path.tries, len(waits) - 1)]
        path.tries += 1
        self._out.append(SendProbe(path.place, nonce, self.doubted))

    def _doubt_at(self) -> float:
        patience_s = max(self._config.doubt_s, 3.0 * (self.active.rtt_s or 0.0))
        return self._unanswered_since + (self._config.elsewhere * patience_s if self._elsewhere else patience_s)

    def _dead_at(self) -> float:
        return self._doubted_at + max(self._config.dead_s, 3.0 * (self.active.rtt_s or 0.0))

    def next_timer(self) -> float:
        """Returns when something is due."""
        doubt = self._doubt_at() if self._doubted_at == math.inf else self._dead_at()
        return min(doubt, min(path.next_at for path in self._paths.values()))

    def drain(self) -> list[PathEffect]:
        """Returns and forgets what is to be done."""
        effects, self._out = self._out, []
        return effects


def _rank(path: Path) -> tuple[int, float]:
    return path.rank
