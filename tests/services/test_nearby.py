"""Whom of those near a node dials, without a network."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from atmo.identity import NodeId
from atmo.services.nearby import Nearby, NearbyConfig

OWN = NodeId(b"m" * 32)
BIG = [NodeId(b"z" + bytes([number]) * 31) for number in range(100)]
SMALL = NodeId(b"a" * 32)


def test_of_two_one_dials_and_the_other_waits_for_it() -> None:
    nearby = Nearby(NearbyConfig(yield_s=1.0), OWN)
    assert nearby.due(0.0, [SMALL, BIG[0]], (), [SMALL, BIG[0]]) == [BIG[0]]
    assert nearby.next_due([SMALL]) == 1.0
    assert nearby.due(1.0, [SMALL], (), [SMALL, BIG[0]]) == [SMALL]


def test_who_does_not_answer_is_dialled_ever_more_seldom() -> None:
    nearby = Nearby(NearbyConfig(again_s=10.0, again_most_s=50.0), OWN)
    dials: list[float] = []
    now = 0.0
    while len(dials) < 6:
        if nearby.due(now, BIG[:1], (), BIG[:1]):
            dials.append(now)
        now = max(now, nearby.next_due(BIG[:1]))
    assert dials == [0.0, 10.0, 30.0, 70.0, 120.0, 170.0]


def test_a_link_makes_up_for_failures() -> None:
    nearby = Nearby(NearbyConfig(again_s=10.0), OWN)
    for now in (0.0, 10.0, 30.0):
        assert nearby.due(now, BIG[:1], (), BIG[:1]) == BIG[:1]
    assert nearby.due(31.0, [], BIG[:1], BIG[:1]) == []
    assert nearby.due(32.0, BIG[:1], (), BIG[:1]) == BIG[:1], "its link broke"


def test_the_most_welcome_come_first() -> None:
    config = NearbyConfig(burst=4, every_s=5.0)
    nearby = Nearby(config, OWN)
    assert nearby.due(0.0, BIG, (), BIG) == BIG[:4]
    assert nearby.next_due(BIG) == 5.0
    assert nearby.due(4.9, BIG, (), BIG) == []
    assert nearby.due(5.0, BIG, (), BIG) == BIG[4:5]


def test_nobody_wanted_is_nothing_to_wait_for() -> None:
    nearby = Nearby(NearbyConfig(), OWN)
    nearby.due(0.0, [], (), [])
    assert nearby.next_due([]) == math.inf


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.sets(st.sampled_from(BIG)), st.sets(st.sampled_from(BIG)))))
def test_whatever_is_said_there_are_few_dials(steps: list[tuple[float, set[NodeId], set[NodeId]]]) -> None:
    config = NearbyConfig()
    nearby, now, dials = Nearby(config, OWN), 0.0, 0
    for wait, there, linked in steps:
        now += wait
        wanted = sorted(there - linked)
        dials += len(nearby.due(now, wanted, linked, there))
        assert dials <= config.burst + now / config.every_s + 1e-6
        assert nearby.next_due(wanted) >= now or not wanted or nearby.due(now, wanted, linked, there) == []
