"""A bound on the bytes that all requests together hold in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from atmo.errors import RequestError

BUDGET_BYTES = 128 * 1024 * 1024
"""Bodies held at once: four of the largest. Source: a choice; an idle peer stays under 160 MB."""


class ByteBudget:
    """Counts bytes that are held; refuses more than its limit.

    Args:
        limit: Bytes that may be held at once.
    """

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self._limit = limit
        self.held = 0

    @contextmanager
    def holding(self) -> Iterator[Holding]:
        """Opens an account; whatever it took is given back at the end of the block."""
        account = Holding(self)
        try:
            yield account
        finally:
            self.held -= account.taken

    def take(self, count: int) -> None:
        """Takes `count` bytes.

        Raises:
            RequestError: 503, others hold too much now.
        """
        if self.held + count > self._limit:
            message = "This node holds too many large requests at the moment: try again shortly."
            raise RequestError(503, message, kind="api_error", code="overloaded")
        self.held += count


class Holding:
    """What one request holds of a budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.taken = 0

    def take(self, count: int) -> None:
        """Takes `count` bytes more; see `ByteBudget.take`."""
        self._budget.take(count)
        self.taken += count

    def give_back(self) -> None:
        """Gives back all that was taken, ahead of the end of the block: what was paid for is held no more."""
        self._budget.held -= self.taken
        self.taken = 0
