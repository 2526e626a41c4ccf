"""Who guesses ports, and which."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.reach.prediction import (
    ADDRESS,
    ENDPOINT,
    MAPPINGS,
    NONE,
    PORT,
    SCAN,
    SOCKETS,
    TRIES,
    UNKNOWN,
    WIDEN,
    ports_to_try,
    role,
    varies,
)

OPPOSITE = {WIDEN: SCAN, SCAN: WIDEN, "": ""}


@pytest.mark.parametrize(
    ("mine", "theirs", "does"),
    [
        (PORT, ENDPOINT, WIDEN),
        (ADDRESS, NONE, WIDEN),
        (ENDPOINT, PORT, SCAN),
        (PORT, PORT, ""),
        (PORT, ADDRESS, ""),
        (ENDPOINT, ENDPOINT, ""),
        (PORT, UNKNOWN, WIDEN),
        (ENDPOINT, UNKNOWN, SCAN),
        (UNKNOWN, PORT, SCAN),
        (UNKNOWN, ENDPOINT, WIDEN),
    ],
)
def test_who_has_the_varying_nat_opens_ports_and_the_other_one_tries_them(mine: str, theirs: str, does: str) -> None:
    assert role(mine, theirs, 0) == does
    assert role(mine, theirs, 1) == does


def test_where_nobody_knows_they_take_turns() -> None:
    assert {role(UNKNOWN, UNKNOWN, 2), role(UNKNOWN, UNKNOWN, 3)} == {WIDEN, SCAN}


@given(st.sampled_from(MAPPINGS), st.sampled_from(MAPPINGS))
def test_both_ends_come_to_the_same_conclusion(mine: str, theirs: str) -> None:
    if UNKNOWN not in (mine, theirs):
        assert role(theirs, mine, 0) == OPPOSITE[role(mine, theirs, 0)]
    assert varies(UNKNOWN) is None


@given(st.integers(), st.lists(st.integers(1, 65_535), max_size=8), st.integers(0, 4_000))
def test_ports_are_tried_once_each_and_no_well_known_ones(seed: int, seen: list[int], count: int) -> None:
    ports = ports_to_try(Random(seed), seen, count)
    assert len(ports) == len(set(ports)) == count
    assert all(1_024 <= port <= 65_535 for port in ports)


def test_a_nat_that_counts_upwards_is_hit_at_once() -> None:
    open_now = set(range(20_001, 20_001 + SOCKETS))
    assert open_now & set(ports_to_try(Random(1), [20_000])[:3])


def test_random_ports_are_hit_in_most_rounds() -> None:
    rng = Random(7)
    hits = sum(
        bool(set(rng.sample(range(1_024, 65_536), SOCKETS)) & set(ports_to_try(rng, [30_000], TRIES)))
        for _ in range(200)
    )
    assert hits >= 190
