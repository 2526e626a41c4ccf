"""Requests: one on each stream. The first frame, from the side that opened it, names the protocol.

That frame is a CBOR map: `protocol` and the fields of the request's header. What follows, frames or raw bytes both
ways, is the protocol's own affair. An end that gives up resets the stream with a `StreamCode`; the other end gets a
`RemoteError` that says so in words.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.ports import Handler
from atmo.net.quic import Connection, QuicStream, StreamCode
from atmo.wire import codec, limits
from atmo.wire.frames import FrameReader, frame

log = logging.getLogger(__name__)

FIRST_FRAME_S = 10.0
"""How long a stream may stay without naming its protocol."""
MAX_CONCURRENT = 128
"""Requests of one connection answered at once; as many as the streams it may open."""

Dispatch = Callable[[str], Handler | None]
OnBad = Callable[[str], None]


class Request:
    """One request on one stream, either end; implements `net.ports.RequestStream`.

    Attributes:
        node_id: The authenticated other end.
        protocol: Such as `atmo/execute/1`.
        header: The first frame without `protocol`.
    """

    def __init__(
        self,
        stream: QuicStream,
        protocol: str,
        header: Mapping[str, Any],
        reader: FrameReader,
        on_bad: OnBad | None = None,
    ) -> None:
        self.node_id: NodeId = stream.connection.node_id
        self.protocol = protocol
        self.header = header
        self._stream = stream
        self._reader = reader
        self._on_bad = on_bad

    async def send(self, body: bytes) -> None:
        """Sends one frame; see `net.ports.RequestStream`.

        Raises:
            ValueError: The body is over 1 MiB.
        """
        if len(body) > limits.FRAME_BYTES:
            raise ValueError(f"a frame of {len(body)} bytes is over the limit of {limits.FRAME_BYTES}")
        await self._stream.send_all(frame(body))

    async def receive(self) -> bytes | None:
        """Returns the next frame, None at the clean end; see `net.ports.RequestStream`."""
        try:
            return await _next_frame(self._stream, self._reader)
        except WireError as error:
            self._stream.reset(StreamCode.BAD_FRAME)
            sentence = f"{self.node_id.short} broke {self.protocol}: {error}"
            if self._on_bad is not None:
                self._on_bad(sentence)
            raise RemoteError(sentence) from error

    async def send_raw(self, data: bytes | bytearray | memoryview) -> None:
        """Sends bytes without a frame; see `net.ports.RequestStream`."""
        await self._stream.send_all(data)

    async def receive_raw(self, count: int) -> bytes:
        """Returns exactly `count` unframed bytes; see `net.ports.RequestStream`."""
        gathered = bytearray(self._reader.take_rest())
        if len(gathered) > count:
            self._reader.feed_untrusted(bytes(memoryview(gathered)[count:]))
            return bytes(memoryview(gathered)[:count])
        while len(gathered) < count:
            data = await self._stream.receive_some(count - len(gathered))
            if not data:
                raise RemoteError(f"{self.node_id.short} sent {len(gathered)} of {count} bytes and ended the stream")
            gathered += data
        return bytes(gathered)

    async def finish(self) -> None:
        """Ends our direction; see `net.ports.RequestStream`."""
        await self._stream.send_eof()


@asynccontextmanager
async def open_request(
    connection: Connection, protocol: str, header: Mapping[str, Any], deadline_s: float
) -> AsyncIterator[Request]:
    """Opens a stream, sends the first frame, and gives the request to the block.

    Leaving the block normally ends our direction and lets go of the rest; leaving it by an exception, a cancellation
    or the deadline resets the stream both ways.

    Args:
        connection: Where to.
        protocol: Names the handler at the other end.
        header: Plain CBOR values under text keys other than `protocol`.
        deadline_s: Seconds for the whole block; `math.inf` for a request that lives as long as the connection.

    Raises:
        RemoteError: The deadline passed, the other end reset the stream, or the connection is gone.
    """
    first = frame(codec.encode({**header, "protocol": protocol}), limits.MESSAGE_BYTES)
    with trio.move_on_after(deadline_s) as scope:
        stream = await connection.open_stream()
        async with stream:
            try:
                await stream.send_all(first)
                yield Request(stream, protocol, header, FrameReader())
            except trio.Cancelled:
                stream.reset(StreamCode.LATE if scope.cancel_called else StreamCode.CANCELLED)
                raise
    if scope.cancelled_caught:
        raise RemoteError(f"{connection.node_id.short} did not finish {protocol} within {deadline_s:g} s")


async def serve_requests(
    connection: Connection,
    dispatch: Dispatch,
    on_bad: OnBad,
    max_concurrent: int = MAX_CONCURRENT,
    first_frame_s: float = FIRST_FRAME_S,
) -> None:
    """Answers the requests of one connection until it closes; then cancels the handlers that still run.

    A handler that returns ends its stream; one that raises resets it, which costs the connection nothing.

    Args:
        connection: Whose streams to accept.
        dispatch: Says who answers a protocol, None for nobody.
        on_bad: Told of each request that broke a rule, in one sentence.
        max_concurrent: Handlers running at once; more requests wait.
        first_frame_s: How long a stream may take to name its protocol.
    """
    slots = trio.Semaphore(max_concurrent)
    async with trio.open_nursery() as nursery:
        while True:
            await slots.acquire()
            try:
                stream = await connection.accept_stream()
            except RemoteError:
                break
            nursery.start_soon(_serve_one, stream, dispatch, on_bad, first_frame_s, slots)
        nursery.cancel_scope.cancel()


async def _serve_one(
    stream: QuicStream, dispatch: Dispatch, on_bad: OnBad, first_frame_s: float, slots: trio.Semaphore
) -> None:
    """Answers one request; whatever goes wrong stays on its stream."""
    code = StreamCode.CANCELLED
    done = False
    try:
        request = await _read_first(stream, on_bad, first_frame_s)
        if request is None:
            code = StreamCode.BAD_FRAME
            return
        handler = dispatch(request.protocol)
        if handler is None:
            stream.connection.stats.requests_unknown += 1  # no fault: a later version may ask what we do not know
            code = StreamCode.UNKNOWN_PROTOCOL
            return
        done, code = await _run_handler(stream, request, handler, on_bad)
    finally:
        slots.release()
        if not done:
            stream.reset(code)


async def _read_first(stream: QuicStream, on_bad: OnBad, first_frame_s: float) -> Request | None:
    """Reads the frame that names the protocol; None when there is nothing to answer."""
    name = stream.connection.node_id.short
    reader = FrameReader(limits.MESSAGE_BYTES)
    with trio.move_on_after(first_frame_s):
        try:
            body = await _next_frame(stream, reader)
            if body is None:
                raise WireError("the stream ended before its first frame")
            protocol, header = _first_untrusted(body)
        except RemoteError:
            return None
        except WireError as error:
            on_bad(f"{name} sent a malformed request: {error}")
            return None
        rest = FrameReader()
        rest.feed_untrusted(reader.take_rest())
        return Request(stream, protocol, header, rest, on_bad)
    on_bad(f"{name} opened a stream and named no protocol within {first_frame_s:g} s")
    return None


async def _run_handler(
    stream: QuicStream, request: Request, handler: Handler, on_bad: OnBad
) -> tuple[bool, StreamCode]:
    """Returns whether the stream ended cleanly, else with which code to reset it."""
    stats = stream.connection.stats
    try:
        await handler(request)
        await stream.aclose(StreamCode.ENOUGH)
    except WireError as error:
        on_bad(f"{request.node_id.short} broke {request.protocol}: {error}")
        return False, StreamCode.BAD_FRAME
    except Exception as error:
        if _all_remote(error):
            log.debug("%s from %s ended early: %s", request.protocol, request.node_id.short, error)
            return False, StreamCode.CANCELLED
        stats.requests_failed += 1
        log.exception("%s from %s failed", request.protocol, request.node_id.short)
        return False, StreamCode.FAILED
    stats.requests_served += 1
    return True, StreamCode.CANCELLED


def _all_remote(error: BaseException) -> bool:
    """Says whether an error, or all that a handler's own nursery gathered, only tells that the other end is gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(_all_remote(each) for each in error.exceptions)
    return isinstance(error, RemoteError)


def _first_untrusted(body: bytes) -> tuple[str, dict[str, Any]]:
    """Splits the first frame into protocol and header.

    Raises:
        WireError: It is not a map of names with a short text under `protocol`.
    """
    value = codec.decode_untrusted(body)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError("the first frame is not a map of names")
    protocol = value.pop("protocol", None)
    if not isinstance(protocol, str) or len(protocol) > limits.NAME_CHARS:
        raise WireError("the first frame names no protocol")
    return protocol, value


async def _next_frame(stream: QuicStream, reader: FrameReader) -> bytes | None:
    """Returns the next frame's body, None at the clean end.

    Raises:
        WireError: The frame is over the limit, or the stream ends in its middle.
        RemoteError: The stream was reset or its connection is gone.
    """
    while (body := reader.next_untrusted()) is None:
        data = await stream.receive_some()
        if not data:
            if reader.in_middle:
                raise WireError("the stream ended in the middle of a frame")
            return None
        reader.feed_untrusted(data)
    return body
