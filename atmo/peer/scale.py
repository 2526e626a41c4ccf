"""How a peer behaves by the size of its mesh: small ones replicate everything, large ones look things up.

Up to the census limit everybody holds all records, and own records live the longer the more bytes there are to renew,
so that renewals cost a node the same however many members there are. Beyond it a node's records are near ones, which
only its neighbours get, and it is found by the index.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from atmo.clock import Now

RECORDS_BYTES = 512
"""Of one member at least: its node record. Source: measured in the simulator."""


@dataclass(frozen=True, slots=True)
class ScaleConfig:
    """Limits.

    Attributes:
        census: The largest mesh in which everybody holds everybody's records. Source: choice; 1,500 members with 512
            bytes of records each renew at `renewal_bytes_s` every 50 minutes.
        hysteresis: Below this share of the census a large mesh counts as small again.
        renewal_bytes_s: What the renewals of all records together may cost each node. Source: choice, an eighth of the
            2 KiB/s that an idle node may use.
        lifetime_least_s: Of own records. Source: choice; what a node held is forgotten five minutes after its last
            word.
        lifetime_most_s: Of own records; others' are refused beyond it. Source: choice.
        look_s: Between two looks at the size.
    """

    census: int = 1_500
    hysteresis: float = 0.8
    renewal_bytes_s: float = 256.0
    lifetime_least_s: int = 300
    lifetime_most_s: int = 4 * 3_600
    look_s: float = 10.0


def lifetime_s(config: ScaleConfig, table_bytes: int) -> int:
    """Returns how long own records live, three times as long as renewing `table_bytes` takes within the budget."""
    wanted = 3.0 * table_bytes / config.renewal_bytes_s
    return int(min(max(wanted, config.lifetime_least_s), config.lifetime_most_s))


def is_large(config: ScaleConfig, size: int, was_large: bool) -> bool:
    """Says whether a mesh of `size` members is beyond the census."""
    return size > config.census * (config.hysteresis if was_large else 1.0)


_CLAIMS = 9  # sizes told by neighbours of which the median counts
_CLAIMS_S = 120.0  # so long after the first of them; then this node knows for itself


class MeshSize:
    """How many members there are, as far as this node can tell.

    Args:
        config: Limits.
        known: Counts the members whose records are here.
        estimate: What the index makes of the distances to its closest contacts.

    Attributes:
        large: The mesh is beyond the census.
    """

    def __init__(self, config: ScaleConfig, known: Callable[[], int], estimate: Callable[[], int]) -> None:
        self._config = config
        self._known = known
        self._estimate = estimate
        self._claims: list[int] = []
        self._claims_until = math.inf
        self.large = False

    def members(self) -> int:
        """Returns about how many members there are."""
        known = self._known()
        if self._claims:
            known = max(known, sorted(self._claims)[len(self._claims) // 2])
        return max(known, self._estimate()) if self.large else known

    def claim(self, now: Now, size: int) -> bool:
        """A new neighbour told the size: it counts until this node can know for itself; returns whether it is news."""
        if self._claims_until == math.inf:
            self._claims_until = now.mono + _CLAIMS_S
        if not size or now.mono >= self._claims_until or len(self._claims) >= _CLAIMS:
            return False
        self._claims.append(size)
        return True

    def look(self, now: Now) -> bool:
        """Decides anew whether the mesh is large; returns whether that changed."""
        if now.mono >= self._claims_until:
            self._claims.clear()
        was, self.large = self.large, is_large(self._config, self.members(), self.large)
        return was != self.large
