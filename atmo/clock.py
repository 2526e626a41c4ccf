"""What engines know of time: they are told, they never ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Now:
    """One instant, read once by the shell and passed down.

    Attributes:
        mono: Monotonic seconds; orders events and drives timers.
        wall: Unix seconds; only ever compared with lifetimes and expiry dates, with a tolerance for skew.
    """

    mono: float
    wall: float
