"""Which path a connection takes, since when, and why it is not a better one, in words for a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import trio

from atmo.net.connection import Connection
from atmo.net.paths import is_virtual
from atmo.net.steering import is_local
from atmo.net.udp import to_address
from atmo.reach.config import FORWARD, RELAY, Via
from atmo.reach.prediction import varies
from atmo.wire.address import Address

SEARCH_S = 5.0
"""For so long it is no answer yet that no direct path was found. Source: two punches and a guess of ports."""


@dataclass(frozen=True, slots=True)
class PathReport:
    """For a person.

    Attributes:
        path: `lan`, `direct`, `punched`, `relay` or `forward`.
        address: Where what is sent goes, None where that is no address of the other end.
        since_s: For so many seconds.
        standby: Kinds of the other paths that work.
        why: Why the path is not a direct one; empty where it is.
    """

    path: str
    address: str | None
    since_s: float
    standby: tuple[str, ...]
    why: str


class Told(Protocol):
    """What the other end told of itself last."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens."""

    @property
    def seen(self) -> tuple[Address, ...]:
        """From where others see it."""

    @property
    def mapping(self) -> str:
        """How its NAT gives ports."""


def report_path(connection: Connection, mapping: str, told: Told | None) -> PathReport:
    """Returns the report of a connection.

    Args:
        connection: The connection.
        mapping: How this node's NAT gives ports.
        told: What the other end told of itself.
    """
    steering, now = connection.steering, trio.current_time()
    target = steering.address if steering else connection.core.peer_address
    since = steering.paths.active_since if steering else connection.began_at
    working = [path.kind for path in steering.paths.all() if path.works][1:] if steering else []
    return PathReport(
        connection.path,
        None if is_virtual(target) else str(to_address(target)),
        round(max(0.0, now - since), 1),
        tuple(dict.fromkeys(working)),
        _why(connection, now - since, mapping, told) if connection.path in (RELAY, FORWARD) else "",
    )


def _why(connection: Connection, age_s: float, mapping: str, told: Told | None) -> str:
    steering = connection.steering
    if steering is None or told is None:
        return "it has not told yet at which addresses it is" if age_s < SEARCH_S else "it tells no addresses"
    if age_s < SEARCH_S:
        return "a direct path is looked for"
    if varies(mapping) and varies(told.mapping):
        return "both ends' NATs give every destination another port"
    tried = [path for path in steering.paths.all() if not isinstance(path.place, Via)]
    if not tried:
        return "neither end knows an address at which it could be reached"
    if not told.seen and all(is_local(address) for address in told.addresses):
        return "nobody has seen an address of it from outside its own network: UDP may be blocked there"
    words = f"{len(tried)} addresses do" if len(tried) > 1 else f"{tried[0].place} does"
    return f"{words} not answer: a firewall on the way, or a NAT that lets nothing in"
