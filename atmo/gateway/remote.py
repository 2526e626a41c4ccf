"""`atmo/execute/1`, the asking side: running a request on another node.

The header names the operation, the capability's id on that node, whether to stream, a deadline and the body's size. The
JSON body follows in frames. The answer comes in frames too, each a CBOR map with one key:

    {"head": {...}}       at most once, first: the work begins; how long it waited, and fields that are not honoured
    {"part": JSON}        one JSON object of the answer; preceded by pieces where it does not fit in a frame
    {"piece": bytes}      the beginning, or the next stretch, of a part
    {"error": {...}}      why it fails: status, message, kind, code, param, perhaps retry_ms; the last frame
    {"end": true}         all parts were sent; the last frame

The asking side keeps its direction open until it has the answer. When it goes away, or ends it early, the work stops.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from atmo.backends.base import Encoded, Head, Part
from atmo.backends.passing import Passing
from atmo.backends.pool import MAX_IGNORED
from atmo.backends.via import came_by
from atmo.errors import RemoteError, RequestError, WireError
from atmo.gateway.jsontext import read_object_untrusted
from atmo.net.ports import MeshPort, RequestStream
from atmo.router.offer import Offer
from atmo.wire import codec, limits

PROTOCOL = "atmo/execute/1"

PIECE_BYTES = 512 * 1024
"""Bytes of a body or part in one frame; small enough that a stream of tokens beside it does not wait long."""

MAX_DEADLINE_MS = 3_600_000
MAX_PIECES = limits.REQUEST_BYTES // 1_024
"""Frames for one body or part: a peer that sends it byte by byte is cut off."""

TEXT_CHARS = 2_000
"""Of an error's message."""

FIELD_CHARS = 64
"""Of the name of a field that is not honoured."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request on its way to another node.

    Attributes:
        offer: Whom it goes to, for what.
        operation: What the client asked for.
        body: JSON.
        stream: Whether the answer comes in chunks.
        deadline_s: For all of it.
        request_id: For logs.
        reach_s: For getting through to the node, before it has heard anything.
        trace: W3C `traceparent`, empty for none.
        begun: Told when the work begins there.
    """

    offer: Offer
    operation: str
    body: bytes
    stream: bool
    deadline_s: float
    request_id: str
    reach_s: float
    trace: str
    begun: Callable[[Head], None]


class RemoteParts:
    """The parts of an answer as they come in; an async iterator.

    Args:
        stream: To the node that runs the request.
        begun: Told when the work begins there.

    Attributes:
        ended: The other side said that all parts were sent, or why it failed.
    """

    def __init__(self, stream: RequestStream, begun: Callable[[Head], None]) -> None:
        self._stream = stream
        self._begun: Callable[[Head], None] | None = begun
        self._passing = Passing()
        self.ended = False

    def __aiter__(self) -> RemoteParts:
        return self

    async def __anext__(self) -> Part:
        """Returns the next part.

        Raises:
            StopAsyncIteration: All came.
            RequestError: The other side says why it fails.
            RemoteError: It broke the protocol or vanished.
        """
        if self.ended:
            raise StopAsyncIteration
        pieces: list[bytes] = []
        size = 0
        while len(pieces) <= MAX_PIECES:
            key, value = _answer_untrusted(await self._stream.receive())
            if key == "end":
                self.ended = True
                raise StopAsyncIteration
            if key == "error":
                self.ended = True
                raise _error_untrusted(value)
            if key == "head":
                self._begin_untrusted(value)
                continue
            size += len(value)
            if size > limits.REQUEST_BYTES:
                raise RemoteError("its answer is too large")
            pieces.append(value)
            if key == "part":
                return await self._part_untrusted(b"".join(pieces))
        raise RemoteError("its answer comes in too many pieces")

    async def _part_untrusted(self, raw: bytes) -> Part:
        """Returns a part; one that differs from an earlier one in its words alone is not parsed again."""
        passed = self._passing.passed(raw)
        if passed is not None:
            return Encoded(passed)
        try:
            part = await read_object_untrusted(raw)
        except RequestError as error:
            raise RemoteError(f"its answer is not usable JSON: {error.message}") from error
        self._passing.learn(raw, part, part)
        return part

    def _begin_untrusted(self, value: Mapping[str, Any]) -> None:
        queue_ms, ignored = value.get("queue_ms"), value.get("ignored")
        if self._begun is None or type(queue_ms) is not int or not 0 <= queue_ms <= MAX_DEADLINE_MS:
            raise RemoteError("it begins its answer in a way that does not decode")
        if not isinstance(ignored, list) or len(ignored) > MAX_IGNORED or not all(map(_is_field, ignored)):
            raise RemoteError("it names fields that it does not honour in a way that does not decode")
        begun, self._begun = self._begun, None
        begun(Head(queue_ms / 1_000, tuple(ignored)))


def _is_field(value: object) -> bool:
    return isinstance(value, str) and len(value) <= FIELD_CHARS and value.isprintable()


@asynccontextmanager
async def open_remote(mesh: MeshPort, outgoing: Outgoing) -> AsyncGenerator[RemoteParts, None]:
    """Sends a request to the node of its offer; the block gets the parts of the answer.

    Leaving the block before the answer has ended stops the work there.

    Raises:
        RemoteError: The node cannot be reached, not soon enough, or vanished.
    """
    header = {
        "operation": outgoing.operation,
        "capability": outgoing.offer.capability.id,
        "stream": outgoing.stream,
        "deadline_ms": min(MAX_DEADLINE_MS, max(1, int(outgoing.deadline_s * 1_000))),
        "request_id": outgoing.request_id,
        "size": len(outgoing.body),
    } | ({"trace": outgoing.trace} if outgoing.trace else {})
    if marks := came_by():
        header["via"] = list(marks)
    parts: RemoteParts | None = None
    try:
        with trio.move_on_after(outgoing.reach_s) as scope:
            async with mesh.request(outgoing.offer.node, PROTOCOL, header, outgoing.deadline_s) as stream:
                scope.deadline = math.inf
                await trio.lowlevel.checkpoint_if_cancelled()
                for start in range(0, len(outgoing.body), PIECE_BYTES):
                    await stream.send(outgoing.body[start : start + PIECE_BYTES])
                parts = RemoteParts(stream, outgoing.begun)
                yield parts
                if not parts.ended:
                    scope.cancel()
                await trio.lowlevel.checkpoint()
        if parts is None:
            raise RemoteError(f"there was no way to {outgoing.offer.node_name} within {outgoing.reach_s:g} s")
    except RemoteError:
        if parts is None or not parts.ended:
            raise
        log.debug("%s closed a stream badly after its answer was complete", outgoing.offer.node_name)


def _answer_untrusted(frame: bytes | None) -> tuple[str, Any]:
    """Returns the one key of an answer's frame and its value."""
    if frame is None:
        raise RemoteError("it ended the stream in the middle of an answer")
    try:
        value = codec.decode_untrusted(frame, limits.FRAME_BYTES, max_items=limits.ANSWER_ITEMS)
    except WireError as error:
        raise RemoteError(f"its answer does not decode: {error}") from error
    if not isinstance(value, dict) or len(value) != 1:
        raise RemoteError("its answer is not a map of one key")
    key, content = next(iter(value.items()))
    kinds = {"head": dict, "part": bytes, "piece": bytes, "error": dict, "end": bool}
    if not isinstance(key, str) or not isinstance(content, kinds.get(key, ())):
        raise RemoteError("its answer is none of head, part, piece, error and end")
    return key, content


def _error_untrusted(value: Mapping[str, Any]) -> RequestError:
    status, message = value.get("status"), value.get("message")
    if type(status) is not int or not 400 <= status <= 599 or not isinstance(message, str):
        raise RemoteError("it failed with an error that does not decode")
    texts = {name: value.get(name) for name in ("kind", "code", "param")}
    kind, code, param = (
        text[: limits.NAME_CHARS] if isinstance(text, str) else None
        for text in (texts["kind"], texts["code"], texts["param"])
    )
    retry_ms = value.get("retry_ms", 0)
    retry_s = retry_ms / 1_000 if type(retry_ms) is int and 0 <= retry_ms <= MAX_DEADLINE_MS else 0.0
    return RequestError(status, message[:TEXT_CHARS], kind=kind or "api_error", code=code, param=param, retry_s=retry_s)


Mesh = Callable[[], MeshPort | None]
"""The running peer, None while this machine belongs to no mesh."""
