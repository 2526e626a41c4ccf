"""`WS /v1/stream`: requests and live events over one WebSocket, several at once, each message a JSON object.

    -> {"id": "a", "type": "request", "operation": "chat", "body": {...}}     runs it; `id` is the client's choice
    <- {"id": "a", "type": "started", "model", "node", "path", "request_id"}
    <- {"id": "a", "type": "chunk", "data": {...}}                            OpenAI's chunks, or one whole answer
    <- {"id": "a", "type": "done", "usage": {...}} or {"id": "a", "type": "error", "error": {...}, "status": 503}
    -> {"id": "a", "type": "cancel"}                                          answered with {"type": "cancelled"}
    -> {"type": "subscribe", "topics": ["requests", "nodes"]}                 in place of those before; [] ends it
    <- {"type": "event", "topic", "event", "time", "data"}
    <- {"type": "alive"}                                                      when nothing else was said for a minute

A client that does not read what it asked for is cut off, and so is one that sends too much: see `CLOSE_CODES`.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio
from starlette.websockets import WebSocket, WebSocketDisconnect

from atmo.api.account import ANSWERED, Account, Observer, account_of
from atmo.api.answering import accounted, shaped
from atmo.api.errors import INTERNAL
from atmo.api.exchange import is_usage
from atmo.api.keys import Admission
from atmo.api.routing import Router
from atmo.api.services import ApiServices
from atmo.api.watch.events import TOPICS, EventHub
from atmo.api.watch.tracing import note_account
from atmo.backends.base import STREAMED
from atmo.errors import RequestError
from atmo.gateway.checks import bad, check_body
from atmo.gateway.gateway import Gateway
from atmo.gateway.jsontext import dump, read_object_untrusted, write_object
from atmo.gateway.tracing import traceparent_untrusted
from atmo.gossip.allowance import Allowance
from atmo.router.capability import CHAT, OPERATIONS

TOO_BIG, TOO_MANY, TOO_SLOW, FULL, REVOKED = 1009, 4429, 4408, 1013, 1008
CLOSE_CODES = {
    REVOKED: "the key does not count any more",
    TOO_BIG: "a message is too large",
    TOO_MANY: "too many messages in a short time",
    TOO_SLOW: "what was asked for is not read",
    FULL: "this node has as many streams open as it may",
}
"""Why a stream is closed by the node. Source: RFC 6455, section 7.4; 4000 and above are an application's own."""

_ALIVE = '{"type":"alive"}'

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Limits of streams. Values without a source are guesses.

    Attributes:
        sockets: Streams open at once.
        message_bytes: Of one message of a client. Large requests belong to the routes over HTTP.
        rate_per_s, burst: Messages that a client may send.
        requests: That run at once for one client.
        id_chars: Of the name of a request.
        ahead_bytes: Chunks that wait for the client to read before the requests wait, too.
        queued_bytes: Events that wait for it before it is cut off.
        taken_s: Within which it takes a message, or it is cut off.
        close_s: For what is on its way when the stream ends.
        alive_s: After so long without a message one is sent, as nothing else tells of a client that has vanished.
    """

    sockets: int = 1_024
    message_bytes: int = 1024 * 1024
    rate_per_s: float = 50.0
    burst: float = 100.0
    requests: int = 16
    id_chars: int = 64
    ahead_bytes: int = 64 * 1024
    queued_bytes: int = 1024 * 1024
    taken_s: float = 30.0
    close_s: float = 2.0
    alive_s: float = 60.0


class Streams:
    """All clients on `WS /v1/stream`.

    Args:
        gateway: Routes and runs requests.
        events: What happens.
        observers: Told of each request when it has ended.
        admission: Says whether each request is let in; None for everybody.
        config: Limits.

    Attributes:
        open: How many clients there are.
    """

    def __init__(
        self,
        gateway: Gateway,
        events: EventHub,
        observers: Sequence[Observer] = (),
        admission: Admission | None = None,
        config: StreamConfig = StreamConfig(),
    ) -> None:
        self.open = 0
        self.gateway = gateway
        self.admission = Admission() if admission is None else admission
        self.observers = (*observers, self.admission.observe)
        self.events = events
        self.config = config

    async def serve(self, socket: WebSocket) -> None:
        """Serves one client until it leaves or is cut off."""
        if self.open >= self.config.sockets:
            await socket.close(FULL, CLOSE_CODES[FULL])
            return
        self.open += 1
        account = account_of(socket.scope)
        try:
            await socket.accept()
            account.status = 101
            await _Client(self, socket, account).run()
            account.end(ANSWERED)
        finally:
            self.open -= 1


class _Client:
    """One client: a task reads, one writes, and each request has its own."""

    def __init__(self, streams: Streams, socket: WebSocket, account: Account) -> None:
        self._streams = streams
        self._config = streams.config
        self._socket = socket
        self._account = account
        self._running: dict[str, trio.CancelScope] = {}
        self._out: deque[str] = deque()
        self._out_bytes = 0
        self._news = trio.Event()
        self._room = trio.Event()
        self._over = trio.Event()
        self._written = trio.Event()
        self._left = trio.Event()
        self._code = 1000
        self._allowance = Allowance(self._config.rate_per_s, self._config.burst)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._read, nursery)
                await self._over.wait()
                for scope in self._running.values():
                    scope.cancel()
                with trio.move_on_after(self._config.close_s):
                    await self._written.wait()
                    await self._left.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._streams.events.listen(self._hear, ())

    def _end(self, code: int = 1000) -> None:
        """Ends the stream; the first reason counts."""
        if not self._over.is_set():
            self._code = code
            self._out.clear()
            self._streams.events.listen(self._hear, ())
            self._over.set()
            self._news.set()

    # --- out ------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while not self._over.is_set():
                if not self._out:
                    self._news = trio.Event()
                    with trio.move_on_after(self._config.alive_s) as idle:
                        await self._news.wait()
                    if idle.cancelled_caught:
                        self._put(_ALIVE)
                    continue
                text = self._out.popleft()
                with trio.move_on_after(self._config.taken_s) as timer:
                    await self._socket.send_text(text)
                self._out_bytes -= len(text)
                self._room.set()
                self._room = trio.Event()
                if timer.cancelled_caught:
                    self._end(TOO_SLOW)
            await self._socket.close(self._code, CLOSE_CODES.get(self._code, ""))
        except (WebSocketDisconnect, RuntimeError):  # it has left; Starlette knows both for that
            self._end()
        self._written.set()

    def _put(self, text: str) -> None:
        if not self._over.is_set():
            self._out.append(text)
            self._out_bytes += len(text)
            self._news.set()

    async def _put_in_turn(self, text: str) -> None:
        """Puts a chunk; while the client reads too slowly, whoever makes chunks waits."""
        while self._out_bytes > self._config.ahead_bytes and not self._over.is_set():
            await self._room.wait()
        self._put(text)

    def _hear(self, event: bytes) -> None:
        if not self._streams.admission.holds(self._account):
            self._end(REVOKED)
        elif self._out_bytes + len(event) > self._config.queued_bytes:
            self._end(TOO_SLOW)
        else:
            self._put(event.decode())

    # --- in -------------------------------------------------------------------------------------------------------

    async def _read(self, nursery: trio.Nursery) -> None:
        """Reads until the client has left: one that is cut off may still be sending, and reads why afterwards."""
        while True:
            message = await self._socket.receive()
            if message["type"] != "websocket.receive":
                self._left.set()
                self._end()
                return
            if self._over.is_set():
                continue
            raw = (message.get("text") or "").encode() or message.get("bytes") or b""
            if len(raw) > self._config.message_bytes:
                self._end(TOO_BIG)
            elif not self._allowance.take(trio.current_time(), 1.0):
                self._end(TOO_MANY)
            else:
                await self._take_untrusted(raw, nursery)

    async def _take_untrusted(self, raw: bytes, nursery: trio.Nursery) -> None:
        name: str | None = None
        try:
            message = await read_object_untrusted(raw)
            kind = message.get("type")
            if kind == "subscribe":
                self._subscribe(message.get("topics"))
                return
            name = self._name(message.get("id"))
            if kind == "request":
                self._begin(name, message, len(raw), nursery)
            elif kind == "cancel":
                if name in self._running:
                    self._running[name].cancel()
            else:
                raise bad("type", "must be request, cancel or subscribe")
        except RequestError as error:
            self._put(dump(_error(name, error)).decode())

    def _name(self, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= self._config.id_chars:
            raise bad("id", f"must be a string of 1 to {self._config.id_chars} characters")
        return value

    def _subscribe(self, topics: object) -> None:
        if not isinstance(topics, list) or not all(topic in TOPICS for topic in topics):
            raise bad("topics", f"must be a list of {', '.join(TOPICS)}")
        self._streams.events.listen(self._hear, topics, self._account.key)
        self._put(json.dumps({"type": "subscribed", "topics": sorted(set(topics))}))

    def _begin(self, name: str, message: dict[str, Any], size: int, nursery: trio.Nursery) -> None:
        if name in self._running:
            raise bad("id", "is the one of a request that is under way")
        if len(self._running) >= self._config.requests:
            text = f"{self._config.requests} requests run on this stream: wait until one has ended."
            raise RequestError(429, text, kind="rate_limit_error", code="too_many_requests")
        refusal = self._streams.admission.again(self._account)
        if refusal is not None:
            raise refusal
        operation, body = message.get("operation", CHAT), message.get("body")
        if not isinstance(body, dict):
            raise bad("body", "must be an object: what the operation's route takes")
        trace = traceparent_untrusted(message.get("traceparent")) or self._account.trace
        self._running[name] = scope = trio.CancelScope()
        nursery.start_soon(self._request, name, operation, body, size, trace, scope)

    # --- one request ----------------------------------------------------------------------------------------------

    async def _request(
        self, name: str, operation: object, body: dict[str, Any], size: int, trace: str, scope: trio.CancelScope
    ) -> None:
        own = self._account
        account = Account(
            own.method, own.path, own.address, key=own.key, key_id=own.key_id, models=own.models, trace=trace
        )
        last = {"id": name, "type": "cancelled"}
        try:
            with scope, self._streams.gateway.budget.holding() as holding:
                holding.take(size)
                with (
                    self._streams.gateway.tracer.span("stream request", trace, "server") as span,
                    accounted(account, self._streams.observers),
                ):
                    account.trace = span.traceparent
                    last = await self._answer(name, operation, body, account)
                    note_account(span, account)
        except RequestError as error:
            last = _error(name, error)
        except Exception:
            log.exception("request %s over a stream failed", account.request_id)
            last = _error(name, INTERNAL)
        del self._running[name]
        self._put(dump(last).decode())

    async def _answer(self, name: str, operation: object, body: dict[str, Any], account: Account) -> dict[str, Any]:
        """Runs a request; returns the last message."""
        if not isinstance(operation, str) or operation not in OPERATIONS:
            raise bad("operation", f"must be one of {', '.join(OPERATIONS)}")
        check_body(operation, body)
        account.operation = operation
        stream = operation in STREAMED and body.get("stream") is not False
        async with self._streams.gateway.execute(operation, body, account.asking(stream)) as execution:
            account.note(execution)
            account.first_byte_s = trio.current_time() - account.started
            about = {"model": account.model, "node": account.node, "path": account.mesh_path}
            self._put(dump({"id": name, "type": "started", **about, "request_id": account.request_id}).decode())
            head = f'{{"id":{json.dumps(name)},"type":"chunk","data":'
            async for part in execution:
                if stream and is_usage(part):  # it is told at the end
                    continue
                data = await write_object(part if stream else await shaped(operation, body, part))
                await self._put_in_turn(f"{head}{data.decode()}}}")
            account.note(execution)
        return {"id": name, "type": "done", "usage": execution.usage}


def _error(name: str | None, error: RequestError) -> dict[str, Any]:
    return {"id": name, "type": "error", "status": error.status, **error.body()}


def stream_routes(services: ApiServices, observers: Sequence[Observer]) -> Router:
    """Returns the route of streams.

    Args:
        services: Behind the route.
        observers: Told of each request when it has ended.
    """
    router = Router(prefix="/v1")
    streams = Streams(services.gateway, services.events, observers, services.admission)

    @router.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await streams.serve(socket)

    return router
