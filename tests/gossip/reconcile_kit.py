"""One comparing engine for tests, and messages to it."""

from __future__ import annotations

from random import Random
from typing import Any

from atmo.engine import Send
from atmo.gossip.entry import Entry
from atmo.gossip.listings import pages
from atmo.gossip.messages import Digest, Listing, Range, Want
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.identity import NodeId
from tests.gossip.kit import at, of
from tests.gossip.network import node_id
from tests.gossip.tables import Keeper

A, B, C = (node_id(number) for number in range(3))
SALT = b"s" * 8
OTHER = Range("", 9, b"o" * 6)


def author(first: int, number: int = 0) -> NodeId:
    return NodeId(bytes([first]) + Random(number).randbytes(31))


def keeper(*entries: Entry, links: tuple[NodeId, ...] = (A,), **config: Any) -> Keeper:
    made = Keeper(config=ReconcileConfig(**config))
    made.put(*entries)
    for node in links:
        made.engine.link_up(at(0), node)
    return made


def sent(made: Keeper) -> list[tuple[NodeId, Any]]:
    return [(effect.to, effect.message) for effect in of(made.engine.drain(), Send)]


def run(made: Keeper, end: float) -> list[tuple[float, NodeId, Any]]:
    """Serves the timer up to `end`; returns what was sent, and when."""
    rows = []
    while (due := made.engine.next_timer()) <= end:
        made.engine.handle_timer(at(due))
        assert made.engine.next_timer() > due, "a timer that was served moves on"
        rows += [(due, *row) for row in sent(made)]
    return rows


def told(made: Keeper, when: float, message: Any, node: NodeId = A) -> list[Any]:
    """Lets a neighbour say something; returns what it gets in answer."""
    made.receive(at(when), node, message)
    answers = sent(made)
    assert all(to == node for to, _ in answers)
    return [answer for _, answer in answers]


def digest(*ranges: Range) -> Digest:
    return Digest(SALT, ranges)


def other(prefix: str, count: int = 9) -> Range:
    """A range that nobody here has."""
    return Range(prefix, count, b"o" * 6)


def nothing(prefix: str = "") -> Range:
    return Keeper().table.fingerprints.range(prefix, SALT)


def whole(made: Keeper) -> Digest:
    """The digest of the table of a neighbour that has the same."""
    return digest(made.table.fingerprints.range("", SALT))


def is_whole(made: Keeper, message: Any) -> bool:
    """Says whether a message is the digest of this table as it is now."""
    return isinstance(message, Digest) and message.ranges == (made.table.fingerprints.range("", message.salt),)


def listing(*entries: Entry, prefixes: tuple[str, ...] = ("",)) -> Listing:
    (page,) = pages(prefixes, entries, 40_000)
    return page


def names(*entries: Entry) -> Want:
    return Want(b"".join(each.name for each in entries))
