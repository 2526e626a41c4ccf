"""Machines come and go while others tell the mesh things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, connected, watch_safety
from atmo.sim.churn import Churn, ChurnConfig, Weibull
from atmo.sim.detection import DETECTION_CHECKS, DETECTION_FIGURES, Detection
from atmo.sim.machine import Node
from atmo.sim.report import percentile, share
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import Spread
from atmo.sim.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class ChurnScenario(Scenario):
    """Sessions of heavy-tailed length, half of which end by a crash; packets are lost; one node a second tells news.

    Attributes:
        session_s, absence_s: Means.
        shape: Of both Weibull distributions.
        settle_s: After the last join.
        gap_s: Between two broadcasts.
        grace_s: After the last one.
        delivered_least: Share of deliveries.
        out_s: Within this a dead node is out of every active view.
        teller_stays_s: A broadcast whose author goes sooner does not count: it may have died before its packets left.
    """

    loss: float = 0.05
    duration_s: float = 120.0
    session_s: float = 600.0
    absence_s: float = 60.0
    shape: float = 0.5
    settle_s: float = 30.0
    gap_s: float = 1.0
    grace_s: float = 30.0
    delivered_least: float = 0.9999
    out_s: float = 10.0
    teller_stays_s: float = 5.0

    name: ClassVar = "churn"
    summary: ClassVar = "machines come and go, packets are lost, news still reaches everyone"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "everyone_is_reached": "at least 99.99 % of deliveries to nodes that stay on happen",
            **DETECTION_CHECKS,
            "one_piece": "in the end the overlay is one piece",
        },
        figures={
            "delivered_to_live_nodes": "share of deliveries that happened, of those that had to",
            "redundant_payloads_per_delivery": "payloads that came to a node that had them, per delivery",
            "time_to_reach_99_percent_s": "of the median broadcast",
            **DETECTION_FIGURES,
            "sessions_ended": "how many",
            "traffic_per_node": "bytes per second that a node sends, headers counted",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        detection, spread = Detection(stage), Spread(stage)
        config = ChurnConfig(Weibull(self.session_s, self.shape), Weibull(self.absence_s, self.shape))
        churn = Churn(stage, nodes, config, gone=lambda node, _: detection.died(node))
        world.ticks.append(lambda world: stage.sample("nodes that are on", len(world.alive())))
        traffic = Traffic(world)
        churn.begin()
        spread.begin()
        self._tell(stage, spread)
        churn.stop()
        world.run(self.grace_s)
        alive = world.alive()
        stage.figure("traffic_per_node", traffic.per_node(len(alive)))
        stage.figure("sessions_ended", churn.ended)
        self._judge(stage, spread, detection, alive)

    def _tell(self, stage: Stage, spread: Spread) -> None:
        teller = stage.streams.shared("teller")
        for _ in range(max(1, int(self.duration_s / self.gap_s))):
            spread.tell(teller.choice(stage.world.alive()), stays_s=self.teller_stays_s)
            stage.world.run(self.gap_s)

    def _judge(self, stage: Stage, spread: Spread, detection: Detection, alive: list[Node]) -> None:
        delivered, due, missing = spread.delivered()
        part = share(delivered, due)
        stage.figure("delivered_to_live_nodes", part)
        what = f"{due - delivered} of {due} deliveries are missing"
        stage.check("everyone_is_reached", part >= self.delivered_least, what, *missing)
        stage.figure("redundant_payloads_per_delivery", spread.redundant())
        stage.figure("time_to_reach_99_percent_s", percentile(spread.times(0.99), 50))
        detection.judge(self.out_s)
        stage.check("one_piece", connected(alive), "the overlay is in pieces")

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + self.settle_s + self.duration_s + self.grace_s
