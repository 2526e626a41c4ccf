"""How often the log tells what other nodes do wrong: what anyone can cause at will must not fill a disk."""

from __future__ import annotations

from atmo.identity import NodeId

PERIOD_S = 60.0
"""One line for each node in so long. Source: choice; counters count every fault."""

NODES = 64
"""Nodes told of in one period: keys cost nothing, so a stranger may come as many nodes."""


class LogPace:
    """Says which faults to log: one of each node in a while, and of few nodes."""

    def __init__(self) -> None:
        self._told: dict[NodeId, float] = {}

    def admits(self, mono: float, node: NodeId) -> bool:
        """Says whether a fault of `node` at this second is to be logged, and takes it that it is."""
        if node not in self._told and len(self._told) >= NODES:
            self._told = {each: at for each, at in self._told.items() if mono < at + PERIOD_S}
        if (node not in self._told and len(self._told) >= NODES) or mono < self._told.get(node, -PERIOD_S) + PERIOD_S:
            return False
        self._told[node] = mono
        return True
