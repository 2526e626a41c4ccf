"""The rules of the network: the first that does not pass decides."""

from __future__ import annotations

from atmo.sim.network import PASS, Deliver, Drop, Latency, Loss, Network, Partition
from atmo.sim.streams import Streams
from tests.trust.kit import ANNA, BERT, EVE

A, B, C = ANNA.node_id, BERT.node_id, EVE.node_id


def test_without_rules_everything_arrives_at_once() -> None:
    assert Network().route(0.0, A, B, 100) == Deliver(0.0)


def test_the_first_rule_that_decides_wins() -> None:
    partition, latency = Partition(), Latency(Streams("1"), 0.5, 0.5)
    network = Network(partition, latency)
    assert network.route(0.0, A, B, 100) == Deliver(0.5)
    partition.split([A], [B])
    assert network.route(0.0, A, B, 100) == Drop("partition")
    assert network.route(0.0, A, C, 100) == network.route(0.0, C, B, 100) == Deliver(0.5)
    partition.heal()
    assert network.route(0.0, A, B, 100) == Deliver(0.5)


def test_latency_belongs_to_the_pair_and_jitter_to_the_packet() -> None:
    latency = Latency(Streams("1"), 0.01, 0.09)
    there, back = latency.route(0.0, A, B, 1), latency.route(0.0, B, A, 1)
    assert there == back == latency.route(5.0, A, B, 1)
    assert isinstance(there, Deliver)
    assert 0.01 <= there.delay_s <= 0.09
    assert latency.route(0.0, A, C, 1) != there
    shaky = Latency(Streams("1"), 0.01, 0.01, 0.005)
    assert shaky.route(0.0, A, B, 1) != shaky.route(0.0, A, B, 1)


def test_loss_takes_its_share() -> None:
    loss = Loss(Streams("1"), 0.25)
    lost = sum(loss.route(0.0, A, B, 1) == Drop("loss") for _ in range(2_000))
    assert 400 < lost < 600
    loss.rate = 0.0
    assert loss.route(0.0, A, B, 1) == PASS
