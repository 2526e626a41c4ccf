"""Super-seeding: a first seed hands each chunk out once before any twice.

Left to themselves, downloaders that do not know of each other yet would fetch the same chunks of the only seed. So it
advises each of them what to fetch, until every chunk has been seen at somebody who got it from another. Unlike BEP 16
it does not hide what it has, so that it can serve anything at once where there is only one to serve.
"""

from __future__ import annotations

from random import Random

from atmo.identity import NodeId
from atmo.transfer.bits import all_of, indices_of, some_of


class Handouts:
    """What a seed has handed out of one model.

    Args:
        count: Chunks of the model.
        handed_s: A chunk that nobody has so long after it was handed out may be handed out again.
        random: Chooses.
    """

    def __init__(self, count: int, handed_s: float, random: Random) -> None:
        self._handed_s = handed_s
        self._random = random
        self._never = all_of(count)
        self._handed: dict[int, tuple[float, NodeId]] = {}  # and seen at nobody else: when and to whom

    @property
    def is_over(self) -> bool:
        """Says whether every chunk has been seen at somebody else."""
        return not self._never and not self._handed

    def seen(self, chunks: int, by: NodeId) -> list[NodeId]:
        """Somebody has these; of what it was handed itself, nothing is known before another has it as well.

        Returns:
            Who passed chunks on, once for each.
        """
        self._never &= ~chunks
        passed = [index for index, (_, to) in self._handed.items() if to != by and chunks >> index & 1]
        return [self._handed.pop(index)[1] for index in passed]

    def back(self, chunks: int) -> None:
        """Who was advised to fetch these does not any more."""
        for index in [index for index in self._handed if chunks >> index & 1]:
            del self._handed[index]
            self._never |= 1 << index

    def next(self, now: float, lacks: int, node: NodeId) -> int | None:
        """Returns a chunk for somebody who lacks some: one that was never handed out, else one that got lost."""
        if fitting := self._never & lacks:
            index = some_of(fitting, self._random)
            self._never &= ~(1 << index)
        else:
            lost = (index for index, (at, _) in self._handed.items() if at + self._handed_s <= now)
            found = next((index for index in lost if lacks >> index & 1), None)
            if found is None:
                return None
            index = found
            del self._handed[index]
        self._handed[index] = (now, node)
        return index

    def advice(self, now: float, lacks: int, advised: int, most: int, node: NodeId) -> int:
        """Returns what to advise somebody: what it was advised and lacks still, and more up to `most` chunks."""
        left = advised & lacks
        lacks &= ~left
        while left.bit_count() < most and (index := self.next(now, lacks, node)) is not None:
            left |= 1 << index
            lacks &= ~(1 << index)
        return left


def listed(chunks: int) -> tuple[int, ...]:
    """Returns a set as a message lists it."""
    return tuple(indices_of(chunks))
