"""The holder's side: answers `atmo/manifest/1` and `atmo/chunks/1`.

Both are one question in the header and one answer: a CBOR frame `{"size": n}` and then n raw bytes, or a frame
`{"error": reason}`. Only members get here: the port sees to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import trio

from atmo.errors import RemoteError, UserError, WireError
from atmo.identity import NodeId
from atmo.net.ports import MeshPort, RequestStream
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
        chunks, bytes: Sent.
        manifests: Sent.
        missing, corrupt, busy: Requests refused, and why.
    """

    chunks: int = 0
    bytes: int = 0
    manifests: int = 0
    missing: int = 0
    corrupt: int = 0
    busy: int = 0


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
        await self._answer(stream, lambda: self._storage.registry.sealed(name), manifest=True)

    async def chunk(self, stream: RequestStream) -> None:
        """Sends a chunk, verified as it is read.

        Raises:
            WireError: The request names none.
        """
        name = _hash_untrusted(stream, "chunk")
        await self._answer(stream, lambda: self._storage.read_chunk(name), manifest=False)

    async def _answer(self, stream: RequestStream, read: Callable[[], bytes | None], *, manifest: bool) -> None:
        node = stream.node_id
        if self.waiting >= WAITING_MOST or self._by_node[node] >= NODE_MOST:
            self.stats.busy += 1
            await stream.send(codec.encode({"error": BUSY}))
            return
        self._by_node[node] += 1
        try:
            async with self._sending:
                with trio.move_on_after(SEND_S) as scope:
                    await self._send(stream, read, manifest)
        finally:
            self._by_node[node] -= 1
            if not self._by_node[node]:
                del self._by_node[node]
        if scope.cancelled_caught:
            raise RemoteError(f"{stream.node_id.short} did not take an answer within {SEND_S:.0f} s")

    async def _send(self, stream: RequestStream, read: Callable[[], bytes | None], manifest: bool) -> None:
        try:
            data = await trio.to_thread.run_sync(read, limiter=self.readers)
        except MissingChunk:
            data = None
        except (CorruptChunk, UserError):
            self.stats.corrupt += 1
            await stream.send(codec.encode({"error": CORRUPT}))
            return
        if data is None:
            self.stats.missing += 1
            await stream.send(codec.encode({"error": MISSING}))
            return
        await stream.send(codec.encode({"size": len(data)}))
        await stream.send_raw(data)
        if manifest:
            self.stats.manifests += 1
        else:
            self.stats.chunks += 1
            self.stats.bytes += len(data)


def _hash_untrusted(stream: RequestStream, field: str) -> bytes:
    value = stream.header.get(field)
    if type(value) is not bytes or len(value) != 32:
        raise WireError(f"{stream.protocol} without the 32 bytes of a {field}")
    return value
