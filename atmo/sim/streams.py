"""Random streams by name: what one part of a world draws never moves what another part draws."""

from __future__ import annotations

from random import Random

from blake3 import blake3

from atmo.identity import NodeId


class Streams:
    """Gives each (node, purpose) its own `Random(f"{seed}/{node}/{purpose}")`.

    Args:
        seed: Of the world.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self._streams: dict[tuple[NodeId, str], Random] = {}
        self._shared: dict[str, Random] = {}

    def of(self, node: NodeId, purpose: str) -> Random:
        """Returns the stream of a node and a purpose, the same object each time."""
        stream = self._streams.get((node, purpose))
        if stream is None:
            stream = self._streams[node, purpose] = Random(f"{self.seed}/{node}/{purpose}")
        return stream

    def shared(self, purpose: str) -> Random:
        """Returns the stream of a purpose that belongs to no node, the same object each time."""
        stream = self._shared.get(purpose)
        if stream is None:
            stream = self._shared[purpose] = Random(f"{self.seed}//{purpose}")
        return stream

    def fixed(self, purpose: str, *about: bytes) -> float:
        """Returns a number from 0 to 1 that belongs to what is given, such as a pair of nodes: nothing is kept of it.

        A `Random` takes 2.5 kB, which a number for each pair of ten thousand nodes cannot cost.
        """
        drawn = blake3(b"/".join((self.seed.encode(), purpose.encode(), *about))).digest(8)
        return int.from_bytes(drawn, "big") / 2**64
