"""Which chunk to ask of a source next: rarest first, with an end game. Knows no sockets, no sizes and no time.

A chunk is *missing* until it arrived. A missing chunk is *free* or *asked* of one or more sources. Free chunks lie in
buckets by their rarity, which counts only sources that have some chunks: those that have all of them add the same to
every chunk, so they cost nothing to add and remove, as in libtorrent's piece picker.

Source: Cohen, "Incentives Build Robustness in BitTorrent" (2003), section 2.4: rarest first, random among equals, and
end game mode once everything missing has been asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from atmo.identity import NodeId


class Picker:
    """The chunks of one transfer.

    Args:
        count: Of all chunks; their indices are 0 to `count` - 1.
        have: Indices that are already here.
        random: Chooses among equally rare chunks, so that several downloaders ask for different ones.
    """

    def __init__(self, count: int, have: Iterable[int], random: Random) -> None:
        here = set(have)
        self._random = random
        self._missing = {index for index in range(count) if index not in here}
        self._rarity = [0] * count
        self._free: dict[int, list[int]] = {}  # rarity -> indices
        self._place = [0] * count  # of a free chunk in its bucket
        self._asked: dict[int, list[NodeId]] = {}  # in the order of asking
        self._whole: set[NodeId] = set()
        self._partial: dict[NodeId, set[int]] = {}
        for index in range(count):
            if index in self._missing:
                self._put(index)

    @property
    def missing(self) -> int:
        """How many chunks have not arrived."""
        return len(self._missing)

    @property
    def end_game(self) -> bool:
        """True when every missing chunk that some source has is asked of somebody: only now one is asked twice."""
        if self._whole:
            return not self._free
        return not any(self._free.get(rarity) for rarity in self._free if rarity > 0)

    def is_missing(self, index: int) -> bool:
        """Says whether a chunk has not arrived; one out of range is not missing."""
        return index in self._missing

    def add_source(self, source: NodeId, chunks: Iterable[int] | None = None) -> None:
        """A source that has `chunks`, or all of them where it is None."""
        self.remove_source(source)
        if chunks is None:
            self._whole.add(source)
            return
        has = {index for index in chunks if 0 <= index < len(self._rarity)}
        self._partial[source] = has
        self._change_rarity(has, 1)

    def remove_source(self, source: NodeId) -> None:
        """Forgets what a source has; what was asked of it is released by the caller."""
        self._whole.discard(source)
        self._change_rarity(self._partial.pop(source, set()), -1)

    def pick(self, source: NodeId) -> int | None:
        """Chooses a free chunk that `source` has, the rarest first, and marks it as asked of it."""
        for rarity in sorted(self._free):
            index = self._choose(self._free[rarity], source)
            if index is not None:
                self._take(index)
                self._asked[index] = [source]
                return index
        return None

    def pick_again(self, source: NodeId, most: int, among: Collection[int]) -> int | None:
        """In the end game, chooses one of the chunks `among` that fewer than `most` others are asked for.

        Those asked of fewest come first, among them the one that has waited longest.
        """
        if not self.end_game:
            return None
        candidates = [
            (len(sources), order, index)
            for order, (index, sources) in enumerate(self._asked.items())
            if index in among and len(sources) < most and source not in sources and self._has(source, index)
        ]
        if not candidates:
            return None
        index = min(candidates)[2]
        self._asked[index].append(source)
        return index

    def release(self, source: NodeId, index: int) -> None:
        """What was asked of `source` will not come; the chunk is free again unless another was asked too."""
        sources = self._asked.get(index, [])
        if source in sources:
            sources.remove(source)
            if not sources:
                del self._asked[index]
                self._put(index)

    def arrived(self, index: int) -> tuple[NodeId, ...]:
        """A chunk is here; returns who is still being asked for it."""
        if index not in self._missing:
            return ()
        self._missing.remove(index)
        if index in self._asked:
            return tuple(self._asked.pop(index))
        self._take(index)
        return ()

    def check_invariant(self) -> None:
        """Asserts what must hold between the parts; for tests and simulations."""
        free = {index for bucket in self._free.values() for index in bucket}
        assert free.isdisjoint(self._asked)
        assert free | set(self._asked) == self._missing
        assert all(self._free.values())
        assert all(bucket[self._place[index]] == index for bucket in self._free.values() for index in bucket)
        assert all(self._rarity[index] == rarity for rarity, bucket in self._free.items() for index in bucket)
        assert all(sources and len(set(sources)) == len(sources) for sources in self._asked.values())
        assert self._whole.isdisjoint(self._partial)

    def _has(self, source: NodeId, index: int) -> bool:
        return source in self._whole or index in self._partial.get(source, ())

    def _choose(self, bucket: list[int], source: NodeId) -> int | None:
        start = self._random.randrange(len(bucket))
        if source in self._whole:
            return bucket[start]
        has = self._partial.get(source, set())
        if not has:
            return None
        return next((index for index in bucket[start:] + bucket[:start] if index in has), None)

    def _put(self, index: int) -> None:
        bucket = self._free.setdefault(self._rarity[index], [])
        self._place[index] = len(bucket)
        bucket.append(index)

    def _take(self, index: int) -> None:
        bucket = self._free[self._rarity[index]]
        last = bucket.pop()
        if last != index:
            bucket[self._place[index]] = last
            self._place[last] = self._place[index]
        if not bucket:
            del self._free[self._rarity[index]]

    def _change_rarity(self, chunks: set[int], change: int) -> None:
        for index in sorted(chunks):
            free = index in self._missing and index not in self._asked
            if free:
                self._take(index)
            self._rarity[index] += change
            if free:
                self._put(index)
