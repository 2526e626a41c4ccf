"""All machines of a mesh come at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.checks import SAFETY, connected, know, watch_safety
from atmo.sim.scenario import Promise, Scenario, Stage


@dataclass(frozen=True, kw_only=True)
class JoinStorm(Scenario):
    """A founder is there; everyone else is turned on within a second or so, each knowing three that run already.

    Attributes:
        storm_s: Virtual seconds within which all machines come.
        one_piece_s: Within this after the last of them the overlay is one piece.
        known_s: Within this after that everyone knows everyone.
    """

    storm_s: float = 1.0
    one_piece_s: float = 30.0
    known_s: float = 60.0

    name: ClassVar = "join-storm"
    summary: ClassVar = "all machines come at once"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "everyone_is_linked": "every machine has a neighbour, and over neighbours reaches every other",
            "everyone_is_known": "every machine knows every other one's record (of a sample, in larger meshes)",
        },
        figures={
            "one_piece_s": "from the last join until the overlay is one piece",
            "everyone_known_s": "from the last join until everyone knows everyone",
            "bytes_per_node": "sent until then, headers and handshakes counted",
            "dials_per_node": "begun until then",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.add(self.nodes)
        stage.start(nodes[0])
        come = stage.streams.shared("storm")
        for at, node in sorted(((come.random() * self.storm_s, node) for node in nodes[1:]), key=lambda row: row[0]):
            world.later(at, lambda node=node: stage.start(node))  # type: ignore[misc]
        world.ticks.append(lambda world: stage.sample("nodes with a neighbour", _linked(stage)))
        world.run(self.storm_s)
        one_piece_s = stage.within(
            "everyone_is_linked", lambda: connected(nodes), self.one_piece_s, "the overlay is one piece"
        )
        stage.figure("one_piece_s", one_piece_s)
        sample = stage.streams.shared("sample").sample(nodes, min(50, len(nodes)))
        most_s = self.known_s
        known_s = stage.within(
            "everyone_is_known", lambda: know(sample, nodes) == 1.0, most_s, "everyone knows everyone"
        )
        stage.figure("everyone_known_s", one_piece_s + known_s)
        stage.figure("bytes_per_node", world.stats.wire_bytes / self.nodes)
        stage.figure("dials_per_node", world.stats.dials / self.nodes)
        world.run(max(0.0, self.duration_s - world.loop.now))

    def length_s(self) -> float:
        return max(self.duration_s, self.storm_s)


def _linked(stage: Stage) -> int:
    return sum(1 for node in stage.world.alive() if node.running.neighbours())
