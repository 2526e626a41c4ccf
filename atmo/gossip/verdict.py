"""What is said of records: what became of one, who may not write one, what changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from atmo.clock import Now
from atmo.gossip.records import Record
from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class RecordChanged:
    """A slot has a new record, or lost it (`record` is None)."""

    author: NodeId
    kind: str
    key: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class Signed:
    """This node wrote a record: it is to be told to everyone.

    Attributes:
        envelope: The record.
        near: It is to be told to the neighbours alone.
    """

    envelope: bytes
    near: bool = False


class Verdict(Enum):
    """What became of a record: news to pass on, known already, taken for this node alone, refused here and now, broken
    for everyone, or well made by one who may not write it."""

    NEWS = 1
    KNOWN = 2
    REFUSED = 3
    BROKEN = 4
    UNENTITLED = 5
    NEAR = 6


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an author may not write a record.

    Attributes:
        reason: For people.
        fault: No honest node passes it on, so whoever did is to blame.
        unknown: Only because the author is not known yet.
        sound: The record is well made, only its author has not the right.
    """

    reason: str
    fault: bool = False
    unknown: bool = False
    sound: bool = False


Authorise = Callable[[Now, NodeId, Record, bool], Refusal | None]
"""Says why this author may not write this record, None when it may; the last argument says that it was accepted in an
earlier run."""
