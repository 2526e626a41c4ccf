"""Any order of arrivals, failures, lies, deaths and silences: the rules hold, and one honest source is enough."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atmo.clock import Now
from atmo.engine import CancelFetch, Emit, FetchChunk, Misbehaved
from atmo.identity import NodeId
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferDone, TransferEngine, TransferFailed

HONEST, *OTHERS = NODES = [NodeId(bytes([number] * 32)) for number in range(1, 6)]
CONFIG = TransferConfig(stall_s=10_000, lonely_s=10_000)


class Swarm(RuleBasedStateMachine):
    """One transfer; `HONEST` is always there, the others do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = TransferEngine(Random(1), CONFIG)
        self.now = 0.0
        self.count = 0
        self.here: set[int] = set()
        self.up: set[NodeId] = set()
        self.liars: set[NodeId] = set()
        self.asked: dict[int, list[NodeId]] = {}
        self.finished = False

    @initialize(count=st.integers(1, 40), have=st.sets(st.integers(0, 39)))
    def start(self, count: int, have: set[int]) -> None:
        self.count = count
        self.here = {index for index in have if index < count}
        self.up = {HONEST}
        self.engine.want(self.clock(), "t", [1000 + index for index in range(count)], set(self.here), [HONEST])
        self.perform()

    def clock(self) -> Now:
        return Now(self.now, 0.0)

    def perform(self) -> None:
        for effect in self.engine.drain():
            match effect:
                case FetchChunk("t", source, index):
                    assert source in self.up
                    assert source not in self.liars
                    assert index not in self.here
                    assert 0 <= index < self.count
                    others = self.asked.setdefault(index, [])
                    assert source not in others
                    if others:
                        whole = set(range(self.count)) - self.here
                        assert whole <= set(self.asked), "asked twice while something was asked of nobody"
                    others.append(source)
                    assert len(others) <= CONFIG.again_most
                case CancelFetch("t", source, index):
                    self.ended(source, index)
                case Emit(TransferDone("t")):
                    assert self.here == set(range(self.count))
                    assert not self.finished
                    self.finished = True
                case Emit(TransferFailed()):
                    raise AssertionError("an honest source was there all the time")
                case Misbehaved(peer):
                    assert peer in self.liars

    def ended(self, source: NodeId, index: int) -> None:
        self.asked[index].remove(source)
        if not self.asked[index]:
            del self.asked[index]

    def some_fetch(self, pick: int) -> tuple[NodeId, int]:
        pairs = sorted((source, index) for index, sources in self.asked.items() for source in sources)
        return pairs[pick % len(pairs)]

    def arrive(self, source: NodeId, index: int) -> None:
        self.ended(source, index)
        self.here.add(index)
        self.engine.chunk_done(self.clock(), "t", source, index)
        self.perform()

    @precondition(lambda self: self.asked)
    @rule(pick=st.integers(0, 99), after=st.floats(0, 3))
    def a_chunk_arrives(self, pick: int, after: float) -> None:
        self.now += after
        self.arrive(*self.some_fetch(pick))

    @precondition(lambda self: self.asked)
    @rule(pick=st.integers(0, 99))
    def a_fetch_fails(self, pick: int) -> None:
        source, index = self.some_fetch(pick)
        self.ended(source, index)
        self.engine.chunk_failed(self.clock(), "t", source, index, "no", False)
        self.perform()

    @precondition(lambda self: self.asked)
    @rule(pick=st.integers(0, 99))
    def a_source_lies(self, pick: int) -> None:
        source, index = self.some_fetch(pick)
        if source != HONEST:
            self.ended(source, index)
            self.liars.add(source)
            self.engine.chunk_failed(self.clock(), "t", source, index, "wrong", True)
            self.perform()

    @rule(node=st.sampled_from(OTHERS), chunks=st.none() | st.sets(st.integers(-1, 45)))
    def a_source_comes(self, node: NodeId, chunks: set[int] | None) -> None:
        self.up.add(node)
        self.engine.source_up(self.clock(), "t", node, chunks)
        self.perform()

    @rule(node=st.sampled_from(OTHERS))
    def a_source_dies(self, node: NodeId) -> None:
        self.up.discard(node)
        self.engine.source_down(self.clock(), node)
        self.perform()
        assert all(node not in sources for sources in self.asked.values())

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.step(self.now + seconds)

    def step(self, end: float) -> None:
        for _ in range(2_000):
            due = self.engine.next_timer()
            if due > end:
                break
            self.now = max(self.now, due)
            self.engine.handle_timer(self.clock())
            self.perform()
        else:
            raise AssertionError("the timer spins")
        self.now = max(self.now, end)

    @invariant()
    def windows_are_kept(self) -> None:
        for node in NODES:
            assert sum(node in sources for sources in self.asked.values()) <= CONFIG.window_most

    def teardown(self) -> None:
        for _ in range(5_000):
            if self.finished or not self.count:
                return
            honest = [index for index, sources in self.asked.items() if HONEST in sources]
            if honest:
                self.arrive(HONEST, honest[0])
            else:
                self.step(self.engine.next_timer())
        raise AssertionError("one honest source was not enough")


Swarm.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSwarm = Swarm.TestCase
