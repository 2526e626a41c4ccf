"""Looks in the mesh's index for what no known node has, in a mesh too large for everyone to know everything.

The index (`atmo.index`) names providers of a key; each is reached, which has it tell its near records: then the catalog
and the gateway know what it has. A lookup lives for as long as somebody waits for it, and whoever waits does its next
step: there is no task of its own. All who wait for one key at the same time share one lookup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import trio

from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.index.events import LookupDone, ProviderFound
from atmo.net.ports import MeshPort
from atmo.peer import LinkReady, Unreachable
from atmo.wire.address import Contact


@dataclass(frozen=True, slots=True)
class ScoutConfig:
    """Times and bounds.

    Attributes:
        patience_s: Nobody waits longer. Source: guess; a lookup, the dial of a provider and its answer each take about
            0.5 s between far cities.
        dial_s: A provider that is not linked by then frees its place for the next one, though it may still answer.
            Source: guess; a dial over 0.3 s takes 1 s.
        tells_s: A provider that is linked has told nothing by then. Source: guess; question and answer over 0.3 s.
        quiet_s: After so long without another record a provider has told all. Source: guess; they come in one burst.
        at_once: Providers of one lookup that are being reached at the same time. Source: guess.
        reached: Providers of one lookup that are reached at most. Source: guess; the index finds 20.
        lookups: Of different keys at once; a quarter of those that the index runs at most.
        callers: Who may wait at once. Source: guess; each looks again at each piece of news.
        rest_s: A key whose lookup was in vain is not looked up again so soon. Source: guess.
        resting: Such keys remembered.
    """

    patience_s: float = 2.5
    dial_s: float = 1.0
    tells_s: float = 1.0
    quiet_s: float = 0.25
    at_once: int = 4
    reached: int = 12
    lookups: int = 16
    callers: int = 256
    rest_s: float = 5.0
    resting: int = 1_024


@dataclass(slots=True)
class ScoutStats:
    """Counters since start.

    Attributes:
        lookups: Begun.
        shared: Times that somebody joined a lookup under way.
        spared: Lookups not begun: the last one was in vain a moment ago, or too much was under way.
        reached: Providers asked what they have.
        met: Times that whoever asked got enough.
    """

    lookups: int = 0
    shared: int = 0
    spared: int = 0
    reached: int = 0
    met: int = 0


@dataclass(slots=True)
class _Asked:
    """A provider that was asked, on trio's clock.

    Attributes:
        busy_until: So long it takes one of the places.
        over_at: Nothing more is expected of it then.
    """

    busy_until: float
    over_at: float = math.inf


@dataclass(eq=False, slots=True)
class _Lookup:
    """The lookup of one key, and the providers that it found.

    Attributes:
        query: Its number in the index.
        waiting: Providers that nobody has asked yet, and where they say they listen.
        asked: Providers that are expected to answer.
        room: How many more are asked.
        callers: Who waits for it.
        done: The index is through.
        refused: The index had no room for it.
    """

    query: int
    room: int
    waiting: dict[NodeId, Contact] = field(default_factory=dict)
    asked: dict[NodeId, _Asked] = field(default_factory=dict)
    callers: int = 0
    done: bool = False
    refused: bool = False

    @property
    def over(self) -> bool:
        """Everyone who was found has answered or cannot be reached."""
        return self.done and not self.waiting and not self.asked

    def due(self, now: float) -> float:
        """Returns when it goes on without any news."""
        ends = [asked.over_at for asked in self.asked.values()]
        if self.waiting:
            ends += [asked.busy_until for asked in self.asked.values() if asked.busy_until > now]
        return min(ends, default=math.inf)


class Scout:
    """Finds who has something, through the index.

    Args:
        mesh: Returns the running peer, None where there is none.
        config: Times and bounds.

    Attributes:
        stats: Counts.
    """

    def __init__(self, mesh: Callable[[], MeshPort | None], config: ScoutConfig = ScoutConfig()) -> None:
        self.stats = ScoutStats()
        self._mesh = mesh
        self._config = config
        self._lookups: dict[bytes, _Lookup] = {}
        self._resting: dict[bytes, float] = {}  # until when; in the order in which they end
        self._callers = 0
        self._news = trio.Event()

    async def find(self, keys: Collection[bytes], enough: Callable[[], bool] = lambda: False) -> None:
        """Has providers of keys tell what they have; returns at once where the mesh is small.

        Returns as soon as `enough` holds, everyone found has answered or cannot be reached, or it took too long.

        Args:
            keys: Of the index, from `atmo.index.keys`.
            enough: Says that what is known now will do; asked at each piece of news. Without it all are heard.
        """
        mesh = self._mesh()
        if mesh is None or not mesh.peer.mesh_size.large or enough():
            return
        lookups = self._join(mesh, keys)
        if not lookups:
            return
        self._callers += 1
        missed = False
        try:
            met = await self._wait(mesh, list(lookups.values()), enough)
            self.stats.met += met
            missed = not met
        finally:
            self._callers -= 1
            self._leave(mesh, lookups, missed)

    async def _wait(self, mesh: MeshPort, lookups: list[_Lookup], enough: Callable[[], bool]) -> bool:
        deadline = trio.current_time() + self._config.patience_s
        while not enough():
            now, news = trio.current_time(), self._news
            for lookup in lookups:
                self._step(mesh, lookup, now)
            if now >= deadline or all(lookup.over for lookup in lookups):
                return enough()
            with trio.move_on_at(min(deadline, *(lookup.due(now) for lookup in lookups))):
                await news.wait()
        return True

    # --- lookups --------------------------------------------------------------------------------------------------

    def _join(self, mesh: MeshPort, keys: Collection[bytes]) -> dict[bytes, _Lookup]:
        """Begins the lookups of keys, or joins those under way; leaves out what would be in vain or too much."""
        now = trio.current_time()
        joined: dict[bytes, _Lookup] = {}
        for key in dict.fromkeys(keys):
            lookup = self._lookups.get(key)
            crowded = self._callers >= self._config.callers or len(self._lookups) >= self._config.lookups
            if lookup is not None and self._callers < self._config.callers:
                self.stats.shared += 1
            elif crowded or self._resting.get(key, now) > now:
                self.stats.spared += 1
                continue
            else:
                self.stats.lookups += 1
                query = mesh.peer.find_providers(mesh.now(), key)
                lookup = self._lookups[key] = _Lookup(query, self._config.reached)
            lookup.callers += 1
            joined[key] = lookup
        mesh.kick()
        return joined

    def _leave(self, mesh: MeshPort, lookups: dict[bytes, _Lookup], missed: bool) -> None:
        """Ends lookups for which nobody waits any more; those in vain are not repeated for a while."""
        until = trio.current_time() + self._config.rest_s
        for key, lookup in lookups.items():
            lookup.callers -= 1
            if missed and not lookup.refused:
                self._resting.pop(key, None)
                self._resting[key] = until
            if not lookup.callers:
                del self._lookups[key]
                if not lookup.done:
                    mesh.peer.cancel_query(mesh.now(), lookup.query)
        while len(self._resting) > self._config.resting:
            del self._resting[next(iter(self._resting))]
        mesh.kick()

    def _step(self, mesh: MeshPort, lookup: _Lookup, now: float) -> None:
        """Gives up who has told all, and asks the next ones; neighbours tell without being asked."""
        for node in [node for node, asked in lookup.asked.items() if asked.over_at <= now]:
            del lookup.asked[node]
        for node in mesh.peer.neighbours():
            lookup.waiting.pop(node, None)
        busy = sum(asked.busy_until > now for asked in lookup.asked.values())
        chosen = list(lookup.waiting)[: max(0, min(lookup.room, self._config.at_once - busy))]
        lookup.room -= len(chosen)
        for node in chosen:
            contact = lookup.waiting.pop(node)
            linked = mesh.peer.is_ready(node)  # then no event will say so
            over_at = now + self._config.tells_s if linked else math.inf
            lookup.asked[node] = _Asked(now + self._config.dial_s, over_at)
            self.stats.reached += 1
            mesh.peer.reach(mesh.now(), node, contact.addresses)
        if not lookup.room:
            lookup.waiting.clear()
        if chosen:
            mesh.kick()

    # --- what the peer tells --------------------------------------------------------------------------------------

    def on_event(self, event: Any) -> None:
        """Takes every event that the peer emits; what is about lookups under way wakes those who wait."""
        if not self._lookups:
            return
        now, news = trio.current_time(), False
        for lookup in self._lookups.values():
            match event:
                case ProviderFound(query, contact) if query == lookup.query and lookup.room:
                    lookup.waiting[contact.node] = contact
                case LookupDone(query) if query == lookup.query:
                    lookup.done, lookup.refused = True, event.refused
                case Unreachable(node) if node in lookup.asked:
                    del lookup.asked[node]
                case LinkReady(node) if asked := lookup.asked.get(node):
                    asked.over_at = now + self._config.tells_s
                case RecordChanged() if (asked := lookup.asked.get(event.author)) and asked.over_at < math.inf:
                    asked.over_at = now + self._config.quiet_s
                case _:
                    continue
            news = True
        if news:
            self._news.set()
            self._news = trio.Event()
