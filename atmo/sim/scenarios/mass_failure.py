"""Half of all machines lose power at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, connected, watch_safety
from atmo.sim.detection import DETECTION_CHECKS, DETECTION_FIGURES, Detection
from atmo.sim.machine import Node
from atmo.sim.report import percentile, share
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import Spread


@dataclass(frozen=True, kw_only=True)
class MassFailure(Scenario):
    """A mesh is built and settles; then a share of it dies in one instant, and the living tell news at once.

    Attributes:
        dying: Share of nodes that die.
        settle_s: After the last join.
        warm_ups: Broadcasts before: the tree takes shape by them.
        tellers: Nodes that tell news in the instant after.
        reach_s: Within this the news is with the living.
        reached_least: Share of the living that have it then.
        out_s: Within this the dead are out of every active view.
        repair_s: Within this the overlay of the living is one piece.
    """

    duration_s: float = 60.0
    dying: float = 0.5
    settle_s: float = 30.0
    warm_ups: int = 20
    tellers: int = 10
    reach_s: float = 10.0
    reached_least: float = 0.999
    out_s: float = 10.0
    repair_s: float = 30.0

    name: ClassVar = "mass-failure"
    summary: ClassVar = "half of all machines lose power at once"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "the_living_are_reached": "news told in the instant after is with 99.9 % of the living within 10 s",
            **DETECTION_CHECKS,
            "one_piece": "the overlay of the living is one piece again",
            "later_news_reaches_all": "what is told after that reaches every living node",
        },
        figures={
            "reached_within_10_s": "share of the living that have the news 10 s after the failure",
            "time_to_reach_99_percent_s": "of the median broadcast told in that instant",
            "one_piece_s": "from the failure until the overlay of the living is one piece",
            **DETECTION_FIGURES,
            "delivered_to_live_nodes": "share of deliveries of what is told after the repair",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        spread, detection = Spread(stage), Detection(stage)
        choose = stage.streams.shared("mass-failure")
        for _ in range(self.warm_ups):
            spread.tell(choose.choice(nodes))
            world.run(0.5)
        world.run(5.0)
        dead = choose.sample(nodes, int(len(nodes) * self.dying))
        for node in dead:
            detection.died(node)
        for node in dead:
            world.crash(node)
        living = world.alive()
        spread.begin()
        for node in choose.sample(living, min(self.tellers, len(living))):
            spread.tell(node)
        world.ticks.append(lambda world: stage.sample("deliveries", spread.hits))
        mended = self._mend(stage, living, 0.0, self.reach_s)
        self._first_news(stage, spread)
        if mended is None:
            mended = self._mend(stage, living, self.reach_s, self.repair_s)
        what = f"the living are not one piece after {self.repair_s:g} s"
        stage.check("one_piece", mended is not None, what)
        stage.figure("one_piece_s", self.repair_s if mended is None else mended)
        self._later_news(stage, spread, living)
        detection.judge(self.out_s)

    @staticmethod
    def _mend(stage: Stage, living: list[Node], since_s: float, until_s: float) -> float | None:
        """Lets time pass up to `until_s` after the failure; returns when the living were one piece first."""
        mended = None
        for step in range(round((until_s - since_s) * 2)):
            stage.world.run(0.5)
            if mended is None and connected(living):
                mended = since_s + (step + 1) * 0.5
        return mended

    def _first_news(self, stage: Stage, spread: Spread) -> None:
        delivered, due, missing = spread.delivered()
        reached = share(delivered, due)
        stage.figure("reached_within_10_s", reached)
        what = f"{reached:.2%} of the living have the news after {self.reach_s:g} s"
        stage.check("the_living_are_reached", reached >= self.reached_least, what, *missing)
        stage.figure("time_to_reach_99_percent_s", percentile(spread.times(0.99), 50))

    def _later_news(self, stage: Stage, spread: Spread, living: list[Node]) -> None:
        choose = stage.streams.shared("later-news")
        spread.begin()
        for _ in range(max(1, int(self.duration_s))):
            spread.tell(choose.choice(living))
            stage.world.run(1.0)
        stage.world.run(10.0)
        delivered, due, missing = spread.delivered()
        stage.figure("delivered_to_live_nodes", share(delivered, due))
        what = f"{due - delivered} of {due} deliveries are missing"
        stage.check("later_news_reaches_all", delivered == due, what, *missing)

    def length_s(self) -> float:
        before_s = self.nodes * self.join_gap_s + self.settle_s + self.warm_ups * 0.5
        return before_s + self.duration_s + 2 * self.reach_s
