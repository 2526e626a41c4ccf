"""How often somebody may ask: a token bucket for each, in a table that does not grow with who comes. No I/O."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from atmo.gossip.allowance import Allowance

Who = TypeVar("Who", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may be done.

    Attributes:
        per_s: Times a second, on average; 0 for any.
        burst: Times at once.
    """

    per_s: float = 0.0
    burst: float = 1.0


class Rates(Generic[Who]):
    """The buckets of all who ask.

    Args:
        most: Buckets that are kept; of more, those go first that are full, then those that were used longest ago.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[Who, tuple[Rate, Allowance]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def wait_s(self, mono: float, who: Who, rate: Rate) -> float:
        """Takes one from the bucket of `who`, or nothing where it is empty.

        Args:
            mono: Now, in monotonic seconds.
            who: Whose bucket.
            rate: How it fills up; a changed rate begins with a full one.

        Returns:
            0 where it may be done now, else in how many seconds it may.
        """
        if rate.per_s <= 0.0:
            return 0.0
        row = self._rows.pop(who, None)
        if row is None or row[0] != rate:
            row = (rate, Allowance(rate.per_s, max(1.0, rate.burst)))
            self._make_room(mono)
        self._rows[who] = row
        bucket = row[1]
        return 0.0 if bucket.take(mono, 1.0) else (1.0 - bucket.left(mono)) / rate.per_s

    def _make_room(self, mono: float) -> None:
        if len(self._rows) < self._most:
            return
        self._rows = {who: row for who, row in self._rows.items() if not row[1].is_full(mono)}
        for who in list(self._rows)[: max(0, len(self._rows) - self._most * 3 // 4)]:
            del self._rows[who]
