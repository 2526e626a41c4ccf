"""The transfer engine against sources that are told what to do."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from atmo.clock import Now
from atmo.engine import CancelFetch, Effect, Emit, FetchChunk, Misbehaved
from atmo.identity import NodeId
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferDone, TransferEngine, TransferFailed, TransferProgress

A, B, C = (NodeId(bytes([number] * 32)) for number in range(1, 4))
MIB = 1024 * 1024


class Scene:
    """An engine, its clock, and what is under way."""

    def __init__(self, **config: Any) -> None:
        self.engine = TransferEngine(Random(1), TransferConfig(**config))
        self.now = Now(100.0, 0.0)
        self.under_way: list[tuple[NodeId, int]] = []
        self.cancelled: list[tuple[NodeId, int]] = []
        self.events: list[Any] = []
        self.accused: list[NodeId] = []
        self.effects: list[Effect] = []

    def want(self, count: int, sources: list[NodeId], have: set[int] = frozenset(), name: str = "t") -> Scene:  # type: ignore[assignment]
        self.engine.want(self.now, name, [MIB] * count, have, sources)
        return self.see()

    def see(self) -> Scene:
        for effect in self.engine.drain():
            self.effects.append(effect)
            match effect:
                case FetchChunk(_, source, index):
                    self.under_way.append((source, index))
                case CancelFetch(_, source, index):
                    self.under_way.remove((source, index))
                    self.cancelled.append((source, index))
                case Emit(event):
                    self.events.append(event)
                case Misbehaved(peer, _):
                    self.accused.append(peer)
        return self

    def done(self, source: NodeId, index: int | None = None, after: float = 0.01) -> int:
        self.now = Now(self.now.mono + after, 0.0)
        if index is None:
            index = next(at for node, at in self.under_way if node == source)
        self.under_way = [pair for pair in self.under_way if pair != (source, index)]
        self.engine.chunk_done(self.now, "t", source, index)
        self.see()
        return index

    def failed(self, source: NodeId, *, fatal: bool = False) -> int:
        index = next(at for node, at in self.under_way if node == source)
        self.under_way.remove((source, index))
        self.engine.chunk_failed(self.now, "t", source, index, "why", fatal)
        self.see()
        return index

    def pass_time(self, seconds: float) -> Scene:
        end = self.now.mono + seconds
        while (due := self.engine.next_timer()) <= end:
            assert due > self.now.mono or due == self.engine.next_timer()
            before = due
            self.now = Now(max(due, self.now.mono), 0.0)
            self.engine.handle_timer(self.now)
            self.see()
            assert self.engine.next_timer() > before, "the timer must move on"
        self.now = Now(end, 0.0)
        return self

    def at(self, source: NodeId) -> list[int]:
        return [index for node, index in self.under_way if node == source]

    def outcome(self) -> list[Any]:
        return [event for event in self.events if not isinstance(event, TransferProgress)]


def test_two_chunks_are_asked_of_each_source_in_turn() -> None:
    scene = Scene().want(10, [A, B])
    assert [source for source, _ in scene.under_way] == [A, B, A, B]
    assert len({index for _, index in scene.under_way}) == 4


def test_a_transfer_ends_when_the_last_chunk_is_here() -> None:
    scene = Scene().want(3, [A])
    while scene.under_way:
        scene.done(A)
    assert scene.outcome() == [TransferDone("t")]
    told = scene.events[-2]
    assert (told.bytes_done, told.bytes_total, told.sources, told.left_s) == (3 * MIB, 3 * MIB, (A,), 0.0)
    assert told.bytes_s > 0
    assert scene.engine.next_timer() == scene.engine.scores.keep_at
    assert scene.engine.progress(scene.now, "t") is None
    assert scene.engine.stats.done == 1


def test_what_is_here_is_not_asked_for() -> None:
    scene = Scene().want(3, [A], have={0, 2})
    assert scene.at(A) == [1]
    assert scene.engine.progress(scene.now, "t") == TransferProgress("t", 2 * MIB, 3 * MIB, ())
    whole = Scene().want(2, [], have={0, 1})
    assert whole.outcome() == [TransferDone("t")]


def test_a_fast_source_gets_more_at_once() -> None:
    scene = Scene().want(200, [A, B])
    for _ in range(40):
        scene.done(A)
    assert len(scene.at(A)) > 6
    assert len(scene.at(B)) == 2


def test_a_late_fetch_goes_to_another_source() -> None:
    scene = Scene(window_start=1).want(60, [A])
    (index,) = scene.at(A)
    scene.engine.source_up(scene.now, "t", B)
    scene.see()
    while scene.now.mono < 125:
        scene.done(B, after=1.0)
    scene.pass_time(4.9)
    assert scene.cancelled == []
    scene.pass_time(0.2)
    assert (A, index) in scene.cancelled
    scene.pass_time(1.1)
    assert scene.at(A)  # it rested and is tried again


def test_a_lone_slow_source_gets_ever_more_time() -> None:
    scene = Scene(window_start=1, stall_s=10_000).want(1, [A])
    asked = []
    for _ in range(4):
        asked.append(scene.now.mono)
        while (A, 0) in scene.under_way:
            scene.pass_time(1.0)
        while not scene.under_way:
            scene.pass_time(1.0)
    assert [round(later - earlier) for earlier, later in pairwise(asked)] == [31, 62, 124]


def test_a_failing_source_rests_and_the_other_takes_over() -> None:
    scene = Scene(window_start=1).want(2, [A, B])
    index = scene.failed(A)
    assert scene.at(A) == []
    scene.done(B)
    assert scene.at(B) == [index]
    scene.pass_time(1.5)
    assert scene.engine.stats.failed == 1
    assert scene.outcome() == []


def test_a_report_for_what_is_not_under_way_changes_nothing() -> None:
    scene = Scene().want(5, [A])
    before = list(scene.under_way)
    scene.engine.chunk_failed(scene.now, "t", A, 99, "why", False)
    scene.engine.chunk_failed(scene.now, "t", B, 0, "why", False)
    scene.engine.chunk_failed(scene.now, "other", A, 0, "why", False)
    scene.engine.chunk_done(scene.now, "other", A, 0)
    scene.engine.chunk_done(scene.now, "t", A, 99)
    scene.engine.source_up(scene.now, "other", B)
    scene.engine.source_left(scene.now, "other", A)
    scene.engine.source_left(scene.now, "t", B)
    scene.engine.cancel(scene.now, "other")
    scene.see()
    assert scene.under_way == before
    assert scene.engine.stats.failed == 0


def test_a_source_that_sends_wrong_bytes_is_out_for_good() -> None:
    scene = Scene().want(6, [A, B])
    scene.failed(A, fatal=True)
    assert scene.accused == [A]
    assert scene.at(A) == []
    assert len(scene.cancelled) == 1  # its other fetch
    scene.engine.source_up(scene.now, "t", A)
    scene.engine.want(scene.now, "t", [], (), [A])
    scene.see()
    assert scene.at(A) == []
    while scene.at(B):
        scene.done(B)
    assert scene.outcome() == [TransferDone("t")]
    assert scene.engine.stats.wrong == 1


def test_wrong_bytes_count_even_when_they_come_too_late() -> None:
    scene = Scene().want(2, [A, B])
    scene.engine.chunk_failed(scene.now, "t", C, 0, "wrong", True)
    scene.engine.chunk_failed(scene.now, "gone", C, 0, "wrong", True)
    scene.see()
    assert scene.accused == [C, C]
    scene.engine.source_up(scene.now, "t", C)
    assert scene.see().at(C) == []


def test_the_list_of_dropped_sources_is_bounded() -> None:
    scene = Scene(sources_most=1).want(2, [A])
    for number in range(10):
        scene.engine.chunk_failed(scene.now, "t", NodeId(bytes([50 + number] * 32)), 0, "wrong", True)
    scene.pass_time(400)
    assert scene.outcome() == [TransferFailed("t", "no holder has sent anything for 300 s")]


def test_a_dead_node_frees_its_chunks_in_all_transfers() -> None:
    scene = Scene().want(4, [A, B]).want(4, [A], name="u")
    scene.engine.source_down(scene.now, A)
    scene.see()
    assert scene.at(A) == []
    scene.done(B)
    while scene.at(B):
        scene.done(B)
    assert scene.outcome() == [TransferDone("t")]
    scene.pass_time(60)
    assert scene.outcome()[1:] == [TransferFailed("u", "no holder is left")]
    assert scene.engine.stats.lost == 1


def test_why_a_transfer_failed_names_the_dropped() -> None:
    scene = Scene().want(4, [A])
    scene.failed(A, fatal=True)
    scene.pass_time(61)
    assert scene.outcome() == [TransferFailed("t", "no holder is left; 1 sent wrong bytes")]


def test_a_chunk_counts_even_when_its_source_has_left_meanwhile() -> None:
    scene = Scene().want(4, [A])
    index = scene.at(A)[0]
    scene.engine.source_left(scene.now, "t", A)
    scene.see()
    scene.engine.chunk_done(scene.now, "t", A, index)
    assert scene.engine.stats.chunks == 1


def test_a_new_holder_saves_a_lonely_transfer() -> None:
    scene = Scene().want(1, [])
    scene.pass_time(14)
    scene.engine.source_up(scene.now, "t", B)
    scene.see().pass_time(10)
    scene.done(B)
    assert scene.outcome() == [TransferDone("t")]


def test_a_source_that_has_only_some_chunks() -> None:
    scene = Scene(window_start=8).want(4, [])
    scene.engine.source_up(scene.now, "t", A, [1, 3])
    assert sorted(scene.see().at(A)) == [1, 3]


def test_in_the_end_game_an_idle_source_gets_what_another_is_slow_with() -> None:
    scene = Scene(window_start=1).want(2, [A, B])
    (stuck,) = scene.at(A)
    scene.done(B)
    assert scene.at(B) == []  # not at once: A may be quick
    scene.pass_time(2.5)
    assert scene.at(B) == [stuck]
    assert scene.engine.stats.asked_again == 1
    scene.done(B, stuck)
    assert scene.cancelled == [(A, stuck)]
    assert scene.outcome() == [TransferDone("t")]


def test_the_first_to_arrive_wins_even_if_it_was_taken_back() -> None:
    scene = Scene(window_start=1, stall_s=1_000).want(2, [A])
    index = scene.at(A)[0]
    scene.pass_time(30.5)
    assert scene.cancelled == [(A, index)]
    scene.engine.source_up(scene.now, "t", B)
    scene.see()
    scene.engine.chunk_done(scene.now, "t", A, index)  # the answer was on its way
    scene.see()
    assert scene.engine.stats.chunks == 1
    assert index not in scene.at(B)


def test_a_cancelled_transfer_takes_everything_back_in_silence() -> None:
    scene = Scene().want(6, [A, B])
    scene.engine.cancel(scene.now, "t")
    scene.see()
    assert scene.under_way == []
    assert scene.outcome() == []
    assert scene.engine.next_timer() == math.inf


def test_transfers_and_sources_are_bounded() -> None:
    scene = Scene(transfers_most=1, sources_most=2).want(10, [A, B, C])
    assert scene.at(C) == []
    scene.want(1, [A], name="u")
    assert scene.outcome() == [TransferFailed("u", "1 other transfers are under way")]
    assert scene.engine.progress(scene.now, "u") is None


def test_progress_is_told_a_few_times_a_second() -> None:
    scene = Scene().want(100, [A])
    for _ in range(99):
        scene.done(A, after=0.01)
    told = [event for event in scene.events if isinstance(event, TransferProgress)]
    assert 3 <= len(told) <= 6


def test_what_the_shell_finds_wrong_is_counted() -> None:
    scene = Scene()
    scene.engine.accuse(A, "it lied")
    scene.engine.receive(scene.now, B, object())
    assert scene.see().accused == [A, B]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_asks_in_the_same_order(seed: int) -> None:
    def order() -> list[Effect]:
        engine = TransferEngine(Random(seed))
        engine.want(Now(0.0, 0.0), "t", [MIB] * 50, (), [A, B])
        return engine.drain()

    assert order() == order()
