"""The rules of the network: each adds to the delay, one may lose the packet."""

from __future__ import annotations

import pytest

from atmo.identity import Signer
from atmo.sim.bandwidth import CABLE, Line, Lines
from atmo.sim.cities import CITIES, RTT_MS
from atmo.sim.nat import FULL_CONE, PORT_RESTRICTED, RESTRICTED, SYMMETRIC, NatKind, Nats
from atmo.sim.network import (
    LOST,
    CityLatency,
    Duplication,
    Latency,
    Loss,
    Network,
    OneWay,
    Partition,
    Reordering,
)
from atmo.sim.streams import Streams
from tests.trust.kit import ANNA, BERT, EVE

A, B, C = ANNA.node_id, BERT.node_id, EVE.node_id


def test_without_rules_everything_arrives_at_once() -> None:
    assert Network().route(0.0, A, B, 100) == 0.0


def test_delays_add_up_and_one_loss_is_a_loss() -> None:
    partition = Partition()
    network = Network(partition, Latency(Streams("1"), 0.5, 0.5), Latency(Streams("1"), 0.25, 0.25))
    assert network.route(0.0, A, B, 100) == 0.75
    partition.split([A], [B])
    assert network.route(0.0, A, B, 100) == LOST
    assert network.route(0.0, A, C, 100) == network.route(0.0, C, B, 100) == 0.75
    partition.heal()
    assert network.route(0.0, A, B, 100) == 0.75


def test_latency_belongs_to_the_pair_and_jitter_to_the_packet() -> None:
    latency = Latency(Streams("1"), 0.01, 0.09)
    there, back = latency.route(0.0, A, B, 1), latency.route(0.0, B, A, 1)
    assert there == back == latency.route(5.0, A, B, 1)
    assert 0.01 <= there <= 0.09
    assert latency.route(0.0, A, C, 1) != there
    shaky = Latency(Streams("1"), 0.01, 0.01, 0.005)
    assert shaky.route(0.0, A, B, 1) != shaky.route(0.0, A, B, 1)


def test_cities_are_as_far_apart_as_they_were_measured() -> None:
    assert len(RTT_MS) == len(CITIES) == 10
    assert all(len(row) == 10 and row[number] == 1 for number, row in enumerate(RTT_MS))
    cities = CityLatency(Streams("1"), access_s=0.0, jitter_s=0.0)
    cities.place(A, "Toronto")
    cities.place(B, "Madrid")
    assert cities.route(0.0, A, B, 1) == pytest.approx(0.054)
    assert cities.route(0.0, B, A, 1) == pytest.approx(0.053)
    assert cities.city(C) in CITIES
    assert CityLatency(Streams("1")).city(C) == cities.city(C)
    shaky = CityLatency(Streams("1"))
    delays = [shaky.route(0.0, A, B, 1) for _ in range(100)]
    assert len(set(delays)) == 100
    assert 0.0005 < max(delays) - min(delays) < 0.05


def test_loss_takes_its_share_of_packets() -> None:
    loss = Loss(Streams("1"), 0.25)
    lost = sum(loss.route(0.0, A, B, 1) == LOST for _ in range(2_000))
    assert 400 < lost < 600
    loss.set_rate(0.0)
    assert Network(loss).route(0.0, A, B, 1) == 0.0


def test_some_packets_are_overtaken() -> None:
    late = [Reordering(Streams("1"), 1.0, 0.1).route(0.0, A, B, 1) for _ in range(3)]
    assert all(0.0 < delay < 0.1 for delay in late)
    never = Reordering(Streams("1"), 0.0, 0.1)
    assert Network(never).route(0.0, A, B, 1) == 0.0
    some = Reordering(Streams("1"), 0.5, 0.1)
    assert 60 < sum(some.route(0.0, A, B, 1) == 0.0 for _ in range(200)) < 140


def test_a_second_copy_costs_the_receiver() -> None:
    lines = Lines()
    lines.give(B, Line(1e9, 1_000.0, queue_s=100.0))
    doubled = Duplication(Streams("1"), 1.0, (lines.down,))
    network = Network(doubled, lines.down)
    assert network.route(0.0, A, B, 500) == pytest.approx(1.0)
    assert doubled.copies == 1


def test_one_direction_may_fail_alone() -> None:
    one_way = OneWay()
    network = Network(one_way)
    one_way.cut(A, B)
    assert network.route(0.0, A, B, 1) == LOST
    assert network.route(0.0, B, A, 1) == network.route(0.0, A, C, 1) == 0.0
    one_way.heal()
    assert network.route(0.0, A, B, 1) == 0.0


def test_a_share_of_all_pairs_may_be_one_way() -> None:
    one_way = OneWay(Streams("1"), 0.5)
    nodes = [Signer(bytes([number]) * 32).node_id for number in range(20)]
    lost = [one_way.route(0.0, first, second, 1) == LOST for first in nodes for second in nodes]
    assert 140 < sum(lost) < 260
    assert lost == [one_way.route(1.0, first, second, 1) == LOST for first in nodes for second in nodes]
    one_way.heal()
    assert not one_way.on


def test_a_line_sends_one_after_the_other_and_drops_what_would_wait_too_long() -> None:
    lines = Lines()
    assert Network(lines.up, lines.down).route(0.0, A, B, 10**9) == 0.0, "nobody has a line of its own"
    lines.give(A, Line(1_000.0, 1_000.0, queue_s=0.5))
    network = Network(lines.up)
    assert network.route(0.0, A, B, 400) == pytest.approx(0.4)
    assert network.route(0.0, A, B, 400) == pytest.approx(0.8)
    assert network.route(0.0, A, B, 400) == LOST
    assert network.route(10.0, A, B, 400) == pytest.approx(0.4)
    assert network.route(0.0, B, A, 400) < 0.001, "others have a fast one"
    assert lines.of(B).up_bytes_s > CABLE.up_bytes_s


def test_bulk_takes_turns_at_both_ends() -> None:
    lines = Lines(Line(100.0, 100.0))
    lines.give(A, Line(1_000.0, 1_000.0))
    assert lines.send_bulk(0.0, A, 100) == pytest.approx((0.0, 0.1))
    assert lines.send_bulk(0.0, A, 100) == pytest.approx((0.1, 0.2)), "the second one leaves after the first"
    assert lines.take_bulk(0.0, B, 100) == pytest.approx(1.0)
    assert lines.take_bulk(0.1, B, 100) == pytest.approx(2.0), "and at the reader it waits for the first"
    assert lines.take_bulk(3.0, B, 100) == pytest.approx(4.0)


# --- NATs ---------------------------------------------------------------------------------------------------------


def through(nats: Nats, source: bytes, target: bytes, now: float = 0.0) -> bool:
    return nats.route(now, source, target, 1) == 0.0  # type: ignore[arg-type]


def test_nobody_reaches_a_node_behind_a_nat_that_did_not_speak_first() -> None:
    for kind in (FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC):
        nats = Nats()
        nats.give(A, kind)
        assert not through(nats, B, A)
        assert through(nats, A, B)
        assert through(nats, B, A), "an answer passes"
        assert not through(nats, B, A, 31.0), "a mapping is forgotten"
    assert nats.refused == 2


def test_only_a_full_cone_lets_strangers_in() -> None:
    for kind, expected in ((FULL_CONE, True), (RESTRICTED, False), (PORT_RESTRICTED, False), (SYMMETRIC, False)):
        nats = Nats()
        nats.give(A, kind)
        through(nats, A, B)
        assert through(nats, C, A) is expected, kind


def test_who_punches_a_hole_by_which_kinds() -> None:
    """Both send at once, twice; what RFC 5128 and the practice of hole punching say."""
    for first, second, expected in (
        (PORT_RESTRICTED, PORT_RESTRICTED, True),
        (RESTRICTED, SYMMETRIC, True),
        (FULL_CONE, SYMMETRIC, True),
        (PORT_RESTRICTED, SYMMETRIC, False),
        (SYMMETRIC, SYMMETRIC, False),
    ):
        nats = Nats()
        nats.give(A, first)
        nats.give(B, second)
        passed = [through(nats, *pair, now=now) for now in (0.0, 0.1) for pair in ((A, B), (B, A))]
        assert any(passed[1:]) is expected, (first, second)
        if expected:
            assert through(nats, A, B, 0.2)
            assert through(nats, B, A, 0.2)


def test_nodes_of_one_site_reach_each_other_and_a_nat_can_be_taken_away() -> None:
    nats = Nats()
    nats.give(A, PORT_RESTRICTED, "home")
    nats.give(B, NatKind(), "home")
    assert through(nats, A, B)
    assert through(nats, B, A)
    assert not through(nats, C, B)
    nats.open([B])
    assert through(nats, C, B)
    assert nats.on
    nats.open([A])
    assert not nats.on
