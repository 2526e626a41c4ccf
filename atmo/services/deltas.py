"""Which chunks of a download are asked for as deltas, to what, and from whom.

Deltas travel over QUIC alone: they pay where a source is slow, and there QUIC is fast enough. Chunks that both versions
have never travel at all; this is about those that changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from atmo.engine import FetchChunk
from atmo.identity import NodeId
from atmo.net.ports import MeshPort
from atmo.reach.config import LAN
from atmo.storage.chunks import ModelStorage
from atmo.storage.partial import PartialDownload
from atmo.storage.registry import LocalModel
from atmo.transfer.alignment import find_bases
from atmo.transfer.manifest import Manifest
from atmo.transfer.names import version_key

FAST_BYTES_S = 100e6
"""A source that sends whole chunks faster is not asked for deltas. Source: docs/measurements.md: QUIC carries 107 MB/s,
so that what comes faster comes over TCP, and deltas of float32 weights, half as large, would be no faster."""

WHOLE_MOST = 8
"""After so many whole chunks in a row in place of deltas the versions have little in common. Source: guess."""


class Deltas:
    """What one download may ask for as deltas.

    Args:
        bases: Index of a chunk that is missing, to the name of the chunk here that it is to be told by.
    """

    def __init__(self, bases: Mapping[int, bytes]) -> None:
        self._bases = dict(bases)
        self._whole = 0
        self._without: set[NodeId] = set()

    def base(self, mesh: MeshPort, fetch: FetchChunk) -> bytes | None:
        """Returns the base for which a delta is to be asked; None where the chunk is to be asked for as it is."""
        base = self._bases.get(fetch.index)
        if base is None or self._whole >= WHOLE_MOST or fetch.source in self._without:
            return None
        return base if _is_slow(mesh, fetch) else None

    def came(self, *, as_delta: bool) -> None:
        """A holder that was asked for a delta sent one, or the chunk as it is."""
        self._whole = 0 if as_delta else self._whole + 1

    def forget(self, index: int) -> None:
        """The base of a chunk cannot be read."""
        self._bases.pop(index, None)

    def without(self, source: NodeId) -> None:
        """A source did not answer when it was asked for a delta; it may be one that knows none."""
        self._without.add(source)


def _is_slow(mesh: MeshPort, fetch: FetchChunk) -> bool:
    """Says whether whole chunks come slowly from a source: as it was measured, else as the way to it lets expect."""
    rate = mesh.peer.rate_of(fetch.transfer, fetch.source)
    if rate > 0.0:
        return rate < FAST_BYTES_S
    path = mesh.path(fetch.source) if mesh.bulk is not None else None
    return path is None or path.path != LAN


def find_deltas(storage: ModelStorage, partial: PartialDownload) -> Deltas:
    """Chooses the model here that tells most of what a download lacks; for a worker thread.

    Asked are the newest version of the same name, and the model that the wanted one says it was made from.
    """
    places, have = partial.places, set(partial.have)
    missing = [index for index in range(len(places)) if index not in have]
    best: dict[int, bytes] = {}
    told = 0
    for model in _candidates(storage.models(), partial.manifest):
        found = find_bases(partial.manifest, model.manifest, missing)
        bases = {index: place.hash for index, place in found.items() if place.hash != places[index].hash}
        size = sum(places[index].size for index in bases)
        if size > told:
            best, told = bases, size
    return Deltas(best)


def _candidates(models: list[LocalModel], target: Manifest) -> list[LocalModel]:
    newest = [model for model in models if model.name == target.name][:1]
    base = target.base
    if base is None:
        return newest
    key = (base.name, version_key(base.version))
    return newest + [
        model for model in models if (model.name, version_key(model.version)) == key and model not in newest
    ]
