"""Who is left aside for a while: the dead, of whom others go on telling, and those who tell of nobody that answers."""

from __future__ import annotations

from typing import TypeVar

from atmo.identity import NodeId
from atmo.index.config import IndexConfig

N = TypeVar("N", int, float)


class Standing:
    """Bounded memories of bad experiences.

    Args:
        config: Periods and bounds.
    """

    def __init__(self, config: IndexConfig) -> None:
        self._config = config
        self._dead: dict[NodeId, float] = {}
        self._strikes: dict[NodeId, int] = {}
        self._shunned: dict[NodeId, float] = {}

    def avoids(self, mono: float, node: NodeId) -> bool:
        """Says whether a node that others tell of is better not asked now."""
        return (node in self._dead and self._dead[node] > mono) or (
            node in self._shunned and self._shunned[node] > mono
        )

    def shuns(self, mono: float, node: NodeId) -> bool:
        """Says whether a node lied of late."""
        return self._shunned.get(node, 0.0) > mono

    def alive(self, node: NodeId) -> None:
        """A node was heard."""
        self._dead.pop(node, None)

    def dead(self, mono: float, node: NodeId) -> None:
        """A node did not answer."""
        _keep_last(self._dead, node, mono + self._config.dead_s, self._config.dead)

    def strike(self, mono: float, node: NodeId) -> bool:
        """A node told of many that do not answer; returns whether it did so too often."""
        strikes = self._strikes.pop(node, 0) + 1
        if strikes < self._config.strikes:
            _keep_last(self._strikes, node, strikes, self._config.shunned)
            return False
        _keep_last(self._shunned, node, mono + self._config.shun_s, self._config.shunned)
        return True


def _keep_last(rows: dict[NodeId, N], node: NodeId, value: N, most: int) -> None:
    rows.pop(node, None)
    rows[node] = value
    if len(rows) > most:
        del rows[next(iter(rows))]
