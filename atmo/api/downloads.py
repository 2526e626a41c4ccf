"""Files of models over HTTP: in parts, resumable, verified as they leave, a bounded number at a time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import quote

import trio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from atmo.api.account import account_of
from atmo.api.exchange import until_gone
from atmo.api.ranges import Span, Unsatisfiable, is_matched, is_range_current, wanted_span
from atmo.errors import RequestError
from atmo.gateway.jsontext import dump
from atmo.services.bridge import BridgeService
from atmo.storage.bridge_read import Changed, VerifiedFile
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import ModelFile
from atmo.transfer.names import name_from

log = logging.getLogger(__name__)

RUNNING_MOST = 32
"""Downloads at once on each port; each has one chunk in memory, so 128 MiB at most, and as much again with a port
for the bridge. Source: guess, twice the connections that one aria2 opens."""

PIECE_BYTES = 256 * 1024
PIECE_S = 120.0
"""A client that takes longer for one piece is given up: 2 KB/s. One that takes nothing at all is cut off by the
server's socket. Source: guess."""

_Headers = list[tuple[bytes, bytes]]


class Downloads:
    """Serves files of models.

    Args:
        bridge: Has the models.

    Attributes:
        running: How many downloads there are now.
    """

    def __init__(self, bridge: BridgeService) -> None:
        self.running = 0
        self._bridge = bridge
        self._readers = trio.CapacityLimiter(2)

    def response(self, model: LocalModel, path: str | None) -> Response:
        """Returns the response with one file of a model.

        Args:
            model: Which.
            path: Of the file in the manifest; None for the main file.

        Raises:
            RequestError: 404, the model has no such file.
        """
        files = model.manifest.files
        file = model.manifest.main if path is None else next((file for file in files if file.path == path), None)
        if file is None:
            shown = ", ".join(file.path for file in files[:8])
            message = f"{model.name[:128]} has no file '{(path or '')[:128]}'. Its files are: {shown}."
            raise RequestError(404, message, param="file", code="file_not_found")
        return _Download(self, self._bridge, model, file, self._readers)


class _Download(Response):
    def __init__(
        self,
        downloads: Downloads,
        bridge: BridgeService,
        model: LocalModel,
        file: ModelFile,
        readers: trio.CapacityLimiter,
    ) -> None:
        super().__init__()
        self._downloads = downloads
        self._bridge = bridge
        self._model = model
        self._file = file
        self._readers = readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request; errors are raised before the answer begins."""
        headers, size, etag = Headers(scope=scope), self._file.size_bytes, f'"{self._file.sha256.hex()}"'
        known: _Headers = [(b"etag", etag.encode()), (b"accept-ranges", b"bytes")]
        if (match := headers.getlist("if-match")) and not is_matched(match, etag, weakly=False):
            message = f"The file is another one than If-Match names: {etag}."
            raise RequestError(412, message, code="precondition_failed")
        if (match := headers.getlist("if-none-match")) and is_matched(match, etag, weakly=True):
            await _start(send, 304, known)
            await _end(send)
            return
        span = None
        if account_of(scope).method == "GET" and is_range_current(headers.get("if-range"), etag):
            try:
                span = wanted_span(headers.getlist("range"), size)
            except Unsatisfiable as error:
                await self._refuse(send, str(error), known)
                return
        await self._serve(scope, receive, send, span, known)

    async def _refuse(self, send: Send, why: str, known: _Headers) -> None:
        error = RequestError(416, f"This range cannot be served: {why}.", code="range_not_satisfiable")
        response = Response(dump(error.body()), 416, media_type="application/json")
        size = (b"content-range", b"bytes */%d" % self._file.size_bytes)
        await _start(send, 416, [*response.raw_headers, *known, size])
        await send({"type": "http.response.body", "body": response.body})

    async def _serve(self, scope: Scope, receive: Receive, send: Send, span: Span | None, known: _Headers) -> None:
        downloads, size = self._downloads, self._file.size_bytes
        if downloads.running >= RUNNING_MOST:
            message = f"{RUNNING_MOST} downloads are running, which is the most: try again in a moment."
            raise RequestError(503, message, kind="api_error", code="busy")
        downloads.running += 1
        try:
            file = await trio.to_thread.run_sync(self._open, limiter=self._readers)
            try:
                headers = [*known, *_describing(self._model, self._file)]
                whole = span if span is not None else Span(0, size)
                headers.append((b"content-length", b"%d" % (whole.end - whole.start)))
                if span is not None:
                    headers.append((b"content-range", b"bytes %d-%d/%d" % (span.start, span.end - 1, size)))
                start = partial(_start, send, 200 if span is None else 206, headers)
                if account_of(scope).method == "HEAD":
                    await start()
                    await _end(send)
                    return
                await until_gone(scope, receive, send, partial(self._send, file, whole, start))
            finally:
                file.close()
        finally:
            downloads.running -= 1

    def _open(self) -> VerifiedFile:
        try:
            return self._bridge.open(self._model, self._file)
        except (Changed, OSError) as error:
            self._failed(error)
            message = f"The file of {self._model.name[:128]} is being changed: try again in a moment."
            raise RequestError(503, message, kind="api_error", code="model_changed") from error

    def _failed(self, error: Exception) -> None:
        log.warning("%s cannot be downloaded: %s", self._model.name, error)
        if isinstance(error, Changed):
            self._bridge.failed(self._model)

    async def _send(self, file: VerifiedFile, span: Span, start: Callable[[], Awaitable[None]], send: Send) -> None:
        """Sends a span piece by piece. Where that cannot go on, it just ends: the server then cuts the connection, and
        the client sees by the length that it has not got all."""
        await start()
        at = span.start
        while at < span.end:
            index = file.index_at(at)
            try:
                data = await trio.to_thread.run_sync(file.chunk, index, limiter=self._readers)
            except (Changed, OSError) as error:
                await trio.to_thread.run_sync(self._failed, error)
                return
            skip = at - file.offset_of(index)
            view = memoryview(data)[skip : skip + span.end - at]
            at += len(view)
            for begin in range(0, len(view), PIECE_BYTES):
                piece = view[begin : begin + PIECE_BYTES]
                more = at < span.end or begin + PIECE_BYTES < len(view)
                if not await _in_time(send, {"type": "http.response.body", "body": piece, "more_body": more}):
                    log.info("a download of %s ends: its client is too slow", self._model.name)
                    return


async def _in_time(send: Send, message: Message) -> bool:
    """Sends; False where it took too long, also where the server could not be interrupted meanwhile."""
    began = trio.current_time()
    with trio.move_on_after(PIECE_S):
        await send(message)
    return trio.current_time() - began < PIECE_S


async def _start(send: Send, status: int, headers: _Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b""})


def _describing(model: LocalModel, file: ModelFile) -> _Headers:
    name = PurePosixPath(file.path).name
    if PurePosixPath(name).stem == "model":
        name = name_from(model.name.replace("/", "-").replace(":", "-")) + PurePosixPath(name).suffix
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\%' else "_" for letter in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return [
        (b"content-type", b"application/octet-stream"),
        (b"content-disposition", disposition.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
    ]
