"""The detector: who pings, who is suspect, who is hung up, and when a node doubts itself."""

from __future__ import annotations

import math
from random import Random

import pytest

from atmo.engine import Effect, Emit, Hangup, Send
from atmo.gossip.detector import Detector, DetectorConfig, LinkSilent, LinkSuspect, LinkTrusted
from atmo.gossip.messages import Ping, Pong, ProbeAnswer, ProbeRequest
from atmo.identity import NodeId
from tests.gossip.hyparview_kit import Network, at, contact, node

OWN = NodeId(b"m" * 32)
LOW, HIGH = NodeId(b"a" * 32), NodeId(b"z" * 32)
OTHERS = [NodeId(bytes([ord("n") + number]) * 32) for number in range(5)]


def new(*linked: NodeId) -> Detector:
    detector = Detector(DetectorConfig(), OWN, Random("test"))
    for other in linked:
        detector.link_up(at(0), other)
    return detector


def pass_time(detector: Detector, begin: float, end: float, *alive: NodeId) -> list[tuple[float, Effect]]:
    """Serves the timer; the nodes that are alive answer at once what they are asked and else say nothing."""
    seen: list[tuple[float, Effect]] = []
    while (due := detector.next_timer()) <= end:
        now = max(due, begin)
        detector.handle_timer(at(now))
        assert detector.next_timer() > now, "a timer that was served moves on"
        for effect in detector.drain():
            seen.append((now, effect))
            if isinstance(effect, Send) and effect.to in alive:
                detector.heard(at(now), effect.to)
                if isinstance(effect.message, Ping):
                    detector.receive(at(now), effect.to, Pong(effect.message.nonce))
                if isinstance(effect.message, ProbeRequest):
                    detector.receive(at(now), effect.to, ProbeAnswer(effect.message.target, False))
    return seen


def events(seen: list[tuple[float, Effect]], kind: type) -> list[float]:
    return [when for when, effect in seen if isinstance(effect, Emit) and isinstance(effect.event, kind)]


def pings(seen: list[tuple[float, Effect]]) -> list[float]:
    return [when for when, effect in seen if isinstance(effect, Send) and isinstance(effect.message, Ping)]


# --- pings --------------------------------------------------------------------------------------------------------


def test_without_links_nothing_is_due() -> None:
    detector = new(HIGH)
    assert detector.next_timer() < math.inf
    detector.link_down(at(1), HIGH)
    detector.link_down(at(1), HIGH)
    assert detector.next_timer() == math.inf
    assert detector.stats.links_up == detector.stats.links_down == 1


def test_the_end_with_the_smaller_id_pings_all_its_links_in_one_round() -> None:
    detector = new(*OTHERS)
    seen = pass_time(detector, 0, 20, *OTHERS)
    times = pings(seen)
    assert times[4] <= 0.1
    assert len(times) == pytest.approx(5 * (1 + 20 / 2.5), abs=5)
    assert len(dict.fromkeys(times)) == len(times) / 5, "they go out together"


def test_the_other_end_is_content_to_be_pinged_and_measures_now_and_then() -> None:
    detector = new(LOW)
    sent = 0
    for second in range(100):
        detector.heard(at(second), LOW)
        sent += len(pings(pass_time(detector, second, second + 0.99, LOW)))
    assert sent == pytest.approx(1 + 100 / 2.5 / 4, abs=1)
    assert not detector.stats.suspected


def test_the_other_end_pings_once_nothing_is_heard() -> None:
    detector = new(LOW)
    times = pings(pass_time(detector, 0, 6))
    assert len(times) == 2
    assert 3 <= times[1] <= 5.5


def test_pongs_measure_the_round_trip_and_carry_the_load() -> None:
    detector = new(HIGH)
    ((sent, effect),) = pass_time(detector, 0, 1)
    assert isinstance(effect, Send)
    detector.receive(at(sent + 0.08), HIGH, Pong(effect.message.nonce, 3))
    link = detector.links[HIGH]
    assert link.rtt_s == pytest.approx(0.08)
    assert link.load == 3
    ((sent, effect),) = pass_time(detector, 1, 3)
    assert isinstance(effect, Send)
    detector.receive(at(sent + 0.16), HIGH, Pong(effect.message.nonce, -5))
    assert link.rtt_s == pytest.approx(0.09)
    assert link.load == 0


def test_a_ping_is_answered_with_the_load() -> None:
    detector = new(HIGH)
    detector.load = 2
    detector.receive(at(0), HIGH, Ping(7))
    assert detector.drain() == [Send(HIGH, Pong(7, 2))]


def test_a_pong_that_answers_nothing_is_counted() -> None:
    detector = new(HIGH)
    detector.receive(at(0), HIGH, Pong(7))
    pass_time(detector, 0, 1)
    detector.receive(at(1), HIGH, Pong(-7))
    assert detector.stats.pongs_late == 2
    assert detector.links[HIGH].rtt_s is None


def test_a_link_that_only_the_other_end_watches_is_answered_and_not_watched() -> None:
    detector = new(HIGH)
    detector.heard(at(0), LOW)
    detector.receive(at(0), LOW, Ping(1))
    detector.receive(at(0), LOW, Pong(1))
    detector.receive(at(0), LOW, ProbeRequest(HIGH))
    assert detector.drain() == [Send(LOW, Pong(1)), Send(LOW, ProbeAnswer(HIGH, True))]
    assert list(detector.links) == [HIGH]


# --- suspicion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [LOW, HIGH])
def test_a_silent_link_becomes_suspect_and_is_hung_up_in_less_than_ten_seconds(dead: NodeId) -> None:
    detector = new(dead, *OTHERS)
    seen = pass_time(detector, 0, 20, *OTHERS)
    (suspect,), (silent,) = events(seen, LinkSuspect), events(seen, LinkSilent)
    assert 3.5 <= suspect <= 6
    assert 7 <= silent < 9
    (hangup,) = [effect for _, effect in seen if isinstance(effect, Hangup)]
    assert hangup.node == dead
    assert "nothing heard for" in hangup.reason
    detector.link_down(at(20), dead)
    detector.link_up(at(20), dead)
    assert events(pass_time(detector, 20, 30, *OTHERS), LinkSilent)


def test_a_single_link_that_is_silent_is_hung_up_as_fast() -> None:
    assert events(pass_time(new(HIGH), 0, 20), LinkSilent)[0] < 9


def test_others_are_asked_about_a_suspect_and_may_vouch_for_it() -> None:
    detector = new(HIGH, *OTHERS)
    seen = pass_time(detector, 0, 6, *OTHERS)
    asked = [effect.to for _, effect in seen if isinstance(effect, Send) and effect.message == ProbeRequest(HIGH)]
    assert len(asked) == 3
    assert HIGH not in asked
    (stranger, *_) = [other for other in OTHERS if other not in asked]
    detector.receive(at(6), stranger, ProbeAnswer(HIGH, True))
    detector.receive(at(6), asked[0], ProbeAnswer(LOW, True))
    detector.receive(at(6), asked[0], ProbeAnswer(HIGH, True))
    detector.receive(at(6), asked[1], ProbeAnswer(HIGH, False))
    ends = [effect for _, effect in pass_time(detector, 6, 20, *OTHERS) if isinstance(effect, Emit)]
    assert ends == [Emit(LinkSilent(HIGH, vouched=True))]


def test_nobody_vouches_who_was_not_asked() -> None:
    detector = new(HIGH, *OTHERS)
    seen = pass_time(detector, 0, 6, *OTHERS)
    asked = [effect.to for _, effect in seen if isinstance(effect, Send) and effect.message == ProbeRequest(HIGH)]
    for other in OTHERS:
        if other not in asked:
            detector.receive(at(6), other, ProbeAnswer(HIGH, True))
    ends = [effect for _, effect in pass_time(detector, 6, 20, *OTHERS) if isinstance(effect, Emit)]
    assert ends == [Emit(LinkSilent(HIGH, vouched=False))]


def test_questions_are_answered_by_what_was_heard() -> None:
    detector = new(HIGH, *OTHERS)
    detector.heard(at(5.5), HIGH)
    for target in (HIGH, LOW):
        detector.receive(at(6), OTHERS[0], ProbeRequest(target))
    answers = [ProbeAnswer(HIGH, True), ProbeAnswer(LOW, False)]
    assert detector.drain() == [Send(OTHERS[0], answer) for answer in answers]


def test_a_node_of_which_nothing_was_heard_just_now_is_pinged_for_who_asks() -> None:
    config = DetectorConfig()
    detector = new(HIGH, *OTHERS)
    detector.heard(at(3), HIGH)
    for _ in range(config.askers + 1):
        detector.receive(at(6), OTHERS[0], ProbeRequest(HIGH))
    refused, ping, *others = detector.drain()
    assert refused == Send(OTHERS[0], ProbeAnswer(HIGH, False))
    assert isinstance(ping, Send)
    assert ping.to == HIGH
    assert others == [refused] * config.askers
    detector.heard(at(6.1), HIGH)
    assert detector.drain() == [Send(OTHERS[0], ProbeAnswer(HIGH, True))] * config.askers
    detector.heard(at(6.2), HIGH)
    assert detector.drain() == []
    detector.receive(at(9), OTHERS[1], ProbeRequest(HIGH))
    detector.drain()
    detector.heard(at(9 + config.probe_s + 0.1), HIGH)
    assert detector.drain() == []


def test_a_suspect_that_is_heard_is_trusted_again() -> None:
    detector = new(HIGH, *OTHERS)
    pass_time(detector, 0, 6, *OTHERS)
    detector.heard(at(6), HIGH)
    detector.heard(at(6), HIGH)
    assert detector.drain() == [Emit(LinkTrusted(HIGH))]
    assert not events(pass_time(detector, 6, 9, *OTHERS), LinkSilent)
    assert events(pass_time(detector, 9, 20, *OTHERS), LinkSilent)


def test_a_link_that_was_given_up_stays_so() -> None:
    detector = new(HIGH, *OTHERS)
    pass_time(detector, 0, 10, *OTHERS)
    detector.heard(at(10), HIGH)
    assert detector.drain() == []
    assert detector.stats.trusted == 0
    more = [effect for _, effect in pass_time(detector, 10, 60, *OTHERS) if not isinstance(effect, Send)]
    assert more == []


def test_a_suspect_whose_link_ends_is_forgotten() -> None:
    detector = new(HIGH, *OTHERS)
    pass_time(detector, 0, 6, *OTHERS)
    detector.link_down(at(6), HIGH)
    seen = pass_time(detector, 6, 30, *OTHERS)
    assert not events(seen, LinkSilent)


# --- health -------------------------------------------------------------------------------------------------------


def test_a_node_that_slept_suspects_nobody_at_once_and_doubts_itself() -> None:
    detector = new(*OTHERS)
    pass_time(detector, 0, 10, *OTHERS)
    detector.handle_timer(at(60))
    assert detector.health == 1
    assert detector.stats.timers_late == 1
    assert not [effect for effect in detector.drain() if isinstance(effect, Emit)]
    assert not events(pass_time(detector, 60.1, 100, *OTHERS), LinkSuspect)
    assert detector.health == 0, "pongs in time restore trust in oneself"


def test_a_node_that_hears_nothing_at_all_waits_longer_but_not_for_ever() -> None:
    detector = new(*OTHERS)
    seen = pass_time(detector, 0, 60)
    assert detector.health == 1
    assert len(events(seen, LinkSuspect)) == 5
    silent = events(seen, LinkSilent)
    assert len(silent) == 5
    assert 14 <= silent[0] <= silent[-1] < 18


def test_health_has_a_bound_and_so_have_the_waits() -> None:
    detector = new(*OTHERS)
    for number in range(1, 11):
        detector.handle_timer(at(100 * number))
    assert detector.health == 8
    silent = events(pass_time(detector, 1_000, 1_100), LinkSilent)
    assert silent[0] < 1_060


def test_a_sleep_is_no_silence_of_a_suspect_either() -> None:
    detector = new(HIGH, *OTHERS)
    pass_time(detector, 0, 6, *OTHERS)
    detector.handle_timer(at(500))
    seen = pass_time(detector, 500, 530, *OTHERS)
    assert events(seen, LinkSilent)[0] > 501


def test_half_of_all_neighbours_dead_is_no_reason_for_doubt() -> None:
    detector = new(*OTHERS)
    seen = pass_time(detector, 0, 20, *OTHERS[:2])
    assert detector.health == 0
    assert events(seen, LinkSilent)[-1] < 9


# --- many ---------------------------------------------------------------------------------------------------------


def test_loss_makes_no_link_suspect_and_the_dead_leave_all_views_in_less_than_ten_seconds() -> None:
    network = Network("detector", detector=True, loss=0.01)
    for number in range(20):
        network.start(number, [contact(other) for other in network.rng.sample(range(number), min(number, 3))])
        network.run(0.05)
    network.run(60)
    network.check()
    assert not [event for _, _, event in network.events if isinstance(event, LinkSuspect | LinkSilent)]
    for number in range(0, 20, 2):
        network.kill(number)
    network.run(10)
    dead = [other for one in network.stations.values() for other in one.view.active if other not in network.stations]
    assert dead == []
    assert network.components() == [10]
    assert node(1) in network.stations
