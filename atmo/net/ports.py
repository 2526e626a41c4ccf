"""What the rooms above need of the network, as protocols: implemented by `net.requests` and `net.driver`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.identity import NodeId

if TYPE_CHECKING:
    from atmo.net.path_report import PathReport
    from atmo.peer import Peer


class RequestStream(Protocol):
    """One request on one QUIC stream, seen from either end.

    Attributes:
        node_id: The authenticated other end.
        protocol: Such as `atmo/execute/1`.
        header: The first frame's CBOR map without `protocol`.
    """

    node_id: NodeId
    protocol: str
    header: Mapping[str, Any]

    async def send(self, body: bytes) -> None:
        """Sends one frame of at most 1 MiB, waiting while the other end reads slower than we write."""

    async def receive(self) -> bytes | None:
        """Returns the next frame's body, None at the clean end of the stream.

        Raises:
            RemoteError: The stream was reset, cut in the middle of a frame, or its connection is gone.
        """

    async def send_raw(self, data: bytes | bytearray | memoryview) -> None:
        """Sends bytes without a frame, after a header that told their number."""

    async def receive_raw(self, count: int) -> bytes:
        """Returns exactly `count` unframed bytes.

        Raises:
            RemoteError: The stream ended before.
        """

    async def finish(self) -> None:
        """Ends our direction; the other end's `receive` returns None after what was sent."""


Handler = Callable[[RequestStream], Awaitable[None]]
"""Answers one incoming request; when it returns the stream is finished, when it raises the stream is reset."""


Buffer = bytes | bytearray | memoryview
Take = Callable[[Buffer], bool]
"""Verifies and keeps a chunk; the buffer is someone else's when it has returned."""


class NoFastPath(RemoteError):
    """This chunk does not come over TCP; QUIC may have it."""


class ChunkRefused(RemoteError):
    """The holder does not send the chunk.

    Attributes:
        reason: Its word, such as `missing`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the node refuses: {reason}")
        self.reason = reason


class ChunkService(Protocol):
    """Answers requests for chunks over TCP; only certified members of the mesh get through to it."""

    def allow(self, node: NodeId, name: bytes, size: int) -> float:
        """A node asks for a chunk; called in the loop, at times only after it was sent.

        Returns:
            How many seconds to wait before it is sent.

        Raises:
            ChunkRefused: It may not have it, or not now.
        """

    def is_open(self, name: bytes) -> bool:
        """Says whether every member may have a chunk; in any thread."""

    def read(self, name: bytes, room: memoryview) -> None:
        """Fills `room` with a chunk of that size, verified; in a worker thread.

        Raises:
            ChunkRefused: It is not here, or not intact.
        """

    def sent(self, node: NodeId, size: int) -> None:
        """What `allow` let through is over: so many bytes were sent, 0 where it was given up. In the loop."""


class BulkPort(Protocol):
    """Chunks over TCP. Implemented by `net.bulk.Bulk`."""

    def handle(self, service: ChunkService) -> None:
        """Registers who answers requests."""

    async def fetch(self, node: NodeId, name: bytes, size: int, take: Take) -> bool:
        """Fetches a chunk over TCP and returns what `take` says of it.

        Args:
            node: The holder.
            name: Its BLAKE3 hash.
            size: In bytes.
            take: Verifies and keeps it, in the worker thread that received it; where the fetch was cancelled it may
                still run, or never.

        Raises:
            NoFastPath: There is no TCP connection to the node, or it broke.
            ChunkRefused: The node does not send it.
        """


class MeshPort(Protocol):
    """A running peer as the services see it. Implemented by `net.driver.PeerDriver`.

    Attributes:
        bulk: None where there is no TCP.
    """

    peer: Peer
    bulk: BulkPort | None

    def now(self) -> Now:
        """Returns the clocks, read once."""

    def path(self, node: NodeId) -> PathReport | None:
        """Returns by which path a node is reached, None where there is no link."""

    def kick(self) -> None:
        """Performs the effects that a command on `peer` has just asked for; call it after every command."""

    def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AbstractAsyncContextManager[RequestStream]:
        """Opens a request to a member: `async with mesh.request(...) as stream:`.

        Where there is no link one is dialled, else a way through other members is looked for; it is kept open for the
        block. The deadline covers the whole block; leaving the block by an exception or cancellation resets the stream.

        Raises:
            RemoteError: There is no way to the node, it vanished, or the deadline passed.
        """

    def handle(self, protocol: str, handler: Handler) -> None:
        """Registers who answers requests of `protocol`; only certified members of the mesh get through to it."""


class DurablePort(MeshPort, Protocol):
    """A peer whose changes can be waited for."""

    async def flush(self) -> None:
        """Returns when what the peer asked to keep is on the disk: before a person is told that it is done."""
