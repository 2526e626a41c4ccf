"""Many engines together: lookups find what is there, whoever dies and lies."""

from __future__ import annotations

import pytest

from atmo.index import IndexConfig
from atmo.index.keys import position
from tests.index import network as world
from tests.index.network import MESH, Network, Outcome, figures

CONFIG = IndexConfig(k=8, answer_contacts=8, slack=12, settling=10, settle_s=4.0)
"""Smaller buckets, so that a hundred nodes are many; `python -m tests.index.network` has the figures of real ones."""

KEYS = [bytes([number]) * 32 for number in range(20)]


def grown(seed: int, count: int, *, liars: float = 0.0, loss: float = 0.0) -> Network:
    """Returns a network of `count` nodes."""
    return world.grown(seed, count, config=CONFIG, over_s=60.0, liars=liars, loss=loss)


def provided(network: Network, each: int = 2) -> Network:
    """Lets some honest nodes provide each key and a minute pass."""
    honest = [node for node in network.living if not node.liar]
    for number, node in enumerate(network.rng.sample(honest, each * len(KEYS))):
        node.index.provide(network.clock(), KEYS[number % len(KEYS)])
        network.perform(node)
    network.run(network.now + 60)
    return network


def looked_up(network: Network, count: int = 40) -> list[Outcome]:
    """Lets honest nodes look for the keys."""
    outcomes = []
    for number in range(count):
        node = network.rng.choice([node for node in network.living if not (node.liar or node.index.provided())])
        outcomes.append(network.find(node, KEYS[number % len(KEYS)], network.is_living))
        network.run(network.now + 0.1)
    network.run(network.now + 10)
    return outcomes


@pytest.fixture(scope="module")
def calm() -> Network:
    return provided(grown(1, 90, loss=0.01))


def test_everyone_finds_everything(calm: Network) -> None:
    result = figures(looked_up(calm))
    assert result["found_share"] == 1.0
    assert result["hops_median"] <= 3
    assert result["took_p95_s"] < 1.5
    assert result["asked_mean"] < 40
    assert calm.misbehaved == []


def test_records_are_at_the_closest_nodes(calm: Network) -> None:
    for key in KEYS[:5]:
        place = int.from_bytes(key, "big")
        nearest = sorted(calm.living, key=lambda node: position(MESH, node.contact.node) ^ place)[: CONFIG.k]
        assert sum(len(node.index.providers(calm.clock(), key)) == 2 for node in nearest) >= CONFIG.k - 1


def test_the_size_of_the_mesh_is_known_roughly(calm: Network) -> None:
    sizes = sorted(node.index.size_estimate() for node in calm.living)
    assert 60 <= sizes[len(sizes) // 2] <= 135


def test_nodes_are_found_by_their_id(calm: Network) -> None:
    outcomes = []
    for _ in range(30):
        node, target = calm.rng.sample(calm.living, 2)
        outcomes.append(calm.find_node(node, target.contact.node))
        calm.run(calm.now + 0.1)
    calm.run(calm.now + 10)
    assert figures(outcomes)["found_share"] == 1.0


def test_tables_are_small_and_calm_traffic_is_small(calm: Network) -> None:
    assert max(len(node.index.contacts()) for node in calm.living) <= 80
    before = calm.messages
    calm.run(calm.now + 120)
    assert (calm.messages - before) / 90 / 2 < 8


def test_the_same_seed_gives_the_same_run() -> None:
    one, two = grown(5, 20), grown(5, 20)
    assert (one.messages, one.dials) == (two.messages, two.dials)
    assert [node.index.contacts() for node in one.living] == [node.index.contacts() for node in two.living]


def test_a_fifth_of_all_nodes_lie() -> None:
    network = provided(grown(2, 80, liars=0.2))
    assert len(network.liars) >= 12
    assert figures(looked_up(network))["found_share"] >= 0.98


def test_nodes_come_and_go() -> None:
    network = provided(grown(3, 60))
    stay = [next(node for node in network.living if key in node.index.provided()) for key in KEYS]

    def session() -> float:
        return network.rng.weibullvariate(300.0, 0.6)

    for node in list(network.living):
        if node not in stay:
            network.at(network.now + session(), network.replace, node, session)
    network.run(network.now + 120)
    assert figures(looked_up(network))["found_share"] >= 0.98


def test_half_of_all_nodes_die_at_once() -> None:
    network = provided(grown(4, 70), each=3)
    for node in network.rng.sample(network.living, 35):
        network.kill(node)
    network.run(network.now + 5)
    outcomes = looked_up(network)
    possible = [outcome for outcome in outcomes if outcome.took_s is not None]
    assert len(possible) / len(outcomes) >= 0.85, "some keys have lost all who provide them"


def test_a_tiny_mesh_works_too() -> None:
    network = Network(6, CONFIG)
    for _ in range(3):
        network.join()
    network.living[0].index.provide(network.clock(), KEYS[0])
    network.perform(network.living[0])
    network.run(20.0)
    outcome = network.find(network.living[2], KEYS[0], network.is_living)
    network.run(40.0)
    assert outcome.took_s is not None
