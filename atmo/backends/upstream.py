"""One OpenAI-compatible server as the backends use it: requests, streams, and errors in the terms of our clients."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from atmo.backends.base import Call, Part
from atmo.backends.http_client import Broken, HttpClient, HttpError, Late, Response
from atmo.backends.openai_shapes import (
    BadAnswer,
    ChunkStream,
    chunks_of,
    completion,
    embeddings,
    error_of,
    input_count,
    parse_json,
)
from atmo.backends.sse import SseError, SseParser
from atmo.errors import RequestError
from atmo.wire import limits

MAX_LIST_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
_DONE = "[DONE]"
_CLOSE_S, _DRAIN_S = 1.0, 0.2

Headers = Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Waiting times. Values are choices.

    Attributes:
        discover_s: For each question that discovery asks.
        first_byte_s: Until an answer begins: a server may load a model of many gigabytes first.
    """

    discover_s: float = 1.5
    first_byte_s: float = 300.0


class Upstream:
    """Requests to one server, whose name is in every error.

    Args:
        label: Names the server in errors: "Ollama at http://127.0.0.1:11434".
        client: Connections to it.
        headers: Asked for at each request: authorisation.
        secret: Words that must not appear in errors that servers echo.
        config: Waiting times.
    """

    def __init__(
        self,
        label: str,
        client: HttpClient,
        headers: Headers | None = None,
        secret: Callable[[], str] = lambda: "",
        config: UpstreamConfig = UpstreamConfig(),
    ) -> None:
        self.label = label
        self.config = config
        self._client = client
        self._headers = headers
        self._secret = secret

    async def aclose(self) -> None:
        """Closes connections that are not in use."""
        await self._client.aclose()

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Asks a question of discovery and returns the JSON of the answer.

        Raises:
            RequestError: 502 or what the server's status means.
        """
        with trio.move_on_after(self.config.discover_s):
            try:
                async with await self._request(method, path, body) as response:
                    await self._check(response)
                    data = await response.read(MAX_LIST_BYTES)
                    return parse_json(data, response.content_type)
            except (HttpError, BadAnswer) as error:
                raise self._failed(error) from error
        raise self._failed(Late(f"gave no answer within {self.config.discover_s:g} s"))

    async def embed(self, call: Call, path: str = "/embeddings") -> Part:
        """Runs one embeddings request."""
        body = dict(call.body) | {"model": call.capability.model, "encoding_format": "float"}
        count = input_count(call.body)
        try:
            async with await self._request("POST", path, body) as response:
                await self._check(response)
                data = await response.read(limits.REQUEST_BYTES)
                answer = parse_json(data, response.content_type)
                return await trio.to_thread.run_sync(embeddings, answer, call.capability.model, count)
        except (HttpError, BadAnswer) as error:
            raise self._failed(error) from error

    async def chat(self, call: Call, path: str = "/chat/completions") -> AsyncGenerator[Part, None]:
        """Runs one chat request; yields chunks where `call.stream`, else one body."""
        body = dict(call.body) | {"model": call.capability.model, "stream": call.stream}
        if not call.stream:
            body.pop("stream_options", None)
        options = call.body.get("stream_options")
        wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        response = None
        try:
            response = await self._request("POST", path, body)
            await self._check(response)
            if call.stream and not _is_document(response.content_type):
                reader = _StreamReader(response, ChunkStream(call.capability.model, call.request_id, wants_usage))
                while (parts := await reader.next()) is not None:
                    for part in parts:
                        yield part
                return
            data = await response.read(limits.REQUEST_BYTES)
            answer = parse_json(data, response.content_type)
            whole = completion(answer, call.capability.model, call.request_id)
            for part in chunks_of(whole, wants_usage) if call.stream else [whole]:
                yield part
        except (HttpError, BadAnswer, SseError) as error:
            raise self._failed(error) from error
        finally:
            if response is not None:
                with trio.move_on_after(_CLOSE_S, shield=True):
                    await response.aclose()

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Response:
        headers = {"Accept": "application/json, text/event-stream"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body, ensure_ascii=False).encode()
        if self._headers is not None:
            headers |= await self._headers()
        return await self._client.request(method, path, headers, data, self.config.first_byte_s)

    async def _check(self, response: Response) -> None:
        if response.status == 200:
            return
        data = b""
        try:
            data = await response.read(MAX_ERROR_BYTES)
        except HttpError:
            # The status alone says enough.
            data = b""
        raise self._status_error(response.status, data)

    def _status_error(self, status: int, data: bytes) -> RequestError:
        message, code, param = error_of(data)
        secret = self._secret()
        if secret:
            message = message.replace(secret, "***")
        said = f": {message}" if message else ""
        if status in (401, 403):
            text = (
                f"{self.label} refused the key it was given ({status}){said} Check key_env or key_file in the settings."
            )
            return RequestError(502, text, kind="server_error", code="upstream_refused")
        if status == 404:
            return RequestError(
                404, f"{self.label} does not have this{said}", code=code or "model_not_found", param=param
            )
        if status == 429:
            text = f"{self.label} has too many requests{said} Try again later."
            return RequestError(429, text, kind="rate_limit_error", code=code or "rate_limit_exceeded")
        if status in (400, 409, 413, 415, 422):
            return RequestError(400, f"{self.label} refused the request{said}", code=code, param=param)
        if status in (408, 504):
            return RequestError(504, f"{self.label} was too slow{said}", kind="server_error", code="upstream_late")
        what = (
            "redirects elsewhere; give its final URL" if 300 <= status < 400 else f"failed with status {status}{said}"
        )
        return RequestError(503 if status == 503 else 502, f"{self.label} {what}", kind="server_error", code="upstream")

    def _failed(self, error: Exception) -> RequestError:
        status, code = (504, "upstream_late") if isinstance(error, Late) else (502, "upstream_failed")
        return RequestError(status, f"{self.label} {error}.", kind="server_error", code=code)


class _StreamReader:
    """Reads the chunks of one streamed answer; an object rather than a generator, so that nothing is left half read."""

    def __init__(self, response: Response, chunks: ChunkStream) -> None:
        self._response = response
        self._chunks = chunks
        self._parser = SseParser()
        self._started = False
        self._ended = False

    async def next(self) -> list[Part] | None:
        """Returns the next chunks, or None after the last.

        Raises:
            BadAnswer, HttpError, SseError: The stream is none, or broke off.
        """
        if self._ended:
            await self._drain()
            return None
        try:
            piece = await self._response.receive()
        except HttpError:
            # What counts as complete without [DONE]: every choice said why it ended.
            if not self._chunks.finished:
                raise
            piece = b""
        parts: list[Part] = []
        for data in self._parser.feed(piece) if piece else self._parser.finish():
            values, self._ended = _values(data)
            for value in values:
                self._started = True
                part = self._chunks.chunk(value)
                if part is not None:
                    parts.append(part)
            if self._ended:
                break
        if not piece and not self._ended and not self._chunks.finished:
            raise Broken("broke off in the middle of its answer")
        self._ended = self._ended or not piece
        if self._ended and not self._started:
            raise BadAnswer("ended its stream without an answer")
        ending = self._chunks.ending() if self._ended else None
        return parts if ending is None else [*parts, ending]

    async def _drain(self) -> None:
        """Reads what follows [DONE] so that the connection can be used again; the answer is complete without."""
        with trio.move_on_after(_DRAIN_S), suppress(HttpError):
            await self._response.read(MAX_ERROR_BYTES)


def _is_document(content_type: str) -> bool:
    return "html" in content_type or content_type == "application/json"


def _values(data: str) -> tuple[list[Any], bool]:
    """Returns the JSON of an event, and whether it ends the stream. Servers that forget blank lines send several."""
    values: list[Any] = []
    try:
        if data.strip() not in ("", _DONE):
            values.append(json.loads(data))
            return values, False
    except (ValueError, RecursionError):
        values.clear()
    try:
        for line in map(str.strip, data.split("\n")):
            if line == _DONE:
                return values, True
            if line:
                values.append(json.loads(line))
    except (ValueError, RecursionError):
        raise BadAnswer("sent an event in its stream that is not JSON") from None
    return values, False
