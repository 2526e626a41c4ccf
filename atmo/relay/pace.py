"""How fast something is taken in: a token bucket that is charged afterwards and says how long to wait. No I/O."""

from __future__ import annotations


class Pace:
    """A token bucket, full at first.

    Args:
        rate: Tokens a second.
        burst: Tokens that it holds.
        mono: Now, in monotonic seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, mono: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = mono

    def charge(self, mono: float, amount: float) -> float:
        """Takes so many tokens out, also those that are not there; returns for how many seconds to take nothing in."""
        self._tokens = min(self._burst, self._tokens + (mono - self._at) * self._rate) - amount
        self._at = mono
        return 0.0 if self._tokens >= 0.0 else -self._tokens / self._rate

    def credit(self, amount: float) -> None:
        """Puts tokens in, up to the burst."""
        self._tokens = min(self._burst, self._tokens + amount)
