"""Chunks of which less travels than they have: rates and limits are those of what travelled."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from atmo.clock import Now
from atmo.engine import FetchChunk
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferEngine
from atmo.transfer.limits import LimitsConfig
from tests.transfer.kit import node

MIB = 1024 * 1024
A, B = node(1), node(2)
NAME = "t"


def engine(**limits: Any) -> TransferEngine:
    made = TransferEngine(Random(1), TransferConfig(limits=LimitsConfig(**limits)))
    made.want(Now(100.0, 0.0), NAME, [MIB] * 40, (), [A])
    return made


def asked(one: TransferEngine) -> list[int]:
    return [effect.index for effect in one.drain() if isinstance(effect, FetchChunk)]


def test_a_rate_is_that_of_what_travelled() -> None:
    for travelled, rate in ((None, MIB), (MIB // 4, MIB / 4)):
        one = engine()
        assert one.rate_of(NAME, A) == 0.0
        one.chunk_done(Now(101.0, 0.0), NAME, A, asked(one)[0], travelled)
        assert one.rate_of(NAME, A) == pytest.approx(rate)
        told = one.progress(Now(101.0, 0.0), NAME)
        assert told is not None
        assert told.bytes_done == MIB, "what is here counts as a whole"
        assert one.rate_of(NAME, B) == one.rate_of("another", A) == 0.0


def test_what_did_not_travel_is_given_back_to_the_limits() -> None:
    counts = {}
    for travelled in (MIB, MIB // 8):
        one = engine(download_bytes_s=float(MIB))
        now, arrived, under_way = 100.0, 0, asked(one)
        while now < 110.0:
            now += 0.25
            for index in under_way:
                one.chunk_done(Now(now, 0.0), NAME, A, index, travelled)
                arrived += 1
            one.handle_timer(Now(now, 0.0))
            under_way = asked(one)
        counts[travelled] = arrived
    assert 10 <= counts[MIB] <= 13
    assert counts[MIB // 8] == 40


def test_an_upload_owes_only_what_travelled() -> None:
    waits = {}
    for spared in (0, MIB // 2):
        one = engine(upload_bytes_s=float(MIB))
        now = Now(100.0, 0.0)
        for _ in range(4):
            assert one.may_serve(now, B, MIB) is not None
            one.served(now, B, MIB - spared, spared)
        waits[spared] = one.may_serve(now, B, MIB)
        assert one.stats.served_bytes == 4 * (MIB - spared)
    assert waits == {0: pytest.approx(3.0), MIB // 2: pytest.approx(1.0)}
