"""One HTTP request and its answer, between the bytes of a client and an ASGI application."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import trio
from starlette.types import ASGIApp, Message

from atmo.api.http.limits import MIB, HttpLimits
from atmo.api.http.wire import Wire
from atmo.errors import RequestError, WireError
from atmo.wire.http1 import CHUNKED, Chunked, RequestHead

GONE = "atmosphere.gone"
"""The key in a scope's `extensions` of a function that takes what to call when the client leaves before the end of the
answer. That costs less than a task that waits in `receive` beside each request."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JOIN_BYTES = 16 * 1024
"""Pieces up to this size are copied behind what stands before them; larger ones are sent on their own."""

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def http_scope(head: RequestHead, client: tuple[str, int], server: tuple[str, int]) -> dict[str, Any]:
    """Returns the ASGI scope of a request, without its type.

    Raises:
        WireError: Its target is none.
    """
    target = head.target
    if not target.startswith(b"/"):
        _, mark, rest = target.partition(b"://")
        target = b"/" + rest.partition(b"/")[2] if mark else target
        if not target.startswith(b"/"):
            raise WireError("its target is no path")
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode()
    return {
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method,
        "scheme": "http",
        "path": unquote(path, errors="replace") if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": head.headers,
        "client": client,
        "server": server,
        "state": {},
    }


def too_large(limits: HttpLimits) -> RequestError:
    """Returns the error of a body that is too large."""
    message = f"The request body is larger than {limits.body_bytes // MIB} MiB: send it in several requests."
    return RequestError(413, message, code="request_too_large")


class ServerExchange:
    """Runs the application for one request.

    Args:
        wire: The client.
        head: The request.
        limits: Of bodies.
        closing: Whether the connection ends after this answer.
        expire: Sets the time at which the connection is given up, on trio's clock.

    Attributes:
        keep: Another request may follow on the connection.
        fault: What is wrong with the request's body.
        started: The answer has begun.
        complete: It has ended.
    """

    def __init__(
        self, wire: Wire, head: RequestHead, limits: HttpLimits, closing: bool, expire: Callable[[float], None]
    ) -> None:
        self._wire = wire
        self._head = head
        self._limits = limits
        self._expire = expire
        self._left = head.length
        self._chunked = Chunked() if head.length == CHUNKED else None
        self._received = 0
        self._began = 0.0
        self._read = False
        self._in_chunks = False
        self._headers = b""
        self._to_send = -1
        self._bodiless = False
        self.keep = head.keep_alive and not closing
        self.fault: RequestError | None = None
        self.started = False
        self.complete = False

    @property
    def unread(self) -> int:
        """Bytes of the body that were not read; `CHUNKED` where that is not known."""
        if self._chunked is not None:
            return 0 if self._chunked.done else CHUNKED
        return self._left

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        """Answers the request, or does not where the client left."""
        scope["type"] = "http"
        scope["extensions"] = {GONE: self._on_gone}
        try:
            await app(scope, self.receive, self.send)
        finally:
            self._wire.on_gone = None

    def _on_gone(self, call: Callable[[], object]) -> None:
        if self._wire.gone:
            call()
        elif not self.complete:
            self._wire.on_gone = call

    # --- what the application reads -----------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Returns the next piece of the body; after its end, waits until the client leaves or has its answer."""
        if self._read or self.complete:
            await self._wire.until_gone(lambda: self.complete)
            return {"type": "http.disconnect"}
        try:
            piece = await (self._next_chunk() if self._chunked is not None else self._next_piece())
        except WireError as error:
            self.fault = RequestError(400, f"The request body cannot be read: {error}.", code="bad_request")
            piece = None
        if piece is None:
            return {"type": "http.disconnect"}
        self._received += len(piece)
        if self._received > self._limits.body_bytes:
            self.fault = too_large(self._limits)
            return {"type": "http.disconnect"}
        self._read = not self.unread
        if self._read and self._began:
            self._expire(math.inf)
        return {"type": "http.request", "body": piece, "more_body": not self._read}

    async def _next_piece(self) -> bytes | None:
        if self._left and not self._wire.data and not await self._more():
            return None
        piece = self._wire.take(self._left) if self._left else b""
        self._left -= len(piece)
        return piece

    async def _next_chunk(self) -> bytes | None:
        chunked = self._chunked
        assert chunked is not None
        while True:
            if not self._wire.data and not await self._more():
                return None
            piece = chunked.feed_untrusted(self._wire.take())
            if chunked.done:
                self._wire.data = chunked.rest
            if piece or chunked.done:
                return piece

    async def _more(self) -> bool:
        if not self._began:
            self._began = trio.current_time()
            if self._head.expects and not self.started:
                await self._wire.write(_CONTINUE)
                if self._wire.data:
                    return True
        self._expire(self._began + self._limits.body_deadline_s(self._received))
        return await self._wire.more()

    async def drain(self) -> bool:
        """Takes the little that is left of a body nobody read; False where it is not little, or does not come."""
        if self.unread > self._limits.ahead_bytes or (self.unread and self._head.expects and not self._began):
            return False
        self.complete = False
        try:
            while not self._read:
                if (await self.receive())["type"] != "http.request" or self._received > self._limits.ahead_bytes:
                    return False
        finally:
            self.complete = True
        return True

    # --- what it sends ------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Sends a message of the application; a head that says how long its body is, together with that body."""
        if message["type"] == "http.response.start":
            assert not self.started, "an answer was begun twice"
            self._headers = self._answer_head(message["status"], message.get("headers", ()))
            self.started = True
            if self._to_send < 0:
                head, self._headers = self._headers, b""
                await self._wire.write(head)
        elif message["type"] == "http.response.body":
            assert self.started, "a body without a head"
            assert not self.complete, "a body after its end"
            await self._send_body(message.get("body", b""), last=not message.get("more_body", False))

    def _answer_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [_STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status]
        count = 1
        bodiless = self._head.method == "HEAD" or status in (204, 304)
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            count += 1
            if name == b"content-length":
                self._to_send = int(value)
            elif name == b"connection" and value.lower() == b"close":
                self.keep = False
        if self._to_send < 0 and not bodiless:
            if self._head.version == "1.1":
                self._in_chunks = True
                lines.append(b"transfer-encoding: chunked\r\n")
                count += 1
            else:
                self.keep = False
        if not self.keep:
            lines.append(b"connection: close\r\n")
            count += 1
        head = b"".join(lines)
        assert head.count(b"\n") == head.count(b"\r") == count, "a header has a line break"
        self._bodiless = bodiless
        return b"%bdate: %b\r\n\r\n" % (head, _date())

    async def _send_body(self, data: bytes, *, last: bool) -> None:
        before, after = self._headers, b""
        self._headers = b""
        if self._bodiless:
            data = b""
        elif self._in_chunks:
            if data:
                before, after = b"%b%x\r\n" % (before, len(data)), b"\r\n"
            if last:
                after += b"0\r\n\r\n"
        else:
            self._count(data, last)
        if len(data) <= _JOIN_BYTES:
            data = b"%b%b%b" % (before, data, after)
            before = after = b""
        for piece in (before, data, after):
            if piece:
                await self._wire.write(piece)
        if last:
            self.complete = True
            self._wire.on_gone = None
            self._wire.nudge()

    def _count(self, data: bytes, last: bool) -> None:
        """Ends the connection after an answer that is not as long as its head said."""
        if self._to_send >= 0:
            self._to_send -= len(data)
            assert self._to_send >= 0, "an answer is longer than its head said"
            if last and self._to_send:
                self.keep = False


_dated = (0, b"")


def _date() -> bytes:
    """Returns the value of the header `date`, made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True).encode())
    return _dated[1]
