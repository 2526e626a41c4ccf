"""Small worlds for tests."""

from __future__ import annotations

from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.sim.machine import Node
from atmo.sim.network import Latency, Network
from atmo.sim.streams import Streams
from atmo.sim.world import World

ACTIVE = HyParViewConfig().active


def small(seed: str = "1", count: int = 3, **kwargs: object) -> tuple[World, list[Node]]:
    """Returns a world in which everyone is linked to everyone."""
    kwargs.setdefault("network", Network(Latency(Streams(seed), 0.01, 0.05)))
    world = World(seed, **kwargs)  # type: ignore[arg-type]
    founder = world.add("n0", founder=True)
    world.start(founder)
    nodes = [founder]
    for number in range(1, count):
        node = world.add(f"n{number}")
        world.start(node, knows=(founder,))
        nodes.append(node)
    world.run_until(lambda: linked(nodes), 30.0, "all are linked")
    return world, nodes


def linked(nodes: list[Node]) -> bool:
    """Says whether everyone is a neighbour of everyone; in larger meshes, of nearly as many as there may be."""
    least = min(ACTIVE - 1, len(nodes) - 1)
    return all(len(node.running.neighbours()) >= least for node in nodes)
