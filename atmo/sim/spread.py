"""How news spreads: nodes tell the mesh something, and who has it when is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from atmo.gossip.messages import Gossip
from atmo.gossip.records import MODELS, ModelRecord
from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.sim.machine import Node
from atmo.sim.scenario import Stage
from atmo.trust.records import REVOCATION

PAYLOAD = Gossip.__name__
"""The message that carries news along the tree."""

Slot = tuple[NodeId, str, str]


@dataclass(slots=True)
class News:
    """One broadcast.

    Attributes:
        slot: Of its record.
        version: Of its record.
        told_at: Virtual seconds.
        author_life: Which life of its author told it.
        stays_s: It only counts if its author stays on for so long.
        due: Who ran at that moment, each with which life.
        had_at: When each node had it.
    """

    slot: Slot
    version: tuple[int, int]
    told_at: float
    author_life: int
    stays_s: float
    due: dict[NodeId, int]
    had_at: dict[NodeId, float] = field(default_factory=dict)


class Spread:
    """Lets nodes tell news and watches it spread.

    Args:
        stage: Of the run.

    Attributes:
        hits: Deliveries of all that was told.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._world = stage.world
        self._told: list[News] = []
        self._current: dict[Slot, News] = {}
        self._ended: dict[tuple[NodeId, int], float] = {}  # when a life ended
        self._count = 0
        self._deliveries = 0
        self.hits = 0
        self._deliveries_at_begin = 0
        self._lap: tuple[int, int] | None = None
        self._payloads_at_begin = 0
        self._world.watch.setdefault(RecordChanged, []).append(self._changed)
        stage.on_stop.append(self._stopped)

    def begin(self) -> None:
        """Only what is told from now on counts."""
        self._told.clear()
        self._deliveries_at_begin, self._payloads_at_begin = self._deliveries, self._sent()

    def tell(self, node: Node, stays_s: float = 0.0) -> None:
        """Lets a node tell the mesh of a model in place of the one before."""
        self._count += 1
        name = f"news-{self._count}"
        news = self._begun(node, (node.id, MODELS, "0"), stays_s)
        self._world.command(node, lambda peer, now: peer.publish_models(now, [model(name)]))
        self._versioned(node, news)

    def revoke(self, admin: Node, victim: Node) -> None:
        """Lets an admin put a node out, which goes to everybody in a mesh of any size."""
        news = self._begun(admin, (admin.id, REVOCATION, str(victim.id)), 0.0)
        self._world.command(admin, lambda peer, now: peer.revoke(now, victim.id))
        self._versioned(admin, news)

    def _begun(self, node: Node, slot: Slot, stays_s: float) -> News:
        due = {other.id: other.life for other in self._world.alive() if other is not node and other.malice is None}
        news = News(slot, (2**63, 0), self._world.loop.now, node.life, stays_s, due)
        self._told.append(news)
        self._current[slot] = news
        return news

    @staticmethod
    def _versioned(node: Node, news: News) -> None:
        record = node.running.sync.record(*news.slot)
        assert record is not None, "a node holds what it has told"
        news.version = record.version

    def _changed(self, node: Node, change: RecordChanged) -> None:
        if change.author == node.id or change.record is None:
            return
        self._deliveries += 1
        news = self._current.get((change.author, change.kind, change.key))
        if news is not None and change.record.version >= news.version and node.id not in news.had_at:
            self.hits += 1
            news.had_at[node.id] = self._world.loop.now

    def _stopped(self, node: Node) -> None:
        self._ended[node.id, node.life] = self._world.loop.now

    # --- what came out --------------------------------------------------------------------------------------------

    def _counting(self) -> list[News]:
        """Returns the broadcasts whose authors stayed on for long enough."""
        never = self._world.loop.now + 1e9
        return [
            news
            for news in self._told
            if self._ended.get((news.slot[0], news.author_life), never) >= news.told_at + news.stays_s
        ]

    def _live(self, news: News) -> list[NodeId]:
        """Returns to whom a broadcast was due and who has run ever since."""
        return [node for node, life in news.due.items() if (node, life) not in self._ended]

    def delivered(self) -> tuple[int, int, list[str]]:
        """Returns how many deliveries happened, how many had to, and the names of some who lack one."""
        due = delivered = 0
        missing: dict[str, None] = {}
        for news in self._counting():
            later = self._current[news.slot]
            for node_id in self._live(news):
                due += 1
                if node_id in news.had_at or (later is not news and node_id in later.had_at):
                    delivered += 1
                else:
                    node = self._world.node(node_id)
                    missing[node.name if node else ""] = None
        return delivered, due, list(missing)

    def redundant(self) -> float:
        """Returns payloads that came to nodes that had them already, for each that was news."""
        deliveries = self._deliveries - self._deliveries_at_begin
        return max(0.0, self._sent() - self._payloads_at_begin - deliveries) / max(1, deliveries)

    def lap(self) -> float:
        """Returns the same since it was last asked for."""
        sent, deliveries = self._sent(), self._deliveries
        before_sent, before = self._lap or (self._payloads_at_begin, self._deliveries_at_begin)
        self._lap = (sent, deliveries)
        return max(0.0, sent - before_sent - (deliveries - before)) / max(1, deliveries - before)

    def times(self, part: float) -> list[float]:
        """Returns how long each broadcast took to reach a part of the nodes that it was due to."""
        times = []
        for news in self._counting():
            live = self._live(news)
            had = sorted(news.had_at[node] - news.told_at for node in live if node in news.had_at)
            wanted = ceil(part * len(live))
            if wanted and len(had) >= wanted:
                times.append(had[wanted - 1])
        return times

    def _sent(self) -> int:
        return self._world.stats.by_kind.get(PAYLOAD, [0])[0]


def model(name: str, version: str = "1.0.0", manifest: bytes = b"\2" * 32, size_bytes: int = 1_000) -> ModelRecord:
    """Returns an advert."""
    return ModelRecord(name, version, "anomaly_detector", "onnx", size_bytes, b"\1" * 32, manifest)
