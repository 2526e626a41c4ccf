"""The downloader's side of `atmo/manifest/1`, `atmo/chunks/1` and `atmo/deltas/1`: one request each, nothing believed.

Chunks come over TCP where the holder's port is reachable, deltas over QUIC alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from atmo.errors import AtmoError, RemoteError, UserError, WireError
from atmo.gossip.records import ModelRecord
from atmo.identity import NodeId
from atmo.net.ports import ChunkRefused, MeshPort, NoFastPath, RequestStream, Take
from atmo.services.serve import (
    CHUNK_PROTOCOL,
    CORRUPT,
    DELTA_PROTOCOL,
    DELTAS_MOST,
    FORBIDDEN,
    MANIFEST_PROTOCOL,
    MISSING,
)
from atmo.storage.chunks import CorruptChunk, MissingChunk
from atmo.storage.delta import decode_untrusted
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


class Refused(RemoteError):
    """The holder does not send it now."""


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
        manifest, publisher = await trio.to_thread.run_sync(open_manifest_untrusted, sealed)
    except WireError as error:
        raise Misled(f"a manifest that is not sound: {error}") from error
    reason = contradiction(record, manifest, publisher)
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


def contradiction(record: ModelRecord, manifest: Manifest, publisher: NodeId | None = None) -> str | None:
    """Says that an announcement is not of this manifest; its publisher is compared where both are known."""
    said = (record.name, record.version, record.size_bytes, record.sha256)
    same = said == (manifest.name, manifest.version, manifest.size_bytes, manifest.checksum_sha256)
    if same and (publisher is None or record.publisher in (None, publisher)):
        return None
    return "an announcement that its manifest contradicts"


@dataclass(slots=True)
class FetchStats:
    """Counters since start.

    Attributes:
        tcp_chunks, tcp_bytes: That came over TCP.
        quic_chunks, quic_bytes: That came over QUIC as they are.
        deltas, delta_bytes: That came as deltas; what travelled for them.
        spared_bytes: What did not travel for them.
    """

    tcp_chunks: int = 0
    tcp_bytes: int = 0
    quic_chunks: int = 0
    quic_bytes: int = 0
    deltas: int = 0
    delta_bytes: int = 0
    spared_bytes: int = 0

    @property
    def travelled_bytes(self) -> int:
        """All that came."""
        return self.tcp_bytes + self.quic_bytes + self.delta_bytes


class Fetcher:
    """Fetches chunks.

    Args:
        limiter: Of the threads that take chunks which came over QUIC.

    Attributes:
        stats: Counts.
        makers: Of the threads that apply deltas.
    """

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self.stats = FetchStats()
        self.makers = trio.CapacityLimiter(DELTAS_MOST)
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
                right = await mesh.bulk.fetch(node, place.hash, place.size, take)
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

    async def fetch_delta(
        self, mesh: MeshPort, node: NodeId, place: ChunkPlace, base: bytes, read: Callable[[bytes], bytes], take: Take
    ) -> Came | None:
        """Gets a chunk as its difference to one that is here, or as it is where the holder finds that better.

        Args:
            mesh: The way to it.
            node: The holder.
            place: The chunk.
            base: The name of the chunk that is here.
            read: Returns a chunk that is here; called in a worker thread.
            take: Verifies the bytes and keeps them, in a worker thread.

        Returns:
            How it came; None where what is here cannot be read, so that the chunk has to come as it is.

        Raises:
            RemoteError, NotThere, UserError: As `fetch` does.
            Misled: It announces a size that cannot be, or sends what is no delta for this chunk.
        """
        head = {"chunk": place.hash, "base": base}
        async with mesh.request(node, DELTA_PROTOCOL, head, CHUNK_S) as stream:
            size, is_delta = await _delta_size_untrusted(stream, place.size)
            data = await stream.receive_raw(size)
        if not is_delta:
            self.stats.quic_chunks += 1
            self.stats.quic_bytes += size
            return Came(await trio.to_thread.run_sync(take, data, limiter=self._limiter), size, is_delta)
        self.stats.deltas += 1
        self.stats.delta_bytes += size
        self.stats.spared_bytes += place.size - size

        def apply_untrusted() -> bool | None:
            try:
                before = read(base)
            except (MissingChunk, CorruptChunk, UserError) as error:
                log.warning("a delta cannot be applied: %s", error)
                return None
            return take(decode_untrusted(data, before, place.size))

        try:
            right = await trio.to_thread.run_sync(apply_untrusted, limiter=self.makers)
        except WireError as error:
            raise Misled(str(error)) from error
        return None if right is None else Came(right, size, is_delta)


@dataclass(frozen=True, slots=True)
class Came:
    """How a chunk came.

    Attributes:
        right: The bytes are the chunk.
        travelled: How many bytes came for it.
        is_delta: As a delta.
    """

    right: bool
    travelled: int
    is_delta: bool = False


async def _fetch_chunk(mesh: MeshPort, node: NodeId, place: ChunkPlace) -> bytes:
    async with mesh.request(node, CHUNK_PROTOCOL, {"chunk": place.hash}, CHUNK_S) as stream:
        size = await _size_untrusted(stream, limits.CHUNK_BYTES)
        if size != place.size:
            raise Misled(f"a chunk of {size} bytes instead of {place.size}")
        return await stream.receive_raw(size)


def _refusal(reason: str) -> AtmoError:
    if reason == FORBIDDEN:
        return NotThere("it does not give this to members with this node's roles")
    if reason == CORRUPT:
        return NotThere("its copy is damaged")
    return NotThere("it has this no more") if reason == MISSING else Refused(f"the node refuses: {reason[:100]}")


async def _size_untrusted(stream: RequestStream, most: int) -> int:
    size, _ = await _answer_untrusted(stream, most)
    return size


async def _delta_size_untrusted(stream: RequestStream, chunk_bytes: int) -> tuple[int, bool]:
    """Returns how many bytes come, and whether they are a delta."""
    size, answer = await _answer_untrusted(stream, chunk_bytes)
    match answer.get("delta"):
        case True if size < chunk_bytes:
            return size, True
        case False if size == chunk_bytes:
            return size, False
    raise Misled(f"{size} bytes, delta {answer.get('delta')!r:.20}, for a chunk of {chunk_bytes}")


async def _answer_untrusted(stream: RequestStream, most: int) -> tuple[int, Mapping[str, Any]]:
    """Returns how many bytes come, at most `most`, and the answer that says so."""
    answer = await stream.receive()
    if answer is None:
        raise RemoteError("the node ended the request without an answer")
    try:
        match codec.decode_untrusted(answer, limits.MESSAGE_BYTES):
            case {"size": int() as size} as told if type(size) is int and 0 <= size <= most:
                return size, told
            case {"error": str() as reason}:
                raise _refusal(reason)
    except WireError as error:
        raise Misled(f"an answer that is no CBOR: {error}") from error
    raise Misled("an answer that is neither a size nor an error")
