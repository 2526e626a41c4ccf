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
        bytes: Of all chunks that arrived.
    """

    served: dict[NodeId, int]
    wrong: int = 0
    bytes: int = 0


class Chunks:
    """Carries out the fetches of all machines of a world.

    Args:
        world: Whose machines they are.
        lines: How fast machines send and receive; None for a fixed time for each chunk.

    Attributes:
        sizes: Of the chunks of each transfer; others have chunks of a mebibyte.
        stats: Counters.
    """

    def __init__(self, world: World, lines: Lines | None) -> None:
        self._world = world
        self._lines = lines
        self.sizes: dict[str, Sequence[int]] = {}
        self.stats = ChunkStats({})

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
        world, now = self._world, self._world.loop.now
        source = world.node(fetch.source)
        arrives = now + CHUNK_S
        if self._lines is not None and source is not None:
            size = self._size(fetch)
            way = world.network.route(now, node.id, source.id, REQUEST_BYTES)
            delay = STREAM_S if math.isinf(way) else 2 * way
            arrives = self._lines.bulk(now, source.id, node.id, size) + delay
            source.sent_bytes += size
            node.received_bytes += size
        for end, other in self._ends(node, source):
            end.running.hold(world.now(end), other)
        world.loop.put(arrives, self._arrived, node, fetch, node.life, source.life if source else 0)

    @staticmethod
    def _ends(node: Node, source: Node | None) -> list[tuple[Node, NodeId]]:
        """Returns those that run of the two ends of a fetch, each with the other's id."""
        if source is None:
            return []
        return [row for row in ((node, source.id), (source, node.id)) if row[0].peer is not None]

    def _size(self, fetch: FetchChunk) -> int:
        sizes = self.sizes.get(fetch.transfer)
        return sizes[fetch.index] if sizes else CHUNK_BYTES

    def _arrived(self, node: Node, fetch: FetchChunk, life: int, source_life: int) -> None:
        """A chunk arrives if the link still stands."""
        source = self._world.node(fetch.source)
        if source is not None and (node.life, source.life) == (life, source_life):
            for end, other in self._ends(node, source):
                end.running.release(self._world.now(end), other)
        key = (fetch.transfer, fetch.source, fetch.index)
        if node.peer is None or node.life != life or node.fetches.get(key) is not fetch:
            return
        del node.fetches[key]
        world = self._world
        world.note(kinds.CHUNK, node, source, fetch.transfer, fetch.index)
        if source is None or fetch.source not in node.ends:
            world.command(node, lambda peer, now: peer.chunk_failed(now, fetch, "the link is gone", fatal=False))
        elif source.malice is not None and not source.malice.chunk_is_good(source, node.id):
            self.stats.wrong += 1
            reason = "the chunk is not what its name says"
            world.command(node, lambda peer, now: peer.chunk_failed(now, fetch, reason, fatal=True))
        else:
            self.stats.served[source.id] = self.stats.served.get(source.id, 0) + 1
            self.stats.bytes += self._size(fetch)
            world.command(node, lambda peer, now: peer.chunk_done(now, fetch))
