"""Networks of comparing engines: all tables become equal, and what it costs depends on what differs."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from atmo.gossip.messages import Records
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.identity import NodeId
from atmo.wire.schema import pack
from tests.gossip.kit import at
from tests.gossip.network import Host, Net, node_id, random_links
from tests.gossip.tables import Keeper, entry, known_as


class Library:
    """Nodes with tables."""

    def __init__(self, count: int, seed: str, config: ReconcileConfig = ReconcileConfig()) -> None:
        self.net = Net(seed)
        self.keepers: dict[NodeId, Keeper] = {}
        for number in range(count):
            keeper = self.keepers[node_id(number)] = Keeper(f"{seed}/{number}", config)
            self.net.hosts[node_id(number)] = Host(keeper.engine, keeper.receive)

    def link(self, one: NodeId, two: NodeId) -> None:
        self.net.link(one, two)
        for node, other in ((one, two), (two, one)):
            self.keepers[node].engine.link_up(at(self.net.now), other)
            self.net.settle(node)

    def until_equal(self, most_s: float) -> float:
        """Lets time pass until all tables are equal; returns how long it took."""
        begun = self.net.now
        while len({keeper.fingerprint() for keeper in self.keepers.values()}) > 1:
            assert self.net.now < begun + most_s, "the tables are not equal in time"
            self.net.run(self.net.now + 0.1)
        return self.net.now - begun

    def bytes(self, *, records: bool) -> int:
        return sum(len(pack(sent.message)) for sent in self.net.sent if isinstance(sent.message, Records) is records)


def two(total: int, missing: int) -> Library:
    """Two nodes, one of which lacks so many of all records."""
    library = Library(2, f"two {missing}")
    first, second = library.keepers
    entries = [entry(node_id(100 + number // 3), str(number % 3), size=500) for number in range(total)]
    library.keepers[first].put(*entries)
    Random(missing).shuffle(entries)
    library.keepers[second].put(*entries[missing:])
    library.link(first, second)
    library.net.run(5)
    assert len({keeper.fingerprint() for keeper in library.keepers.values()}) == 1
    assert sum(keeper.known for keeper in library.keepers.values()) == 0, "nothing twice"
    return library


@pytest.mark.parametrize("missing", [0, 1, 10, 100, 3_000])
def test_traffic_depends_on_what_differs(missing: int) -> None:
    library = two(3_000, missing)
    assert library.bytes(records=True) <= 520 * missing
    assert library.bytes(records=False) <= 500 + 700 * min(missing, 100)


def test_slots_that_share_a_name_both_come_through() -> None:
    library = Library(2, "names")
    first, second = library.keepers
    author = node_id(9)
    other, own = (
        replace(entry(author, key, version), name=author[:1] + bytes(8))
        for key, version in (("shared-1", 3), ("shared-2", 7))
    )
    for each in (other, own):
        known_as(each)
    library.keepers[first].put(other)
    library.keepers[second].put(own)
    library.link(first, second)
    library.until_equal(70)
    library.net.run(library.net.now + 1)
    assert all(len(keeper.table) == 2 for keeper in library.keepers.values())
    library.net.sent.clear()
    library.net.run(library.net.now + 100)
    assert library.bytes(records=True) == 0


def test_a_newcomer_gets_all_in_a_few_round_trips() -> None:
    library = two(3_000, 3_000)
    arrivals = [sent.at for sent in library.net.sent if isinstance(sent.message, Records)]
    assert max(arrivals) < 0.05 + 4 * 0.32
    assert library.bytes(records=False) < 2_000


def test_a_healed_partition_becomes_one_without_a_flood() -> None:
    count = 80
    library = Library(count, "heal")
    nodes = list(library.keepers)
    halves = nodes[: count // 2], nodes[count // 2 :]
    for half in halves:
        for node in half:
            library.keepers[node].put(*(entry(author, str(page)) for author in half for page in range(2)))
        for one, other in random_links(half, 5, Random("half")):
            library.link(one, other)
    library.net.run(5)
    library.net.sent.clear()
    for one, other in zip(halves[0][:2], halves[1][:2], strict=True):
        library.link(one, other)
    assert library.until_equal(20) < 15
    news = count * count
    known = sum(keeper.known for keeper in library.keepers.values())
    assert known < 0.1 * news, "hardly anything twice"
    library.net.run(library.net.now + 10)
    library.net.sent.clear()
    library.net.run(library.net.now + 60)
    assert library.bytes(records=False) + library.bytes(records=True) < 60 * 4 * count, "then it is quiet"


def test_what_one_node_lacks_costs_its_neighbours_little() -> None:
    library = Library(40, "lacks")
    nodes = list(library.keepers)
    entries = [entry(node_id(100 + number)) for number in range(300)]
    for keeper in library.keepers.values():
        keeper.put(*entries)
    library.keepers[nodes[0]].table.remove(entries[0].slot)
    for one, other in random_links(nodes, 5, Random(1)):
        library.link(one, other)
    library.until_equal(5)
    library.net.run(10)
    assert sum(keeper.engine.stats.sent for keeper in library.keepers.values()) <= 2
