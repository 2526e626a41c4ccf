"""The size of datagrams on a path: what is carried is found with few probes, and never trusted once it vanishes."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.clock import Now
from atmo.reach.config import MtuConfig, Place
from atmo.reach.mtu import PathState, Resized, SendPadded, Sizes
from tests.reach.kit import HOME, HUB, WIDE

CONFIG = MtuConfig()
STATE = PathState(WIDE, 1_200, 8_192, 0.02, True)


class Link:
    """What a connection's datagrams go over; one that carries probes up to a size.

    Attributes:
        first: What this machine itself can send; larger datagrams are refused.
        carries: What arrives, by place.
    """

    def __init__(self, carries: int, state: PathState = STATE, first: int = 65_507) -> None:
        self.mono = 100.0
        self.carries: dict[Place, int] = {state.place: carries}
        self.first = first
        self.lose = 0
        self.probes: list[int] = []
        self.sizes = Sizes(CONFIG, Random(1), state)
        self.state = replace(state, rtt_s=None)
        self.size = self.sizes.size
        self.use(state)

    @property
    def now(self) -> Now:
        return Now(self.mono, 0.0)

    def use(self, state: PathState) -> None:
        self.state = state
        self.sizes.use(self.now, state)
        self.perform()

    def perform(self) -> None:
        while effects := self.sizes.drain():
            for effect in effects:
                match effect:
                    case SendPadded(place, nonce, size):
                        self.probes.append(size)
                        if size > self.first:
                            self.sizes.refused(self.now, place, size)
                        elif self.lose:
                            self.lose -= 1
                        elif self.state.steady and size <= self.carries.get(place, 1_200):
                            assert self.sizes.replied(self.now, place, nonce)
                            assert not self.sizes.replied(self.now, place, nonce)
                    case Resized(size):
                        self.size = size
        assert self.size == self.sizes.size

    def suspect(self) -> None:
        self.sizes.suspect(self.now)
        self.perform()

    def advance(self, seconds: float) -> Link:
        until = self.mono + seconds
        while (due := self.sizes.next_timer()) <= until:
            self.mono = max(self.mono, due)
            self.sizes.handle_timer(self.now)
            self.perform()
            assert self.sizes.next_timer() > self.mono
        self.mono = until
        return self


@pytest.mark.parametrize(
    ("carries", "size", "probes"),
    [
        (65_507, 8_192, [1_452, 8_192]),
        (8_972, 8_192, [1_452, 8_192]),
        (1_472, 1_452, [1_452, 8_192, 8_192, 8_192]),
        (1_372, 1_372, [1_452, 1_452, 1_452, 1_372]),
        (1_252, 1_200, [1_452, 1_452, 1_452, 1_372, 1_372, 1_372]),
    ],
)
def test_what_a_path_carries_is_found_with_few_probes(carries: int, size: int, probes: list[int]) -> None:
    link = Link(carries).advance(20.0)
    assert (link.size, link.probes) == (size, probes)


def test_what_this_machine_cannot_send_is_not_tried_again_and_again() -> None:
    link = Link(1_472, first=1_472)
    assert (link.size, link.probes) == (1_452, [1_452, 8_192])
    link.advance(CONFIG.raise_s - 1.0)
    assert len(link.probes) == 2
    link.advance(2.0)
    assert link.probes == [1_452, 8_192, 8_192]


def test_one_lost_probe_or_two_do_not_make_a_size_too_large() -> None:
    link = Link(1_472, replace(STATE, rtt_s=None), first=1_472)
    link.lose = 2
    link.use(STATE)
    link.advance(10.0)
    assert link.probes == [1_452, 1_452, 1_452, 8_192]
    assert link.size == 1_452


def test_a_path_that_is_not_proven_is_not_searched() -> None:
    link = Link(1_472, replace(STATE, rtt_s=None)).advance(1_000.0)
    assert (link.size, link.probes, link.sizes.next_timer()) == (1_200, [], math.inf)
    link.use(STATE)
    assert link.size == 1_452


def test_no_more_is_tried_than_the_way_takes() -> None:
    link = Link(65_507, replace(STATE, place=HUB, most=1_472)).advance(10_000.0)
    assert (link.size, link.probes) == (1_452, [1_452])


def test_larger_sizes_are_tried_again_after_ten_minutes() -> None:
    link = Link(1_372).advance(20.0)
    link.carries[WIDE] = 9_000
    link.advance(CONFIG.raise_s - 20.0)
    assert link.size == 1_372
    link.advance(10.0)
    assert link.size == 8_192
    assert link.advance(10_000.0).sizes.next_timer() == math.inf


def test_when_large_datagrams_vanish_small_ones_go_out_at_once_and_a_smaller_size_is_found() -> None:
    link = Link(1_472).advance(20.0)
    link.carries[WIDE] = 1_400
    link.suspect()
    assert link.size == 1_200
    link.advance(20.0)
    assert link.size == 1_372
    link.carries[WIDE] = 1_472
    link.advance(CONFIG.raise_s)
    assert link.size == 1_452


def test_a_suspicion_that_was_wrong_costs_one_probe_and_is_not_raised_again_at_once() -> None:
    link = Link(1_472).advance(20.0)
    count = len(link.probes)
    for _ in range(10):
        link.suspect()
    assert link.size == 1_452
    assert link.probes[count:] == [1_452]
    link.advance(CONFIG.confirm_s)
    link.suspect()
    assert link.probes[count:] == [1_452, 1_452]


def test_small_datagrams_are_not_suspected() -> None:
    link = Link(1_200).advance(20.0)
    count = len(link.probes)
    link.suspect()
    assert (link.size, len(link.probes)) == (1_200, count)


def test_while_a_path_is_in_doubt_datagrams_are_small_and_nothing_is_given_up() -> None:
    link = Link(1_472, first=1_472)
    link.use(replace(STATE, steady=False))
    assert link.size == 1_200
    link.suspect()
    link.advance(10.0)
    link.use(STATE)
    assert link.size == 1_452
    link.advance(CONFIG.confirm_s)
    link.lose = 1
    link.suspect()
    link.use(replace(STATE, steady=False))
    assert link.size == 1_200
    link.advance(10.0)
    link.use(STATE)
    assert link.size == 1_452, "its probes were lost with everything else"


def test_each_path_has_its_own_size_and_it_is_remembered() -> None:
    link = Link(1_472, first=1_472)
    link.carries[HUB] = 65_536
    link.first = 65_507
    link.use(replace(STATE, place=HUB))
    assert link.size == 8_192
    count = len(link.probes)
    link.use(STATE)
    assert (link.size, len(link.probes)) == (1_452, count)
    link.use(replace(STATE, place=HUB))
    assert (link.size, len(link.probes)) == (8_192, count)


def test_a_reply_from_elsewhere_or_after_a_switch_proves_nothing() -> None:
    sizes = Sizes(CONFIG, Random(1), replace(STATE, rtt_s=None))
    now = Now(1.0, 0.0)
    sizes.use(now, STATE)
    (probe,) = sizes.drain()
    assert isinstance(probe, SendPadded)
    assert not sizes.replied(now, HOME, probe.nonce)
    assert not sizes.replied(now, WIDE, bytes(8))
    sizes.use(now, replace(STATE, place=HOME))
    assert not sizes.replied(now, WIDE, probe.nonce)
    assert sizes.size == 1_200


def test_a_datagram_that_this_machine_refuses_ends_its_size_at_once() -> None:
    link = Link(1_472, first=1_472)
    link.first = 1_392
    for _ in range(5):
        link.sizes.refused(link.now, WIDE, 1_452)
    link.sizes.refused(link.now, WIDE, 1_200)
    link.sizes.refused(link.now, HOME, 1_300)
    link.perform()
    assert link.size == 1_372


def test_a_place_that_carries_more_without_proof_begins_with_it() -> None:
    link = Link(65_507, replace(STATE, place=HOME, base=8_192, rtt_s=None))
    assert (link.size, link.probes) == (8_192, [])
    link.use(replace(STATE, place=HOME, base=8_192))
    assert (link.size, link.probes) == (8_192, [])
    link.use(STATE)
    assert link.size == 1_200


def test_what_is_kept_is_bounded() -> None:
    link = Link(1_472)
    for port in range(1, 200):
        place = replace(WIDE, port=port)
        link.carries[place] = 1_472
        link.use(replace(STATE, place=place))
    assert len(link.sizes._known) <= CONFIG.places


ACTIONS = st.one_of(
    st.tuples(st.just("carries"), st.sampled_from([1_200, 1_252, 1_372, 1_400, 1_452, 1_472, 8_192, 9_000])),
    st.tuples(st.just("first"), st.sampled_from([1_252, 1_372, 1_472, 8_972, 65_507])),
    st.tuples(st.just("suspect"), st.just(0)),
    st.tuples(st.just("steady"), st.booleans()),
    st.tuples(st.just("place"), st.sampled_from([WIDE, HOME, HUB])),
    st.tuples(st.just("lose"), st.integers(0, 3)),
    st.tuples(st.just("advance"), st.sampled_from([0.01, 1.0, 3.0, 700.0])),
)


@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_it_ends_with_what_the_path_carries(actions: list[tuple[str, object]]) -> None:
    link = Link(1_472)
    link.carries |= {HOME: 1_472, HUB: 1_472}
    for what, value in actions:
        match what:
            case "carries":
                link.carries[link.state.place] = value  # type: ignore[assignment]
            case "first":
                link.first = value  # type: ignore[assignment]
            case "suspect":
                link.suspect()
            case "steady":
                link.use(replace(link.state, steady=bool(value)))
            case "place":
                link.use(replace(link.state, place=value))  # type: ignore[arg-type]
            case "lose":
                link.lose = value  # type: ignore[assignment]
            case _:
                count = len(link.probes)
                link.advance(value)  # type: ignore[arg-type]
                assert len(link.probes) - count <= 15
        assert link.size == 1_200 or link.state.steady
        assert link.size in (1_200, *CONFIG.sizes)
    link.lose = 0
    link.use(replace(link.state, steady=True))
    link.advance(20.0)
    link.suspect()
    link.advance(2 * CONFIG.raise_s)
    carried = min(link.first, link.carries[link.state.place])
    assert link.size == max(size for size in (1_200, *CONFIG.sizes) if size <= carried)


def test_a_timer_that_fires_too_early_sends_nothing() -> None:
    link = Link(1_200)
    link.sizes.handle_timer(link.now)
    link.perform()
    assert link.probes == [1_452]
