"""Records that were announced to Plumtree and have not come: who has them, and when who is asked."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container
from dataclasses import dataclass
from random import Random

from atmo.gossip.plumtree_config import PlumtreeConfig
from atmo.identity import NodeId


@dataclass(slots=True)
class Missing:
    """A record that was announced and has not come.

    Attributes:
        at: When it was announced first.
        due: When the next one that announced it is asked.
        first: Who announced it first.
        announcers: Who has it, in the order of their announcements.
        asked: How many of them were asked.
    """

    at: float
    due: float
    first: NodeId
    announcers: dict[NodeId, None]
    asked: int = 0


class MissingRecords:
    """Missing records by name, and how far the tree is usually behind announcements.

    Args:
        config: Periods and bounds.
        rng: Makes nodes wait differently long.
    """

    def __init__(self, config: PlumtreeConfig, rng: Random) -> None:
        self._config = config
        self._rng = rng
        self._missing: dict[bytes, Missing] = {}
        self._waiting: list[tuple[float, int, bytes]] = []  # heap; an entry counts while its due is the record's
        self._counter = 0
        self._asked: dict[bytes, NodeId] = {}  # who was asked last for records that came
        self._lag = 0.0
        self._lag_off = 0.0

    def __len__(self) -> int:
        return len(self._missing)

    def get(self, name: bytes) -> Missing | None:
        """Returns a record that is missing."""
        return self._missing.get(name)

    def add(self, now_s: float, name: bytes, source: NodeId) -> None:
        """A record was announced for the first time."""
        self._missing[name] = Missing(now_s, math.inf, source, {source: None})
        self.wait(name, now_s + self._patience() * self._rng.uniform(1, self._config.missing_spread))

    def wait(self, name: bytes, due: float) -> None:
        """Lets the next one be asked for a missing record at `due`."""
        self._missing[name].due = due
        self._counter += 1
        heapq.heappush(self._waiting, (due, self._counter, name))

    def found(self, name: bytes) -> Missing | None:
        """A record has come, or will not; returns what it was missing as, if it was."""
        missing = self._missing.pop(name, None)
        if missing is not None and missing.asked:
            self._asked[name] = list(missing.announcers)[missing.asked - 1]
            if len(self._asked) > self._config.missing_entries:
                del self._asked[next(iter(self._asked))]
        return missing

    def asked_for(self, name: bytes) -> NodeId | None:
        """Returns who was asked last for a record that came; says so once."""
        return self._asked.pop(name, None)

    def lagged(self, lag: float) -> None:
        """The tree was so much behind an announcement: as round trips are smoothed by RFC 6298, section 2."""
        off = abs(lag - self._lag)
        self._lag_off += (off - self._lag_off) / 4
        self._lag += (lag - self._lag) / 8

    def _patience(self) -> float:
        """Returns how long an announced record is waited for: longer where the tree is often behind announcements."""
        usual = self._lag + 4 * self._lag_off
        return min(max(self._config.missing_s, usual), self._config.missing_most_s)

    def overdue(self, now_s: float) -> bytes | None:
        """Returns a record for which somebody is to be asked by now; it waits no more until `wait`."""
        return heapq.heappop(self._waiting)[2] if self.next_due() <= now_s else None

    def next_announcer(self, name: bytes, linked: Container[NodeId]) -> NodeId | None:
        """Returns whom to ask next for a missing record, None where all were asked who are still linked."""
        missing = self._missing[name]
        for node in list(missing.announcers)[missing.asked :]:
            missing.asked += 1
            if node in linked:
                return node
        return None

    def next_due(self) -> float:
        """Returns when the next missing record is asked for."""
        while self._waiting:
            due, _, name = self._waiting[0]
            missing = self._missing.get(name)
            if missing is not None and missing.due == due:
                return due
            heapq.heappop(self._waiting)
        return math.inf
