"""Records reach everyone along the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.report import percentile, share
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import Spread
from atmo.sim.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class Broadcast(Scenario):
    """A mesh is built and settles; then nodes tell the mesh something, one after the other.

    Attributes:
        settle_s: Virtual seconds between the last join and the first broadcast: all have renewed their first records.
        warm_ups: Broadcasts before those that count: the tree takes shape by them.
        gap_s: Between two broadcasts.
        grace_s: After the last one.
        idle_s: How long the traffic at rest is measured, renewals of records included.
        reach_s: Within this 99 of 100 nodes have a broadcast, in the median of all broadcasts.
        redundant_most: Payloads that a node has already, for each one that is news.
    """

    settle_s: float = 150.0
    warm_ups: int = 20
    gap_s: float = 1.0
    grace_s: float = 10.0
    idle_s: float = 100.0
    reach_s: float = 1.0
    redundant_most: float = 0.05

    name: ClassVar = "broadcast"
    summary: ClassVar = "records reach everyone along the tree"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "everyone_is_reached": "every live node has every broadcast",
            "in_time": "the median broadcast reaches 99 % of all nodes within a second",
            "hardly_redundant": "less than 0.05 payloads per delivery are redundant, where no packet is lost",
        },
        figures={
            "delivered_to_live_nodes": "share of deliveries that happened, of those that had to",
            "redundant_payloads_per_delivery": "payloads that came to a node that had them, in the median broadcast",
            "redundant_payloads_on_average": "the same on average, with those by which the tree is made anew",
            "time_to_reach_99_percent_s": "of the median broadcast",
            "time_to_reach_99_percent_slowest_s": "of the slowest broadcast",
            "time_to_reach_all_s": "of the slowest broadcast",
            "idle_traffic_per_node": "bytes per second that a node sends while nothing is told, headers counted",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        spread = Spread(stage)
        world.ticks.append(lambda world: stage.sample("deliveries", spread.hits))
        teller = stage.streams.shared("teller")
        for _ in range(self.warm_ups):
            spread.tell(teller.choice(nodes))
            world.run(self.gap_s)
        world.run(self.grace_s)
        idle = Traffic(world)
        world.run(self.idle_s)
        stage.figure("idle_traffic_per_node", idle.per_node(len(nodes)))
        spread.begin()
        laps: list[float] = []
        for _ in range(max(1, int(self.duration_s / self.gap_s))):
            spread.tell(teller.choice(nodes))
            world.run(self.gap_s)
            laps.append(spread.lap())
        world.run(self.grace_s)
        self._judge(stage, spread, percentile(laps, 50))

    def _judge(self, stage: Stage, spread: Spread, redundant: float) -> None:
        delivered, due, missing = spread.delivered()
        stage.figure("delivered_to_live_nodes", share(delivered, due))
        stage.check("everyone_is_reached", delivered == due, f"{due - delivered} deliveries are missing", *missing)
        stage.figure("redundant_payloads_per_delivery", redundant)
        stage.figure("redundant_payloads_on_average", spread.redundant())
        stage.check(
            "hardly_redundant",
            self.loss > 0 or redundant < self.redundant_most,
            f"{redundant:.3f} payloads per delivery are redundant",
        )
        times = spread.times(0.99)
        median = percentile(times, 50)
        stage.figure("time_to_reach_99_percent_s", median)
        stage.figure("time_to_reach_99_percent_slowest_s", max(times, default=0.0))
        stage.figure("time_to_reach_all_s", max(spread.times(1.0), default=0.0))
        stage.check("in_time", median <= self.reach_s, f"the median broadcast reaches 99 % after {median:.2f} s")

    def length_s(self) -> float:
        build_s = self.nodes * self.join_gap_s + self.settle_s + self.warm_ups * self.gap_s
        return build_s + self.duration_s + 2 * self.grace_s + self.idle_s
