"""Lookups in a mesh too large for everyone to know everyone, while machines come and go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.churn import Churn, ChurnConfig, Weibull
from atmo.sim.lookups import LargeMesh, Lookups
from atmo.sim.scenario import Promise, Stage
from atmo.sim.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class IndexLookup(LargeMesh):
    """A large mesh, where each model has a few holders among all; nodes look for holders while machines come and go.

    Attributes:
        session_s, absence_s: Means of heavy-tailed times.
        found_least: Share of lookups that find a live holder.
        time_s: Under which 95 of 100 lookups find one.
    """

    duration_s: float = 120.0
    session_s: float = 600.0
    absence_s: float = 60.0
    found_least: float = 0.999
    time_s: float = 1.5

    name: ClassVar = "index-lookup"
    summary: ClassVar = "lookups find live providers while machines come and go"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "a_live_provider_is_found": "99.9 % of lookups find a live provider",
            "few_hops": "the median lookup takes at most log16 of n plus 2 hops",
            "in_time": "95 % of lookups take less than 1.5 s",
        },
        figures={
            "lookups_that_find_a_live_provider": "share of lookups",
            "median_hops": "answers that led to the first live provider",
            "p95_time_s": "until the first live provider",
            "median_time_s": "until the first live provider",
            "lookups": "how many",
            "idle_traffic_per_node": "bytes per second that a node sends while nothing happens, headers counted",
            "traffic_per_node": "the same under churn and lookups",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        lookups = Lookups(stage)
        self.provide(lookups, nodes)
        world.run(self.settle_s / 2)
        idle = Traffic(world)
        world.run(self.settle_s / 2)
        stage.figure("idle_traffic_per_node", idle.per_node(len(nodes)))
        config = ChurnConfig(Weibull(self.session_s), Weibull(self.absence_s))
        stage.on_start.append(lookups.publish)
        churn = Churn(stage, nodes, config)
        world.ticks.append(lambda world: stage.sample("nodes that are on", len(world.alive())))
        churn.begin()
        traffic = Traffic(world)
        self.look(stage, lookups, world.alive)
        stage.figure("traffic_per_node", traffic.per_node(len(world.alive())))
        churn.stop()
        world.run(20.0)
        self._judge(stage, lookups)

    def _judge(self, stage: Stage, lookups: Lookups) -> None:
        found, hops, p95 = lookups.found(), lookups.median_hops(), lookups.time_s(95)
        stage.figure("lookups", len(lookups.lookups))
        stage.figure("lookups_that_find_a_live_provider", found)
        most_missed = max(1 - self.found_least, 1 / max(1, len(lookups.lookups)))  # one of few is no verdict
        stage.check("a_live_provider_is_found", 1 - found <= most_missed, f"{found:.2%} of lookups found one")
        stage.figure("median_hops", hops)
        most = math.log(self.nodes, 16) + 2
        stage.check("few_hops", hops <= most, f"the median is {hops:g}, more than {most:.1f}")
        stage.figure("p95_time_s", p95)
        stage.figure("median_time_s", lookups.time_s(50))
        stage.check("in_time", p95 < self.time_s, f"95 % take up to {p95:.2f} s")

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + 2 * self.settle_s + self.duration_s + 20.0
