"""One machine in five is malicious, and they act together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.lookups import LargeMesh, Lookups
from atmo.sim.machine import Node
from atmo.sim.malice import Eclipses, Gang, LiesInIndex, Replays, Several, Silent
from atmo.sim.report import share
from atmo.sim.scenario import Promise, Stage
from atmo.sim.spread import Spread


@dataclass(frozen=True, kw_only=True)
class Eclipse(LargeMesh):
    """Malicious members lie in the index, pass nothing on, replay old records and go for every place in active views.

    Only honest nodes hold models and look for them.

    Attributes:
        malicious: Share of all nodes.
        succeed_least: Share of lookups that find an honest live holder.
        delivered_least: Share of deliveries to honest nodes.
        eclipsed_most: Share of honest nodes whose neighbours may all be malicious: the crowd fills the places that are
            not of a node's own choice, and lies about whom to choose.
    """

    duration_s: float = 60.0
    malicious: float = 0.2
    succeed_least: float = 0.99
    delivered_least: float = 0.99
    eclipsed_most: float = 0.15

    name: ClassVar = "eclipse"
    summary: ClassVar = "a fifth of all members lie, drop, replay, and crowd around the others"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "honest_lookups_succeed": "at least 99 % of lookups by honest nodes find an honest live provider",
            "hardly_anybody_is_eclipsed": "at most 15 of 100 honest nodes have no honest neighbour",
            "honest_nodes_are_reached": "what honest nodes tell everybody reaches at least 99 % of honest nodes",
        },
        figures={
            "honest_lookups_that_succeed": "share of lookups",
            "p95_time_s": "until an honest live provider",
            "malicious_neighbours": "share of the neighbours of honest nodes",
            "eclipsed_nodes": "honest nodes without an honest neighbour",
            "delivered_to_honest_nodes": "share of deliveries of what honest nodes tell everybody",
            "bans": "times that an honest node shut a malicious one out",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.add(self.nodes)
        rng = stage.streams.shared("malice")
        gang = Gang(rng)
        gang.members = rng.sample(nodes[1:], int(len(nodes) * self.malicious))
        for node in gang.members:
            node.malice = Several(Silent(), LiesInIndex(gang), Eclipses(gang), Replays(rng, 5.0))
        stage.join(nodes)
        honest = [node for node in nodes if node.malice is None]
        world.run(self.settle_s)
        world.ticks.append(lambda world: stage.sample("share of malicious neighbours", _malicious(stage, honest)))
        lookups = Lookups(stage, lambda node: node.malice is None)
        self.provide(lookups, honest)
        world.run(self.settle_s)
        self._look(stage, lookups, honest)
        self._broadcast(stage, honest)
        self._neighbours(stage, honest)
        stage.figure("bans", sum(node.running.stats.bans for node in honest))

    def _look(self, stage: Stage, lookups: Lookups, honest: list[Node]) -> None:
        self.look(stage, lookups, lambda: honest)
        stage.world.run(20.0)
        found = lookups.found()
        stage.figure("honest_lookups_that_succeed", found)
        stage.figure("p95_time_s", lookups.time_s(95))
        what = f"{found:.2%} of the lookups of honest nodes succeed"
        stage.check("honest_lookups_succeed", found >= self.succeed_least, what)

    def _broadcast(self, stage: Stage, honest: list[Node]) -> None:
        """Revocations go to everybody in a mesh of any size."""
        spread = Spread(stage)
        spread.begin()
        victims = stage.add(5)
        for victim in victims:
            spread.revoke(honest[0], victim)
            stage.world.run(2.0)
        stage.world.run(60.0)
        delivered, due, missing = spread.delivered()
        stage.figure("delivered_to_honest_nodes", share(delivered, due))
        what = f"{due - delivered} of {due} deliveries are missing"
        stage.check("honest_nodes_are_reached", share(delivered, due) >= self.delivered_least, what, *missing)

    def _neighbours(self, stage: Stage, honest: list[Node]) -> None:
        stage.figure("malicious_neighbours", _malicious(stage, honest))
        known = {node.id: None for node in honest}
        eclipsed = [node.name for node in honest if not any(other in known for other in node.running.neighbours())]
        stage.figure("eclipsed_nodes", len(eclipsed))
        few = len(eclipsed) <= self.eclipsed_most * len(honest)
        stage.check("hardly_anybody_is_eclipsed", few, f"{len(eclipsed)} nodes have no honest neighbour", *eclipsed)

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + 2 * self.settle_s + self.duration_s + 90.0


def _malicious(stage: Stage, honest: list[Node]) -> float:
    neighbours = [stage.world.node(other) for node in honest for other in node.running.neighbours()]
    return share(sum(other is not None and other.malice is not None for other in neighbours), len(neighbours))
