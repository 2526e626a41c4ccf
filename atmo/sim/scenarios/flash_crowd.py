"""Everybody fetches one model at once, and only one node has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.bandwidth import Line
from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.fetching import MIB, Fetching
from atmo.sim.report import percentile
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import model


@dataclass(frozen=True, kw_only=True)
class FlashCrowd(Scenario):
    """All nodes but one want a model in the same second; who has it serves it on.

    Attributes:
        nodes: The seed and its crowd.
        duration_s: By then all have it.
        model_mib: Size of the model.
        line_mb_s: Megabytes per second of every line, in each direction.
        settle_s: After the last join.
        spread_s: All begin within this.
    """

    nodes: int = 501
    duration_s: float = 1_800.0
    model_mib: int = 2
    line_mb_s: float = 12.5
    settle_s: float = 30.0
    spread_s: float = 1.0

    name: ClassVar = "flash-crowd"
    summary: ClassVar = "500 nodes fetch one model from one seed"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "all_have_it": "every node has the whole model",
        },
        figures={
            "all_have_it_s": "from the first that wants it until the last has it",
            "seed_alone_s": "what the seed's line would take for everyone",
            "p50_s": "of one node",
            "p95_s": "of one node",
            "from_the_seed": "share of chunks that the seed sent",
            "failed_transfers": "transfers that failed and began again",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        line = Line(self.line_mb_s * 1e6, self.line_mb_s * 1e6)
        for node in nodes:
            stage.lines.give(node.id, line)
        world.run(self.settle_s)
        seed = nodes[0]
        fetching = Fetching(stage, model("popular", "1.0.0", b"\5" * 32, self.model_mib * MIB))
        fetching.seed(seed)
        world.run(10.0)
        come, began = stage.streams.shared("crowd"), world.loop.now
        for node in nodes[1:]:
            world.later(began + come.random() * self.spread_s, lambda node=node: fetching.want(node))  # type: ignore[misc]
        world.ticks.append(lambda world: stage.sample("nodes that have the model", len(fetching.had_at)))
        took = stage.within(
            "all_have_it", lambda: len(fetching.had_at) == len(nodes), self.duration_s, "everyone has the model"
        )
        alone_s = (len(nodes) - 1) * self.model_mib * MIB / (self.line_mb_s * 1e6)
        stage.figure("all_have_it_s", took)
        stage.figure("seed_alone_s", alone_s)
        seconds, served = fetching.seconds(), world.chunks.stats.served
        stage.figure("p50_s", percentile(seconds, 50))
        stage.figure("p95_s", percentile(seconds, 95))
        stage.figure("from_the_seed", served.get(seed.id, 0) / max(1, sum(served.values())))
        stage.figure("failed_transfers", fetching.failures)

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + self.settle_s + 10.0 + self.duration_s / 4
