"""The active view: who is a neighbour, and who makes room where it is full."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from atmo.clock import Now
from atmo.engine import Emit, Outbox
from atmo.gossip.hyparview_config import HyParViewConfig, HyParViewStats, NeighbourDown, NeighbourUp
from atmo.identity import NodeId


@dataclass(slots=True)
class Member:
    """A node in the active view.

    Attributes:
        since: Monotonic seconds at which it came in.
        chosen: This node asked it, not the other way round.
        suspect: It has been silent for too long; a replacement is fetched meanwhile.
    """

    since: float
    chosen: bool
    suspect: bool = False


class ActiveView:
    """At most `HyParViewConfig.active` nodes.

    Args:
        config: Sizes and bounds.
        rng: Chooses who makes room.
        stats: Counts who came and went.
        out: Is told of it.
    """

    def __init__(self, config: HyParViewConfig, rng: Random, stats: HyParViewStats, out: Outbox) -> None:
        self._config = config
        self._rng = rng
        self._stats = stats
        self._out = out
        self._evictions = config.evict_burst  # that may still be made for askers who have others, as of:
        self._filled_at = 0.0
        self.members: dict[NodeId, Member] = {}

    def healthy(self) -> int:
        """Returns the number of neighbours that are not suspect."""
        return sum(not member.suspect for member in self.members.values())

    def admit(self, now: Now, node: NodeId, chosen: bool) -> None:
        """Takes a node in; the caller made room."""
        self.members[node] = Member(now.mono, chosen)
        self._stats.neighbours_up += 1
        self._out.put(Emit(NeighbourUp(node)))

    def drop(self, node: NodeId) -> bool:
        """Takes a node out; says whether it was there."""
        if self.members.pop(node, None) is None:
            return False
        self._stats.neighbours_down += 1
        self._out.put(Emit(NeighbourDown(node)))
        return True

    def is_full(self) -> bool:
        """Says whether another can only come in another's place."""
        return len(self.members) >= self._config.active

    def victim(self, now: Now, urgent: bool, asked: bool) -> NodeId | None:
        """Returns who is to make room in the full view: a suspect, else one that is not protected, or nobody.

        Args:
            now: The clocks.
            urgent: Somebody must, however often it happens.
            asked: The newcomer was asked by this node: only a suspect makes room, unless it is urgent.
        """
        suspects = [node for node, member in self.members.items() if member.suspect]
        if suspects or urgent or (not asked and self._may_evict(now)):
            return self._rng.choice(suspects or self._unprotected())
        return None

    def _may_evict(self, now: Now) -> bool:
        since_s = now.mono - self._filled_at
        self._evictions = min(self._evictions + since_s / self._config.evict_period_s, self._config.evict_burst)
        self._filled_at = now.mono
        if self._evictions < 1:
            return False
        self._evictions -= 1
        return True

    def _unprotected(self) -> list[NodeId]:
        chosen = [node for node, member in self.members.items() if member.chosen][: self._config.protected]
        return [node for node in self.members if node not in chosen] or list(self.members)

    def next_hop(self, *passed: NodeId) -> NodeId | None:
        """Returns a random neighbour for a walk, none of those it passed."""
        nodes = [node for node, member in self.members.items() if node not in passed and not member.suspect]
        return self._rng.choice(nodes) if nodes else None
