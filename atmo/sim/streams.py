"""Random streams by name: what one part of a world draws never moves what another part draws."""

from __future__ import annotations

from random import Random

from atmo.identity import NodeId


class Streams:
    """Gives each (node, purpose) its own `Random(f"{seed}/{node}/{purpose}")`.

    Args:
        seed: Of the world.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self._streams: dict[tuple[NodeId, str], Random] = {}

    def of(self, node: NodeId, purpose: str) -> Random:
        """Returns the stream of a node and a purpose, the same object each time."""
        stream = self._streams.get((node, purpose))
        if stream is None:
            stream = self._streams[node, purpose] = Random(f"{self.seed}/{node}/{purpose}")
        return stream
