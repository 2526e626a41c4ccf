"""Machines that break the protocol: each is an honest peer with something around it that lies, drops or shouts.

They hold valid certificates: who has none does not get past its first message.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Final

from atmo.engine import Contact, Message
from atmo.gossip.messages import (
    Digest,
    ForwardJoin,
    Gossip,
    Graft,
    IHave,
    Listing,
    Neighbour,
    NeighbourAnswer,
    Ping,
    Records,
    Shuffle,
    ShuffleAnswer,
    Want,
)
from atmo.identity import NodeId
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from atmo.sim.machine import Node
from atmo.sim.world import World

Sent = list[tuple[NodeId, Message]]

HELPFUL: Final = (Gossip, IHave, Graft, Digest, Listing, Records, Want, Shuffle, ShuffleAnswer, ForwardJoin, Found)
"""What others wait for."""


class Honest:
    """Does nothing wrong: what the others are made of."""

    def begin(self, world: World, node: Node) -> None:
        """The machine was turned on."""

    def sends(self, world: World, node: Node, to: NodeId, message: Message) -> Sent:
        """Says what leaves the machine in place of a message of its peer."""
        return [(to, message)]

    def hears(self, world: World, node: Node, source: NodeId, message: Message) -> bool:
        """Says whether its peer gets to see a message."""
        return True

    def chunk_is_good(self, node: Node, reader: NodeId) -> bool:
        """Says whether a chunk that it serves is what its name says."""
        return True


class Several(Honest):
    """Breaks the protocol in several ways at once.

    Args:
        ways: What it does, each after the others.
    """

    def __init__(self, *ways: Honest) -> None:
        self._ways = ways

    def begin(self, world: World, node: Node) -> None:
        for way in self._ways:
            way.begin(world, node)

    def sends(self, world: World, node: Node, to: NodeId, message: Message) -> Sent:
        sent: Sent = [(to, message)]
        for way in self._ways:
            sent = [row for other, current in sent for row in way.sends(world, node, other, current)]
        return sent

    def hears(self, world: World, node: Node, source: NodeId, message: Message) -> bool:
        heard = [way.hears(world, node, source, message) for way in self._ways]
        return all(heard)

    def chunk_is_good(self, node: Node, reader: NodeId) -> bool:
        return all(way.chunk_is_good(node, reader) for way in self._ways)


class Silent(Honest):
    """Keeps its links alive and passes nothing on: what it gets ends here."""

    def sends(self, world: World, node: Node, to: NodeId, message: Message) -> Sent:
        return [] if isinstance(message, HELPFUL) else [(to, message)]


class BadChunks(Honest):
    """Serves chunks that are not what their names say."""

    def chunk_is_good(self, node: Node, reader: NodeId) -> bool:
        return False


class Replays(Honest):
    """Keeps the records that it sees and sends old ones to its neighbours, again and again.

    Args:
        rng: Chooses.
        period_s: Between two rounds.
        batch: Records in each.
    """

    KEPT: Final = 512

    def __init__(self, rng: Random, period_s: float = 1.0, batch: int = 8) -> None:
        self._rng = rng
        self._period_s = period_s
        self._batch = batch
        self._kept: deque[bytes] = deque(maxlen=self.KEPT)

    def begin(self, world: World, node: Node) -> None:
        world.later(world.loop.now + self._period_s, lambda: self._round(world, node, node.life))

    def hears(self, world: World, node: Node, source: NodeId, message: Message) -> bool:
        if isinstance(message, Gossip):
            self._kept.append(message.envelope)
        elif isinstance(message, Records):
            self._kept.extend(message.envelopes)
        return True

    def _round(self, world: World, node: Node, life: int) -> None:
        if node.life != life or node.peer is None:
            return
        for other in node.running.neighbours():
            for envelope in self._rng.sample(self._kept, min(self._batch, len(self._kept))):
                world.post(node, other, Gossip(envelope, 1))
        world.later(world.loop.now + self._period_s, lambda: self._round(world, node, life))


class Floods(Honest):
    """Shouts at its neighbours: pings, and bytes that are no record.

    Args:
        rng: Makes the bytes.
        per_second: Messages to each neighbour.
        garbage: Whether some of them break the protocol; otherwise each by itself is well made.
    """

    def __init__(self, rng: Random, per_second: float = 200.0, *, garbage: bool = True) -> None:
        self._rng = rng
        self._period_s = 0.1
        self._batch = max(1, int(per_second * self._period_s))
        self._garbage = garbage

    def begin(self, world: World, node: Node) -> None:
        world.later(world.loop.now + self._period_s, lambda: self._round(world, node, node.life))

    def _round(self, world: World, node: Node, life: int) -> None:
        if node.life != life or node.peer is None:
            return
        for other in node.running.neighbours():
            for number in range(self._batch):
                broken = self._garbage and number % 4 == 0
                shout = Gossip(self._rng.randbytes(200), 1) if broken else Ping(self._rng.getrandbits(32))
                world.post(node, other, shout)
        world.later(world.loop.now + self._period_s, lambda: self._round(world, node, life))


class Gang:
    """Machines that act together.

    Args:
        rng: Chooses.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.members: list[Node] = []

    def contacts(self, count: int) -> tuple[Contact, ...]:
        """Returns where some of them listen."""
        some = self.rng.sample(self.members, min(count, len(self.members)))
        return tuple(Contact(node.id, (node.address,)) for node in some)


class LiesInIndex(Honest):
    """Answers lookups with contacts of its gang alone, keeps no record, and says that it does.

    Args:
        gang: Whom it names.
    """

    def __init__(self, gang: Gang) -> None:
        self._gang = gang

    def hears(self, world: World, node: Node, source: NodeId, message: Message) -> bool:
        match message:
            case FindNode(token) | FindProviders(token):
                world.post(node, source, Found(token, self._gang.contacts(20)))
                return False
            case Provide(token):
                world.post(node, source, Provided(token, 1_200))
                return False
        return True


class Eclipses(Honest):
    """Wants to be everybody's only neighbours: asks with priority, accepts all, names its gang alone.

    Args:
        gang: Whom it names.
        period_s: Between two rounds.
        batch: Nodes that it goes for in each.
    """

    def __init__(self, gang: Gang, period_s: float = 1.0, batch: int = 8) -> None:
        self._gang = gang
        self._period_s = period_s
        self._batch = batch

    def begin(self, world: World, node: Node) -> None:
        world.later(world.loop.now + self._period_s, lambda: self._round(world, node, node.life))

    def sends(self, world: World, node: Node, to: NodeId, message: Message) -> Sent:
        own = Contact(node.id, (node.address,))
        match message:
            case Neighbour():
                return [(to, Neighbour(own, priority=True, joining=True))]
            case NeighbourAnswer():
                return [(to, NeighbourAnswer(True))]
            case Shuffle(contacts, ttl, route):
                return [(to, Shuffle((contacts[0], *self._named(len(contacts) - 1)), ttl, route))]
            case ShuffleAnswer(contacts, route):
                return [(to, ShuffleAnswer(self._named(len(contacts)), route))]
            case ForwardJoin(_, ttl):
                return [(to, ForwardJoin(contact, ttl)) for contact in self._named(1)]
        return [(to, message)]

    def _named(self, count: int) -> tuple[Contact, ...]:
        return self._gang.contacts(count)

    def _round(self, world: World, node: Node, life: int) -> None:
        if node.life != life or node.peer is None:
            return
        honest = [other for other in world.alive() if other.malice is None]
        own = Contact(node.id, (node.address,))
        for victim in self._gang.rng.sample(honest, min(self._batch, len(honest))):
            if victim.id in node.ends:
                world.post(node, victim.id, Neighbour(own, priority=True, joining=True))
            else:
                world.links.dial(node, victim)
        world.later(world.loop.now + self._period_s, lambda: self._round(world, node, life))
