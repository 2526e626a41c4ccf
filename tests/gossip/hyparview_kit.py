"""Networks of HyParView engines: virtual links that come up after a dial, and messages in order on each."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from random import Random

from atmo.clock import Now
from atmo.engine import Dial, Effect, Emit, Engine, Misbehaved, Send
from atmo.gossip.detector import Detector, DetectorConfig, LinkSilent, LinkSuspect, LinkTrusted
from atmo.gossip.hyparview import HyParView
from atmo.gossip.hyparview_config import HyParViewConfig, NeighbourDown, NeighbourUp
from atmo.gossip.messages import Ping, Pong, ProbeAnswer, ProbeRequest
from atmo.identity import NodeId
from atmo.wire.address import Address, Contact

DIAL_S = 5.0
"""What a dial of a dead node takes."""


def at(seconds: float) -> Now:
    return Now(seconds, 1_700_000_000.0 + seconds)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def contact(number: int, port: int = 1) -> Contact:
    """Returns where a node listens: its number is its address."""
    return Contact(node(number), (Address(f"10.0.{number // 256}.{number % 256}", port),))


class Station:
    """One node: the view, and the detector where the network has them."""

    def __init__(self, number: int, seed: str, config: HyParViewConfig, detector: bool) -> None:
        self.node = node(number)
        self.contact = contact(number)
        self.view = HyParView(config, self.node, Random(f"{seed}/{number}/view"))
        self.view.contact = self.contact
        self.detector = Detector(DetectorConfig(), self.node, Random(f"{seed}/{number}/detector")) if detector else None
        self.neighbours: dict[NodeId, None] = {}  # as events tell
        self.due = float("inf")


class Network:
    """Many stations in virtual time.

    Args:
        seed: Names all random streams.
        config: Of all engines.
        detector: Whether there are detectors; without them the death of a node ends its links at once.
        loss: Share of packets lost; each is sent again after 0.2, 0.4, 0.8 ... s, and what follows waits for it.
    """

    def __init__(
        self, seed: str, config: HyParViewConfig = HyParViewConfig(), *, detector: bool = False, loss: float = 0.0
    ) -> None:
        self.seed = seed
        self.config = config
        self.with_detector = detector
        self.loss = loss
        self.rng = Random(seed)
        self.now = 0.0
        self.stations: dict[NodeId, Station] = {}
        self.links: dict[tuple[NodeId, NodeId], int] = {}  # generation, both ways
        self.sides: dict[NodeId, int] = {}  # of a partition
        self.generation = 0
        self.arrives: dict[tuple[NodeId, NodeId], float] = {}
        self.heap: list[tuple[float, int, tuple[object, ...]]] = []
        self.counter = 0
        self.delivered: dict[str, int] = {}
        self.dials = 0
        self.events: list[tuple[float, NodeId, object]] = []

    # --- faults ---------------------------------------------------------------------------------------------------

    def start(self, number: int, known: Iterable[Contact] = (), *, stale: bool = False) -> Station:
        station = Station(number, f"{self.seed}/{self.generation}", self.config, self.with_detector)
        self.generation += 1
        self.stations[station.node] = station
        for other in known:
            station.view.learn(at(self.now), other, stale=stale)
        self.perform(station)
        return station

    def kill(self, number: int) -> None:
        dead = node(number)
        del self.stations[dead]
        for source, target in list(self.links):
            if source == dead and not self.with_detector:
                self.cut(source, target)

    def cut(self, one: NodeId, other: NodeId) -> None:
        """Ends a link; both ends that live notice."""
        for source, target in ((one, other), (other, one)):
            if self.links.pop((source, target), None) is not None and source in self.stations:
                station = self.stations[source]
                station.view.link_down(at(self.now), target)
                if station.detector:
                    station.detector.link_down(at(self.now), target)
        for end in (one, other):
            if end in self.stations:
                self.perform(self.stations[end])

    def split(self, sides: dict[NodeId, int]) -> None:
        self.sides = sides
        for one, other in list(self.links):
            if self.apart(one, other):
                self.cut(one, other)

    def apart(self, one: NodeId, other: NodeId) -> bool:
        return self.sides.get(one, 0) != self.sides.get(other, 0)

    # --- the world ------------------------------------------------------------------------------------------------

    def push(self, when: float, *event: object) -> None:
        self.counter += 1
        heapq.heappush(self.heap, (when, self.counter, event))

    def delay(self) -> float:
        delay, again = self.rng.uniform(0.01, 0.1), 0.2
        while self.rng.random() < self.loss:
            delay, again = delay + again, again * 2
        return delay

    def perform(self, station: Station) -> None:
        engines: list[Engine] = [station.view, station.detector] if station.detector else [station.view]
        while effects := [effect for engine in engines for effect in engine.drain()]:
            for effect in effects:
                self.effect(station, effect)
        due = min(engine.next_timer() for engine in engines)
        if due < station.due:
            self.push(max(due, self.now), "timer", station)
        station.due = due

    def effect(self, station: Station, effect: Effect) -> None:
        match effect:
            case Send(target, message):
                key = (station.node, target)
                if key in self.links:
                    when = max(self.now + self.delay(), self.arrives.get(key, 0.0))
                    self.arrives[key] = when
                    self.push(when, "message", key, self.links[key], message)
            case Dial(target, addresses):
                self.dials += 1
                assert addresses
                wait = 3 * self.delay() if target in self.stations and not self.apart(station.node, target) else DIAL_S
                self.push(self.now + wait, "dialled", station, target)
            case Misbehaved():
                raise AssertionError(f"an honest node is blamed: {effect}")
            case Emit(event):
                self.events.append((self.now, station.node, event))
                self.told(station, event)
            case hangup:
                self.cut(station.node, hangup.node)  # type: ignore[union-attr]

    def told(self, station: Station, event: object) -> None:
        match event:
            case NeighbourUp(other):
                assert other not in station.neighbours
                station.neighbours[other] = None
            case NeighbourDown(other):
                del station.neighbours[other]
            case LinkSuspect(other):
                station.view.suspect(at(self.now), other)
            case LinkTrusted(other):
                station.view.trust(at(self.now), other)
            case LinkSilent(other, vouched):
                if not vouched:
                    station.view.gone(at(self.now), other)

    def connect(self, one: Station, other: Station) -> None:
        if (one.node, other.node) in self.links:
            return
        self.generation += 1
        for near, far in ((one, other), (other, one)):
            self.links[near.node, far.node] = self.generation
            near.view.link_up(at(self.now), far.node)
            if near.detector:
                near.detector.link_up(at(self.now), far.node)
        self.perform(one)
        self.perform(other)

    def step(self) -> None:
        self.now, _, event = heapq.heappop(self.heap)
        match event:
            case ("timer", Station() as station):
                if self.stations.get(station.node) is station and station.due <= self.now:
                    station.due = float("inf")
                    station.view.handle_timer(at(self.now))
                    if station.detector:
                        station.detector.handle_timer(at(self.now))
                    self.perform(station)
            case ("message", (NodeId() as source, NodeId() as target), generation, message):
                if self.links.get((target, source)) == generation and target in self.stations:
                    self.deliver(source, self.stations[target], message)
            case ("dialled", Station() as station, NodeId() as target):
                if self.stations.get(station.node) is not station:
                    return
                there = self.stations.get(target)
                if (station.node, target) in self.links and self.links.get((target, station.node)):
                    pass
                elif there is None or self.apart(station.node, target):
                    station.view.dial_failed(at(self.now), target)
                    self.perform(station)
                else:
                    self.connect(station, there)

    def deliver(self, source: NodeId, station: Station, message: object) -> None:
        self.delivered[type(message).__name__] = self.delivered.get(type(message).__name__, 0) + 1
        if station.detector:
            station.detector.heard(at(self.now), source)
        if isinstance(message, Ping | Pong | ProbeRequest | ProbeAnswer):
            assert station.detector
            station.detector.receive(at(self.now), source, message)
        else:
            station.view.receive(at(self.now), source, message)  # type: ignore[arg-type]
        self.perform(station)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.heap and self.heap[0][0] <= end:
            self.step()
        self.now = end

    # --- what is to be seen ---------------------------------------------------------------------------------------

    def asymmetric(self) -> list[tuple[NodeId, NodeId]]:
        return [
            (station.node, other)
            for station in self.stations.values()
            for other in station.view.active
            if other not in self.stations or station.node not in self.stations[other].view.active
        ]

    def part(self, begin: NodeId) -> dict[NodeId, None]:
        """Returns the nodes that active views connect with one."""
        found, todo = {begin: None}, [begin]
        while todo:
            for other in self.stations[todo.pop()].view.active:
                if other in self.stations and other not in found:
                    found[other] = None
                    todo.append(other)
        return found

    def components(self) -> list[int]:
        """Returns the sizes of the parts that active views connect, the largest first."""
        left, sizes = dict.fromkeys(self.stations), []
        while left:
            part = self.part(next(iter(left)))
            sizes.append(len(part))
            left = {one: None for one in left if one not in part}
        return sorted(sizes, reverse=True)

    def check(self) -> None:
        """Raises AssertionError where an invariant does not hold."""
        for station in self.stations.values():
            view, config = station.view, self.config
            assert len(view.active) <= config.active
            assert len(view.passive) <= config.passive
            assert station.node not in view.active
            assert station.node not in view.passive
            assert not [other for other in view.active if other in view.passive]
            assert all((station.node, other) in self.links for other in view.active)
            assert list(station.neighbours) == list(view.active)
