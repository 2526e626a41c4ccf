"""One connection from an asker to a holder: a request and its answer at a time, in a worker thread."""

from __future__ import annotations

from contextlib import ExitStack

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.bulk_frames import (
    HEAD_BYTES,
    MESSAGES_MOST,
    REASON_BYTES,
    TAG_BYTES,
    Buffers,
    Kind,
    Ticket,
    Want,
    directions,
    read_head_untrusted,
    read_reason_untrusted,
    seal_request,
)
from atmo.net.ports import ChunkRefused, Take
from atmo.net.tcp import ByteStream


class Channel:
    """One connection to a holder.

    One thread at a time asks, receives, opens, verifies and writes, for as long as there is something to ask for. Who
    gives up closes the connection, which wakes the thread.

    Args:
        stream: Open; nothing was sent.
        ticket: Good for it.
        asker: This node.
        holder: The other one.
        buffers: For chunks.
        clear: Chunks may come in clear.

    Attributes:
        proven: The holder has sent something that only it could seal.
        idle_since: Monotonic seconds.
        closing: Called when it is closed.
    """

    def __init__(
        self,
        stream: ByteStream,
        ticket: Ticket,
        asker: NodeId,
        holder: NodeId,
        buffers: Buffers,
        *,
        clear: bool = False,
    ) -> None:
        self.proven = False
        self.idle_since = 0.0
        self.closing = ExitStack()
        self._stream = stream
        self._first: bytes = ticket.ticket
        self._buffers = buffers
        self._want = Want.CLEAR if clear else Want.CHUNK
        self._outward, self._inward = directions(ticket, asker, holder)

    @property
    def used_up(self) -> bool:
        """No further request may be sent."""
        return self._outward.count >= MESSAGES_MOST

    def close(self) -> None:
        """Ends it; who waits in it gets a `RemoteError`."""
        self._stream.close()
        self.closing.close()

    def fetch(self, name: bytes, size: int, take: Take) -> bool:
        """Asks for a chunk in a worker thread and returns what `take` says of it; see `net.ports.BulkPort.fetch`.

        After any error but a refusal, and where nobody waits for the answer any more, it must be closed.

        Raises:
            RemoteError: The connection broke.
            WireError: What came was not sealed by the holder, is no answer, or is not the chunk and came in clear.
            ChunkRefused: The holder does not send it.
        """
        request = self._first + seal_request(self._outward, self._want, name, size)
        self._first = b""
        self._stream.send_blocking(request)
        most = HEAD_BYTES + max(size, REASON_BYTES) + TAG_BYTES
        buffer = self._buffers.take(most)
        try:
            kind, head, body = self._receive_untrusted(memoryview(buffer)[:most], size)
            if kind is Kind.CLEAR:
                if not take(body):
                    raise WireError("bytes in clear that are not the chunk: anybody on the way can have changed them")
                return True
            opened = body[:-TAG_BYTES]  # in the same place: half the memory, and what is in the cache already
            self._inward.open_untrusted(body, head + name, opened)
            self.proven = True
            if kind is Kind.CHUNK:
                return take(opened)
            raise ChunkRefused(read_reason_untrusted(bytes(opened)))
        finally:
            self._buffers.give(buffer)

    def _receive_untrusted(self, room: memoryview, size: int) -> tuple[Kind, bytes, memoryview]:
        """Receives an answer; `room` is as large as one may be, and no byte of it is read on the holder's word.

        Raises:
            RemoteError: The connection broke.
            WireError: It is no answer.
        """
        have = self._stream.receive_blocking(room, HEAD_BYTES)
        if have < HEAD_BYTES:
            raise RemoteError("the holder closed the TCP connection")
        kind, body = read_head_untrusted(room[:HEAD_BYTES], size, self._want)
        need = HEAD_BYTES + body
        if have > need:
            raise WireError("more than an answer")
        if have < need and have + self._stream.receive_blocking(room[have:need], need - have) < need:
            raise RemoteError("the holder closed the TCP connection")
        return kind, bytes(room[:HEAD_BYTES]), room[HEAD_BYTES:need]
