"""The downloader's side of `atmo/manifest/1` and `atmo/chunks/1`: one request each, nothing believed.

Chunks come over TCP where the holder's port is reachable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from atmo.errors import AtmoError, RemoteError, WireError
from atmo.gossip.records import ModelRecord
from atmo.identity import NodeId
from atmo.net.ports import ChunkRefused, MeshPort, NoFastPath, RequestStream, Take
from atmo.services.serve import CHUNK_PROTOCOL, MANIFEST_PROTOCOL, MISSING
from atmo.transfer.manifest import ChunkPlace, Manifest, manifest_id, most_bytes, open_manifest_untrusted
from atmo.wire import codec, limits

log = logging.getLogger(__name__)

MANIFEST_S = 30.0
"""For a whole manifest. Source: guess."""

CHUNK_S = 600.0
"""Only a net: the transfer engine's deadlines are shorter."""

IMPATIENCE_S = 2.0
"""A holder that has not sent its manifest by then may be dead, or behind a dial that leads nowhere: the next is asked
beside it. Source: guess; a dial and an answer over 0.3 s take 1 s."""

SEARCH_S = 60.0
"""For all holders together. Source: a person waits."""


class NotThere(AtmoError):
    """The holder has it no more."""


class Misled(AtmoError):
    """The holder sent something that cannot be what it promised."""


async def fetch_manifest(mesh: MeshPort, node: NodeId, record: ModelRecord) -> tuple[bytes, Manifest]:
    """Gets the sealed manifest that `node` announced with `record`, and holds it against the record.

    Raises:
        RemoteError: The node vanished, refused or was late.
        NotThere: It has the model no more.
        Misled: What came is not what was announced.
    """
    async with mesh.request(node, MANIFEST_PROTOCOL, {"manifest": record.manifest}, MANIFEST_S) as stream:
        size = await _size_untrusted(stream, most_bytes(record.size_bytes))
        sealed = await stream.receive_raw(size)
    if manifest_id(sealed) != record.manifest:
        raise Misled("a manifest that is not the one it announced")
    try:
        manifest, _ = await trio.to_thread.run_sync(open_manifest_untrusted, sealed)
    except WireError as error:
        raise Misled(f"a manifest that is not sound: {error}") from error
    reason = contradiction(record, manifest)
    if reason is not None:
        raise Misled(reason)
    return sealed, manifest


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest that is what was announced, and the name of who sent it."""

    holder: str
    sealed: bytes
    manifest: Manifest


async def first_manifest(
    mesh: MeshPort, holders: Mapping[NodeId, tuple[str, ModelRecord]], on_lie: Callable[[NodeId, str], None]
) -> FoundManifest:
    """Asks one holder after the other, without waiting for long; the first who answers soundly ends it.

    Args:
        mesh: The way to them.
        holders: Their names and what they announced, in the order in which they are asked.
        on_lie: Told of each who sent something else than it announced.

    Raises:
        RemoteError: None of them had it; says why.
    """
    search = _Search(mesh, on_lie)
    with trio.move_on_after(SEARCH_S):
        async with trio.open_nursery() as nursery:
            for node, (name, record) in holders.items():
                over = trio.Event()
                nursery.start_soon(search.ask, node, name, record, over, nursery.cancel_scope)
                with trio.move_on_after(IMPATIENCE_S):
                    await over.wait()
    if search.found is not None:
        return search.found
    late = f"nobody answered within {SEARCH_S:.0f} s" if holders else "none of its holders is there"
    raise RemoteError("; ".join(search.reasons[:3]) or late)


@dataclass(eq=False, slots=True)
class _Search:
    mesh: MeshPort
    on_lie: Callable[[NodeId, str], None]
    found: FoundManifest | None = None
    reasons: list[str] = field(default_factory=list)

    async def ask(
        self, node: NodeId, name: str, record: ModelRecord, over: trio.Event, all_of: trio.CancelScope
    ) -> None:
        """Asks one; a sound answer ends the whole search."""
        try:
            sealed, manifest = await fetch_manifest(self.mesh, node, record)
        except (RemoteError, NotThere) as error:
            self.reasons.append(f"{name}: {error}")
        except Misled as error:
            self.reasons.append(f"{name} sent {error}")
            self.on_lie(node, str(error))
        else:
            self.found = self.found or FoundManifest(name, sealed, manifest)
            all_of.cancel()
        over.set()


def contradiction(record: ModelRecord, manifest: Manifest) -> str | None:
    """Says that an announcement is not of this manifest."""
    said = (record.name, record.version, record.size_bytes, record.sha256)
    if said == (manifest.name, manifest.version, manifest.size_bytes, manifest.checksum_sha256):
        return None
    return "an announcement that its manifest contradicts"


@dataclass(slots=True)
class FetchStats:
    """Counters since start.

    Attributes:
        tcp_chunks, tcp_bytes: That came over TCP.
        quic_chunks, quic_bytes: That came over QUIC.
    """

    tcp_chunks: int = 0
    tcp_bytes: int = 0
    quic_chunks: int = 0
    quic_bytes: int = 0


class Fetcher:
    """Fetches chunks.

    Args:
        limiter: Of the threads that take chunks.

    Attributes:
        stats: Counts.
    """

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self.stats = FetchStats()
        self._limiter = limiter

    async def fetch(self, mesh: MeshPort, node: NodeId, place: ChunkPlace, take: Take) -> bool:
        """Gets the bytes that `node` says are a chunk, over TCP where that works, and returns what `take` says of them.

        Args:
            mesh: The way to it.
            node: The holder.
            place: The chunk.
            take: Verifies the bytes and keeps them, in a worker thread.

        Raises:
            RemoteError: The node vanished, refused or was late.
            NotThere: It has the chunk no more.
            Misled: It announces another size than the chunk's.
            UserError: `take` cannot keep it.
        """
        if mesh.bulk is not None:
            try:
                right = await mesh.bulk.fetch(node, place.hash, place.size, take, self._limiter)
            except NoFastPath as error:
                log.debug("a chunk comes over QUIC: %s", error)
            except ChunkRefused as error:
                raise _refusal(error.reason) from error
            else:
                self.stats.tcp_chunks += 1
                self.stats.tcp_bytes += place.size
                return right
        data = await _fetch_chunk(mesh, node, place)
        self.stats.quic_chunks += 1
        self.stats.quic_bytes += place.size
        return await trio.to_thread.run_sync(take, data, limiter=self._limiter)


async def _fetch_chunk(mesh: MeshPort, node: NodeId, place: ChunkPlace) -> bytes:
    async with mesh.request(node, CHUNK_PROTOCOL, {"chunk": place.hash}, CHUNK_S) as stream:
        size = await _size_untrusted(stream, limits.CHUNK_BYTES)
        if size != place.size:
            raise Misled(f"a chunk of {size} bytes instead of {place.size}")
        return await stream.receive_raw(size)


def _refusal(reason: str) -> AtmoError:
    return NotThere("it has this no more") if reason == MISSING else RemoteError(f"the node refuses: {reason[:100]}")


async def _size_untrusted(stream: RequestStream, most: int) -> int:
    answer = await stream.receive()
    if answer is None:
        raise RemoteError("the node ended the request without an answer")
    try:
        match codec.decode_untrusted(answer, limits.MESSAGE_BYTES):
            case {"size": int() as size} if type(size) is int and 0 <= size <= most:
                return size
            case {"error": str() as reason}:
                raise _refusal(reason)
    except WireError as error:
        raise Misled(f"an answer that is no CBOR: {error}") from error
    raise Misled("an answer that is neither a size nor an error")
