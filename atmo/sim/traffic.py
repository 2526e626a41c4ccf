"""How much nodes send over a stretch of time."""

from __future__ import annotations

from atmo.sim.world import World


class Traffic:
    """Counts what all nodes send from now on, headers and handshakes included.

    Args:
        world: Of the nodes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._bytes = world.stats.wire_bytes
        self._began = world.loop.now

    def per_node(self, nodes: int) -> float:
        """Returns the bytes per second of each of so many nodes up to now."""
        return (self._world.stats.wire_bytes - self._bytes) / (self._world.loop.now - self._began) / nodes
