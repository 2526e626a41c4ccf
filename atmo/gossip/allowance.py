"""How much a neighbour may ask of this node: a bucket of bytes that fills up again with time."""

from __future__ import annotations


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
