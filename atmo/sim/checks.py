"""Safety: what must hold in every world at every moment.

Some looks cost the square of the number of nodes; so each second only some nodes are looked at closely, all in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atmo.gossip.records import NODE
from atmo.identity import NodeId
from atmo.sim.machine import Node
from atmo.sim.world import World

CLOSELY = 25
"""Nodes looked at closely in one second."""

SAFETY = {
    "only_members_are_linked": "nobody has a neighbour that it knows to be no member",
    "nothing_is_made_up": "nobody holds a newer record of an honest node than that node has signed",
    "nobody_is_blamed": "honest nodes never blame each other",
}


def watch_safety(world: World) -> None:
    """Lets a world check all of the above from now on."""
    world.checks += [only_members_are_linked, nothing_is_made_up, nobody_is_blamed]


def in_turn(world: World) -> list[Node]:
    """Returns the nodes to look at closely now."""
    nodes = world.alive()
    if len(nodes) <= CLOSELY:
        return nodes
    first = int(world.loop.now) * CLOSELY % len(nodes)
    return (nodes + nodes)[first : first + CLOSELY]


def only_members_are_linked(world: World) -> None:
    """Nobody serves a node that it knows to be put out."""
    for node in world.alive():
        peer, wall = node.running, world.now(node).wall
        for other in peer.neighbours():
            if not peer.trust.is_member(wall, other):
                world.fail(f"{node.name} is linked to {peer.name(other)}, which is no member", node.name)


def nothing_is_made_up(world: World) -> None:
    """Nobody holds a newer node record than its author has signed."""
    authors = [node for node in world.alive() if node.malice is None]
    for node in in_turn(world):
        if node.malice is not None:
            continue
        held_by = node.running.sync
        for author in authors:
            held = held_by.record(author.id, NODE)
            if held is None or author.running.trust.is_revoked(author.id):
                continue
            own = author.running.sync.record(author.id, NODE)
            if max(own.version if own else author.newest, author.newest) < held.version:
                world.fail(f"{node.name} holds a record that {author.name} did not sign", node.name, author.name)


def nobody_is_blamed(world: World) -> None:
    """Honest nodes never blame each other, but for one that does not know yet that it was put out."""
    for at, name, fault in world.misbehaved:
        blamed = world.node(fault.peer)
        honest = blamed is not None and blamed.malice is None and world.nodes[name].malice is None
        if blamed is not None and honest and "revoked" not in fault.reason:
            world.fail(f"{name} blames {blamed.name} at {at:.3f} s: {fault.reason}", name, blamed.name)
    world.misbehaved.clear()


# --- looks at the whole mesh --------------------------------------------------------------------------------------


def connected(nodes: Sequence[Node]) -> bool:
    """Says whether the nodes that are given are one piece over their neighbours."""
    return reach(nodes) == len(nodes)


def reach(nodes: Sequence[Node]) -> int:
    """Returns how many of the nodes the first one reaches over neighbours among them."""
    by_id = {node.id: node for node in nodes if node.peer is not None}
    if not by_id:
        return 0
    first = next(iter(by_id))
    seen: dict[NodeId, None] = {first: None}
    frontier = [first]
    while frontier:
        for other in by_id[frontier.pop()].running.neighbours():
            if other in by_id and other not in seen:
                seen[other] = None
                frontier.append(other)
    return len(seen)


def agree(nodes: Sequence[Node]) -> bool:
    """Says whether all hold the same versions of all records."""
    first = nodes[0].running.sync.versions()
    return all(node.running.sync.versions() == first for node in nodes[1:])


def know(nodes: Iterable[Node], about: Sequence[Node]) -> float:
    """Returns the share of pairs of which the first knows the second's record."""
    pairs = found = 0
    for node in nodes:
        sync = node.running.sync
        for other in about:
            pairs += 1
            found += sync.record(other.id, NODE) is not None
    return found / pairs if pairs else 1.0
