"""How well nodes tell the dead from the living."""

from __future__ import annotations

from atmo.engine import Hangup
from atmo.identity import NodeId
from atmo.peer import NodeGone
from atmo.sim.machine import Node
from atmo.sim.report import percentile
from atmo.sim.scenario import Stage

LOOK_S = 0.25
"""Between two looks at who still has a dead node in its active view."""

SETTLED_S = 45.0
"""A node that has run for this long is not missed for what it did before. Source: `PresenceConfig.suspect_most_s`, and
10 s to notice a silence."""

AWAKE_S = 5.0
"""A node that has just started goes by what it knew when it stopped."""

LOSSES = 5
"""A message that is lost so often in a row comes after 0.2 + 0.4 + ... + 3.2 = 6.2 s, and what was sent after it waits:
with the wait for the ping before, that is the seven seconds after which a detector gives up. No detector can tell."""

SILENT = "nothing heard"
"""How the reason begins for which the failure detector ends a link."""

DETECTION_CHECKS = {
    "nobody_is_missed": "nobody holds a live node for gone; live links end for silence no more than loss explains",
    "the_dead_are_dropped": "a dead node is out of every active view in under 10 s",
}
DETECTION_FIGURES = {
    "false_positives": "live nodes taken for dead",
    "dead_node_out_of_every_active_view_s": "of the slowest",
    "dead_node_out_of_every_active_view_median_s": "of the median",
}


class Detection:
    """Watches what nodes believe of each other.

    Args:
        stage: Of the run.

    Attributes:
        false_links: Links that were ended for silence although the other end lived, with a way open between the two.
        false_deaths: Times that a node held one for gone that had lived all along.
        out_s: For each node that died: after how long it was out of every active view.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._world = stage.world
        self._dead: dict[NodeId, tuple[float, list[tuple[Node, int]]]] = {}
        self._looking = False
        self.false_links = 0
        self.false_deaths = 0
        self.out_s: list[float] = []
        self.examples: dict[str, None] = {}
        self._world.watch.setdefault(Hangup, []).append(self._hung_up)
        self._world.watch.setdefault(NodeGone, []).append(self._believed_gone)

    def died(self, node: Node) -> None:
        """A node is about to go off."""
        holders = [
            (other, other.life)
            for other in self._world.alive()
            if other is not node and node.id in other.running.neighbours()
        ]
        self._dead[node.id] = (self._world.loop.now, holders)
        if not self._looking:
            self._looking = True
            self._world.later(self._world.loop.now + LOOK_S, self._look)

    def pending(self) -> int:
        """Returns how many dead nodes are still in some active view."""
        return len(self._dead)

    @property
    def false_positives(self) -> int:
        """All of both kinds."""
        return self.false_links + self.false_deaths

    def judge(self, out_s: float) -> None:
        """Tells of `DETECTION_FIGURES` and `DETECTION_CHECKS`: the dead are out of every view in under `out_s`."""
        stage = self._stage
        stage.figure("false_positives", self.false_positives)
        explained = int(3 * self._world.stats.messages * stage.loss.rate**LOSSES)
        what = f"{self.false_links} live links ended for silence, {self.false_deaths} live nodes held for gone"
        missed = self.false_deaths > 0 or self.false_links > explained
        stage.check("nobody_is_missed", not missed, f"{what}; loss explains {explained} links", *self.examples)
        slowest = max(self.out_s, default=0.0)
        stage.figure("dead_node_out_of_every_active_view_s", slowest)
        stage.figure("dead_node_out_of_every_active_view_median_s", percentile(self.out_s, 50))
        late = slowest >= out_s or self.pending() > 0
        what = f"the slowest took {slowest:.1f} s, {self.pending()} are in some view still"
        stage.check("the_dead_are_dropped", not late, what)

    def _look(self) -> None:
        now = self._world.loop.now
        for dead, (died_at, holders) in list(self._dead.items()):
            node = self._world.node(dead)
            back = node is not None and node.peer is not None
            left = [
                (other, life)
                for other, life in holders
                if other.life == life and other.peer is not None and dead in other.running.neighbours()
            ]
            if back or not left:
                del self._dead[dead]
                if not back:
                    self.out_s.append(now - died_at)
            else:
                self._dead[dead] = (died_at, left)
        self._looking = bool(self._dead)
        if self._looking:
            self._world.later(now + LOOK_S, self._look)

    def _lived(self, node: Node | None, for_s: float) -> bool:
        return node is not None and node.peer is not None and self._world.loop.now - node.started_at >= for_s

    def _hung_up(self, node: Node, effect: Hangup) -> None:
        if not effect.reason.startswith(SILENT):
            return
        other = self._world.node(effect.node)
        if other is not None and self._lived(other, 15.0) and node.id in other.ends and self._is_open(node, other):
            self.false_links += 1
            self.examples[f"{node.name}-{other.name}"] = None

    def _is_open(self, node: Node, other: Node) -> bool:
        partition, now = self._stage.partition, self._world.loop.now
        return partition.route(now, node.id, other.id, 1) == 0.0

    def _believed_gone(self, node: Node, event: NodeGone) -> None:
        other = self._world.node(event.node)
        if other is node or not self._lived(node, AWAKE_S):  # it tells that it leaves, or it goes by what its disk says
            return
        if other is not None and self._lived(other, SETTLED_S) and self._is_open(node, other):
            self.false_deaths += 1
            self.examples[other.name] = None
