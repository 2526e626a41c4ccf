"""Which chunk to ask of a source next: rarest first, with an end game. Knows no sockets, no sizes and no time.

A chunk is *missing* until it arrived. A missing chunk is *free* or *asked* of one or more sources. Free chunks lie in
sets by their rarity, which counts only sources that have some chunks: those that have all of them add the same to
every chunk, so they cost nothing to add and remove, as in libtorrent's piece picker.

Source: Cohen, "Incentives Build Robustness in BitTorrent" (2003), section 2.4: rarest first, random among equals, and
end game mode once everything missing has been asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from atmo.identity import NodeId
from atmo.transfer.bits import all_of, bits_of, indices_of, some_of


class Picker:
    """The chunks of one transfer.

    Args:
        count: Of all chunks; their indices are 0 to `count` - 1.
        have: Indices that are already here.
        random: Chooses among equally rare chunks, so that several downloaders ask for different ones.
    """

    def __init__(self, count: int, have: Iterable[int], random: Random) -> None:
        self.count = count
        self._all = all_of(count)
        self._random = random
        self._missing = self._all & ~bits_of(have, count)
        self._rarity = [0] * count
        self._free: dict[int, int] = {0: self._missing} if self._missing else {}  # rarity -> set
        self._asked: dict[int, list[NodeId]] = {}  # in the order of asking
        self._whole: dict[NodeId, None] = {}
        self._partial: dict[NodeId, int] = {}

    @property
    def missing(self) -> int:
        """How many chunks have not arrived."""
        return self._missing.bit_count()

    @property
    def here(self) -> int:
        """The set of chunks that have arrived."""
        return self._all & ~self._missing

    def is_missing(self, index: int) -> bool:
        """Says whether a chunk has not arrived; one out of range is not missing."""
        return 0 <= index < self.count and bool(self._missing >> index & 1)

    def add_source(self, source: NodeId, chunks: Iterable[int] | None = None) -> None:
        """A source that has `chunks`, or all of them where it is None."""
        self.set_source(source, self._all if chunks is None else bits_of(chunks, self.count))

    def set_source(self, source: NodeId, has: int) -> None:
        """The same, of a set."""
        self.remove_source(source)
        if has == self._all:
            self._whole[source] = None
        else:
            self._partial[source] = has
            self._change_rarity(has, 1)

    def gained(self, source: NodeId, chunks: int) -> None:
        """A source that had some chunks has these as well."""
        if source in self._partial:
            new = chunks & ~self._partial[source]
            has = self._partial[source] | new
            if has == self._all:
                self.set_source(source, has)
            else:
                self._partial[source] = has
                self._change_rarity(new, 1)

    def remove_source(self, source: NodeId) -> None:
        """Forgets what a source has; what was asked of it is released by the caller."""
        self._whole.pop(source, None)
        self._change_rarity(self._partial.pop(source, 0), -1)

    def pick(self, source: NodeId, among: int = -1) -> int | None:
        """Chooses a free chunk that `source` has, the rarest first, and marks it as asked of it.

        Args:
            source: Who.
            among: The set of chunks that it may be asked for; all by default.
        """
        has = among if source in self._whole else among & self._partial.get(source, 0)
        for rarity in sorted(self._free):
            if fitting := self._free[rarity] & has:
                index = some_of(fitting, self._random)
                self._take(index)
                self._asked[index] = [source]
                return index
        return None

    @property
    def end_game(self) -> bool:
        """True when every missing chunk that some source has is asked of somebody: only now one is asked twice.

        While most of what is missing is had by nobody that is known, more will come: that is no end.
        """
        if self._whole:
            return not self._free
        nowhere = self._free.get(0, 0)
        return self._free.keys() <= {0} and nowhere.bit_count() <= len(self._asked)

    def pick_again(self, source: NodeId, most: int, among: Collection[int]) -> int | None:
        """Chooses one of the chunks `among` that fewer than `most` others are asked for, and marks it.

        Those asked of fewest come first, among them the one that has waited longest.
        """
        has = self._all if source in self._whole else self._partial.get(source, 0)
        candidates = [
            (len(sources), order, index)
            for order, (index, sources) in enumerate(self._asked.items())
            if index in among and len(sources) < most and source not in sources and has >> index & 1
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
        if not self.is_missing(index):
            return ()
        self._missing &= ~(1 << index)
        if index in self._asked:
            return tuple(self._asked.pop(index))
        self._take(index)
        return ()

    def check_invariant(self) -> None:
        """Asserts what must hold between the parts; for tests and simulations."""
        free = 0
        for rarity, chunks in self._free.items():
            assert chunks, "no empty set is kept"
            assert not free & chunks
            free |= chunks
            assert all(self._rarity[index] == rarity for index in indices_of(chunks))
        asked = bits_of(self._asked, self.count)
        assert not free & asked
        assert free | asked == self._missing
        assert all(sources and len(set(sources)) == len(sources) for sources in self._asked.values())
        assert self._whole.keys().isdisjoint(self._partial)

    def _put(self, index: int) -> None:
        rarity = self._rarity[index]
        self._free[rarity] = self._free.get(rarity, 0) | 1 << index

    def _take(self, index: int) -> None:
        rarity = self._rarity[index]
        left = self._free[rarity] & ~(1 << index)
        if left:
            self._free[rarity] = left
        else:
            del self._free[rarity]

    def _change_rarity(self, chunks: int, change: int) -> None:
        for index in indices_of(chunks & self._missing):
            free = index not in self._asked
            if free:
                self._take(index)
            self._rarity[index] += change
            if free:
                self._put(index)
