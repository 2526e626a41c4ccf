"""What `Reconciler` remembers of its neighbours: what was told to each, and what each was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from atmo.clock import Now
from atmo.gossip.allowance import Allowance
from atmo.gossip.entry import Entry
from atmo.gossip.fingerprints import LEVELS
from atmo.gossip.listings import Version
from atmo.gossip.reconcile_config import ReconcileConfig

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a neighbour was asked for.

    Attributes:
        at: Monotonic seconds.
        version: Of a record, as the neighbour listed it.
        count: Slots of a range; once there are as many, it has come.
    """

    at: float
    version: Version = (0, 0)
    count: int = 0


@dataclass(eq=False, slots=True)
class Link:
    """A neighbour.

    Attributes:
        budget: What it still gets in answers.
        digest_at: Monotonic seconds at which it gets the digest of the whole table.
        told: Salt and fingerprint of the last such digest that it got or sent; it answers where its own is another one.
        listed: Ranges that were listed to it in this comparison.
        slots, ranges: What it was asked for by name and by prefix, oldest first; some of it has come.
        sent_at: Monotonic seconds of the last records that it sent.
        much_until: Monotonic seconds until which others wait for the many records that it was asked for.
        pending: Of these, how many have not come.
        put_off_at: Monotonic seconds since when it waits for others' records, or did the last time.
    """

    budget: Allowance
    digest_at: float = math.inf
    told: tuple[bytes, bytes] | None = None
    listed: dict[str, None] = field(default_factory=dict)
    slots: dict[bytes, Asked] = field(default_factory=dict)
    ranges: dict[str, Asked] = field(default_factory=dict)
    sent_at: float = -math.inf
    much_until: float = -math.inf
    pending: int = 0
    put_off_at: float = -math.inf

    def has_listed(self, entry: Entry) -> bool:
        """Says whether it was listed what there is in a range of this entry."""
        leaf = f"{entry.name[0]:02x}"
        return any(leaf[:end] in self.listed for end in range(LEVELS + 1))

    def expect(self, now: Now, count: int, wait_s: float) -> None:
        """It was asked for so many records at once: others wait for them so long."""
        self.pending = count if now.mono >= self.much_until else self.pending + count
        self.much_until = now.mono + wait_s

    def sent(self, now: Now, count: int) -> None:
        """It sent so many records."""
        self.sent_at = now.mono
        self.pending = max(0, self.pending - count)
        if not self.pending:
            self.much_until = -math.inf

    def waits_for(self, now: Now, config: ReconcileConfig, asked: Asked) -> bool:
        """Says whether what it was asked for may still come from it."""
        patience = max(asked.at, self.sent_at) + config.want_s
        return now.mono < min(patience, asked.at + config.want_most_s)

    def is_put_off(self, now: Now, config: ReconcileConfig, links: Iterable[Link]) -> bool:
        """Says whether it waits until the many records that another neighbour was asked for have come.

        It does so for a part of the time only, or a neighbour that lies could keep all others waiting.
        """
        if not any(now.mono < other.much_until for other in links if other is not self):
            return False
        if now.mono >= self.put_off_at + config.put_off_every_s:
            self.put_off_at = now.mono
        return now.mono < self.put_off_at + config.put_off_s


def forget_old(now: Now, config: ReconcileConfig, asked: dict[K, Asked]) -> None:
    """Forgets what was asked for so long ago that the neighbour may be asked again."""
    while asked:
        oldest = next(iter(asked))
        if now.mono < asked[oldest].at + config.shun_s:
            return
        del asked[oldest]
