"""The holder's side: answers `atmo/manifest/1` and `atmo/chunks/1`, and requests for chunks over TCP.

The former two are one question in the header and one answer: a CBOR frame `{"size": n}` and then n raw bytes, or a
frame `{"error": reason}`. Only members get here: the port sees to it. All share the same limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from atmo.errors import RemoteError, UserError, WireError
from atmo.identity import NodeId
from atmo.net.ports import Buffer, ChunkRequest, MeshPort, RequestStream
from atmo.storage.chunks import CorruptChunk, MissingChunk, ModelStorage
from atmo.wire import codec

MANIFEST_PROTOCOL = "atmo/manifest/1"
CHUNK_PROTOCOL = "atmo/chunks/1"

MISSING, CORRUPT, BUSY = "missing", "corrupt", "busy"

SENDING_MOST = 32
"""Chunks in memory for sending. Source: guess, 32 MiB."""

WAITING_MOST = 256
"""Requests that wait for their turn; more are told that we are busy. Source: guess."""

NODE_MOST = 16
"""Requests of one node answered or waiting at once. Source: guess, two full windows of a transfer."""

SEND_S = 300.0
"""A reader that takes longer for one chunk is given up. Source: guess, twice the longest deadline of a fetch."""


@dataclass(slots=True)
class ServeStats:
    """Counters since start.

    Attributes:
        chunks, bytes: Sent, over TCP and QUIC.
        tcp_chunks, tcp_bytes: Those over TCP.
        manifests: Sent.
        missing, corrupt, busy: Requests refused, and why.
    """

    chunks: int = 0
    bytes: int = 0
    tcp_chunks: int = 0
    tcp_bytes: int = 0
    manifests: int = 0
    missing: int = 0
    corrupt: int = 0
    busy: int = 0


class _Reply(Protocol):
    """How an answer is given."""

    @property
    def node_id(self) -> NodeId:
        """To whom."""

    def seal(self, data: bytes) -> Buffer:
        """Makes ready for sending; called in the thread that read the data."""

    async def send(self, sealed: Buffer) -> None:
        """Sends what `seal` returned."""

    async def refuse(self, reason: str) -> None:
        """Says why there is nothing."""


class _StreamReply:
    """An answer on a QUIC stream."""

    def __init__(self, stream: RequestStream) -> None:
        self.node_id = stream.node_id
        self._stream = stream

    def seal(self, data: bytes) -> Buffer:
        """QUIC encrypts."""
        return data

    async def send(self, sealed: Buffer) -> None:
        """See `_Reply`."""
        await self._stream.send(codec.encode({"size": len(sealed)}))
        await self._stream.send_raw(sealed)

    async def refuse(self, reason: str) -> None:
        """See `_Reply`."""
        await self._stream.send(codec.encode({"error": reason}))


class Server:
    """Answers other nodes.

    Args:
        storage: Where the models are.

    Attributes:
        stats: Counts.
        readers: Of the threads that read chunks.
    """

    def __init__(self, storage: ModelStorage) -> None:
        self.stats = ServeStats()
        self._storage = storage
        self._sending = trio.CapacityLimiter(SENDING_MOST)
        self._by_node: Counter[NodeId] = Counter()
        self.readers = trio.CapacityLimiter(2)

    def attach(self, mesh: MeshPort) -> None:
        """Registers with the network."""
        mesh.handle(MANIFEST_PROTOCOL, self.manifest)
        mesh.handle(CHUNK_PROTOCOL, self.chunk)
        if mesh.bulk is not None:
            mesh.bulk.handle(self.tcp_chunk)

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return self._sending.statistics().tasks_waiting

    async def manifest(self, stream: RequestStream) -> None:
        """Sends a sealed manifest.

        Raises:
            WireError: The request names none.
        """
        name = _hash_untrusted(stream, "manifest")
        if await self._answer(_StreamReply(stream), lambda: self._storage.registry.sealed(name)) is not None:
            self.stats.manifests += 1

    async def chunk(self, stream: RequestStream) -> None:
        """Sends a chunk, verified as it is read.

        Raises:
            WireError: The request names none.
        """
        name = _hash_untrusted(stream, "chunk")
        self._count(await self._answer(_StreamReply(stream), lambda: self._storage.read_chunk(name)))

    async def tcp_chunk(self, request: ChunkRequest) -> None:
        """Sends a chunk over TCP, verified as it is read."""
        sent = await self._answer(request, lambda: self._storage.read_chunk(request.name))
        self._count(sent)
        if sent is not None:
            self.stats.tcp_chunks += 1
            self.stats.tcp_bytes += sent

    def _count(self, sent: int | None) -> None:
        if sent is not None:
            self.stats.chunks += 1
            self.stats.bytes += sent

    async def _answer(self, reply: _Reply, read: Callable[[], bytes | None]) -> int | None:
        """Returns how many bytes were sent, None where the request was refused."""
        node, sent = reply.node_id, None
        if self.waiting >= WAITING_MOST or self._by_node[node] >= NODE_MOST:
            self.stats.busy += 1
            await reply.refuse(BUSY)
            return None
        self._by_node[node] += 1
        try:
            async with self._sending:
                with trio.move_on_after(SEND_S) as scope:
                    sent = await self._send(reply, read)
        finally:
            self._by_node[node] -= 1
            if not self._by_node[node]:
                del self._by_node[node]
        if scope.cancelled_caught:
            raise RemoteError(f"{node.short} did not take an answer within {SEND_S:.0f} s")
        return sent

    async def _send(self, reply: _Reply, read: Callable[[], bytes | None]) -> int | None:
        def read_and_seal() -> tuple[int, Buffer] | None:
            data = read()
            return (len(data), reply.seal(data)) if data is not None else None

        try:
            found = await trio.to_thread.run_sync(read_and_seal, limiter=self.readers)
        except MissingChunk:
            found = None
        except (CorruptChunk, UserError):
            self.stats.corrupt += 1
            await reply.refuse(CORRUPT)
            return None
        if found is None:
            self.stats.missing += 1
            await reply.refuse(MISSING)
            return None
        size, sealed = found
        await reply.send(sealed)
        return size


def _hash_untrusted(stream: RequestStream, field: str) -> bytes:
    value = stream.header.get(field)
    if type(value) is not bytes or len(value) != 32:
        raise WireError(f"{stream.protocol} without the 32 bytes of a {field}")
    return value
