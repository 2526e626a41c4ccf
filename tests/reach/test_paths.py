"""The paths under a connection: the best one that works is used, a dead one is left, and nothing is tried for ever."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from atmo.clock import Now
from atmo.reach.config import RELAY, PathsConfig, Place
from atmo.reach.paths import Paths, SendProbe
from atmo.wire.address import Address
from tests.reach.kit import HOLE, HOME, HUB, KINDS, WIDE, Pair


def active(pair: Pair) -> list[Place]:
    return [end.active.place for end in pair.ends]


def test_a_better_path_takes_over_within_a_round_trip() -> None:
    pair = Pair()
    pair.advance(1.0)
    pair.tell(WIDE, delay_s=0.05)
    pair.advance(0.11)
    assert active(pair) == [WIDE, WIDE]
    assert pair.switches[0][0].reason == "it is a better one"
    assert pair.observed
    pair.tell(HOME, delay_s=0.001)
    pair.advance(0.1)
    assert active(pair) == [HOME, HOME]


def test_a_path_that_answers_nobody_is_tried_for_a_while_and_then_ever_more_rarely() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.shut(WIDE)
    pair.advance(10.0)
    assert active(pair) == [HUB, HUB]
    early = pair.probes
    pair.advance(3_600.0)
    hub_probes = 2 * 3_600 / PathsConfig().keep_s
    assert pair.probes - early < 1.1 * hub_probes + 2 * 6 * (3_600 / 240 + 5)


def test_a_silent_path_is_left_within_two_seconds_while_something_is_sent() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.advance(5.0, talks=0)
    assert active(pair) == [WIDE, WIDE]
    pair.shut(WIDE)
    before = list(pair.arrived)
    pair.advance(0.9, talks=0)
    assert pair.arrived[1] > before[1], "in doubt it is sent by the relay, too"
    pair.advance(1.1, talks=0)
    assert active(pair) == [HUB, HUB]
    pair.shut(WIDE, open_=True)
    pair.advance(20.0, talks=0)
    assert active(pair) == [WIDE, WIDE], "it is tried again"


def test_an_idle_connection_notices_too_and_costs_little() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.advance(30.0)
    assert active(pair) == [WIDE, WIDE]
    pair.probes = 0
    pair.advance(100.0)
    assert pair.probes <= 2 * 2 * 11
    pair.shut(WIDE)
    pair.advance(15.0)
    assert active(pair) == [HUB, HUB]


def test_a_hole_in_one_direction_is_no_path() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.shut(WIDE, from_end=0)
    pair.advance(10.0, talks=0)
    assert active(pair) == [HUB, HUB]


def test_a_path_that_goes_deaf_in_one_direction_is_left_by_both() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.advance(2.0, talks=0)
    pair.shut(WIDE, from_end=1)
    pair.advance(3.0, talks=0)
    assert active(pair)[0] == HUB
    pair.advance(15.0, talks=0)
    assert active(pair)[1] == HUB


def test_of_two_paths_of_one_rank_both_ends_take_the_shorter_one() -> None:
    pair = Pair()
    pair.tell(WIDE, delay_s=0.05)
    pair.tell(HOLE, delay_s=0.02)
    pair.advance(3.0, talks=1)
    assert active(pair) == [HOLE, HOLE]


def test_where_nothing_works_everything_is_tried_until_something_does() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.advance(5.0, talks=0)
    pair.shut(WIDE)
    pair.shut(HUB)
    pair.advance(20.0, talks=0)
    pair.shut(HUB, open_=True)
    before = pair.arrived[1]
    pair.advance(3.0, talks=0)
    assert active(pair) == [HUB, HUB]
    assert pair.arrived[1] > before


def test_a_relay_that_is_gone_is_left_at_once() -> None:
    pair = Pair(start=WIDE)
    pair.tell(HUB)
    pair.advance(1.0)
    pair.ends[0].lost(pair.now, HUB)
    assert [path.place for path in pair.ends[0].all()] == [WIDE]
    pair.ends[0].lost(pair.now, HUB)
    pair.ends[0].add(pair.now, HUB, RELAY)
    pair.perform(0)
    pair.advance(1.0)
    pair.ends[0].lost(pair.now, WIDE)
    assert pair.ends[0].active.place == HUB
    pair.ends[0].lost(pair.now, HUB)
    assert pair.ends[0].active.place == HUB, "some place stays"


def test_a_punch_tries_again_what_was_given_up() -> None:
    pair = Pair()
    pair.tell(WIDE)
    pair.shut(WIDE)
    pair.advance(10.0)
    pair.shut(WIDE, open_=True)
    for end in (0, 1):
        pair.ends[end].punch(pair.now)
        pair.perform(end)
    pair.advance(0.1)
    assert active(pair) == [WIDE, WIDE]


def test_replies_that_nobody_waits_for_prove_nothing() -> None:
    paths = Paths(PathsConfig(), Random(1), Now(0.0, 0.0), HUB, RELAY)
    paths.add(Now(0.0, 0.0), WIDE, KINDS[WIDE])
    [probe] = [effect for effect in paths.drain() if isinstance(effect, SendProbe)]
    paths.replied(Now(0.1, 0.0), WIDE, b"\0" * 8, None)
    paths.replied(Now(0.1, 0.0), HOME, probe.nonce, None)
    assert [path.place for path in paths.all()] == [HUB, WIDE]
    paths.replied(Now(0.1, 0.0), WIDE, probe.nonce, None)
    assert [path.place for path in paths.all()] == [WIDE, HUB]
    paths.replied(Now(9.0, 0.0), WIDE, probe.nonce, None)
    assert paths.active.rtt_s == 0.1, "a copy says nothing"


def test_strangers_places_are_bounded_and_crowd_out_nothing_that_works() -> None:
    config = PathsConfig(places=4)
    paths = Paths(config, Random(1), Now(0.0, 0.0), HUB, RELAY)
    for number in range(100):
        paths.heard(Now(float(number), 0.0), Address("198.51.100.7", number + 1), "punched")
        assert len(paths.all()) <= config.places
        assert paths.all()[0].place == HUB
    full = Paths(PathsConfig(places=1), Random(1), Now(0.0, 0.0), HUB, RELAY)
    full.probed(Now(0.0, 0.0), WIDE, "direct", b"n" * 8)
    assert [path.place for path in full.all()] == [HUB]
    assert full.drain() == []


def probes_to(paths: Paths, place: Place, until_s: float, from_s: float = 0.0) -> int:
    """Lets time pass without an answer; returns how many probes went to a place."""
    count, mono = 0, from_s
    while mono <= until_s:
        paths.handle_timer(Now(mono, 0.0))
        count += sum(isinstance(effect, SendProbe) and effect.place == place for effect in paths.drain())
        mono = max(mono + 0.001, paths.next_timer())
    return count


def test_an_end_that_answers_no_probes_has_a_place_tried_so_often_and_then_rarely() -> None:
    """Its connection may live on: who lies about its addresses has nobody sent probes without end."""
    config = PathsConfig()
    burst = 1 + len(config.burst_s)
    paths = Paths(config, Random(1), Now(0.0, 0.0), HUB, RELAY)
    paths.add(Now(0.0, 0.0), WIDE, "direct")
    assert probes_to(paths, WIDE, 60.0) <= (2 + config.losts + 2) * burst
    assert probes_to(paths, WIDE, 3_660.0, 60.0) <= (3_600 / config.rest_most_s + 5) * burst


def test_a_place_that_nobody_told_of_is_tried_once_for_each_time_that_something_comes_from_there() -> None:
    config = PathsConfig()
    burst = 1 + len(config.burst_s)
    paths = Paths(config, Random(1), Now(0.0, 0.0), HUB, RELAY)
    paths.probed(Now(0.0, 0.0), WIDE, "direct", b"n" * 8)
    paths.heard(Now(0.0, 0.0), HOLE, "punched")
    assert probes_to(paths, WIDE, 600.0) == burst
    paths.punch(Now(600.0, 0.0))
    assert probes_to(paths, WIDE, 700.0, 600.0) == 0
    paths.probed(Now(700.0, 0.0), WIDE, "direct", b"m" * 8)
    assert probes_to(paths, WIDE, 710.0, 700.0) == burst
    paths.add(Now(710.0, 0.0), WIDE, "direct")  # now the other end tells of it
    assert probes_to(paths, WIDE, 720.0, 710.0) >= burst
    paths.punch(Now(800.0, 0.0))
    assert probes_to(paths, WIDE, 810.0, 800.0) >= burst


def test_a_forged_place_pushes_out_none_that_the_other_end_told_of() -> None:
    paths = Paths(PathsConfig(places=4), Random(1), Now(0.0, 0.0), HUB, RELAY)
    paths.add(Now(0.0, 0.0), WIDE, "direct")
    for number in range(50):
        paths.heard(Now(1.0 + 3 * number, 0.0), Address("198.51.100.7", number + 1), "punched")
    assert paths.find(WIDE) is not None


def test_punches_are_few_however_often_they_are_asked_for() -> None:
    config = PathsConfig()
    paths = Paths(config, Random(1), Now(0.0, 0.0), HUB, RELAY)
    paths.add(Now(0.0, 0.0), WIDE, "direct")
    probes_to(paths, WIDE, 100.0)
    began, count = 100.0, 0
    for number in range(600):
        paths.punch(Now(began + 0.1 * number, 0.0))
        count += sum(isinstance(effect, SendProbe) and effect.place == WIDE for effect in paths.drain())
    assert count == config.punches + 60 / config.punches_s - 1


def direct(now_s: float = 0.0) -> Paths:
    """Paths of which the only one is a direct one."""
    return Paths(PathsConfig(), Random(1), Now(now_s, 0.0), WIDE, KINDS[WIDE])


def answer(paths: Paths, place: Place, at_s: float) -> None:
    """Answers the last probe to a place."""
    nonce = [effect.nonce for effect in paths.drain() if isinstance(effect, SendProbe) and effect.place == place][-1]
    paths.replied(Now(at_s, 0.0), place, nonce, None)


def test_an_end_that_moved_is_followed_as_soon_as_it_answers_from_there() -> None:
    paths = direct()
    paths.heard(Now(1.0, 0.0), WIDE, KINDS[WIDE])
    paths.heard(Now(5.0, 0.0), HOLE, KINDS[HOLE])
    answer(paths, HOLE, 5.1)
    assert paths.active.place == HOLE
    assert "moved" in str(paths.drain())


def test_a_shorter_path_of_the_same_rank_has_to_be_clearly_shorter() -> None:
    for seconds, place in ((0.019, WIDE), (0.01, HOLE)):
        paths = direct()
        paths.handle_timer(Now(0.0, 0.0))
        answer(paths, WIDE, 0.02)
        paths.add(Now(1.0, 0.0), HOLE, KINDS[HOLE])
        answer(paths, HOLE, 1.0 + seconds)
        assert paths.active.place == place


def test_whatever_answers_first_replaces_a_dead_path() -> None:
    paths = direct()
    paths.sent(Now(1.0, 0.0))
    for tick in range(1_000, 4_000, 100):
        paths.handle_timer(Now(tick / 1_000, 0.0))
    assert not paths.active.works
    paths.drain()
    paths.add(Now(4.0, 0.0), HUB, RELAY)
    answer(paths, HUB, 4.1)
    assert paths.active.place == HUB


def test_of_many_paths_that_work_only_the_best_are_kept_open() -> None:
    paths = direct()
    places = [Address("198.51.100.3", port) for port in range(1, 8)]
    for port, place in enumerate(places):
        paths.add(Now(0.0, 0.0), place, KINDS[WIDE])
        answer(paths, place, 0.05 + port / 100)
    for tick in range(1, 60):
        paths.handle_timer(Now(float(tick), 0.0))
    probed = {effect.place for effect in paths.drain() if isinstance(effect, SendProbe)}
    assert len(probed & set(places)) <= 1 + PathsConfig().standbys


def test_of_more_places_than_may_be_learned_at_once_the_rest_is_left_out() -> None:
    paths = Paths(PathsConfig(learns=2), Random(1), Now(0.0, 0.0), WIDE, KINDS[WIDE])
    for port in range(1, 10):
        paths.add(Now(0.0, 0.0), Address("198.51.100.3", port), KINDS[WIDE])
    assert len(paths.all()) == 3
    paths.drain()
    paths.add(Now(0.0, 0.0), Address("198.51.100.3", 1), KINDS[WIDE])
    assert paths.drain() == [], "it is known"
    paths.add(Now(PathsConfig().learn_s, 0.0), Address("198.51.100.3", 99), KINDS[WIDE])
    assert len(paths.all()) == 4


class Weather(RuleBasedStateMachine):
    """Ways open and shut; whatever happened, both ends talk again once something is open."""

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed: int) -> None:
        self.pair = Pair(seed=seed)

    @rule(place=st.sampled_from([HOME, WIDE, HOLE]), delay_s=st.sampled_from([0.001, 0.02, 0.3]))
    def told(self, place: Place, delay_s: float) -> None:
        if place not in self.pair.ways:
            self.pair.tell(place, delay_s=delay_s)

    @rule(place=st.sampled_from([HOME, WIDE, HOLE, HUB]), end=st.sampled_from([0, 1, None]), is_open=st.booleans())
    def change(self, place: Place, end: int | None, is_open: bool) -> None:
        if place in self.pair.ways:
            self.pair.shut(place, from_end=end, open_=is_open)

    @rule(seconds=st.sampled_from([0.05, 0.7, 3.0, 40.0]), talks=st.sampled_from([0, 1, None]))
    def wait(self, seconds: float, talks: int | None) -> None:
        self.pair.advance(seconds, talks=talks, every_s=0.2)

    @rule()
    def punch(self) -> None:
        for end in (0, 1):
            self.pair.ends[end].punch(self.pair.now)
            self.pair.perform(end)

    @invariant()
    def what_is_used_is_known_and_bounded(self) -> None:
        if hasattr(self, "pair"):
            for end in self.pair.ends:
                assert end.active in end.all()
                assert 1 <= len(end.routes()) <= 2
                assert all(len(path.pending) <= PathsConfig().pending for path in end.all())

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            for place in self.pair.ways:
                self.pair.shut(place, open_=True)
            self.pair.advance(300.0, talks=0, every_s=0.5)
            best = min(self.pair.ends[0].all(), key=lambda path: path.rank)
            for end in self.pair.ends:
                assert end.active.works
                assert KINDS[end.active.place] == KINDS[best.place], "the best kind that works is used"
            before = list(self.pair.arrived)
            self.pair.advance(2.0, talks=0)
            assert self.pair.arrived[0] > before[0]


TestWeather = Weather.TestCase
TestWeather.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_an_acknowledgement_that_is_followed_by_silence_puts_no_path_in_doubt() -> None:
    paths = direct()
    paths.sent(Now(1.0, 0.0), awaited=False)
    paths.handle_timer(Now(2.0, 0.0))
    assert not paths.doubted
    paths.add(Now(3.0, 0.0), HOLE, KINDS[HOLE])
    answer(paths, HOLE, 3.1)
    paths.heard(Now(4.0, 0.0), HOLE, KINDS[HOLE])  # the other end sends another way: does it hear this one?
    paths.sent(Now(4.0, 0.0), awaited=False)
    paths.handle_timer(Now(7.0, 0.0))
    assert paths.doubted


def test_who_only_acknowledges_doubts_its_path_once_the_other_end_does() -> None:
    paths = direct()
    paths.add(Now(1.0, 0.0), HOLE, KINDS[HOLE])
    answer(paths, HOLE, 1.1)
    paths.heard(Now(2.0, 0.0), WIDE, KINDS[WIDE])
    paths.probed(Now(2.1, 0.0), HOLE, KINDS[HOLE], b"1" * 8, doubting=True)
    assert not paths.doubted, "it was heard from just now"
    paths.probed(Now(2.5, 0.0), WIDE, KINDS[WIDE], b"2" * 8, doubting=True)
    assert not paths.doubted, "it works, as this came over it"
    paths.probed(Now(3.0, 0.0), HOLE, KINDS[HOLE], b"3" * 8)
    assert not paths.doubted
    paths.probed(Now(3.1, 0.0), HOLE, KINDS[HOLE], b"4" * 8, doubting=True)
    assert set(paths.routes()) == {WIDE, HOLE}


def test_what_works_already_is_not_tried_again_because_it_is_told_of() -> None:
    paths = direct()
    paths.heard(Now(1.0, 0.0), HOLE, KINDS[HOLE])
    answer(paths, HOLE, 1.1)
    paths.drain()
    paths.add(Now(1.2, 0.0), HOLE, KINDS[HOLE])
    assert not [each for each in paths.drain() if isinstance(each, SendProbe)]
