"""The records that were broadcast of late, kept to answer grafts; the oldest go first."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.clock import Now
from atmo.gossip.plumtree_config import PlumtreeConfig


@dataclass(frozen=True, slots=True)
class Kept:
    """A record.

    Attributes:
        envelope: As signed.
        hops: From its author to this node.
        at: Monotonic seconds at which it came.
    """

    envelope: bytes
    hops: int
    at: float


class Store:
    """Records by name, bounded in number, bytes and age.

    Args:
        config: Of the broadcast.
    """

    def __init__(self, config: PlumtreeConfig) -> None:
        self._config = config
        self._kept: dict[bytes, Kept] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: bytes) -> Kept | None:
        """Returns a record that is still kept."""
        return self._kept.get(name)

    def latest(self, now: Now, seconds: float, most: int) -> list[tuple[bytes, Kept]]:
        """Returns the names and records that came within the last `seconds`, at most so many, the latest first."""
        rows: list[tuple[bytes, Kept]] = []
        for name in reversed(self._kept):
            kept = self._kept[name]
            if len(rows) >= most or now.mono - kept.at > seconds:
                break
            rows.append((name, kept))
        return rows

    def keep(self, now: Now, name: bytes, envelope: bytes, hops: int) -> None:
        """Takes a record in; forgets those for which there is no room or no time left."""
        config = self._config
        if old := self._kept.pop(name, None):
            self._bytes -= len(old.envelope)
        self._kept[name] = Kept(envelope, hops, now.mono)
        self._bytes += len(envelope)
        while self._kept:
            name, oldest = next(iter(self._kept.items()))
            few = len(self._kept) <= config.store_entries and self._bytes <= config.store_bytes
            if few and now.mono - oldest.at <= config.store_s:
                return
            del self._kept[name]
            self._bytes -= len(oldest.envelope)
