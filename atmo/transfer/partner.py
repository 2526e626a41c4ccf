"""What a node knows of another of a swarm."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Partner:
    """What this node knows of another of the swarm.

    Attributes:
        since: Monotonic second at which it became one.
        has: The set of its chunks.
        serves: It lets others fetch them.
        slot: It is served by this node now.
        slot_at: When that began, or ended.
        used_at: When it last asked for a chunk, or got one.
        pending: Chunks that it asked for and that are not sent yet.
        advised: Chunks that it was advised to fetch.
        given, taken: Bytes that it was allowed to fetch, and that came from it or that it passed on for a first seed.
        chunk_bytes: Of the last chunk that it asked for.
        named_at: When it was last told of others.
        moved: Bytes either way at the last look for a partner to replace.
    """

    since: float
    has: int
    serves: bool
    slot: bool = False
    slot_at: float = -math.inf
    used_at: float = -math.inf
    pending: int = 0
    advised: int = 0
    given: int = 0
    taken: int = 0
    chunk_bytes: int = 0
    named_at: float = -math.inf
    moved: int = 0
