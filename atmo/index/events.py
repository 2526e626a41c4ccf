"""What the index tells its observers."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.index.records import Provider
from atmo.wire.address import Contact


@dataclass(frozen=True, slots=True)
class ProviderFound:
    """A lookup found a provider. Whether it lives, a dial tells.

    Attributes:
        query: Of the lookup.
        contact: The provider and where it listens.
        provider: What it signed.
        hops: Answers that led there; 0 from this node's own store.
        took_s: Since the lookup began.
    """

    query: int
    contact: Contact
    provider: Provider
    hops: int
    took_s: float


@dataclass(frozen=True, slots=True)
class NodeFound:
    """A lookup for a node was told where it is: a dial proves it. May come more than once, with other addresses.

    Attributes:
        query: Of the lookup.
        contact: The node and where it is said to listen.
        hops: Answers that led there; 0 from this node's own table.
        took_s: Since the lookup began.
    """

    query: int
    contact: Contact
    hops: int
    took_s: float


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup is over.

    Attributes:
        query: Of the lookup.
        found: Providers found, or 1 for a node that was found.
        hops: The longest chain of answers that led on.
        took_s: Since it began.
        asked: Requests sent.
        refused: Nothing was done, as too many lookups were under way.
    """

    query: int
    found: int
    hops: int
    took_s: float
    asked: int
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """An own record was stored, or was not needed.

    Attributes:
        key: 32 bytes.
        holders: Who keeps it.
        full: It was not needed, as there are as many records of its key as fit.
    """

    key: bytes
    holders: int
    full: bool = False
