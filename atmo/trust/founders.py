"""Who has a founder's rights: those of the genesis, and whom they handed their rights to.

A founder hands over once. What follows from the hand-overs that are known does not depend on their order. Should they
lead in a circle, the one of the smallest node id in it is void, so that somebody is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from atmo.identity import NodeId

MOST_SUCCESSIONS = 256
"""Hand-overs that are kept. Source: guess; sixteen founders could each have sixteen keys after another."""

OLD_WORD_S = 366 * 86_400
"""What a founder signed counts no longer than this after it handed over, as who has its key can write any date.

Source: the longest certificate that is issued here lasts a year.
"""


@dataclass(frozen=True, slots=True)
class Succession:
    """One hand-over.

    Attributes:
        successor: Who has the rights now.
        at_s: Unix seconds by the old founder's clock; certificates it dated later do not count.
        revoked: Whom it had put out; a dict for its order and quick answers.
    """

    successor: NodeId
    at_s: int
    revoked: dict[NodeId, None]


class Founders:
    """The founders of one mesh over time.

    Args:
        genesis: The founders that it began with.
    """

    def __init__(self, genesis: Iterable[NodeId]) -> None:
        self._genesis = tuple(genesis)
        self._successions: dict[NodeId, Succession] = {}
        self._now: dict[NodeId, None] = dict.fromkeys(self._genesis)
        self._ever: dict[NodeId, None] = dict(self._now)

    @property
    def handed_over(self) -> tuple[NodeId, ...]:
        """Who handed over, each after whom it has its rights from."""
        return tuple(self._successions)

    def now(self) -> tuple[NodeId, ...]:
        """Returns the founders, in the order of the genesis."""
        return tuple(self._now)

    def is_now(self, node: NodeId) -> bool:
        """Says whether `node` has a founder's rights."""
        return node in self._now

    def was_ever(self, node: NodeId) -> bool:
        """Says whether `node` has, or had, a founder's rights."""
        return node in self._ever

    def retired(self, node: NodeId) -> Succession | None:
        """Returns by what `node` gave up a founder's rights, None where it has them or never had any."""
        if node in self._now or node not in self._ever:
            return None
        return self._successions[node]

    def succeed(self, node: NodeId, succession: Succession) -> bool:
        """Takes over that a founder, at present or once, handed over; the first that is heard of each is final.

        Returns:
            Whether this was news.
        """
        if node in self._successions or node not in self._ever or len(self._successions) >= MOST_SUCCESSIONS:
            return False
        self._successions[node] = succession
        self._now, self._ever = {}, {}
        for founder in self._genesis:
            self._now[self._heir(founder)] = None
        return True

    def _heir(self, node: NodeId) -> NodeId:
        walked: dict[NodeId, None] = {}
        while node not in walked:
            walked[node] = self._ever[node] = None
            if node not in self._successions:
                return node
            node = self._successions[node].successor
        circle = list(walked)
        return min(circle[circle.index(node) :])

    def word_counts(self, node: NodeId, signed_s: int) -> bool:
        """Says whether a certificate that `node` dated so is a founder's word; only for who was one ever."""
        succession = self.retired(node)
        return succession is None or signed_s <= succession.at_s

    def word_ends_s(self, node: NodeId) -> float:
        """Returns the Unix seconds after which nothing counts that `node` signed as a founder."""
        succession = self.retired(node)
        return float("inf") if succession is None else succession.at_s + OLD_WORD_S
