"""Two ends of a connection and the ways between them, without a network."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random

from atmo.clock import Now
from atmo.reach.config import DIRECT, LAN, PUNCHED, RELAY, PathsConfig, Place, Via
from atmo.reach.paths import Observed, PathEffect, Paths, SendProbe, SendReply, Switched
from atmo.wire.address import Address

HOME = Address("192.168.1.2", 7)
WIDE = Address("198.51.100.2", 7)
HOLE = Address("203.0.113.9", 40_000)
HUB = Via("relay")
KINDS: dict[Place, str] = {HOME: LAN, WIDE: DIRECT, HOLE: PUNCHED, HUB: RELAY}


@dataclass
class Way:
    """One way between both ends, which both know by the same place."""

    delay_s: float = 0.02
    open: list[bool] = field(default_factory=lambda: [True, True])  # from the first end, from the second


class Pair:
    """Both ends."""

    def __init__(self, start: Place = HUB, config: PathsConfig = PathsConfig(), seed: int = 1) -> None:
        self.mono = 0.0
        self.ways: dict[Place, Way] = {start: Way()}
        self.ends = [
            Paths(config, Random(f"{seed}/{end}"), self.now, start, KINDS[start], follows=bool(end)) for end in (0, 1)
        ]
        self.switches: list[list[Switched]] = [[], []]
        self.observed: list[Address] = []
        self.probes = 0
        self.arrived = [0, 0]
        self._mail: list[tuple[float, int, int, Place, PathEffect | None]] = []
        self._count = 0

    @property
    def now(self) -> Now:
        return Now(self.mono, 1e9 + self.mono)

    def tell(self, place: Place, **way: object) -> None:
        """Both ends learn of a way, which exists from now on."""
        self.ways[place] = Way(**way)  # type: ignore[arg-type]
        for end in (0, 1):
            self.ends[end].add(self.now, place, KINDS[place])
            self.perform(end)

    def shut(self, place: Place, *, from_end: int | None = None, open_: bool = False) -> None:
        for end in (0, 1) if from_end is None else (from_end,):
            self.ways[place].open[end] = open_

    def say(self, end: int) -> None:
        """One end sends a packet, which the other one answers with one."""
        self.ends[end].sent(self.now)
        for place in self.ends[end].routes():
            self._post(end, place, None)

    def _post(self, end: int, place: Place, what: PathEffect | None) -> None:
        way = self.ways.get(place)
        if way is not None and way.open[end]:
            self._count += 1
            heapq.heappush(self._mail, (self.mono + way.delay_s, self._count, 1 - end, place, what))

    def perform(self, end: int) -> None:
        for effect in self.ends[end].drain():
            match effect:
                case SendProbe(place) | SendReply(place):
                    self.probes += isinstance(effect, SendProbe)
                    self._post(end, place, effect)
                case Switched():
                    self.switches[end].append(effect)
                case Observed(address):
                    self.observed.append(address)

    def advance(self, seconds: float, *, talks: int | None = None, every_s: float = 0.05) -> None:
        """Lets time pass; with `talks` that end sends packets all the while, which the other one answers."""
        until, say_at = self.mono + seconds, self.mono
        while True:
            due = min(end.next_timer() for end in self.ends)
            due = min(due, self._mail[0][0] if self._mail else due, say_at if talks is not None else due)
            if due > until:
                self.mono = until
                return
            self.mono = max(self.mono, due)
            if talks is not None and self.mono >= say_at:
                self.say(talks)
                say_at = self.mono + every_s
            while self._mail and self._mail[0][0] <= self.mono:
                self._deliver(*heapq.heappop(self._mail)[2:], talks)
            for end in (0, 1):
                if self.ends[end].next_timer() <= self.mono:
                    self.ends[end].handle_timer(self.now)
                    assert self.ends[end].next_timer() > self.mono
                self.perform(end)

    def _deliver(self, end: int, place: Place, what: PathEffect | None, talks: int | None) -> None:
        paths = self.ends[end]
        match what:
            case SendProbe(_, nonce, doubting):
                paths.probed(self.now, place, KINDS[place], nonce, doubting=doubting)
            case SendReply(_, nonce):
                paths.replied(self.now, place, nonce, WIDE if place == WIDE else None)
            case _:
                self.arrived[end] += 1
                paths.heard(self.now, place, KINDS[place])
                if talks is not None and end != talks:
                    self.say(end)
        self.perform(end)
