"""How much a neighbour may ask of this node: a bucket of bytes that fills up again with time."""

from __future__ import annotations

from atmo.identity import NodeId

_KEPT = 64


class Allowance:
    """A token bucket (RFC 2697 describes one), full at first.

    Args:
        rate: Bytes a second that come in.
        most: Bytes it holds.
    """

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, most: float) -> None:
        self._rate = rate
        self._most = most
        self._left = most
        self._at = 0.0

    def left(self, mono: float) -> float:
        """Returns the bytes that are left now."""
        self._left = min(self._most, self._left + (mono - self._at) * self._rate)
        self._at = mono
        return self._left

    def take(self, mono: float, size: float) -> bool:
        """Takes so many bytes out; says whether they were there, and takes nothing where they were not."""
        if self.left(mono) < size:
            return False
        self._left -= size
        return True

    def is_full(self, mono: float) -> bool:
        """Says whether nothing is missing now."""
        return self.left(mono) == self._most


class Allowances:
    """The buckets of neighbours that went away, so that nobody fills its own by going and coming back.

    Args:
        rate, most: Of each.
    """

    __slots__ = ("_most", "_rate", "_rows")

    def __init__(self, rate: float, most: float) -> None:
        self._rate = rate
        self._most = most
        self._rows: dict[NodeId, Allowance] = {}

    def take(self, node: NodeId) -> Allowance:
        """Returns the bucket of a neighbour that has come."""
        return self._rows.pop(node, None) or Allowance(self._rate, self._most)

    def keep(self, mono: float, node: NodeId, allowance: Allowance) -> None:
        """Keeps the bucket of one that goes, as long as something is missing in it."""
        self._rows = {other: row for other, row in self._rows.items() if not row.is_full(mono)}
        if allowance.is_full(mono):
            return
        if len(self._rows) >= _KEPT:
            del self._rows[next(iter(self._rows))]
        self._rows[node] = allowance
