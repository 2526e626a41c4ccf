"""A mesh through its life: joining one by one, an advert, a partition, a revocation, a crash.

Run it with `atmo sim run simulations/mesh.py --nodes 30 --seed 7`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, connected, know, watch_safety
from atmo.sim.machine import Node
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import model


@dataclass(frozen=True, kw_only=True)
class MeshLife(Scenario):
    """What happens, and within which time it has to be over.

    Attributes:
        duration_s: How long two halves do not see each other.
        linked_s: Within this after the last change all live members of a side are one piece.
        spread_s: Within this an advert or a revocation has reached everyone.
        heal_s: Within this after a partition everyone is in one piece and knows what the others wrote.
        silent_s: Within this the adverts of a crashed node are gone.
    """

    nodes: int = 30
    duration_s: float = 60.0
    loss: float = 0.05
    skew_s: float = 20.0
    join_gap_s: float = 0.2
    linked_s: float = 20.0
    spread_s: float = 5.0
    heal_s: float = 30.0
    silent_s: float = 60.0

    name: ClassVar = "mesh"
    summary: ClassVar = "a mesh through its life"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "join": "everyone is linked and known",
            "advert": "everyone sees a model that a node tells of",
            "split": "after a partition everyone knows what the others wrote",
            "revoke": "who is put out is cut off everywhere, and stays out",
            "crash": "the model of a crashed node is gone everywhere, and the node comes back alone",
        },
        figures={f"{act}_s": "how long it took" for act in ("join", "advert", "split", "revoke", "crash")},
    )

    def play(self, stage: Stage) -> None:
        watch_safety(stage.world)
        live = stage.build()
        for act in (self.join, self.advert, self.split, self.revoke, self.crash):
            stage.figure(f"{act.__name__}_s", act(stage, live))

    def join(self, stage: Stage, live: list[Node]) -> float:
        """All are in one piece, and everyone knows everyone."""
        return stage.within(
            "join", lambda: connected(live) and know(live, live) == 1.0, self.linked_s, "all are linked and known"
        )

    def advert(self, stage: Stage, live: list[Node]) -> float:
        """A node tells of a model; everyone can choose it as the holder."""
        holder = live[-1]
        stage.world.command(holder, lambda peer, now: peer.publish_models(now, [model("anomaly")]))
        return stage.within("advert", lambda: all_see(stage, live, holder), self.spread_s, "everyone sees the model")

    def split(self, stage: Stage, live: list[Node]) -> float:
        """Two halves do not see each other; one of them has news; then it heals."""
        half = len(live) // 2
        left, right = live[:half], live[half:]
        stage.partition.split([node.id for node in left], [node.id for node in right])
        stage.world.command(right[0], lambda peer, now: peer.publish_models(now, [model("right")]))
        stage.world.run(self.duration_s)
        others = {node.id: None for node in right}
        over = [node.name for node in left if any(other in others for other in node.running.neighbours())]
        stage.check("split", not over, "links stand over the partition", *over)
        stage.partition.heal()
        return stage.within(
            "split",
            lambda: connected(live) and all_see(stage, live, right[0]),
            self.heal_s,
            "the partition has healed",
        )

    def revoke(self, stage: Stage, live: list[Node]) -> float:
        """The founder puts a node out; everyone cuts it off, and it does not get back."""
        rogue = live.pop(1)
        stage.world.command(live[0], lambda peer, now: peer.revoke(now, rogue.id))
        took = stage.within(
            "revoke",
            lambda: not any(rogue.id in node.running.linked() for node in live),
            self.spread_s,
            f"{rogue.name} is cut off",
        )
        stage.world.run(self.linked_s)
        stage.check("revoke", not rogue.running.linked(), f"{rogue.name} is back", rogue.name)
        stage.world.crash(rogue)
        return took

    def crash(self, stage: Stage, live: list[Node]) -> float:
        """The holder of the model loses power; its advert is gone everywhere. It comes back with its disk, alone."""
        holder = live.pop()
        stage.world.crash(holder)
        took = stage.within("crash", lambda: none_sees(stage, live, holder), self.silent_s, "its model is gone")
        stage.start(holder, knows=0)
        live.append(holder)
        stage.within("crash", lambda: connected(live), self.heal_s, f"{holder.name} is back")
        return took

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + self.duration_s + self.linked_s + 30.0


def sees(stage: Stage, node: Node, holder: Node) -> bool:
    """Says whether a node would fetch a model from this holder."""
    return any(offer.node == holder.id for offer in node.running.models(stage.world.now(node)))


def all_see(stage: Stage, nodes: Sequence[Node], holder: Node) -> bool:
    """Says whether all of them would."""
    return all(sees(stage, node, holder) for node in nodes)


def none_sees(stage: Stage, nodes: Sequence[Node], holder: Node) -> bool:
    """Says whether none of them would."""
    return not any(sees(stage, node, holder) for node in nodes)
