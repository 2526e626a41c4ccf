"""Machines that break the protocol do what they say, and the honest ones cope."""

from __future__ import annotations

from random import Random

from atmo.engine import Contact
from atmo.gossip.messages import (
    ForwardJoin,
    Gossip,
    Neighbour,
    NeighbourAnswer,
    Ping,
    Records,
    Shuffle,
    ShuffleAnswer,
)
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from atmo.sim.machine import Node
from atmo.sim.malice import BadChunks, Eclipses, Floods, Gang, Honest, LiesInIndex, Replays, Several, Silent
from atmo.sim.spread import model
from atmo.sim.world import World
from tests.sim.kit import small


def meet(malice: Honest, count: int = 4) -> tuple[World, list[Node], Node]:
    """Returns a world in which the last node turns malicious."""
    world, nodes = small(count=count)
    rogue = nodes[-1]
    rogue.malice = malice
    malice.begin(world, rogue)
    return world, nodes, rogue


def test_an_honest_machine_is_left_as_it_is() -> None:
    world, nodes, rogue = meet(Honest())
    world.run(20.0)
    assert rogue.malice is not None
    assert rogue.malice.sends(world, rogue, nodes[0].id, Ping(1)) == [(nodes[0].id, Ping(1))]
    assert rogue.malice.chunk_is_good(rogue, nodes[0].id)
    assert world.misbehaved == []


def test_a_silent_one_keeps_its_links_and_passes_nothing_on() -> None:
    world, nodes, rogue = meet(Silent())
    before = rogue.running.sync.versions()
    world.command(rogue, lambda peer, now: peer.publish_models(now, []))
    world.run(30.0)
    assert all(rogue.id in node.running.neighbours() for node in nodes[:-1])
    assert len(rogue.running.sync.versions()) >= len(before)
    assert world.misbehaved == []


def test_old_records_do_no_harm() -> None:
    world, nodes, rogue = meet(Replays(Random("1"), period_s=0.5))
    world.command(nodes[0], lambda peer, now: peer.publish_models(now, [model("old")]))
    world.run(60.0)
    kinds = world.stats.by_kind
    assert kinds["Gossip"][0] > 50
    assert [fault for _, _, fault in world.misbehaved if fault.peer != rogue.id] == []
    world.crash(rogue)
    world.run(5.0)


def test_who_floods_is_shut_out() -> None:
    for garbage in (True, False):
        world, nodes, rogue = meet(Floods(Random("1"), per_second=2_000.0, garbage=garbage))
        world.run(10.0)
        assert {fault.peer for _, name, fault in world.misbehaved if name != rogue.name} == {rogue.id}
        assert not any(rogue.id in node.running.linked() for node in nodes[:-1]), garbage
        assert all(len(node.running.neighbours()) == 2 for node in nodes[:-1])


def test_several_ways_at_once() -> None:
    world, nodes, rogue = meet(Several(Silent(), BadChunks()))
    both = rogue.malice
    assert both is not None
    assert both.sends(world, rogue, nodes[0].id, Gossip(b"x")) == []
    assert both.sends(world, rogue, nodes[0].id, Ping(1)) == [(nodes[0].id, Ping(1))]
    assert both.hears(world, rogue, nodes[0].id, Ping(1))
    assert not both.chunk_is_good(rogue, nodes[0].id)
    assert not both.sends(world, rogue, nodes[0].id, Records((b"x",)))


class Listens:
    """Takes what a machine posts."""

    def __init__(self, world: World) -> None:
        self.posted: list[object] = []
        world.post = lambda node, to, message: self.posted.append(message)  # type: ignore[method-assign]


def test_a_liar_names_its_gang_and_keeps_nothing() -> None:
    gang = Gang(Random("1"))
    world, nodes, rogue = meet(LiesInIndex(gang))
    gang.members = [rogue]
    listens = Listens(world)
    lies = rogue.malice
    assert lies is not None
    own = Contact(rogue.id, (rogue.address,))
    for request in (FindNode(1, b"k" * 32), FindProviders(2, b"k" * 32), Provide(3, b"e")):
        assert not lies.hears(world, rogue, nodes[0].id, request)
    assert lies.hears(world, rogue, nodes[0].id, Ping(1))
    assert listens.posted == [Found(1, (own,)), Found(2, (own,)), Provided(3, 1_200)]


def test_an_eclipsing_one_names_its_gang_and_asks_with_priority() -> None:
    gang = Gang(Random("1"))
    world, nodes, rogue = meet(Eclipses(gang))
    gang.members = [rogue]
    eclipses, other = rogue.malice, nodes[0].id
    assert eclipses is not None
    own, honest = Contact(rogue.id, (rogue.address,)), Contact(other, (nodes[0].address,))

    def sent(message: object) -> list[object]:
        return [instead for _, instead in eclipses.sends(world, rogue, other, message)]

    assert sent(Neighbour(own)) == [Neighbour(own, priority=True, joining=True)]
    assert sent(NeighbourAnswer(False)) == [NeighbourAnswer(True)]
    assert sent(Shuffle((own, honest, honest), 3, (rogue.id,))) == [Shuffle((own, own), 3, (rogue.id,))]
    assert sent(ShuffleAnswer((honest,), (other,))) == [ShuffleAnswer((own,), (other,))]
    assert sent(ForwardJoin(honest, 2)) == [ForwardJoin(own, 2)]
    assert sent(Ping(1)) == [Ping(1)]


def test_an_eclipsing_one_goes_for_everybody() -> None:
    gang = Gang(Random("1"))
    world, nodes = small(count=12)
    gang.members = nodes[-2:]
    for rogue in gang.members:
        rogue.malice = Eclipses(gang)
        rogue.malice.begin(world, rogue)
    world.run(30.0)
    assert all(any(other in node.ends for other in (gang.members[0].id, gang.members[1].id)) for node in nodes[:-2])
    honest = {node.id for node in nodes[:-2]}
    assert all(honest & set(node.running.neighbours()) for node in nodes[:-2]), "nobody is surrounded"
