"""One lookup: whom to ask next, over disjoint paths (S/Kademlia, section 4.4). Knows no messages and no clock.

Each candidate belongs to the path that first heard of it, so a liar misleads one path and not the others. A path asks
its closest candidates, `alpha` at a time, until the nearest of them have answered. Then the paths are merged, and the
lookup goes on until the k closest of all have answered. Those have to be about as dense as nodes are elsewhere (Castro
et al., OSDI 2002, section 5.2): liars who tell of liars only are sparse, so then others are asked too.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from enum import Enum

from atmo.identity import NodeId
from atmo.index.config import IndexConfig
from atmo.index.keys import KEY_BITS
from atmo.wire.address import Contact


class State(Enum):
    """What became of a candidate."""

    NEW = 1
    ASKED = 2
    SLOW = 3
    ANSWERED = 4
    FAILED = 5


_COUNTED = (State.ASKED, State.ANSWERED)


class Candidate:
    """Somebody who may be asked.

    Attributes:
        contact: Who and where.
        distance: From the target.
        path: The number of the path that it belongs to.
        hops: Answers that led here, plus one.
        teller: Who told of it, None for our own table.
        state: What became of it.
        empty: It answered without a provider.
    """

    __slots__ = ("contact", "distance", "empty", "hops", "path", "state", "teller")

    def __init__(self, contact: Contact, distance: int, path: int, hops: int, teller: NodeId | None) -> None:
        self.contact = contact
        self.distance = distance
        self.path = path
        self.hops = hops
        self.teller = teller
        self.state = State.NEW
        self.empty = False


class _Path:
    """Candidates, the closest first, and how many requests are under way."""

    __slots__ = ("horizon", "rows", "under_way")

    def __init__(self, horizon: int) -> None:
        self.rows: list[Candidate] = []
        self.horizon = horizon
        self.under_way = 0


def _distance(candidate: Candidate) -> int:
    return candidate.distance


class Lookup:
    """The state of one lookup.

    Args:
        config: Bounds.
        target: A position.
        paths: Disjoint paths.
        radius: Within this distance of the target there should be k nodes; all the space where that is not known.
    """

    def __init__(self, config: IndexConfig, target: int, paths: int, radius: int) -> None:
        self._config = config
        self._radius = radius
        self._paths = [_Path(-(-config.k // paths)) for _ in range(paths)]
        self._candidates: dict[NodeId, Candidate] = {}
        self._tellers: dict[NodeId, int] = {}  # failures less answers among those that each told of
        self.target = target
        self.asked = 0
        self.hops = 0

    # --- who there is -------------------------------------------------------------------------------------------------

    def begin(self, seeds: Iterable[tuple[Contact, int]]) -> None:
        """Deals contacts of our own table to the paths in turn; each with its distance."""
        new = (row for row in seeds if row[0].node not in self._candidates)
        for number, (contact, distance) in enumerate(new):
            self._add(Candidate(contact, distance, number % len(self._paths), 1, None))

    def tell(self, teller: NodeId, rows: Iterable[tuple[Contact, int]]) -> None:
        """Takes the contacts that a node which was asked told of; each with its distance."""
        source = self._candidates[teller]
        for contact, distance in rows:
            if contact.node not in self._candidates:
                self._add(Candidate(contact, distance, source.path, source.hops + 1, teller))

    def _add(self, candidate: Candidate) -> None:
        rows = self._paths[candidate.path].rows
        self._candidates[candidate.contact.node] = candidate
        insort(rows, candidate, key=_distance)
        if len(rows) > 4 * self._config.k:
            farthest = next(row for row in reversed(rows) if row.state is State.NEW)  # at least the one just added
            rows.remove(farthest)
            del self._candidates[farthest.contact.node]

    def candidate(self, node: NodeId) -> Candidate | None:
        """Returns what is known of a node in this lookup."""
        return self._candidates.get(node)

    # --- what happened ------------------------------------------------------------------------------------------------

    def answered(self, node: NodeId) -> Candidate:
        """A node that was asked answered, maybe late."""
        candidate = self._end(node, State.ANSWERED)
        self.hops = max(self.hops, candidate.hops)
        if candidate.teller is not None:
            self._tellers[candidate.teller] = -len(self._candidates)
        return candidate

    def slow(self, node: NodeId) -> None:
        """A node has not answered for a while: its place is free for another, its answer still counts."""
        self._end(node, State.SLOW)

    def failed(self, node: NodeId) -> NodeId | None:
        """A node will not answer.

        Returns:
            Who told of it, if so much of what that node told of fails that it looks like a lie.
        """
        teller = self._end(node, State.FAILED).teller
        if teller is None:
            return None
        self._tellers[teller] = failures = self._tellers.get(teller, 0) + 1
        return teller if failures >= self._config.distrust else None

    def _end(self, node: NodeId, state: State) -> Candidate:
        candidate = self._candidates[node]
        if candidate.state is State.ASKED:
            self._paths[candidate.path].under_way -= 1
        candidate.state = state
        return candidate

    # --- who is next --------------------------------------------------------------------------------------------------

    def next(self) -> Candidate | None:
        """Returns whom to ask now, marked as asked; None while there is nobody."""
        if self.asked >= self._config.asked_limit:
            return None
        for path in self._paths:
            if path.under_way < self._config.alpha:
                candidate = self._next_on(path)
                if candidate is not None:
                    candidate.state = State.ASKED
                    path.under_way += 1
                    self.asked += 1
                    return candidate
        if len(self._paths) > 1 and not any(path.under_way for path in self._paths):
            self._merge()
            return self.next()
        return None

    def _next_on(self, path: _Path) -> Candidate | None:
        seen = 0
        for candidate in path.rows:
            if candidate.state is State.NEW:
                if not self._is_doubtful(candidate):
                    return candidate
            elif candidate.state in _COUNTED:
                seen += 1
                if seen >= path.horizon and self._is_dense(candidate):
                    return None
        return None

    def _is_dense(self, farthest: Candidate) -> bool:
        """Says whether the closest ones are no sparser than they should be, or enough were asked to believe it."""
        return len(self._paths) > 1 or farthest.distance <= self._radius or self.asked >= self._config.asked_most

    def _is_doubtful(self, candidate: Candidate) -> bool:
        return candidate.teller is not None and self._tellers.get(candidate.teller, 0) >= self._config.distrust

    def _merge(self) -> None:
        """Makes one path of all: what they found is compared."""
        merged = _Path(self._config.k)
        merged.rows = sorted((candidate for path in self._paths for candidate in path.rows), key=_distance)
        for candidate in merged.rows:
            candidate.path = 0
        self._paths = [merged]

    @property
    def dense(self) -> bool:
        """True when the k closest that answered are about as dense as nodes are elsewhere."""
        closest = self.closest(self._config.k)
        enough = len(closest) == self._config.k or self._radius >= 2**KEY_BITS
        return bool(closest) and enough and closest[-1].distance <= self._radius

    @property
    def waiting(self) -> bool:
        """True while an answer may come that matters: one that is due, or a slow one among the closest."""
        for path in self._paths:
            if path.under_way:
                return True
            seen = 0
            for candidate in path.rows:
                if candidate.state is State.SLOW:
                    return True
                if candidate.state is State.ANSWERED:
                    seen += 1
                    if seen >= path.horizon:
                        break
        return False

    # --- what came of it ----------------------------------------------------------------------------------------------

    def closest(self, count: int) -> list[Candidate]:
        """Returns those who answered, the closest first."""
        rows = [candidate for candidate in self._candidates.values() if candidate.state is State.ANSWERED]
        rows.sort(key=_distance)
        return rows[:count]
