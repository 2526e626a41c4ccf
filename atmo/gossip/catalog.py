"""The digest of a large catalog: what a node says in one record that has more models than it tells the mesh one by one.

Whoever looks for a model sees by the digest whom to ask; the node answers by pages (`atmo/models/1`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from blake3 import blake3

from atmo.gossip.records import ModelRecord, Name
from atmo.wire.schema import Most, pack

NAMES_BYTES = 32 * 1024
"""The largest Bloom filter: 26,000 names with a false answer in a hundred. Source: half of a record."""

BITS_PER_NAME = 10
HASHES = 7
"""With ten bits for each name 0.8 % of other names seem to be there. Source: Bloom, CACM 13(7), 1970."""

TALLIES = 64


@dataclass(frozen=True, slots=True)
class Tally:
    """How many models have a capability."""

    name: Name
    count: Annotated[int, Most(2**32)]


@dataclass(frozen=True, slots=True)
class CatalogBody:
    """The body of a `catalog` record.

    Attributes:
        count: Models.
        size_bytes: Of all together.
        hash: 32 bytes, BLAKE3 over their adverts: another one whenever something changed.
        names: A Bloom filter of the models' names; see `may_have`.
        capabilities: The most frequent ones.
    """

    count: Annotated[int, Most(2**32)]
    size_bytes: Annotated[int, Most(2**63)]
    hash: Annotated[bytes, Most(32)]
    names: Annotated[bytes, Most(NAMES_BYTES)]
    capabilities: Annotated[tuple[Tally, ...], Most(TALLIES)] = ()


def digest(models: Collection[ModelRecord]) -> CatalogBody:
    """Returns the digest of a catalog."""
    names = sorted({model.name for model in models})
    tallies = Counter(capability for model in models for capability in model.capabilities)
    hasher = blake3()
    for data in sorted(map(_packed, models)):
        hasher.update(data)
    return CatalogBody(
        count=len(models),
        size_bytes=min(sum(model.size_bytes for model in models), 2**63),
        hash=hasher.digest(),
        names=_filter(names),
        capabilities=tuple(
            Tally(name, count) for name, count in sorted(tallies.items(), key=lambda row: (-row[1], row[0]))[:TALLIES]
        ),
    )


def may_have(body: CatalogBody, name: str | None, capabilities: Iterable[str] = ()) -> bool:
    """Says whether a node may have a model of this name, or any with these capabilities; a yes may be wrong.

    Args:
        body: Its digest.
        name: None for any.
        capabilities: That one model is to have. Only a digest with room for more rules one out.
    """
    bits = len(body.names) * 8
    if name is not None and not (bits and all(body.names[at // 8] >> at % 8 & 1 for at in _places(name, bits))):
        return False
    told = {tally.name for tally in body.capabilities}
    return len(told) >= TALLIES or all(capability in told for capability in capabilities)


def _filter(names: Collection[str]) -> bytes:
    bits = min(max(len(names) * BITS_PER_NAME, 8) + 7, NAMES_BYTES * 8) // 8 * 8
    table = bytearray(bits // 8)
    for name in names:
        for at in _places(name, bits):
            table[at // 8] |= 1 << at % 8
    return bytes(table)


def _places(name: str, bits: int) -> list[int]:
    data = blake3(b"atmo/catalog/1\0" + name.encode()).digest(length=4 * HASHES)
    return [int.from_bytes(data[at : at + 4], "big") % bits for at in range(0, len(data), 4)]


@lru_cache(4_096)
def _packed(model: ModelRecord) -> bytes:
    """Returns a model as it counts in the hash; kept, as most of a catalog stays when it changes."""
    return pack(model)
