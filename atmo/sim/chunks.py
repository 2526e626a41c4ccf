"""How chunks of models travel between simulated machines: in bulk, over links that are opened where there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atmo.engine import FetchChunk
from atmo.identity import NodeId
from atmo.sim import trace as kinds
from atmo.sim.bandwidth import Lines

if TYPE_CHECKING:
    from atmo.sim.machine import Node
    from atmo.sim.world import World

CHUNK_S = 0.1
"""How long any chunk takes from any source where lines have no bandwidth. Source: 1 MiB at 10 MB/s."""

CHUNK_BYTES = 1 << 20
"""Of a chunk whose transfer nobody told the sizes of. Source: docs/manifest.md."""

REQUEST_BYTES = 200
"""Of a request for a chunk."""

STREAM_S = 0.5
"""A chunk whose request is lost is late by this. Source: guess, two probe timeouts."""


@dataclass(slots=True)
class ChunkStats:
    """Counters over all machines.

    Attributes:
        served: By node: chunks that it sent whole.
        wrong: Chunks that were not what their names said.
        twice: Chunks that arrived where they had arrived already.
        refused: Requests for which there was no slot, or no chunk.
        bytes: Of all chunks that arrived.
    """

    served: dict[NodeId, int]
    wrong: int = 0
    twice: int = 0
    refused: int = 0
    bytes: int = 0


class Chunks:
    """Carries out the fetches of all machines of a world.

    Args:
        world: Whose machines they are.
        lines: How fast machines send and receive; None for a fixed time for each chunk.

    Attributes:
        sizes: Of the chunks of each transfer; others have chunks of a mebibyte.
        whole: By transfer: the names of those who have the model without having fetched it; of other transfers
            everybody is taken to have everything.
        stats: Counters.
    """

    def __init__(self, world: World, lines: Lines | None) -> None:
        self._world = world
        self._lines = lines
        self.sizes: dict[str, Sequence[int]] = {}
        self.whole: dict[str, dict[str, None]] = {}
        self.stats = ChunkStats({})
        self._kept: dict[tuple[str, str], dict[int, None]] = {}
        self._under_way: dict[tuple[NodeId, NodeId], int] = {}

    def fetch(self, node: Node, fetch: FetchChunk) -> None:
        """Begins a fetch; without a link one is opened first."""
        node.fetches[fetch.transfer, fetch.source, fetch.index] = fetch
        if fetch.source in node.ends:
            self._begin(node, fetch)
            return
        waiting = node.awaiting.setdefault(fetch.source, [])
        waiting.append(fetch)
        if len(waiting) == 1:
            self._world.later(self._world.loop.now, lambda: self._reach(node, fetch.source, node.life))

    def cancel(self, node: Node, transfer: str, source: NodeId, index: int) -> None:
        """Takes a fetch back."""
        node.fetches.pop((transfer, source, index), None)

    def linked(self, node: Node, other: NodeId) -> None:
        """A link is there that fetches may have waited for."""
        for fetch in node.awaiting.pop(other, ()):
            if (fetch.transfer, fetch.source, fetch.index) in node.fetches:
                self._begin(node, fetch)

    def unreachable(self, node: Node, other: NodeId) -> None:
        """Nobody answers there."""
        for fetch in node.awaiting.pop(other, ()):
            self._world.later(self._world.loop.now, self._failing(node, fetch, "it cannot be reached"))

    def _reach(self, node: Node, other: NodeId, life: int) -> None:
        if node.peer is None or node.life != life or other not in node.awaiting:
            return
        self._world.command(node, lambda peer, now: peer.reach(now, other))

    def _failing(self, node: Node, fetch: FetchChunk, reason: str) -> Any:
        life = node.life

        def fail() -> None:
            key = (fetch.transfer, fetch.source, fetch.index)
            if node.life == life and node.peer is not None and node.fetches.pop(key, None) is not None:
                self._world.command(node, lambda peer, now: peer.chunk_failed(now, fetch, reason, fatal=False))

        return fail

    def _begin(self, node: Node, fetch: FetchChunk) -> None:
        """Sends a request; both ends keep their link while any of theirs is under way."""
        world, now = self._world, self._world.loop.now
        source = world.node(fetch.source)
        if source is None:
            world.later(now + CHUNK_S, self._failing(node, fetch, "the link is gone"))
            return
        pair = (node.id, source.id)
        self._under_way[pair] = self._under_way.get(pair, 0) + 1
        if self._under_way[pair] == 1:
            for end, other in self._ends(node, source):
                end.running.hold(world.now(end), other)
        way = 0.0
        if self._lines is not None:
            way = world.network.route(now, node.id, source.id, REQUEST_BYTES)
            way = STREAM_S if math.isinf(way) else way
        world.loop.put(now + way, self._asked, node, source, fetch, node.life, source.life, way)

    def _asked(self, node: Node, source: Node, fetch: FetchChunk, life: int, source_life: int, way: float) -> None:
        """A source has a slot for who asks and sends the chunk, or refuses; one that is off says nothing."""
        world, now = self._world, self._world.loop.now
        if source.peer is None or source.life != source_life or node.life != life:
            world.loop.put(now, self._over, node, source, life, source_life)
            return
        size = self._size(fetch)
        whole = self.whole.get(fetch.transfer)
        has = whole is None or source.name in whole or fetch.index in self.kept(source, fetch.transfer)
        waits_s = world.command(source, lambda peer, now: peer.may_serve(now, node.id, size)) if has else None
        if waits_s is None:
            self.stats.refused += 1
            world.loop.put(
                now + way, self._refused, node, source, fetch, life, source_life, "busy" if has else "missing"
            )
            return
        if self._lines is None:
            world.loop.put(now + waits_s + CHUNK_S, self._arrived, node, source, fetch, life, source_life)
            return
        source.sent_bytes += size
        node.received_bytes += size
        began, sent = self._lines.send_bulk(now + waits_s, source.id, size)
        world.loop.put(began + way, self._coming, node, source, fetch, life, source_life, sent + way)

    def _coming(self, node: Node, source: Node, fetch: FetchChunk, life: int, source_life: int, last: float) -> None:
        """The first byte of a chunk is at its reader; `last` is when the last one would be, were its line free."""
        assert self._lines is not None
        taken = self._lines.take_bulk(self._world.loop.now, node.id, self._size(fetch))
        self._world.loop.put(max(last, taken), self._arrived, node, source, fetch, life, source_life)

    def _over(self, node: Node, source: Node, life: int, source_life: int) -> None:
        """A request has ended, however it did."""
        pair = (node.id, source.id)
        self._under_way[pair] -= 1
        if not self._under_way[pair]:
            del self._under_way[pair]
            if (node.life, source.life) == (life, source_life):
                for end, other in self._ends(node, source):
                    end.running.release(self._world.now(end), other)

    def _refused(self, node: Node, source: Node, fetch: FetchChunk, life: int, source_life: int, reason: str) -> None:
        self._over(node, source, life, source_life)
        if node.life == life:
            self._failing(node, fetch, f"the node refuses: {reason}")()

    @staticmethod
    def _ends(node: Node, source: Node) -> list[tuple[Node, NodeId]]:
        """Returns those that run of the two ends of a fetch, each with the other's id."""
        return [row for row in ((node, source.id), (source, node.id)) if row[0].peer is not None]

    def _size(self, fetch: FetchChunk) -> int:
        sizes = self.sizes.get(fetch.transfer)
        return sizes[fetch.index] if sizes else CHUNK_BYTES

    def _arrived(self, node: Node, source: Node, fetch: FetchChunk, life: int, source_life: int) -> None:
        """A chunk arrives if the link still stands; of a source that was turned off meanwhile nothing comes."""
        self._over(node, source, life, source_life)
        if source.peer is not None and source.life == source_life:
            source.peer.served(self._world.now(source), node.id, self._size(fetch))
        key = (fetch.transfer, fetch.source, fetch.index)
        if node.peer is None or (node.life, source.life) != (life, source_life) or node.fetches.get(key) is not fetch:
            return
        if source.peer is None:
            return
        del node.fetches[key]
        world = self._world
        world.note(kinds.CHUNK, node, source, fetch.transfer, fetch.index)
        if fetch.source not in node.ends:
            world.command(node, lambda peer, now: peer.chunk_failed(now, fetch, "the link is gone", fatal=False))
        elif source.malice is not None and not source.malice.chunk_is_good(source, node.id):
            self.stats.wrong += 1
            reason = "the chunk is not what its name says"
            world.command(node, lambda peer, now: peer.chunk_failed(now, fetch, reason, fatal=True))
        else:
            self.stats.served[source.id] = self.stats.served.get(source.id, 0) + 1
            self.stats.bytes += self._size(fetch)
            kept = self.kept(node, fetch.transfer)
            self.stats.twice += fetch.index in kept
            kept[fetch.index] = None
            world.command(node, lambda peer, now: peer.chunk_done(now, fetch))

    def kept(self, node: Node, transfer: str) -> dict[int, None]:
        """Returns the chunks that arrived at a node and were what their names say: its disk."""
        return self._kept.setdefault((node.name, transfer), {})
