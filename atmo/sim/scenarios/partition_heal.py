"""The mesh falls into two halves, each goes on by itself, and they come together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from atmo.clock import Now
from atmo.gossip.entry import Entry, Slot
from atmo.gossip.records import ModelRecord
from atmo.peer import Peer
from atmo.peer.presence import ABSENT
from atmo.sim.checks import SAFETY, connected, watch_safety
from atmo.sim.machine import Node
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import model

Versions = dict[Slot, tuple[int, int]]

SYNC_MESSAGES = ("Digest", "Listing", "Want", "Records")
"""What anti-entropy says."""


@dataclass(frozen=True, kw_only=True)
class PartitionHeal(Scenario):
    """Two halves do not see each other for a while; some nodes of each tell news meanwhile; then they do.

    Attributes:
        duration_s: How long they do not see each other.
        settle_s: After the last join.
        changes: Nodes of each half that tell news.
        heal_s: Within this every node's state is equal again.
        overhead_most: Bytes of anti-entropy for each byte of records that differed, beside `fixed_bytes` that it takes
            a node to find out what differs.
    """

    duration_s: float = 120.0
    settle_s: float = 30.0
    changes: int = 10
    heal_s: float = 30.0
    overhead_most: float = 2.0
    fixed_bytes: int = 40_000

    name: ClassVar = "partition-heal"
    summary: ClassVar = "two halves part for a while and become equal again"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "halves_live_on": "each half is one piece and holds the other for gone while they are apart",
            "state_is_equal": "every node holds everything that either half wrote, within 30 s after the heal",
            "one_piece": "the overlay is one piece again",
            "traffic_is_proportional": "what anti-entropy sends is proportional to what differs",
        },
        figures={
            "every_nodes_state_equal_s": "from the heal until it is so",
            "one_piece_s": "from the heal until the overlay is one piece",
            "differing_bytes_per_node": "of records that a node lacked at the heal",
            "differing_absences_per_node": "bytes of those that only say whom the other half missed",
            "heal_traffic_per_node": "bytes of anti-entropy that a node sent from the heal until equal",
            "heal_records_per_node": "bytes of those that were records",
            "heal_traffic_per_differing_byte": "bytes of anti-entropy for each byte that differed",
            "idle_anti_entropy_per_node": "bytes of anti-entropy that a node sends in the same time without a heal",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        idle = self._idle(stage, nodes)
        shuffled = stage.streams.shared("halves").sample(nodes, len(nodes))
        left, right = shuffled[: len(nodes) // 2], shuffled[len(nodes) // 2 :]
        stage.partition.split([node.id for node in left], [node.id for node in right])
        world.ticks.append(lambda world: stage.sample("links over the border", _over(left, right)))
        world.run(self.duration_s / 2)
        for number, node in enumerate((*left[: self.changes], *right[: self.changes])):
            world.command(node, partial(_publish, [model(f"news-{number}")]))
        world.run(self.duration_s / 2)
        apart = connected(left) and connected(right) and not _over(left, right)
        stage.check("halves_live_on", apart or self.duration_s < 60, "a half is in pieces, or links cross the border")
        self._heal(stage, nodes, idle)

    def _idle(self, stage: Stage, nodes: Sequence[Node]) -> float:
        """Returns the bytes of anti-entropy that a node sends in a second while nothing happens."""
        before = sync_bytes(stage)
        stage.world.run(self.heal_s)
        return (sync_bytes(stage) - before) / len(nodes) / self.heal_s

    def _heal(self, stage: Stage, nodes: Sequence[Node], idle: float) -> None:
        world = stage.world
        written = _written(nodes)
        lacking, absences = _lacking_bytes(nodes)
        before, records, began = sync_bytes(stage), sync_bytes(stage, ("Records",)), world.loop.now
        stage.partition.heal()
        stragglers = list(nodes)

        def caught_up() -> bool:
            while stragglers and _has(stragglers[-1], written):
                stragglers.pop()
            return not stragglers

        world.ticks.append(
            lambda world: stage.sample("nodes that have all", sum(_has(node, written) for node in nodes))
        )
        took = stage.within("state_is_equal", caught_up, self.heal_s, f"{len(stragglers)} nodes lack something")
        stage.figure("every_nodes_state_equal_s", took)
        sent = (sync_bytes(stage) - before) / len(nodes)
        stage.figure("differing_bytes_per_node", lacking)
        stage.figure("differing_absences_per_node", absences)
        stage.figure("heal_traffic_per_node", sent)
        stage.figure("heal_records_per_node", (sync_bytes(stage, ("Records",)) - records) / len(nodes))
        stage.figure("idle_anti_entropy_per_node", idle * took)
        per_byte = max(0.0, sent - idle * took) / max(1.0, lacking)
        stage.figure("heal_traffic_per_differing_byte", per_byte)
        stage.check(
            "traffic_is_proportional",
            sent - idle * took <= self.overhead_most * lacking + self.fixed_bytes,
            f"{sent:,.0f} bytes of anti-entropy from each node, {lacking:,.0f} of records were lacking",
        )
        stage.within("one_piece", lambda: connected(nodes), self.heal_s, "the overlay is one piece")
        stage.figure("one_piece_s", world.loop.now - began)

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + self.settle_s + self.duration_s + 2 * self.heal_s


def _publish(news: list[ModelRecord], peer: Peer, now: Now) -> None:
    peer.publish_models(now, news)


def sync_bytes(stage: Stage, names: Sequence[str] = SYNC_MESSAGES) -> int:
    """Returns what anti-entropy has sent so far in messages of these names."""
    kinds = stage.world.stats.by_kind
    return sum(kinds[name][1] for name in names if name in kinds)


def _over(left: Sequence[Node], right: Sequence[Node]) -> int:
    others = {node.id: None for node in right}
    return sum(1 for node in left for other in node.running.neighbours() if other in others)


def _written(nodes: Sequence[Node]) -> Versions:
    """Returns the newest version of everything that its author still stands by; whom it misses changes by the heal."""
    written: Versions = {}
    for node in nodes:
        for slot, version in node.running.sync.versions().items():
            if slot[0] == node.id and slot[1] != ABSENT:
                written[slot] = version
    return written


def _lacking_bytes(nodes: Sequence[Node]) -> tuple[float, float]:
    """Returns the bytes of records that a node lacks of what any node holds, and of those the `absent` ones."""
    newest: dict[Slot, Entry] = {}
    for node in nodes:
        for slot, entry in node.running.sync.table.items():
            if slot not in newest or newest[slot].record.version < entry.record.version:
                newest[slot] = entry
    lacking = absences = 0
    for node in nodes:
        held = node.running.sync.versions()
        for slot, entry in newest.items():
            if held.get(slot, (0, 0)) < entry.record.version:
                lacking += len(entry.envelope)
                absences += len(entry.envelope) if slot[1] == ABSENT else 0
    return lacking / len(nodes), absences / len(nodes)


def _has(node: Node, written: Versions) -> bool:
    held = node.running.sync.versions()
    return all(held.get(slot, (0, 0)) >= version for slot, version in written.items())
