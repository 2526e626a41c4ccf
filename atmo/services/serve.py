"""The holder's side: answers `atmo/manifest/1`, `atmo/chunks/1` and `atmo/deltas/1`, and requests for chunks over TCP.

The former three are one question in the header and one answer: a CBOR frame `{"size": n}` and then n raw bytes, or a
frame `{"error": reason}`; an answer with a delta or instead of one says which it is. Only members get here: the port
sees to it. All share the same limits.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from atmo.errors import RemoteError, UserError, WireError
from atmo.identity import NodeId
from atmo.net.ports import ChunkRefused, MeshPort, RequestStream
from atmo.storage.chunks import CorruptChunk, MissingChunk, ModelStorage
from atmo.storage.delta import encode
from atmo.wire import codec

MANIFEST_PROTOCOL = "atmo/manifest/1"
CHUNK_PROTOCOL = "atmo/chunks/1"
DELTA_PROTOCOL = "atmo/deltas/1"

MISSING, CORRUPT, BUSY, FORBIDDEN = "missing", "corrupt", "busy", "forbidden"

SENDING_MOST = 32
"""Chunks in memory for sending over QUIC. Source: guess, 32 MiB."""

WAITING_MOST = 256
"""Requests that wait for their turn; more are told that we are busy. Source: guess."""

NODE_MOST = 16
"""Requests of one node answered or waiting at once. Source: guess, two full windows of a transfer."""

DELTAS_MOST = 2
"""Deltas made, or applied, at once. Source: docs/measurements.md, "Deltas": one thread does three times of what QUIC
carries; and members may have this node make deltas whether they need them or not."""

SEND_S = 300.0
"""A reader that takes longer for one chunk is given up. Source: guess, twice the longest deadline of a fetch."""


@dataclass(slots=True)
class ServeStats:
    """Counters since start.

    Attributes:
        chunks, bytes: Sent, over TCP and QUIC.
        tcp_chunks, tcp_bytes: Those over TCP.
        deltas, spared_bytes: Those sent as deltas, and what did not travel so.
        manifests: Sent.
        missing, corrupt, busy, forbidden: Requests refused, and why.
    """

    chunks: int = 0
    bytes: int = 0
    tcp_chunks: int = 0
    tcp_bytes: int = 0
    deltas: int = 0
    spared_bytes: int = 0
    manifests: int = 0
    missing: int = 0
    corrupt: int = 0
    busy: int = 0
    forbidden: int = 0


class _Reply(Protocol):
    """How an answer is given."""

    @property
    def node_id(self) -> NodeId:
        """To whom."""

    async def deliver(self, read: Callable[[], bytes | None], limiter: trio.CapacityLimiter) -> int | None:
        """Sends what `read` returns, which runs in a worker thread; returns how much, None where that is None."""

    async def refuse(self, reason: str) -> None:
        """Says why there is nothing."""


class _StreamReply:
    """An answer on a QUIC stream."""

    def __init__(self, stream: RequestStream) -> None:
        self.node_id = stream.node_id
        self._stream = stream

    async def deliver(self, read: Callable[[], bytes | None], limiter: trio.CapacityLimiter) -> int | None:
        """See `_Reply`."""
        data = await trio.to_thread.run_sync(read, limiter=limiter)
        if data is None:
            return None
        await self._stream.send(codec.encode({"size": len(data)}))
        await self._stream.send_raw(data)
        return len(data)

    async def refuse(self, reason: str) -> None:
        """See `_Reply`."""
        await self._stream.send(codec.encode({"error": reason}))


class _DeltaReply(_StreamReply):
    """An answer with a delta where that is smaller than the chunk.

    Args:
        stream: Where it goes.
        read_base: Returns the chunk that the other end has, None where there is no delta to it.
        makers: Of the threads that make deltas.
    """

    def __init__(
        self, stream: RequestStream, read_base: Callable[[], bytes | None], makers: trio.CapacityLimiter
    ) -> None:
        super().__init__(stream)
        self.spared = 0
        self._read_base = read_base
        self._makers = makers

    async def deliver(self, read: Callable[[], bytes | None], limiter: trio.CapacityLimiter) -> int | None:
        """See `_Reply`."""
        made = await trio.to_thread.run_sync(self._make, read, limiter=self._makers)
        if made is None:
            return None
        chunk, delta = made
        data = chunk if delta is None else delta
        await self._stream.send(codec.encode({"size": len(data), "delta": delta is not None}))
        await self._stream.send_raw(data)
        if delta is not None:
            self.spared = len(chunk) - len(delta)
        return len(data)

    def _make(self, read: Callable[[], bytes | None]) -> tuple[bytes, bytes | None] | None:
        chunk = read()
        if chunk is None:
            return None
        base = self._read_base()
        return chunk, None if base is None else encode(chunk, base)


class Server:
    """Answers other nodes.

    Args:
        storage: Where the models are.
        may_read: Says whether a node may have the chunk or the manifest of that name.
        is_open: Says in any thread whether every member may; nobody is asked again for a while where it does.

    Attributes:
        stats: Counts.
        is_open: See `ChunkService`.
        readers: Of the threads that read chunks for QUIC.
        makers: Of the threads that make deltas.
        further_manifests: Returns the sealed manifest of that name where its model is not the store's.
    """

    def __init__(
        self,
        storage: ModelStorage,
        may_read: Callable[[NodeId, bytes], bool],
        is_open: Callable[[bytes], bool] = lambda name: False,
    ) -> None:
        self.stats = ServeStats()
        self._counting = threading.Lock()
        self._may_read = may_read
        self.is_open = is_open
        self.further_manifests: Callable[[bytes], bytes | None] = lambda name: None
        self._storage = storage
        self._mesh: MeshPort | None = None
        self._sending = trio.CapacityLimiter(SENDING_MOST)
        self._by_node: Counter[NodeId] = Counter()
        self.readers = trio.CapacityLimiter(SENDING_MOST)
        self.makers = trio.CapacityLimiter(DELTAS_MOST)

    def attach(self, mesh: MeshPort) -> None:
        """Registers with the network."""
        self._mesh = mesh
        mesh.handle(MANIFEST_PROTOCOL, self.manifest)
        mesh.handle(CHUNK_PROTOCOL, self.chunk)
        mesh.handle(DELTA_PROTOCOL, self.delta)
        if mesh.bulk is not None:
            mesh.bulk.handle(self)

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
        if await self._answer(_StreamReply(stream), name, lambda: self._sealed(name)) is not None:
            self.stats.manifests += 1

    async def chunk(self, stream: RequestStream) -> None:
        """Sends a chunk, verified as it is read.

        Raises:
            WireError: The request names none.
        """
        name = _hash_untrusted(stream, "chunk")
        self._count(await self._answer_chunk(_StreamReply(stream), name))

    async def delta(self, stream: RequestStream) -> None:
        """Sends a chunk as its difference to a base where that is smaller, else as it is.

        A delta tells of the base, so that to a base which the other end may not read there is none.

        Raises:
            WireError: The request does not name both.
        """
        name, base = _hash_untrusted(stream, "chunk"), _hash_untrusted(stream, "base")
        readable = self._may_read(stream.node_id, base)
        reply = _DeltaReply(stream, lambda: self._read_base(base) if readable else None, self.makers)
        self._count(await self._answer_chunk(reply, name))
        if reply.spared:
            self.stats.deltas += 1
            self.stats.spared_bytes += reply.spared

    def _read_base(self, name: bytes) -> bytes | None:
        try:
            return self._storage.read_chunk(name)
        except (MissingChunk, CorruptChunk, UserError):
            return None

    # --- over TCP: implements `net.ports.ChunkService` ------------------------------------------------------------

    def allow(self, node: NodeId, name: bytes, size: int) -> float:
        """See `ChunkService`."""
        if not self._may_read(node, name):
            self.stats.forbidden += 1
            raise ChunkRefused(FORBIDDEN)
        waits_s = None if self._by_node[node] >= NODE_MOST else self._waits_s(node, size)
        if waits_s is None:
            self.stats.busy += 1
            raise ChunkRefused(BUSY)
        return waits_s

    def read(self, name: bytes, room: memoryview) -> None:
        """See `ChunkService`."""
        try:
            self._storage.read_chunk_into(name, room)
        except MissingChunk:
            reason = MISSING
        except (CorruptChunk, UserError):
            reason = CORRUPT
        else:
            return
        with self._counting:
            self.stats.missing += reason is MISSING
            self.stats.corrupt += reason is CORRUPT
        raise ChunkRefused(reason)

    def sent(self, node: NodeId, size: int) -> None:
        """See `ChunkService`."""
        if self._mesh is not None:
            self._mesh.peer.served(self._mesh.now(), node, size)
        if size:
            self._count(size)
            self.stats.tcp_chunks += 1
            self.stats.tcp_bytes += size

    # --- limits ---------------------------------------------------------------------------------------------------

    async def _answer_chunk(self, reply: _Reply, name: bytes) -> int | None:
        """Answers with a chunk; who is admitted stays so until it is told that it was served."""
        node, sent, admitted = reply.node_id, None, list[tuple[MeshPort, int]]()
        try:
            sent = await self._answer(
                reply, name, lambda: self._storage.read_chunk(name), lambda: self._may_send(node, name, admitted)
            )
        finally:
            for mesh, size in admitted:
                mesh.peer.served(mesh.now(), node, sent or 0, spared=size - (sent or 0))
        return sent

    async def _may_send(self, node: NodeId, name: bytes, admitted: list[tuple[MeshPort, int]]) -> bool:
        """Waits as the limits of this node want it; says whether the other one has a slot."""
        mesh = self._mesh
        if mesh is None:
            return True
        size = await trio.to_thread.run_sync(self._size_of, name, limiter=self.readers)
        if not size:
            return True  # what is not here is told as such
        waits_s = self._waits_s(node, size)
        if waits_s is not None:
            admitted.append((mesh, size))
        if waits_s:
            await trio.sleep(waits_s)
        return waits_s is not None

    def _waits_s(self, node: NodeId, size: int) -> float | None:
        mesh = self._mesh
        if mesh is None:
            return 0.0
        waits_s = mesh.peer.may_serve(mesh.now(), node, size)
        mesh.kick()
        return waits_s

    def _size_of(self, name: bytes) -> int:
        return next((size for _, _, size in self._storage.reader.find(name)), 0)

    def _sealed(self, name: bytes) -> bytes | None:
        return self._storage.registry.sealed(name) or self.further_manifests(name)

    def _count(self, sent: int | None) -> None:
        if sent is not None:
            self.stats.chunks += 1
            self.stats.bytes += sent

    async def _answer(
        self,
        reply: _Reply,
        name: bytes,
        read: Callable[[], bytes | None],
        may_send: Callable[[], Awaitable[bool]] | None = None,
    ) -> int | None:
        """Returns how many bytes were sent, None where the request was refused."""
        node, sent = reply.node_id, None
        if not self._may_read(node, name):
            self.stats.forbidden += 1
            await reply.refuse(FORBIDDEN)
            return None
        if self.waiting >= WAITING_MOST or self._by_node[node] >= NODE_MOST:
            self.stats.busy += 1
            await reply.refuse(BUSY)
            return None
        self._by_node[node] += 1
        try:
            if may_send is not None and not await may_send():
                self.stats.busy += 1
                await reply.refuse(BUSY)
                return None
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
        try:
            sent = await reply.deliver(read, self.readers)
        except MissingChunk:
            sent = None
        except (CorruptChunk, UserError):
            self.stats.corrupt += 1
            await reply.refuse(CORRUPT)
            return None
        if sent is None:
            self.stats.missing += 1
            await reply.refuse(MISSING)
        return sent


def _hash_untrusted(stream: RequestStream, field: str) -> bytes:
    value = stream.header.get(field)
    if type(value) is not bytes or len(value) != 32:
        raise WireError(f"{stream.protocol} without the 32 bytes of a {field}")
    return value
