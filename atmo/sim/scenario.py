"""What a scenario is, and the stage on which it plays.

A scenario is a frozen dataclass: its fields are what a run can be given, its `play` is what happens. It promises checks
and figures by name; a check of which nothing was heard at the end did not hold.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from atmo.peer import PeerConfig
from atmo.sim.bandwidth import Lines
from atmo.sim.links import LinksConfig
from atmo.sim.machine import Node
from atmo.sim.nat import NAT_KINDS, Nats
from atmo.sim.network import CityLatency, Duplication, Loss, Network, OneWay, Partition, Reordering
from atmo.sim.report import CheckFailed, Failure, Report
from atmo.sim.streams import Streams
from atmo.sim.trace import Trace
from atmo.sim.world import World

IN_THE_OPEN = 5
"""Machines that are never behind a NAT."""

Tick = Callable[[float], None]
"""Told how many virtual seconds have passed."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a run of a scenario tells.

    Attributes:
        safety: Checks that hold at every moment: name to statement.
        liveness: Checks that hold in the end: name to statement.
        figures: Name to what it is.
    """

    safety: Mapping[str, str] = field(default_factory=dict)
    liveness: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scenario(ABC):
    """What happens in a world.

    Attributes:
        nodes: Machines; the first one founds the mesh.
        seed: Of everything random.
        duration_s: Virtual seconds of the main act.
        loss: Share of packets lost; links send them again.
        jitter_s: Mean of what is added to each packet's way.
        duplication: Share of packets that come twice.
        reordering: Share of packets that take up to 0.1 s longer.
        skew_s: Wall clocks are ahead by up to this much.
        nat: Share of machines behind NATs of all kinds; the first ones are in the open, so that there is a way in.
        one_way: Share of ordered pairs of which the first does not reach the second.
        join_gap_s: Between two machines that join while the mesh is built.
        encode: Whether messages go through the codec: slower, and proves their encoding.
    """

    nodes: int = 100
    seed: int = 1
    duration_s: float = 60.0
    loss: float = 0.0
    jitter_s: float = 0.001
    duplication: float = 0.0
    reordering: float = 0.0
    skew_s: float = 0.0
    nat: float = 0.0
    one_way: float = 0.0
    join_gap_s: float = 0.02
    encode: bool = False

    name: ClassVar[str]
    summary: ClassVar[str]
    promise: ClassVar[Promise]
    least_nodes: ClassVar[int] = 4
    node_kib: ClassVar[int] = 380
    """Memory of one node beside what it knows of others. Source: measured, docs/SIMULATION.md."""
    pair_bytes: ClassVar[int] = 600
    """Memory of what one node holds of another that it knows. Source: the same."""

    def config(self) -> PeerConfig:
        """Returns the configuration of every peer."""
        return PeerConfig()

    def known(self, nodes: int) -> int:
        """Returns of how many others a node knows at most; beyond that the mesh is a large one."""
        return min(nodes, self.config().scale.census)

    @abstractmethod
    def play(self, stage: Stage) -> None:
        """Lets it happen."""

    def length_s(self) -> float:
        """Returns about how long a run is in virtual seconds, for the progress bar."""
        return self.nodes * self.join_gap_s + self.duration_s

    def settings(self) -> dict[str, Any]:
        """Returns the values of all fields."""
        return {known.name: getattr(self, known.name) for known in fields(self)}


class Stage:
    """The world of one run, and what is found out about it.

    Args:
        scenario: What plays.
        trace: Takes what happens.
        tick: Told of every virtual second.

    Attributes:
        streams: Of everything random outside of peers.
        partition, one_way, nats, loss, duplication, reordering, cities, lines: The rules of the network.
        world: The world.
        report: What is found out.
        on_start, on_stop: Told of each machine that was turned on or is being turned off.
    """

    def __init__(self, scenario: Scenario, trace: Trace | None = None, tick: Tick | None = None) -> None:
        self.scenario = scenario
        seed = str(scenario.seed)
        streams = self.streams = Streams(seed)
        self.partition = Partition()
        self.one_way = OneWay(streams, scenario.one_way)
        self.nats = Nats()
        self.loss = Loss(streams, scenario.loss)
        self.reordering = Reordering(streams, scenario.reordering, 0.1)
        self.cities = CityLatency(streams, jitter_s=scenario.jitter_s)
        self.lines = Lines()
        self.duplication = Duplication(streams, scenario.duplication, (self.lines.down,))
        network = Network(
            self.partition,
            self.one_way,
            self.nats,
            self.loss,
            self.lines.up,
            self.cities,
            self.reordering,
            self.duplication,
            self.lines.down,
        )
        self.world = World(
            seed,
            network,
            config=scenario.config(),
            links=LinksConfig(),
            lines=self.lines,
            encode=scenario.encode,
            trace=trace,
            keep_events=False,
        )
        self.report = Report(scenario.name, scenario.nodes, scenario.seed)
        self.on_start, self.on_stop = self.world.on_start, self.world.on_stop
        if tick is not None:
            self.world.ticks.append(lambda world: tick(world.loop.now))

    # --- the mesh -------------------------------------------------------------------------------------------------

    @property
    def founder(self) -> Node:
        """The first machine."""
        return next(iter(self.world.nodes.values()))

    def add(self, count: int = 1, roles: tuple[str, ...] = ("edge",)) -> list[Node]:
        """Makes machines that are off."""
        added = []
        for _ in range(count):
            number = len(self.world.nodes)
            node = self.world.add(f"n{number}", roles=roles, founder=number == 0)
            node.skew_s = self.streams.fixed("skew", node.id) * self.scenario.skew_s
            if number >= IN_THE_OPEN and self.streams.fixed("nat", node.id) < self.scenario.nat:
                kind = int(self.streams.fixed("nat kind", node.id) * len(NAT_KINDS))
                self.nats.give(node.id, NAT_KINDS[kind])
            added.append(node)
        return added

    def start(self, node: Node, knows: int = 3) -> None:
        """Turns a machine on that knows a few of those that run."""
        alive = [other for other in self.world.alive() if other is not node]
        some = self.streams.shared("knows").sample(alive, min(knows, len(alive)))
        self.world.start(node, knows=some)

    def build(self, count: int | None = None) -> list[Node]:
        """Founds a mesh and lets machines join one after the other; returns them."""
        nodes = self.add(self.scenario.nodes if count is None else count)
        self.join(nodes)
        return nodes

    def join(self, nodes: Sequence[Node]) -> None:
        """Lets machines join one after the other."""
        for node in nodes:
            self.start(node)
            self.world.run(self.scenario.join_gap_s)

    # --- what is found out ----------------------------------------------------------------------------------------

    def check(self, name: str, holds: bool, what: str, *nodes: str) -> None:
        """Tells of a check; one that did not hold once does not hold."""
        self.report.checks[name] = holds and self.report.checks.get(name, True)
        if not holds:
            self.report.failures.append(Failure(name, what, self.world.loop.now, nodes[:8]))

    def within(self, name: str, condition: Callable[[], bool], most_s: float, what: str) -> float:
        """Lets time pass until a condition holds, and tells of the check; returns how long it took."""
        took = self.world.wait(condition, most_s)
        self.check(name, took is not None, f"not within {most_s:g} s: {what}")
        return most_s if took is None else took

    def figure(self, name: str, value: float) -> None:
        """Tells of a figure."""
        self.report.figures[name] = value

    def sample(self, series: str, value: float) -> None:
        """Tells of a value at this moment, for a plot."""
        self.report.series.setdefault(series, []).append((self.world.loop.now, value))

    def play(self) -> Report:
        """Plays the scenario; a failed safety check or a bug ends it."""
        scenario, promise = self.scenario, self.scenario.promise
        try:
            scenario.play(self)
        except CheckFailed as error:
            self.report.failures.append(Failure("safety", error.what, error.time_s, error.nodes[:8]))
        except Exception as error:  # noqa: BLE001 - a bug in what is simulated: the same seed finds it again
            self._tell_bug(error)
        ended_by = {failure.check for failure in self.report.failures} & {"safety", "bug"}
        open_ones = [*promise.safety, *promise.liveness] if "bug" in ended_by else promise.liveness
        self.report.unknown = [name for name in open_ones if name not in self.report.checks]
        held = dict.fromkeys(promise.safety, not ended_by)
        held |= dict.fromkeys(promise.liveness, False)
        self.report.checks = held | self.report.checks
        self.report.simulated_s = self.world.loop.now
        self.report.digest = self.world.digest()
        return self.report

    def _tell_bug(self, error: Exception) -> None:
        """Tells what it is and at which line, and apart from that how it came about."""
        told = traceback.TracebackException.from_exception(error)
        what = "".join(told.format_exception_only())
        place = told.stack[-1]
        where = f"{what.strip()}, in {place.filename}, line {place.lineno}, in {place.name}"
        self.report.failures.append(Failure("bug", where, self.world.loop.now))
        self.report.traceback = "".join(told.format()).removesuffix(what)
