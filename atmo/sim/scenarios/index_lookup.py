"""Lookups in a mesh too large for everyone to know everyone, while machines come and go."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from atmo.peer import PeerConfig
from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.churn import Churn, ChurnConfig, Weibull
from atmo.sim.lookups import Lookups
from atmo.sim.scenario import Promise, Scenario, Stage


@dataclass(frozen=True, kw_only=True)
class IndexLookup(Scenario):
    """A large mesh, where each model has a few holders among all; nodes look for holders while machines come and go.

    Attributes:
        census: Up to so many nodes everyone knows everyone; 0 for a quarter of all, so that few are a large mesh.
        models: That are looked for.
        holders: Of each.
        session_s, absence_s: Means of heavy-tailed times.
        settle_s: After the last join.
        lookups_per_s: In the whole mesh.
        found_least: Share of lookups that find a live holder.
        time_s: Under which 95 of 100 lookups find one.
    """

    duration_s: float = 120.0
    census: int = 0
    models: int = 50
    holders: int = 5
    session_s: float = 600.0
    absence_s: float = 60.0
    settle_s: float = 60.0
    lookups_per_s: float = 10.0
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
    least_nodes: ClassVar = 20

    def config(self) -> PeerConfig:
        return as_large(self.census or self.nodes // 4)

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        lookups = Lookups(stage)
        lookups.provide([f"model-{number}" for number in range(self.models)], nodes, self.holders)
        world.run(self.settle_s / 2)
        stage.figure("idle_traffic_per_node", traffic(stage, len(nodes), self.settle_s / 2))
        config = ChurnConfig(Weibull(self.session_s), Weibull(self.absence_s))
        stage.on_start.append(lookups.publish)
        churn = Churn(stage, nodes, config)
        world.ticks.append(lambda world: stage.sample("nodes that are on", len(world.alive())))
        churn.begin()
        looker, gap_s = stage.streams.shared("looker"), 1.0 / self.lookups_per_s
        sent, began = world.stats.wire_bytes, world.loop.now
        for _ in range(int(self.duration_s * self.lookups_per_s)):
            lookups.look(looker.choice(world.alive()))
            world.run(gap_s)
        seconds = (world.loop.now - began) * len(world.alive())
        stage.figure("traffic_per_node", (world.stats.wire_bytes - sent) / seconds)
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


def as_large(census: int) -> PeerConfig:
    """Returns the configuration of peers for which a mesh of more than `census` nodes is a large one."""
    usual = PeerConfig()
    return replace(usual, scale=replace(usual.scale, census=census))


def traffic(stage: Stage, nodes: int, seconds: float) -> float:
    """Lets time pass; returns the bytes per second that a node sends meanwhile."""
    before = stage.world.stats.wire_bytes
    stage.world.run(seconds)
    return (stage.world.stats.wire_bytes - before) / nodes / seconds
