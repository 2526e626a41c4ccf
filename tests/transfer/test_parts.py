"""The small parts of transfers: sets of chunks, rates, limits, hand-outs, scores."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.clock import Now
from atmo.engine import FetchChunk, Store
from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.transfer.bits import all_of, bits_of, from_bytes_untrusted, indices_of, some_of, to_bytes
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferEngine
from atmo.transfer.handouts import Handouts, listed
from atmo.transfer.limits import LOOK_S, SIZE_CLASSES, Bucket, Hours, Limits, LimitsConfig
from atmo.transfer.meter import Meter
from atmo.transfer.scores import SCORES_KEY, Scores, ScoresConfig

A, B, C = (NodeId(bytes([number] * 32)) for number in range(1, 4))
MB = 1_000_000


def at(seconds: float) -> Now:
    return Now(seconds, 1_000_000.0 + seconds)


# --- sets ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.sets(st.integers(-3, 310)), st.integers(0, 99))
def test_a_set_is_what_went_in_within_its_bounds(count: int, indices: set[int], seed: int) -> None:
    bits = bits_of(indices, count)
    within = sorted(index for index in indices if 0 <= index < count)
    assert list(indices_of(bits)) == within
    assert from_bytes_untrusted(to_bytes(bits, count), count) == bits
    assert not bits & ~all_of(count)
    if within:
        assert some_of(bits, Random(seed)) in within


def test_a_set_beyond_its_bounds_is_refused() -> None:
    with pytest.raises(WireError):
        from_bytes_untrusted(b"\0\1", 8)
    assert from_bytes_untrusted(b"", 8) == 0


# --- rates --------------------------------------------------------------------------------------------------------


def test_a_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    assert meter.rate(5.0) == 0.0
    meter.add(10.0, 100)
    assert meter.rate(10.1) == 50.0, "of two seconds at least"
    for tenth in range(1, 200):
        meter.add(10.0 + tenth / 10, 100)
    assert meter.rate(29.95) == pytest.approx(1_000, rel=0.05)
    assert meter.rate(60.0) == 0.0


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_bucket_lets_through_what_its_rate_is_over_time() -> None:
    bucket, now, sent = Bucket(), 0.0, 0
    while now < 100.0:
        bucket.take(now, 250_000, MB)
        sent += MB
        now = bucket.ready_at(now, 250_000)
    assert sent == pytest.approx(100 * 250_000, rel=0.06)
    assert bucket.ready_at(now, 0.0) == now
    bucket.take(now, 0.0, MB)
    assert bucket.ready_at(now, 250_000) == now


def test_limits_of_a_node_hold_for_hours_of_its_day() -> None:
    night = Hours(22 * 60, 6 * 60, 0.0, 0.0)
    noon = Hours(12 * 60, 13 * 60, 50_000, 20_000)
    limits = Limits(LimitsConfig(100_000, 10_000, hours=(night, noon), utc_offset_s=3_600))
    waits = []
    for hour in (3, 11, 12, 23):
        now = Now(hour * 3_600.0, (hour - 1) * 3_600.0)
        limits.asked(now, Bucket(), 0.0, MB)
        limits.sent(now, 100_000)
        waits.append((limits.download_at(now, Bucket(), 0.0) - now.mono, limits.upload_at(now) - now.mono))
    assert waits == [(0.0, 0.0), (9.0, 9.0), (19.0, 4.0), (0.0, 0.0)]
    assert not Limits(LimitsConfig()).upload_at(at(1)) > 1


def test_who_waits_long_looks_again() -> None:
    limits = Limits(LimitsConfig(download_bytes_s=1.0))
    limits.asked(at(0), Bucket(), 0.0, MB)
    assert limits.download_at(at(0), Bucket(), 0.0) == LOOK_S


@pytest.mark.parametrize(("size", "rate"), [(5 * MB, 0.0), (50 * MB, 625_000), (5_000 * MB, 250_000)])
def test_size_classes(size: int, rate: float) -> None:
    assert Limits(LimitsConfig(classes=SIZE_CLASSES)).of_transfer(size) == rate
    assert Limits(LimitsConfig(classes=SIZE_CLASSES, transfer_bytes_s=100_000)).of_transfer(size) == 100_000


def test_a_limited_download_asks_at_its_rate_and_faster_when_the_limit_goes() -> None:
    engine, now, got = TransferEngine(Random(1), TransferConfig(limits=LimitsConfig(MB))), 0.0, 0
    engine.want(at(0), "t", [MB] * 100, (), [A])
    while now < 20.0:
        for effect in engine.drain():
            if isinstance(effect, FetchChunk):
                got += 1
                engine.chunk_done(at(now), "t", A, effect.index)
        now = max(engine.next_timer(), now + 0.01)
        engine.handle_timer(at(now))
    assert 19 <= got <= 22
    engine.set_limits(at(now), LimitsConfig())
    assert [effect for effect in engine.drain() if isinstance(effect, FetchChunk)]


def test_a_limited_upload_waits() -> None:
    engine = TransferEngine(Random(1), TransferConfig(limits=LimitsConfig(upload_bytes_s=MB)))
    assert [engine.may_serve(at(0), A, 2 * MB), engine.may_serve(at(0), A, MB)] == [0.0, 1.0]
    engine.served(at(1), A, 2 * MB)
    assert engine.stats.served_bytes == 2 * MB


def test_who_would_wait_for_a_limit_in_vain_is_refused_and_owes_nothing() -> None:
    engine = TransferEngine(Random(1), TransferConfig(limits=LimitsConfig(upload_bytes_s=MB)))
    assert [engine.may_serve(at(0), A, 18 * MB) for _ in range(3)] == [0.0, None, None]
    assert engine.stats.choked == 2
    assert engine.may_serve(at(2), A, MB) == 15.0


def test_guests_have_what_slots_are_free() -> None:
    engine = TransferEngine(Random(1))
    guests = [NodeId(bytes([number] * 32)) for number in range(10, 16)]
    assert [engine.may_serve(at(0), node, MB) for node in guests] == [0.0] * 4 + [None] * 2
    assert engine.may_serve(at(5), guests[0], MB) == 0.0
    assert engine.stats.choked == 2
    assert engine.next_timer() == 0.25
    engine.handle_timer(at(11))
    assert engine.may_serve(at(11), guests[4], MB) == 0.0


# --- hand-outs ----------------------------------------------------------------------------------------------------


def test_each_chunk_is_handed_out_once_before_any_twice() -> None:
    handouts = Handouts(6, 8.0, Random(1))
    given = [handouts.next(0.0, all_of(6), A) for _ in range(7)]
    assert sorted(given[:6]) == [0, 1, 2, 3, 4, 5]  # type: ignore[type-var]
    assert given[6] is None
    assert handouts.next(7.9, all_of(6), A) is None
    assert handouts.next(8.0, 1 << 3, B) == 3
    assert handouts.next(8.0, 1 << 3, B) is None
    handouts.seen(all_of(6), A)
    early = handouts.is_over
    handouts.seen(all_of(6), C)
    assert (early, handouts.is_over) == (False, True), "B had its chunk from nobody else"
    assert handouts.next(100.0, all_of(6), A) is None


def test_what_somebody_will_not_fetch_is_handed_to_another() -> None:
    handouts = Handouts(3, 8.0, Random(1))
    advice = handouts.advice(0.0, all_of(3), 0, 2, A)
    assert len(listed(advice)) == 2
    assert handouts.advice(0.0, all_of(3) & ~advice, advice, 2, A).bit_count() == 1
    handouts.back(advice)
    assert handouts.advice(0.0, advice, 0, 2, A) == advice
    assert not handouts.is_over


# --- scores -------------------------------------------------------------------------------------------------------


def scores(**config: Any) -> Scores:
    return Scores(ScoresConfig(**config))


def test_outcomes_move_a_score_and_fade() -> None:
    known = scores(half_life_s=100.0)
    assert known.value(at(0), A) == 0.5
    for _ in range(6):
        known.delivered(at(0), A)
    assert known.value(at(0), A) == 0.875
    known.failed(at(0), A)
    assert known.value(at(0), A) < 0.8
    assert 0.5 < known.value(at(700), A) < 0.51
    assert known.percent(at(10_000), A) == 50
    assert known.percent(at(0), B) == 50


def test_who_lied_is_avoided_for_days() -> None:
    known = scores()
    known.lied(at(0), A)
    assert [known.avoids(at(day * 86_400), A) for day in (0, 1, 2, 3)] == [True, True, True, False]
    assert not known.avoids(at(0), B)
    assert known.value(at(0), A) < known.value(at(0), B)


def test_claims_weigh_little_and_never_against_own_experience() -> None:
    known = scores(claimants=2)
    for by in (B, C, NodeId(bytes(32))):
        known.claimed(by, A, 0)
    assert known.value(at(0), A) == 0.25
    assert known.percent(at(0), A) == 50, "what others said is not said on"
    assert not known.avoids(at(0), A)
    for _ in range(4):
        known.delivered(at(0), A)
    assert known.value(at(0), A) == 0.75
    known.claimed(B, A, 100)
    assert known.value(at(0), A) > 0.75


def test_scores_outlive_a_restart() -> None:
    known, again = scores(), scores()
    known.delivered(at(0), A)
    known.lied(at(0), B)
    known.claimed(B, C, 10)
    rows = known.export(at(86_400))
    assert [row[0] for row in rows] == [bytes(A), bytes(B)]
    again.load_untrusted(at(2 * 86_400), rows)
    assert again.avoids(at(2 * 86_400), B)
    assert math.isclose(again.export(at(2 * 86_400))[0][1], 0.25)


@pytest.mark.parametrize(
    "row",
    [
        (b"x", 1.0, 0.0, 0.0, 0.0),
        (bytes(32), 1.0),
        (bytes(32), "x", 0, 0, 0),
        (bytes(32), -1.0, 0, 0, 0),
        (bytes(32), 0, 0, 0, math.inf),
        (),
    ],
)
def test_rows_that_are_none_are_refused(row: Any) -> None:
    with pytest.raises(WireError):
        scores().load_untrusted(at(0), [row])


def test_nodes_remembered_are_bounded() -> None:
    known = scores(nodes=2, count_most=3.0)
    for node in (A, B, A, C):
        known.delivered(at(0), node)
    assert [row[0] for row in known.export(at(0))] == [bytes(A), bytes(C)]
    for _ in range(9):
        known.delivered(at(0), A)
    assert known.export(at(0))[1][1] == 3.0


def test_what_others_say_of_many_crowds_out_no_experience() -> None:
    known = scores(nodes=2)
    known.lied(at(0), A)
    for node in (A, B, C):
        known.claimed(B, node, 100)
    assert known.avoids(at(0), A)
    assert known.value(at(0), A) < known.value(at(0), B) == 0.75
    assert [bytes(node) for node in known._claims] == [bytes(B), bytes(C)]


def test_who_lied_elsewhere_is_asked_only_where_there_is_nobody_else() -> None:
    engine = TransferEngine(Random(1))
    engine.want(at(0), "t", [1] * 9, (), [A])
    engine.chunk_failed(at(0), "t", A, 0, "wrong", True)
    engine.want(at(0), "u", [1] * 9, (), [B, A])
    engine.want(at(0), "v", [1] * 9, (), [A])
    asked = {(effect.transfer, effect.source) for effect in engine.drain() if isinstance(effect, FetchChunk)}
    assert {("u", B), ("v", A)} <= asked
    assert ("u", A) not in asked


def test_scores_lie_on_the_disk_a_minute_later_and_at_the_end() -> None:
    engine = TransferEngine(Random(1))
    engine.keep(at(0))
    assert engine.drain() == [], "nothing is new"
    engine.want(at(0), "t", [1], (), [A])
    engine.chunk_done(at(10), "t", A, 0)
    assert engine.next_timer() == 70.0
    engine.drain()
    engine.handle_timer(at(70))
    (store,) = (effect for effect in engine.drain() if isinstance(effect, Store))
    assert store.key == SCORES_KEY
    assert engine.next_timer() == math.inf
    again = scores()
    again.unpack_untrusted(at(70), store.value or b"")
    assert again.export(at(70)) == engine.scores.export(at(70))
    assert again.keep_at == math.inf, "what was loaded need not be kept again"


def test_no_more_scores_are_loaded_than_are_remembered_and_no_nonsense() -> None:
    many = scores()
    for number in range(5):
        many.delivered(at(0), NodeId(bytes([number] * 32)))
    few = scores(nodes=2)
    few.unpack_untrusted(at(0), many.pack(at(0)))
    assert [row[0][0] for row in few.export(at(0))] == [3, 4]
    few.unpack_untrusted(at(0), b"")
    for nonsense in (b"x", many.pack(at(0))[:-1], bytes(32) + b"\xff" * 32):
        with pytest.raises(WireError):
            few.unpack_untrusted(at(0), nonsense)
