"""One request and its answer: the body is read within limits, the work stops when the client goes away."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from atmo.api.account import Account, account_of
from atmo.api.http.asgi import GONE
from atmo.backends.base import Encoded, Part, as_object
from atmo.errors import RequestError
from atmo.gateway.budget import ByteBudget, Holding
from atmo.gateway.execution import Execution
from atmo.gateway.gateway import Gateway
from atmo.gateway.jsontext import dump, read_object_untrusted, write_object
from atmo.identity import NodeId
from atmo.wire import limits

Body = dict[str, Any]
Read = Callable[[Scope, Receive, Holding], Awaitable[Body | None]]
Work = Callable[[Body, Send, Account], Awaitable[None]]
Finish = Callable[[Body], Awaitable[Body]]

JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

_DISCARD_S = 2.0
_HEADER_CHARS = 400
_UNPRINTABLE = re.compile("[^ -~]")
_LAST_BYTES = 64 * 1024
"""Of the end of an answer, which is sent when nobody watches any more whether the client leaves."""

log = logging.getLogger(__name__)


async def read_json(scope: Scope, receive: Receive, holding: Holding) -> Body | None:
    """Reads the JSON object of a request; None when the client left before it was complete."""
    pieces: list[bytes] = []
    if not await receive_body(scope, receive, holding, pieces.append, pieces.clear):
        return None
    raw = b"".join(pieces)
    pieces.clear()
    return await read_object_untrusted(raw)


class Exchange(Response):
    """A response that reads the request's body itself, then works until it is answered or the client has left.

    Args:
        budget: Bounds what all bodies hold.
        work: Gets the body and the request's account; sends the answer.
        read: Makes an object of what the client sends.
    """

    def __init__(self, budget: ByteBudget, work: Work, read: Read = read_json) -> None:
        super().__init__()
        self._budget = budget
        self._work = work
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the request; errors are raised before the answer begins."""
        with self._budget.holding() as holding:
            body = await self._read(scope, receive, holding)
            if body is None:
                return
            account = account_of(scope)
            await until_gone(scope, receive, send, lambda watched: self._work(body, watched, account))


async def send_json(
    send: Send, value: Mapping[str, Any] | Encoded, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Sends a JSON object with status 200."""
    data = await write_object(value)
    length = (b"content-length", str(len(data)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*JSON_HEADERS, length, *(headers or ())]})
    await send({"type": "http.response.body", "body": data})


async def whole_answer(gateway: Gateway, operation: str, body: Body, account: Account) -> tuple[Part, Execution]:
    """Runs a request that is not streamed; returns its one part, and who gave it.

    Raises:
        RequestError: It cannot be answered.
    """
    account.operation = operation
    async with gateway.execute(operation, body, account.asking()) as execution:
        (part,) = [part async for part in execution]
    account.note(execution)
    return part, execution


async def run_json(
    gateway: Gateway,
    operation: str,
    body: Body,
    send: Send,
    account: Account,
    finish: Finish | None = None,
    left_out: Sequence[str] = (),
) -> None:
    """Runs a request and sends its one answer, after `finish` had its way with it; `left_out` is named beside it."""
    answer, execution = await whole_answer(gateway, operation, body, account)
    if finish is not None:
        answer = await finish(as_object(answer))
    try:
        await send_json(send, answer, told(execution, left_out))
    except (TypeError, ValueError) as error:
        raise _not_json(execution) from error


async def run_stream(gateway: Gateway, operation: str, body: Body, send: Send, account: Account) -> None:
    """Runs a request and sends its parts as server-sent events; a failure in the middle becomes an error event."""
    account.operation = operation
    hides_usage = not _wants_usage(body)
    async with gateway.execute(operation, body, account.asking(stream=True)) as execution:
        account.note(execution)
        headers = [*SSE_HEADERS, *told(execution)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = b"data: [DONE]\n\n"
        events: list[bytes] = []
        try:
            async for part in execution:
                if hides_usage and is_usage(part):
                    continue
                events.append(_event(part.data if isinstance(part, Encoded) else await write_object(part)))
                if not isinstance(part, Encoded) or not part.more:
                    data, events = b"".join(events), []
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except RequestError as error:
            account.error = error.code or error.kind
            last = _event(dump(error.body()))
        except (TypeError, ValueError):
            log.exception("%s sent a part that is not JSON", execution.offer.node_name)
            broken = _not_json(execution)
            account.error = broken.code or broken.kind
            last = _event(dump(broken.body()))
        account.note(execution)
        await send({"type": "http.response.body", "body": b"".join([*events, last])})


def _wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def is_usage(part: Part) -> bool:
    """Says whether a chunk is the last one, which only tells what the stream took."""
    return not isinstance(part, Encoded) and not part.get("choices") and part.get("usage") is not None


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def _not_json(execution: Execution) -> RequestError:
    message = f"{execution.offer.node_name} answered with something that JSON cannot say, such as NaN."
    return RequestError(502, message, kind="api_error", code="bad_answer")


def told(execution: Execution, left_out: Sequence[str] = ()) -> list[tuple[bytes, bytes]]:
    """Returns the headers that say who ran a request and why, and what of it, with `left_out`, was not honoured."""
    offer = execution.offer
    return [
        (b"x-atmosphere-node", _header(offer.node_name)),
        (b"x-atmosphere-node-id", _node_header(offer.node)),
        (b"x-atmosphere-path", _header(execution.path)),
        (b"x-atmosphere-model", _header(offer.capability.model)),
        (b"x-atmosphere-rule", _header(execution.decision.rule)),
        (b"x-atmosphere-reason", _header(execution.reason)),
        *_warning((*left_out, *execution.head.ignored)),
    ]


def _warning(ignored: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Returns the header that names what changes the meaning of a request and was not honoured.

    Not HTTP's own `Warning`, which RFC 9111 has put out of use.
    """
    text = f"not honoured by this model: {', '.join(ignored)}"
    return [(b"x-atmosphere-warning", _header(text))] if ignored else []


def _header(text: str) -> bytes:
    """Returns `text` as a header value: names come from other nodes, so nothing but printable ASCII passes."""
    return _UNPRINTABLE.sub("?", text[:_HEADER_CHARS]).strip().encode()


@lru_cache(maxsize=256)
def _node_header(node: NodeId) -> bytes:
    return str(node).encode()


async def receive_body(
    scope: Scope, receive: Receive, holding: Holding, take: Callable[[bytes], None], drop: Callable[[], None]
) -> bool:
    """Hands a request's body to `take`, piece by piece; False when the client left before it was complete.

    A body that is refused is dropped at once, so that it takes no room while the rest of it comes in.

    Raises:
        RequestError: 413 or 503, it is too large for this node or for now; 415, it is packed; or what `take` raises.
    """
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    size = int(length) if length.isdigit() else 0
    coding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"")
    more, count, refused = True, 0, None
    try:
        if size > limits.REQUEST_BYTES:
            raise _too_large()
        if coding.lower() not in (b"", b"identity"):
            raise _packed(coding)
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return False
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            count += len(piece)
            if count > limits.REQUEST_BYTES:
                raise _too_large()
            holding.take(len(piece))
            take(piece)
    except RequestError as error:
        refused = error
    if refused is not None:
        drop()
        holding.give_back()
        await _discard(receive, more)
        raise refused
    return True


async def _discard(receive: Receive, more: bool) -> None:
    """Takes what the client is still sending for a moment: it reads the answer only when it has sent all."""
    with trio.move_on_after(_DISCARD_S):
        while more:
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)


def _packed(coding: bytes) -> RequestError:
    message = f"The request body is packed ({coding[:32].decode('latin-1')}): send it without Content-Encoding."
    return RequestError(415, message, code="unsupported_media_type")


def _too_large() -> RequestError:
    message = f"The request body is larger than {limits.REQUEST_BYTES // 2**20} MiB: send it in several requests."
    return RequestError(413, message, code="request_too_large")


async def until_gone(scope: Scope, receive: Receive, send: Send, work: Callable[[Send], Awaitable[None]]) -> None:
    """Runs `work`; cancels it when the client disconnects before the end of the answer."""
    on_gone = (scope.get("extensions") or {}).get(GONE)
    if on_gone is not None:  # our own server
        with trio.CancelScope() as running:
            on_gone(running.cancel)
            await work(send)
        return
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            await work(watched(nursery, receive, send))
        except Exception as error:  # noqa: BLE001 raised below, where the nursery does not wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def watched(nursery: trio.Nursery, receive: Receive, send: Send) -> Send:
    """Cancels `nursery` when the client leaves before the end of the answer.

    The server tells of the end of an exchange as of a client that left, while it still has to close the connection or
    to make it ready for the next request. What it does then must not be cancelled, so the watch ends before.

    Returns:
        What the answer is to be sent with.
    """
    watch = trio.CancelScope()

    async def wait() -> None:
        with watch:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not watch.cancel_called:
                nursery.cancel_scope.cancel()

    async def watched_send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            if len(message.get("body", b"")) > _LAST_BYTES:
                await send({**message, "more_body": True})
                message = {"type": "http.response.body", "body": b""}
            watch.cancel()
        await send(message)

    nursery.start_soon(wait)
    return watched_send
