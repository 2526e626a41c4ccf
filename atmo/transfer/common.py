"""What all parts of the transfer engine share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from atmo.engine import Contact, Outbox
from atmo.identity import NodeId
from atmo.transfer.config import TransferConfig
from atmo.transfer.events import TransferStats
from atmo.transfer.limits import Limits
from atmo.transfer.messages import CHUNKS_MOST
from atmo.transfer.scores import Scores

_NAME = re.compile(r"[0-9a-f]{64}")


def names_swarm(transfer: str, count: int) -> bool:
    """Says whether a transfer of so many chunks is named by a manifest, and small enough for a swarm."""
    return 0 < count <= CHUNKS_MOST and _NAME.fullmatch(transfer) is not None


def nowhere(node: NodeId) -> Contact:
    """Returns a node of which nothing is known."""
    return Contact(node, ())


@dataclass(frozen=True, slots=True)
class Common:
    """What all parts of the transfer engine share.

    Attributes:
        config: Sizes and times.
        random: For choices among equals.
        contact: Returns where a node is, as far as this node knows.
        out: Takes effects.
        stats: Counts.
        scores: How reliable nodes have been.
        limits: How fast chunks may go.
    """

    config: TransferConfig
    random: Random
    contact: Callable[[NodeId], Contact]
    out: Outbox
    stats: TransferStats
    scores: Scores
    limits: Limits
