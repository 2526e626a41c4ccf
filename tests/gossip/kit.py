"""Helpers for tests of single gossip engines: records made in one line, and effects by kind."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

from atmo.clock import Now
from atmo.engine import Effect
from atmo.gossip.records import DOMAIN, Record
from atmo.gossip.sync import Authorise, RecordSync
from atmo.gossip.sync_config import SyncConfig
from atmo.identity import Signer
from atmo.wire.envelope import seal
from atmo.wire.schema import pack
from tests.trust.kit import ANNA, MESH, START_S

E = TypeVar("E")


def at(seconds: float, skew_s: float = 0.0) -> Now:
    """Returns the clocks `seconds` after the beginning."""
    return Now(seconds, START_S + seconds + skew_s)


def record(
    kind: str = "note",
    key: str = "",
    version: tuple[int, int] = (1, 1),
    body: bytes = b"body",
    *,
    issued_s: int = START_S,
    lifetime_s: int = 300,
    near: bool = False,
) -> Record:
    """Returns a record of an author's first second."""
    return Record(kind, key, *version, issued_s, lifetime_s, body, near)


def sealed(author: Signer, *args: Any, **kwargs: Any) -> bytes:
    """Returns a signed record; arguments as for `record`."""
    return seal(author, DOMAIN, MESH, pack(record(*args, **kwargs)))


def anyone(now: Now, author: object, record: object, kept: bool) -> None:
    """A rule that lets everyone write everything."""


def sync(
    own: Signer = ANNA, *, epoch: int = 1, authorise: Authorise = anyone, config: SyncConfig = SyncConfig()
) -> RecordSync:
    """Returns an engine of one node."""
    return RecordSync(config, own, MESH, epoch, Random(str(own.node_id)), authorise)


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    """Returns the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]
