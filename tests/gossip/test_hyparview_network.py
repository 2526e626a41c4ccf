"""Networks of views: they grow together, stand deaths, heal, and are still where nothing happens."""

from __future__ import annotations

import math

import pytest

from tests.gossip.hyparview_kit import Network, at, contact, node


def mesh(count: int, seed: str, gap_s: float = 0.05, known: int = 3) -> Network:
    network = Network(seed)
    for number in range(count):
        network.start(number, [contact(other) for other in network.rng.sample(range(number), min(number, known))])
        network.run(gap_s)
    return network


@pytest.mark.parametrize("count", range(2, 7))
def test_in_a_mesh_of_up_to_six_everyone_is_everyones_neighbour_soon(count: int) -> None:
    network = Network(f"small/{count}")
    for number in range(count):
        network.start(number)
    for station in network.stations.values():
        for number in range(count):
            station.view.learn(at(0), contact(number))
        network.perform(station)
    network.run(0.4)
    assert all(station.view.active for station in network.stations.values())
    network.run(1.1)
    assert all(len(station.view.active) == count - 1 for station in network.stations.values())
    assert network.dials <= count * (count - 1) * 0.6 + 1
    assert network.asymmetric() == []


def test_a_mesh_grows_together_and_is_then_still() -> None:
    network = mesh(100, "join")
    network.run(30)
    network.check()
    assert network.components() == [100]
    assert network.asymmetric() == []
    assert all(4 <= len(station.view.active) <= 5 for station in network.stations.values())
    assert all(len(station.view.passive) >= 8 for station in network.stations.values())
    before = network.dials
    network.delivered.clear()
    network.run(60)
    assert network.dials - before <= 10
    assert network.delivered["Shuffle"] <= 100 * 6 * 3
    assert network.delivered.get("Neighbour", 0) <= 10


def test_after_half_of_all_nodes_died_the_others_are_one_mesh_within_seconds() -> None:
    network = mesh(100, "half")
    network.run(30)
    for number in range(0, 100, 2):
        network.kill(number)
    network.run(3)
    assert network.components() == [50]
    network.run(60)
    network.check()
    assert all(len(station.view.active) >= 4 for station in network.stations.values())


def test_a_partition_heals_within_seconds() -> None:
    network = mesh(24, "split")
    for station in network.stations.values():
        for number in range(24):
            station.view.learn(at(network.now), contact(number))
    network.run(10)
    network.split({node(number): number % 2 for number in range(24)})
    network.run(30)
    assert max(network.components()) <= 12
    for number in range(24):
        for other in range(24):
            if other % 2 != number % 2:
                network.stations[node(number)].view.gone(at(network.now), node(other))
        network.perform(network.stations[node(number)])
    network.run(200)
    network.split({})
    network.run(15)
    assert network.components() == [24]
    network.check()


def test_a_member_that_is_forgotten_stays_out_of_all_views() -> None:
    network = mesh(10, "forget")
    network.run(10)
    for station in network.stations.values():
        if station.node != node(3):
            station.view.forget(at(network.now), node(3))
            network.perform(station)
    for other in list(network.stations):
        network.cut(node(3), other)
    network.kill(3)
    network.run(60)
    assert network.components() == [9]
    assert not [1 for station in network.stations.values() if node(3) in station.view.known]


def test_the_same_seed_gives_the_same_events() -> None:
    first, second = mesh(20, "same"), mesh(20, "same")
    first.run(20)
    second.run(20)
    assert first.events == second.events
    assert first.delivered == second.delivered
    assert math.isclose(first.now, second.now)
