"""Provider records: a node's signed word that it has what a key names, and the bounded store of those kept for others.

A record proves itself: the certificate of its author is inside, so whoever gets it from anyone can judge it. Of one
author and key the record with the larger (epoch, sequence) wins; one without addresses takes the others back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.index.config import IndexConfig
from atmo.index.keys import KEY_BYTES
from atmo.index.messages import PROVIDER_BYTES
from atmo.wire import limits
from atmo.wire.address import CONTACT_ADDRESSES, Address, Contact
from atmo.wire.envelope import open_untrusted, seal
from atmo.wire.schema import Most, pack, unpack_untrusted

DOMAIN = "atmo/provider/1"

LIFETIME_MOST_S = 1_800
"""No provider record lives longer. Source: ../shared/design.md, 10 to 30 minutes."""

PROVIDER_ITEMS = 96
"""Elements over all arrays and maps of a provider record: the largest has 36, the rest is for newer peers."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What a provider signs.

    Attributes:
        key: 32 bytes: what it has.
        addresses: Where it listens; none takes the record back.
        issued_s: Unix seconds by its clock.
        lifetime_s: Seconds after which the record counts no more.
        epoch, sequence: Order the records of one author and key.
        certificate: The provider's, sealed.
        issuer_certificate: Its issuer's, where that is not a founder.
    """

    key: Annotated[bytes, Most(KEY_BYTES)]
    addresses: Annotated[tuple[Address, ...], Most(CONTACT_ADDRESSES)]
    issued_s: Annotated[int, Most(2**40)]
    lifetime_s: Annotated[int, Most(LIFETIME_MOST_S)]
    epoch: Annotated[int, Most(2**53)]
    sequence: Annotated[int, Most(2**53)]
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]
    issuer_certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None

    @property
    def version(self) -> tuple[int, int]:
        """What orders the records of one author and key."""
        return (self.epoch, self.sequence)


@dataclass(frozen=True, slots=True)
class SealedProvider:
    """A provider record whose signature is right.

    Attributes:
        author: The provider.
        provider: What it says.
        envelope: As signed.
    """

    author: NodeId
    provider: Provider
    envelope: bytes

    @property
    def contact(self) -> Contact:
        """Where the provider listens."""
        return Contact(self.author, self.provider.addresses)

    def expires_s(self, skew_s: float) -> float:
        """Returns the Unix second after which it counts no more, with a tolerance for clocks."""
        return self.provider.issued_s + self.provider.lifetime_s + skew_s


Open = Callable[[bytes, bytes], SealedProvider]
"""Opens an envelope of a mesh or raises `WireError`; pure, so a simulator may remember what came out."""


def seal_provider(signer: Signer, mesh: bytes, provider: Provider) -> bytes:
    """Returns the sealed record."""
    return seal(signer, DOMAIN, mesh, pack(provider))


def open_provider_untrusted(envelope: bytes, mesh: bytes) -> SealedProvider:
    """Reads a record and checks its signature; whether its author is a member is for the caller.

    Raises:
        WireError: It does not decode, is for another mesh, or the signature is wrong.
    """
    opened = open_untrusted(envelope, DOMAIN, mesh, PROVIDER_BYTES)
    provider = unpack_untrusted(Provider, opened.payload, max_items=PROVIDER_ITEMS)
    if len(provider.key) != KEY_BYTES:
        raise WireError(f"a key of {len(provider.key)} bytes")
    return SealedProvider(opened.author, provider, envelope)


@dataclass(slots=True)
class _Held:
    sealed: SealedProvider
    expires_s: float
    cached: bool


class ProviderStore:
    """The records kept for others.

    Args:
        config: Bounds.
    """

    def __init__(self, config: IndexConfig) -> None:
        self._config = config
        self._keys: dict[bytes, dict[NodeId, _Held]] = {}
        self._authors: dict[NodeId, int] = {}
        self._bytes = 0
        self._cached = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, sealed: SealedProvider, expires_s: float, *, cached: bool) -> bool:
        """Keeps a record where nothing newer is there and the bounds allow it.

        Args:
            sealed: The record.
            expires_s: Unix seconds after which it is never answered.
            cached: It is a copy off its place.

        Returns:
            Whether it, or the same record for longer, is kept now.
        """
        key = sealed.provider.key
        held = self._keys.get(key, {}).get(sealed.author)
        if held is not None:
            if held.sealed.provider.version > sealed.provider.version:
                return False
            if held.sealed.provider.version == sealed.provider.version and held.expires_s >= expires_s:
                return held.sealed.envelope == sealed.envelope
        if not self._has_room(sealed, held, cached):
            return False
        if held is not None:
            self._remove(key, sealed.author)
        self._keys.setdefault(key, {})[sealed.author] = _Held(sealed, expires_s, cached)
        self._authors[sealed.author] = self._authors.get(sealed.author, 0) + 1
        self._bytes += len(sealed.envelope)
        self._cached += cached
        self._count += 1
        return True

    def _has_room(self, sealed: SealedProvider, held: _Held | None, cached: bool) -> bool:
        config = self._config
        if self._bytes + len(sealed.envelope) - (len(held.sealed.envelope) if held else 0) > config.record_bytes:
            return False
        if cached and self._cached - (held is not None and held.cached) >= config.cached:
            return False
        if held is not None:
            return True
        return (
            self._count < config.records
            and self._authors.get(sealed.author, 0) < config.author_records
            and len(self._keys.get(sealed.provider.key, ())) < config.key_records
        )

    def of(self, key: bytes, wall: float) -> list[SealedProvider]:
        """Returns the records of a key that count, the one that came last first."""
        held = self._keys.get(key)
        if held is None:
            return []
        rows = [row.sealed for row in held.values() if row.expires_s >= wall and row.sealed.provider.addresses]
        rows.reverse()
        return rows

    def held(self, key: bytes) -> int:
        """Returns how many records of a key are here, copies off their place left aside."""
        return sum(not row.cached for row in self._keys.get(key, {}).values())

    def sweep(self, wall: float) -> None:
        """Forgets what has expired."""
        gone = [
            (key, author) for key, rows in self._keys.items() for author, row in rows.items() if row.expires_s < wall
        ]
        for key, author in gone:
            self._remove(key, author)

    def drop_author(self, author: NodeId) -> None:
        """Forgets the records of a node that is no member any more."""
        for key in [key for key, rows in self._keys.items() if author in rows]:
            self._remove(key, author)

    def _remove(self, key: bytes, author: NodeId) -> None:
        rows = self._keys[key]
        row = rows.pop(author)
        if not rows:
            del self._keys[key]
        self._authors[author] -= 1
        if not self._authors[author]:
            del self._authors[author]
        self._bytes -= len(row.sealed.envelope)
        self._cached -= row.cached
        self._count -= 1
