"""A small world of transfer engines: messages and chunks take a moment, and nothing else is in between."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random
from typing import Any

from atmo.clock import Now
from atmo.engine import Ask, CancelFetch, Emit, FetchChunk, Misbehaved, Send
from atmo.identity import NodeId
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferDone, TransferEngine

NAME = "ab" * 32
SWARM = bytes.fromhex(NAME)
KIB = 1024
WAY_S = 0.01
CHUNK_S = 0.05


def node(number: int) -> NodeId:
    return NodeId(bytes([number] * 32))


class Mesh:
    """Engines that are all linked with each other, and virtual time.

    Attributes:
        engines: By node.
        events: What they emitted: who, what.
        accused: Who was blamed, by whom.
        served: Chunks that each sent.
        liars: Those whose chunks are wrong.
        off: Those of whom nothing is heard.
    """

    def __init__(self, count: int, **config: Any) -> None:
        self.now = 100.0
        self.engines = {node(n): TransferEngine(Random(n), TransferConfig(**config)) for n in range(1, count + 1)}
        self.events: list[tuple[NodeId, Any]] = []
        self.accused: list[tuple[NodeId, NodeId]] = []
        self.sent: list[tuple[NodeId, NodeId, Any]] = []
        self.served: dict[tuple[NodeId, int], int] = {}
        self.refused = 0
        self.liars: set[NodeId] = set()
        self.off: set[NodeId] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._fetches: dict[tuple[NodeId, NodeId, int], object] = {}
        self._sequence = 0
        self._busy: dict[NodeId, float] = {}

    def clock(self) -> Now:
        return Now(self.now, 1_000_000.0 + self.now)

    def later(self, after: float, deed: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + after, self._sequence, deed))

    def do(self, who: NodeId, deed: Callable[[TransferEngine, Now], Any]) -> Any:
        """Lets a node's shell ask something of its engine, and performs what follows."""
        answer = deed(self.engines[who], self.clock())
        for effect in self.engines[who].drain():
            match effect:
                case Send(to, message):
                    self._post(who, to, message)
                case Ask(contact, message):
                    self._post(who, contact.node, message)
                case FetchChunk(_, source, index):
                    self._fetches[who, source, index] = mark = object()
                    self.later(WAY_S, lambda s=source, i=index, m=mark: self._asked(who, s, i, m))  # type: ignore[misc]
                case CancelFetch(_, source, index):
                    self._fetches.pop((who, source, index), None)
                case Emit(event):
                    self.events.append((who, event))
                case Misbehaved(peer, _):
                    self.accused.append((who, peer))
        return answer

    def _post(self, who: NodeId, to: NodeId, message: Any) -> None:
        self.sent.append((who, to, message))
        if to not in self.engines or to in self.off:
            self.later(WAY_S, lambda: self.do(who, lambda engine, now: engine.failed(now, to)))
        else:
            self.later(WAY_S, lambda: self.do(to, lambda engine, now: engine.receive(now, who, message)))

    def _asked(self, who: NodeId, source: NodeId, index: int, mark: object) -> None:
        if source in self.off:
            return
        waits_s = self.do(source, lambda engine, now: engine.may_serve(now, who, KIB))
        if waits_s is None:
            self.refused += 1
            self.later(WAY_S, lambda: self._end(who, source, index, mark, "busy"))
            return
        begins = max(self.now + waits_s, self._busy.get(source, 0.0))
        self._busy[source] = begins + CHUNK_S
        self.later(begins + CHUNK_S + WAY_S - self.now, lambda: self._end(who, source, index, mark, ""))

    def _end(self, who: NodeId, source: NodeId, index: int, mark: object, reason: str) -> None:
        if not reason:
            self.do(source, lambda engine, now: engine.served(now, who, KIB))
        if self._fetches.get((who, source, index)) is not mark or source in self.off:
            return
        del self._fetches[who, source, index]
        if reason or source in self.liars:
            fatal = not reason
            self.do(who, lambda engine, now: engine.chunk_failed(now, NAME, source, index, reason or "wrong", fatal))
        else:
            self.served[source, index] = self.served.get((source, index), 0) + 1
            self.do(who, lambda engine, now: engine.chunk_done(now, NAME, source, index))

    def seed(self, who: NodeId, count: int) -> None:
        self.do(who, lambda engine, now: engine.share(now, NAME, count))

    def want(self, who: NodeId, count: int, *sources: NodeId, **how: Any) -> None:
        how = {"serves": True} | how
        self.do(who, lambda engine, now: engine.want(now, NAME, [KIB] * count, (), sources, **how))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(200_000):
            due = {who: max(engine.next_timer(), self.now) for who, engine in self.engines.items()}
            first = min(due, key=due.__getitem__)
            at = self._heap[0][0] if self._heap else math.inf
            if min(at, due[first]) > end:
                self.now = end
                return
            if at <= due[first]:
                self.now, _, deed = heapq.heappop(self._heap)
                deed()
            else:
                self.now = due[first]
                self.do(first, lambda engine, now: engine.handle_timer(now))
        raise AssertionError("time does not pass")

    def done(self) -> list[NodeId]:
        return [who for who, event in self.events if isinstance(event, TransferDone)]

    def messages(self, who: NodeId, to: NodeId, kind: type) -> list[Any]:
        return [message for a, b, message in self.sent if (a, b) == (who, to) and type(message) is kind]


class Alone:
    """One engine, what it is told and what it says."""

    def __init__(self, *, whole: bool = False, count: int = 8, **config: Any) -> None:
        self.mesh = Mesh(1, **config)
        self.engine = self.mesh.engines[node(1)]
        if whole:
            self.engine.share(self.now, NAME, count)
        else:
            self.engine.want(self.now, NAME, [KIB] * count, (), [], serves=True, patient=True)
        self.engine.drain()

    @property
    def now(self) -> Now:
        return self.mesh.clock()

    def hear(self, who: NodeId, message: Any) -> list[Any]:
        self.engine.receive(self.now, who, message)
        return self.engine.drain()

    def pass_time(self, seconds: float) -> list[Any]:
        self.mesh.now += seconds
        self.engine.handle_timer(self.now)
        return self.engine.drain()


def says(effects: list[Any], who: NodeId, kind: type) -> list[Any]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and effect.to == who and type(effect.message) is kind
    ]
