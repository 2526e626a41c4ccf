"""Networks of Plumtree engines: everyone gets everything, and once the tree has settled hardly anything twice."""

from __future__ import annotations

from random import Random

from atmo.clock import Now
from atmo.gossip.messages import Gossip, Graft, IHave, Prune
from atmo.gossip.plumtree import Plumtree
from atmo.gossip.plumtree_config import PlumtreeConfig
from atmo.identity import NodeId
from tests.gossip.kit import at
from tests.gossip.network import Host, Net, node_id, random_links


class Forest:
    """So many nodes with five links each, and authors that publish by chance."""

    def __init__(self, count: int, seed: str, late: float = 0.0) -> None:
        self.net = Net(seed, late=late)
        self.rng = Random(seed)
        self.got: dict[bytes, dict[NodeId, float]] = {}
        self.trees: dict[NodeId, Plumtree] = {}
        for number in range(count):
            self._add(node_id(number), seed)
        for one, two in random_links(list(self.trees), 5, self.rng):
            self.link(one, two)

    def _add(self, node: NodeId, seed: str) -> None:
        tree = self.trees[node] = Plumtree(PlumtreeConfig(), Random(f"{seed}/{node}"))

        def receive(now: Now, source: NodeId, message: Gossip | IHave | Graft | Prune) -> None:
            if not isinstance(message, Gossip):
                tree.receive(now, source, message)
            elif tree.knows(message.envelope):
                tree.duplicate(now, source, message)
            else:
                assert node not in self.got[message.envelope], "news once"
                self.got[message.envelope][node] = now.mono
                tree.delivered(now, source, message)

        self.net.hosts[node] = Host(tree, receive)

    def link(self, one: NodeId, two: NodeId) -> None:
        self.net.link(one, two)
        for node, other in ((one, two), (two, one)):
            self.trees[node].link_up(at(self.net.now), other)
            self.net.settle(node)

    def kill(self, node: NodeId) -> None:
        neighbours = list(self.net.hosts[node].links)
        self.net.remove(node)
        del self.trees[node]
        for other in neighbours:
            self.trees[other].link_down(at(self.net.now), node)
            self.net.settle(other)

    def publish(self, seconds: float, rate: float) -> list[float]:
        """Lets random authors write; returns the delays to nearly everyone of what was written."""
        begun = {}
        end = self.net.now + seconds
        while self.net.now < end:
            envelope = self.publish_one(self.rng.choice(list(self.trees)))
            begun[envelope] = self.net.now
            self.net.run(self.net.now + self.rng.expovariate(rate))
        self.net.run(self.net.now + 6)
        for envelope in begun:
            assert self.trees.keys() <= self.got[envelope].keys(), "delivered to everyone"
        nearly = [sorted(self.got[envelope].values())[int(0.99 * len(self.trees)) - 1] for envelope in begun]
        return sorted(late - when for late, when in zip(nearly, begun.values(), strict=True))

    def publish_one(self, author: NodeId) -> bytes:
        envelope = b"." * 10 + author + f"record {len(self.got)}".encode()
        self.got[envelope] = {author: self.net.now}
        self.trees[author].publish(at(self.net.now), envelope)
        self.net.settle(author)
        return envelope

    def counts(self) -> tuple[int, int]:
        stats = [tree.stats for tree in self.trees.values()]
        return sum(each.duplicates for each in stats), sum(each.delivered for each in stats)

    def redundancy(self, seconds: float, rate: float) -> float:
        before = self.counts()
        self.publish(seconds, rate)
        after = self.counts()
        return (after[0] - before[0]) / (after[1] - before[1])


def test_a_settled_tree_of_many_authors_sends_hardly_anything_twice() -> None:
    forest = Forest(210, "settled")
    forest.publish(3, 2.0)
    assert forest.redundancy(5, 2.0) < 0.05
    links = sum(len(tree.eager()) for tree in forest.trees.values()) / 2
    assert 205 <= links <= 215, "a tree of n nodes has n - 1 links"


def test_messages_that_come_late_cost_little() -> None:
    forest = Forest(120, "late", late=0.02)
    forest.publish(25, 1.0)
    assert forest.redundancy(10, 1.0) < 0.05


def test_it_is_fast_over_the_distances_of_cities() -> None:
    forest = Forest(150, "fast")
    for _ in range(6):
        forest.publish(1, 1.0)
        forest.publish_one(min(forest.trees))
    delays = forest.publish(5, 1.0)
    assert delays[len(delays) // 2] < 1.0


def test_the_tree_mends_when_a_third_of_all_nodes_die() -> None:
    forest = Forest(150, "mends")
    forest.publish(3, 1.0)
    for node in forest.rng.sample(list(forest.trees), 50):
        forest.kill(node)
    nodes = list(forest.trees)
    for one, two in random_links(nodes, 2, forest.rng):  # HyParView keeps the living connected
        forest.link(one, two)
    forest.publish(4, 1.0)
