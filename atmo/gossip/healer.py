"""When HyParView dials somebody who is believed to be gone: where a partition has healed, it answers."""

from __future__ import annotations

import math
from collections.abc import Container
from random import Random

from atmo.gossip.book import AddressBook
from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.identity import NodeId


class Healer:
    """Takes turns among the nodes that are believed to be gone, the rarer the more nodes there are.

    Args:
        config: Periods and bounds.
        rng: Spreads the turns.
        book: Who is believed to be gone.

    Attributes:
        due: Monotonic seconds of the next turn, `math.inf` where nobody is gone.
    """

    def __init__(self, config: HyParViewConfig, rng: Random, book: AddressBook) -> None:
        self._config = config
        self._rng = rng
        self._book = book
        self._stopped = False
        self.due = math.inf

    def schedule(self, now_s: float) -> None:
        """Sets the next turn where there is none and somebody is gone."""
        if self.due == math.inf and self._book.lost and not self._stopped:
            config = self._config
            period = min(max(len(self._book.proven) * config.heal_known_s, config.heal_s), config.heal_most_s)
            self.due = now_s + period * self._rng.uniform(0.5, 1.5)

    def turn(self, now_s: float, busy: Container[NodeId]) -> NodeId | None:
        """Ends this turn; returns whom to dial, None where all who are gone are busy or are to be left alone."""
        self.due = math.inf
        return self._book.pick_lost(now_s, busy)

    def stop(self) -> None:
        """There are no more turns."""
        self._stopped = True
        self.due = math.inf
