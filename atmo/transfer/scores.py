"""How reliable other nodes have been as sources: own experience first, what others claim a little.

Each outcome counts less as it gets older. Who has delivered and failed in equal parts, and who is unknown, scores a
half. Claims of others move the score of an unknown node within a quarter and three quarters and weigh as much as two
outcomes, so that nobody is shut out, and nobody is trusted, because somebody says so.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from atmo.clock import Now
from atmo.errors import WireError
from atmo.identity import NodeId

Row = tuple[bytes, float, float, float, float]
"""A node's id, what it delivered, what failed, what was wrong, and the Unix second up to which that is decayed."""

SCORES_KEY = "transfer/scores"
"""Under which they are kept over restarts."""

_COUNT_MOST = 1e9
_KEPT = struct.Struct(">32s4d")


@dataclass(frozen=True, slots=True)
class ScoresConfig:
    """Weights and bounds.

    Attributes:
        half_life_s: After this an outcome counts half. Source: guess, a day: a machine is repaired within days.
        count_most: More outcomes of one kind than this are not remembered, so that a good past is used up. Source:
            guess.
        wrong_weight: A chunk with wrong bytes counts as so many failures. Source: guess.
        prior: Outcomes that an unknown node is thought to have had. Source: guess.
        avoid: A node with so much wrong is no source while there are others: one wrong chunk, for two days.
        nodes: Nodes of which own experience is remembered, and as many of which others spoke; the longest unheard of
            makes room. Source: guess.
        claimants: Whose claims about one node are kept. Source: guess.
        keep_s: New outcomes are on the disk after so long. Source: guess; a machine that loses power in between forgets
            as much as two chunks tell.
    """

    half_life_s: float = 86_400.0
    count_most: float = 256.0
    wrong_weight: float = 16.0
    prior: float = 2.0
    avoid: float = 0.25
    nodes: int = 4_096
    claimants: int = 8
    keep_s: float = 60.0


@dataclass(slots=True)
class _Score:
    at: float
    good: float = 0.0
    bad: float = 0.0
    wrong: float = 0.0


class Scores:
    """What is known of all nodes.

    Args:
        config: Weights and bounds.

    Attributes:
        keep_at: Monotonic second at which outcomes should be on the disk; infinity where all are.
    """

    def __init__(self, config: ScoresConfig) -> None:
        self._config = config
        self.keep_at = math.inf
        self._nodes: dict[NodeId, _Score] = {}  # the longest unheard of first
        self._claims: dict[NodeId, dict[NodeId, int]] = {}  # apart, so that talk does not crowd out own experience

    def delivered(self, now: Now, node: NodeId) -> None:
        """It sent a chunk."""
        score = self._outcome(now, node)
        score.good = min(score.good + 1.0, self._config.count_most)

    def failed(self, now: Now, node: NodeId) -> None:
        """It did not send a chunk, or not in time."""
        score = self._outcome(now, node)
        score.bad = min(score.bad + 1.0, self._config.count_most)

    def lied(self, now: Now, node: NodeId) -> None:
        """It sent something else than the chunk."""
        score = self._outcome(now, node)
        score.wrong = min(score.wrong + 1.0, self._config.count_most)

    def claimed(self, by: NodeId, node: NodeId, percent: int) -> None:
        """Another node says what it thinks of one."""
        claims = self._claims[node] = self._claims.pop(node, {})
        if by in claims or len(claims) < self._config.claimants:
            claims[by] = percent
        if len(self._claims) > self._config.nodes:
            del self._claims[next(iter(self._claims))]

    def value(self, now: Now, node: NodeId) -> float:
        """Returns from 0 for useless to 1 for flawless."""
        score, claims = self._nodes.get(node, _Score(now.wall)), self._claims.get(node)
        self._decay(now, score)
        prior = self._config.prior
        said = sum(claims.values()) / len(claims) / 100 if claims else 0.5
        total = prior + score.good + score.bad + self._config.wrong_weight * score.wrong
        return (prior * (0.25 + said / 2) + score.good) / total

    def percent(self, now: Now, node: NodeId) -> int:
        """Returns what others are told: own experience alone, so that a claim does not come back as another's."""
        score = self._nodes.get(node)
        if score is None:
            return 50
        self._decay(now, score)
        total = self._config.prior + score.good + score.bad + self._config.wrong_weight * score.wrong
        return round(100 * (self._config.prior / 2 + score.good) / total)

    def avoids(self, now: Now, node: NodeId) -> bool:
        """Says whether a node sent wrong bytes not long ago."""
        score = self._nodes.get(node)
        if score is None:
            return False
        self._decay(now, score)
        return score.wrong >= self._config.avoid

    def pack(self, now: Now) -> bytes:
        """Returns own experience as it lies on the disk, and takes it to be there."""
        self.keep_at = math.inf
        return b"".join(_KEPT.pack(*row) for row in self.export(now))

    def unpack_untrusted(self, now: Now, data: bytes) -> None:
        """Takes what `pack` returned before a restart.

        Raises:
            WireError: It is nothing of the kind.
        """
        if len(data) % _KEPT.size:
            raise WireError(f"{len(data)} bytes are no scores")
        self.load_untrusted(now, _KEPT.iter_unpack(data[-_KEPT.size * self._config.nodes :]))

    def export(self, now: Now) -> tuple[Row, ...]:
        """Returns own experience, to be kept over a restart."""
        for score in self._nodes.values():
            self._decay(now, score)
        return tuple(
            (bytes(node), score.good, score.bad, score.wrong, score.at)
            for node, score in self._nodes.items()
            if score.good or score.bad or score.wrong
        )

    def load_untrusted(self, now: Now, rows: Iterable[Row]) -> None:
        """Takes what `export` returned before a restart.

        Raises:
            WireError: A row is none.
        """
        for row in rows:
            try:
                key, *numbers = row
                node, (good, bad, wrong, at) = NodeId(key), map(float, numbers)
            except (TypeError, ValueError) as error:
                raise WireError(f"no score of a node: {error}") from error
            if not all(0.0 <= number <= _COUNT_MOST for number in (good, bad, wrong)) or not 0.0 <= at <= 2**53:
                raise WireError("a score of a node out of bounds")
            score = self._of(now, node)
            most = self._config.count_most
            score.good, score.bad, score.wrong = min(good, most), min(bad, most), min(wrong, most)
            score.at = min(at, now.wall)

    def _outcome(self, now: Now, node: NodeId) -> _Score:
        self.keep_at = min(self.keep_at, now.mono + self._config.keep_s)
        return self._of(now, node)

    def _of(self, now: Now, node: NodeId) -> _Score:
        score = self._nodes.pop(node, None)
        if score is None:
            if len(self._nodes) >= self._config.nodes:
                del self._nodes[next(iter(self._nodes))]
            score = _Score(now.wall)
        self._nodes[node] = score
        self._decay(now, score)
        return score

    def _decay(self, now: Now, score: _Score) -> None:
        passed = now.wall - score.at
        if passed > 0.0:
            left = 0.5 ** (passed / self._config.half_life_s)
            score.good, score.bad, score.wrong = score.good * left, score.bad * left, score.wrong * left
            score.at = now.wall
