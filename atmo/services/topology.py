"""Who is connected to whom: each node tells its own links, and whoever asks walks from node to node.

Nobody holds the whole picture. A walk is bounded in nodes, concurrency and time, and says when it is partial.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import trio

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.ports import MeshPort, RequestStream
from atmo.peer import LinkView
from atmo.wire import limits
from atmo.wire.schema import Most, pack, unpack_untrusted

log = logging.getLogger(__name__)

PROTOCOL: Final = "atmo/topology/1"
LINKS_MOST: Final = 512
"""Links that one node tells of; it has fewer."""

PATHS: Final = ("lan", "direct", "punched", "relay", "forward")
"""The kinds that are shown; a word that is none of them comes from a newer node, or from a liar."""


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One link, as one of its ends sees it.

    Attributes:
        node: The other end.
        path: One of `PATHS`.
        age_s: For how long it has stood.
        rtt_us: Smoothed round trip in microseconds, None before it was measured.
    """

    node: NodeId
    path: Annotated[str, Most(16)]
    age_s: Annotated[int, Most(2**40)]
    rtt_us: Annotated[int, Most(2**40)] | None = None


@dataclass(frozen=True, slots=True)
class TopologyAnswer:
    """What a node says of itself."""

    name: Annotated[str, Most(limits.NAME_CHARS)]
    links: Annotated[tuple[LinkReport, ...], Most(LINKS_MOST)]


@dataclass(frozen=True, slots=True)
class TopologyConfig:
    """Bounds of a walk.

    Attributes:
        nodes: Asked in one walk; further ones are only listed. Source: guess, about two minutes' budget of a small
            node's handshakes.
        at_once: Asked at the same time. Source: guess.
        node_s: For one answer, dialling included. Source: a dial takes up to 5 s; who is slower is left out.
        walk_s: For all of it. Source: a person waits.
        keep_s: An answer is given again for so long, so that asking often costs the mesh little. Source: guess.
    """

    nodes: int = 512
    at_once: int = 16
    node_s: float = 3.0
    walk_s: float = 15.0
    keep_s: float = 2.0


class TopologyService:
    """Answers for this node, and asks all others.

    Args:
        node_id: This node.
        name: What it calls itself.
        mesh: Returns the running peer, None where there is no mesh.
        config: Bounds.
    """

    def __init__(
        self,
        node_id: NodeId,
        name: str,
        mesh: Callable[[], MeshPort | None],
        config: TopologyConfig = TopologyConfig(),
    ) -> None:
        self._node_id = node_id
        self._name = name
        self._mesh = mesh
        self._config = config
        self._walking = trio.Lock()
        self._kept: tuple[float, dict[str, Any]] = (-math.inf, {})

    async def serve(self, stream: RequestStream) -> None:
        """Answers `atmo/topology/1`: one frame."""
        port = self._mesh()
        await stream.send(pack(TopologyAnswer(self._name, _reports(port.peer.links(port.now()) if port else ()))))

    async def topology(self) -> dict[str, Any]:
        """Returns `{nodes, links, partial}`, this node first.

        A node is `{id, name, answered}`, a link `{a, b, path, rtt_ms, age_s}` with the ids of its ends. `partial` says
        that some node did not answer, or was not asked.
        """
        async with self._walking:
            kept_at, kept = self._kept
            if trio.current_time() < kept_at + self._config.keep_s:
                return kept
            port = self._mesh()
            walk = _Walk(self._node_id, port, self._config)
            walk.take(self._node_id, TopologyAnswer(self._name, _reports(port.peer.links(port.now()) if port else ())))
            await walk.run()
            result = walk.to_json()
            self._kept = (trio.current_time(), result)
            return result


@dataclass(slots=True)
class _Seen:
    name: str
    answered: bool = False


@dataclass(slots=True)
class _Edge:
    path: str
    rtt_us: int | None
    age_s: int

    def merge(self, report: LinkReport) -> None:
        """Adds what the other end says: both are right, as far as they know."""
        if self.rtt_us is None or (report.rtt_us is not None and report.rtt_us < self.rtt_us):
            self.rtt_us = report.rtt_us
        self.age_s = max(self.age_s, report.age_s)


@dataclass(eq=False)
class _Walk:
    """One walk over the mesh, breadth first."""

    own: NodeId
    port: MeshPort | None
    config: TopologyConfig
    nodes: dict[NodeId, _Seen] = field(default_factory=dict)
    edges: dict[tuple[NodeId, NodeId], _Edge] = field(default_factory=dict)
    frontier: deque[NodeId] = field(default_factory=deque)
    asked: int = 0
    asking: int = 0
    before: frozenset[NodeId] = frozenset()
    """The nodes that this one was linked to when it began: other links of its own are of the walk's making."""

    def take(self, node: NodeId, answer: TopologyAnswer) -> None:
        """Adds what a node says of itself."""
        seen = self.nodes.setdefault(node, _Seen(answer.name))
        seen.name, seen.answered = answer.name, True
        if node == self.own:
            self.before = frozenset(link.node for link in answer.links)
        for link in answer.links:
            if link.node == node or (link.node == self.own and node not in self.before):
                continue
            if link.node not in self.nodes:
                if len(self.nodes) >= 4 * self.config.nodes:
                    continue  # a liar could name nodes without end
                self.nodes[link.node] = _Seen(self.port.peer.name(link.node) if self.port else "")
                self.frontier.append(link.node)
            ends = (min(node, link.node), max(node, link.node))
            if ends in self.edges:
                self.edges[ends].merge(link)
            elif len(self.edges) < 16 * self.config.nodes:
                path = link.path if link.path in PATHS else "direct"
                self.edges[ends] = _Edge(path, link.rtt_us, link.age_s)

    async def run(self) -> None:
        """Asks node after node until all are asked, or a bound is reached."""
        if self.port is not None:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + self.config.walk_s
                self._ask_more(nursery, self.port)

    def _ask_more(self, nursery: trio.Nursery, port: MeshPort) -> None:
        while self.frontier and self.asked < self.config.nodes and self.asking < self.config.at_once:
            self.asked += 1
            self.asking += 1
            nursery.start_soon(self._ask_one, nursery, port, self.frontier.popleft())

    async def _ask_one(self, nursery: trio.Nursery, port: MeshPort, node: NodeId) -> None:
        try:
            self.take(node, await _ask(port, node, self.config.node_s))
        except RemoteError as error:
            log.debug("topology of %s: %s", node.short, error)
        self.asking -= 1
        self._ask_more(nursery, port)

    def to_json(self) -> dict[str, Any]:
        """Returns the picture, this node first, then by name."""
        ids = sorted(self.nodes, key=lambda node: (node != self.own, self.nodes[node].name, node))
        place = {node: number for number, node in enumerate(ids)}
        rows = sorted((sorted((place[one], place[two])), (one, two)) for one, two in self.edges)
        return {
            "nodes": [
                {"id": str(node), "name": self.nodes[node].name, "answered": self.nodes[node].answered} for node in ids
            ],
            "links": [self._row(ids[one], ids[two], self.edges[ends]) for (one, two), ends in rows],
            "partial": not all(seen.answered for seen in self.nodes.values()),
        }

    @staticmethod
    def _row(one: NodeId, two: NodeId, edge: _Edge) -> dict[str, Any]:
        rtt_ms = None if edge.rtt_us is None else edge.rtt_us / 1_000
        return {"a": str(one), "b": str(two), "path": edge.path, "rtt_ms": rtt_ms, "age_s": edge.age_s}


async def _ask(port: MeshPort, node: NodeId, deadline_s: float) -> TopologyAnswer:
    """Asks one node for its links.

    Raises:
        RemoteError: It does not answer in time, or with nonsense.
    """
    async with port.request(node, PROTOCOL, {}, deadline_s) as stream:
        body = await stream.receive()
        if body is None:
            raise RemoteError(f"{node.short} ended its answer before it began")
        try:
            return unpack_untrusted(TopologyAnswer, body)
        except WireError as error:
            raise RemoteError(f"{node.short} sent no topology: {error}") from error


def _reports(links: Sequence[LinkView]) -> tuple[LinkReport, ...]:
    return tuple(
        LinkReport(
            link.node, link.path, max(0, int(link.age_s)), None if link.rtt_s is None else int(1_000_000 * link.rtt_s)
        )
        for link in links[:LINKS_MOST]
    )
