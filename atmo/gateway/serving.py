"""`atmo/execute/1`, the answering side: requests of other nodes, within limits that local clients do not feel."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from atmo.backends.base import STREAMED, Call, Head, Part
from atmo.backends.pool import BackendPool
from atmo.backends.via import came_by_untrusted
from atmo.errors import RemoteError, RequestError
from atmo.gateway.askers import BY_ROLE, Askers, NodeLimits
from atmo.gateway.budget import BUDGET_BYTES, ByteBudget, Holding
from atmo.gateway.checks import check_body
from atmo.gateway.jsontext import read_object_untrusted, write_object
from atmo.gateway.needs import needs_of
from atmo.gateway.remote import FIELD_CHARS, MAX_DEADLINE_MS, MAX_PIECES, PIECE_BYTES, PROTOCOL, TEXT_CHARS
from atmo.gateway.terms import Terms
from atmo.gateway.tracing import NO_TRACER, Tracer, note_asked, traceparent_untrusted
from atmo.net.ports import RequestStream
from atmo.router.capability import IMAGES, OPERATIONS, SPEECH, TRANSCRIPTION, Capability
from atmo.wire import codec, limits

_MEDIA_STREAMS = frozenset({IMAGES, SPEECH, TRANSCRIPTION})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Limits for requests of other nodes.

    Attributes:
        max_calls: Requests that run, or wait for their turn, at once. Source: guess.
        everybody: What one node may ask that has no role of `by_role`.
        by_role: What one may ask that has; the more generous counts.
        held_bytes: Bodies held at once; what local clients send is not counted. Source: a choice, as `BUDGET_BYTES`.
        held_bytes_per_node: Of one node: its largest body and some small ones beside it.
        body_s: Seconds within which a body must be here.
        taken_s: Seconds within which each frame of an answer must be taken: a stream holds a turn of its capability.
        last_s: Seconds within which an error that comes after the deadline, or before the work, must be taken.
    """

    max_calls: int = 96
    everybody: NodeLimits = field(default_factory=NodeLimits)
    by_role: Mapping[str, NodeLimits] = field(default_factory=lambda: dict(BY_ROLE))
    held_bytes: int = BUDGET_BYTES
    held_bytes_per_node: int = limits.REQUEST_BYTES + 8 * 1024 * 1024
    body_s: float = 60.0
    taken_s: float = 30.0
    last_s: float = 5.0


@dataclass(slots=True)
class ServerStats:
    """Counters of the requests that other nodes sent us."""

    served: int = 0
    refused: int = 0
    failed: int = 0
    abandoned: int = 0


class ExecuteServer:
    """Answers `atmo/execute/1`: other nodes' requests, run on this machine and nowhere else.

    Args:
        pool: Who runs them.
        config: Limits.
        terms: Who may ask for what.
        tracer: Records what is done for them, as a part of their traces.
    """

    def __init__(
        self,
        pool: BackendPool,
        config: ServerConfig | None = None,
        terms: Terms | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._tracer = tracer
        self._pool = pool
        self._terms = terms or Terms()
        self._config = config or ServerConfig()
        self._budget = ByteBudget(self._config.held_bytes)
        own = self._config
        self._askers = Askers(own.max_calls, own.held_bytes_per_node, own.everybody, own.by_role, self._terms.roles)
        self.stats = ServerStats()

    async def serve(self, stream: RequestStream) -> None:
        """Handles one incoming request; raises `RemoteError` where the asking node broke the protocol or left."""
        size = _size_untrusted(stream.header)
        node = stream.node_id
        refusal = None if self._terms.admits(node) else _not_admitted()
        refusal = refusal or self._askers.refusal(trio.current_time(), node)
        if refusal is not None:
            await self._refuse(stream, size, refusal)
            return
        with self._askers.served(node) as held_of_node, self._budget.holding() as held:
            await self._serve(stream, size, (held_of_node, held))

    async def _serve(self, stream: RequestStream, size: int, holdings: Sequence[Holding]) -> None:
        try:
            capability, deadline_s = self._check_untrusted(stream.header)
        except RequestError as error:
            await self._refuse(stream, size, error)
            return
        raw = await self._read(stream, size, holdings)
        if raw is None:
            return
        try:
            body = await read_object_untrusted(raw)
            check_body(stream.header["operation"], body)
            if lacking := capability.lacks(needs_of(stream.header["operation"], body)):
                message = f"{capability.model} on this node does not do {', '.join(lacking)}."
                raise RequestError(400, message, code="unsupported_feature")
        except RequestError as error:
            await self._refuse(stream, 0, error)
            return
        del raw
        call = _call(capability, body, stream.header)
        came_by_untrusted(stream.header.get("via"))
        with self._tracer.span("serve", call.trace, "server") as span:
            note_asked(span, stream.node_id, call.operation, capability.model)
            await self._run(stream, replace(call, trace=span.traceparent), deadline_s)

    def _check_untrusted(self, header: Mapping[str, Any]) -> tuple[Capability, float]:
        wanted = (("operation", str), ("capability", str), ("stream", bool), ("deadline_ms", int), ("request_id", str))
        for name, kind in wanted:
            if type(header.get(name)) is not kind:
                raise RequestError(400, f"The header of {PROTOCOL} has no valid '{name}'.", param=name)
        request_id = header["request_id"]
        named = len(request_id) <= limits.NAME_CHARS and request_id.isprintable()
        if header["operation"] not in OPERATIONS or not named:
            raise RequestError(400, f"The header of {PROTOCOL} is not valid.")
        for capability in self._terms.offered(self._pool.capabilities()):
            if capability.id == header["capability"] and header["operation"] in capability.operations:
                return capability, min(max(header["deadline_ms"], 1), MAX_DEADLINE_MS) / 1_000
        raise RequestError(
            404, "This node does not offer that capability any more.", code="capability_gone", param="model"
        )

    async def _read(self, stream: RequestStream, size: int, holdings: Sequence[Holding]) -> bytes | None:
        """Returns the body; None where there is no room for it and the asking node was told so."""
        with trio.move_on_after(self._config.body_s):
            pieces: list[bytes] = []
            left = size
            while left and len(pieces) < MAX_PIECES:
                piece = await stream.receive()
                if piece is None or len(piece) > left:
                    raise RemoteError("the body is not as long as its header says")
                left -= len(piece)
                try:
                    for holding in holdings:
                        holding.take(len(piece))
                except RequestError as error:
                    pieces.clear()
                    for holding in holdings:
                        holding.give_back()
                    await self._refuse(stream, left, error)
                    return None
                pieces.append(piece)
            if not left:
                return b"".join(pieces)
        raise RemoteError("the body came too slowly or in too many pieces")

    async def _refuse(self, stream: RequestStream, unread: int, error: RequestError) -> None:
        """Answers with an error, then takes what is still under way, so that the asking side gets to read it."""
        self.stats.refused += 1
        await self._send_last(stream, _error_frame(error))
        if unread:
            await self._discard(stream, unread)

    async def _send_last(self, stream: RequestStream, frame: bytes) -> None:
        """Sends what no deadline of a request bounds any more; an asking node that does not read it is given up."""
        with trio.move_on_after(self._config.last_s):
            await stream.send(frame)
            return
        raise RemoteError("the asking node does not read its answer")

    async def _discard(self, stream: RequestStream, unread: int) -> None:
        with trio.move_on_after(self._config.body_s):
            for _ in range(MAX_PIECES):
                piece = await stream.receive()
                unread -= len(piece or b"")
                if piece is None or unread <= 0:
                    return

    async def _run(self, stream: RequestStream, call: Call, deadline_s: float) -> None:
        finished = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            try:
                with trio.move_on_after(deadline_s) as timer:
                    await self._answer(stream, call)
                if timer.cancelled_caught:
                    self.stats.failed += 1
                    late = f"{call.capability.model} took longer than {deadline_s:g} s."
                    error = RequestError(504, late, kind="api_error", code="timeout")
                    await self._send_last(stream, _error_frame(error))
                finished = True
            except RemoteError as left:
                log.info("%s left while %s answered it: %s", stream.node_id.short, call.capability.id, left)
            nursery.cancel_scope.cancel()
        if not finished:
            self.stats.abandoned += 1
            raise RemoteError("the asking node left before the answer was complete")

    async def _answer(self, stream: RequestStream, call: Call) -> None:
        heads: list[Head] = []
        try:
            answer: list[Part] = []
            with self._tracer.span("run", call.trace) as span:
                call = replace(call, begun=heads.append, trace=span.traceparent)
                async with aclosing(self._pool.execute(call, stream.node_id)) as parts:
                    async for part in parts:
                        if call.stream:
                            if heads:
                                await self._send_frame(stream, _head_frame(heads.pop()))
                            await self._send_part(stream, await _written(call, part))
                        else:
                            answer.append(part)
            for head in heads:  # here it is the next one's turn
                await self._send_frame(stream, _head_frame(head))
            for part in answer:
                await self._send_part(stream, await _written(call, part))
        except RequestError as error:
            self.stats.failed += 1
            await stream.send(_error_frame(error))
        except RemoteError:
            raise
        except Exception:
            self.stats.failed += 1
            log.exception("%s failed on request %s", call.capability.id, call.request_id)
            await stream.send(_error_frame(internal_error(call.capability)))
        else:
            self.stats.served += 1
            await stream.send(codec.encode({"end": True}))

    async def _send_part(self, stream: RequestStream, data: bytes) -> None:
        if len(data) > limits.REQUEST_BYTES:
            message = "The answer is too large to be sent over the mesh."
            raise RequestError(502, message, kind="api_error", code="too_large")
        last = max(0, (len(data) - 1) // PIECE_BYTES * PIECE_BYTES)
        for start in range(0, last, PIECE_BYTES):
            await self._send_frame(stream, codec.encode({"piece": data[start : start + PIECE_BYTES]}))
        await self._send_frame(stream, codec.encode({"part": data[last:]}))

    async def _send_frame(self, stream: RequestStream, frame: bytes) -> None:
        with trio.move_on_after(self._config.taken_s):
            await stream.send(frame)
            return
        raise RemoteError("it does not read its answer")


async def _written(call: Call, part: Part) -> bytes:
    try:
        return await write_object(part)
    except (TypeError, ValueError) as error:
        message = f"{call.capability.model} answered with something that JSON cannot say, such as NaN."
        raise RequestError(502, message, kind="api_error", code="bad_answer") from error


def internal_error(capability: Capability) -> RequestError:
    """Returns the error of a backend that failed in a way nobody foresaw; the log of its node has the details."""
    message = f"{capability.model} failed unexpectedly; the log of its node has the details."
    return RequestError(500, message, kind="api_error", code="internal_error")


def _call(capability: Capability, body: Mapping[str, Any], header: Mapping[str, Any]) -> Call:
    asked = "" if header["operation"] == capability.operation else header["operation"]
    stream = header["stream"] and header["operation"] in STREAMED | _MEDIA_STREAMS
    return Call(capability, body, stream, header["request_id"], asked, traceparent_untrusted(header.get("trace")))


def _head_frame(head: Head) -> bytes:
    ignored = [field[:FIELD_CHARS] for field in head.ignored]
    return codec.encode({"head": {"queue_ms": min(MAX_DEADLINE_MS, int(head.queue_s * 1_000)), "ignored": ignored}})


async def _cancel_when_gone(stream: RequestStream, scope: trio.CancelScope) -> None:
    """Nothing follows the body: whatever comes, an end or a reset, means that the answer is no longer wanted."""
    try:
        await stream.receive()
    except RemoteError as error:
        log.info("request of %s ends early: %s", stream.node_id.short, error)
    scope.cancel()


def _error_frame(error: RequestError) -> bytes:
    retry = {"retry_ms": min(MAX_DEADLINE_MS, math.ceil(error.retry_s * 1_000))} if error.retry_s > 0 else {}
    return codec.encode(
        {
            "error": {
                "status": error.status,
                "message": _text(error.message[:TEXT_CHARS]),
                "kind": error.kind,
                "code": error.code and _text(error.code),
                "param": error.param and _text(error.param),
                **retry,
            }
        }
    )


def _text(said: str) -> str:
    """Returns what is said without halves of characters, which servers put anywhere and CBOR does not know."""
    return said.encode("utf-8", "replace").decode()


def _not_admitted() -> RequestError:
    message = "This node runs requests of machines on its own networks only."
    return RequestError(403, message, kind="permission_error", code="not_local")


def _size_untrusted(header: Mapping[str, Any]) -> int:
    size = header.get("size")
    if type(size) is not int or not 0 <= size <= limits.REQUEST_BYTES:
        raise RemoteError(f"a body of {limits.REQUEST_BYTES} bytes is the most, the header says {str(size)[:32]}")
    return size
