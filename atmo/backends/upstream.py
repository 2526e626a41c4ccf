"""One OpenAI-compatible server as the backends use it: requests, streams, and errors in the terms of our clients."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from atmo.backends.base import Call, Encoded, Part
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
    read_json,
)
from atmo.backends.passing import Passing
from atmo.backends.sse import SseError, SseParser
from atmo.backends.text_shapes import TextStream, text_chunks_of, text_completion
from atmo.backends.via import HEADER, MOST, came_by, new_mark
from atmo.errors import RequestError
from atmo.router.capability import COMPLETIONS
from atmo.wire import limits

MAX_LIST_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_RETRY_S = 3_600.0
"""A server that wants to be left alone for longer is asked again after this. Source: guess."""

_DONE, _MASK = "[DONE]", "***"
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_TELLING_CHARS = 8
"""Of a key's beginning, which tell something of it; makers put up to seven before it, such as `sk-proj`."""

_DRAIN_S = 0.2

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
        self._mark = new_mark()

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
                raise self.failed(error) from error
        raise self.failed(Late(f"gave no answer within {self.config.discover_s:g} s"))

    async def status(self, path: str) -> int:
        """Returns the status of a GET that discovery asks; what the answer says is nobody's concern.

        Raises:
            RequestError: The server was not reached or was late.
        """
        with trio.move_on_after(self.config.discover_s):
            try:
                async with await self._request("GET", path, None) as response:
                    return response.status
            except HttpError as error:
                raise self.failed(error) from error
        raise self.failed(Late(f"gave no answer within {self.config.discover_s:g} s"))

    async def post(self, path: str, data: bytes, content_type: str, accept: str, trace: str = "") -> Response:
        """Sends what is no JSON, or has an answer that is none; the caller closes the response.

        Args:
            path, data, content_type, accept: Of the request.
            trace: The call's `traceparent`.

        Raises:
            RequestError: 502 or what the server's status means.
        """
        headers = {"Accept": accept, "Content-Type": content_type, **_traced(trace), **self._marked()}
        if self._headers is not None:
            headers |= await self._headers()
        try:
            response = await self._client.request("POST", path, headers, data, self.config.first_byte_s)
        except HttpError as error:
            raise self.failed(error) from error
        try:
            await self._check(response)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def embed(self, call: Call, path: str = "/embeddings") -> Part:
        """Runs one embeddings request."""
        body = dict(call.body) | {"model": call.capability.model, "encoding_format": "float"}
        count = input_count(call.body)
        try:
            async with await self._request("POST", path, body, call.trace) as response:
                await self._check(response)
                data = await response.read(limits.REQUEST_BYTES)
                answer = parse_json(data, response.content_type)
                return await trio.to_thread.run_sync(embeddings, answer, call.capability.model, count)
        except (HttpError, BadAnswer) as error:
            raise self.failed(error) from error

    async def answer(self, path: str, body: Mapping[str, Any], trace: str = "") -> Any:
        """Runs one request that is none of OpenAI's API and returns the JSON of the answer.

        Raises:
            RequestError: 502 or what the server's status means.
        """
        try:
            async with await self._request("POST", path, body, trace) as response:
                await self._check(response)
                return parse_json(await response.read(limits.REQUEST_BYTES), response.content_type)
        except (HttpError, BadAnswer) as error:
            raise self.failed(error) from error

    async def chat(self, call: Call, path: str = "", *, named: bool = True) -> AsyncGenerator[Part, None]:
        """Runs one request for a chat or a completion; yields chunks where `call.stream`, else one body.

        Args:
            call: What is asked.
            path: Where, else where OpenAI's API has it.
            named: Says which model is meant; else that goes without saying.
        """
        text = call.operation == COMPLETIONS
        path = path or ("/completions" if text else "/chat/completions")
        body = dict(call.body) | {"model": call.capability.model, "stream": call.stream}
        if not named:
            del body["model"]
        if not call.stream:
            body.pop("stream_options", None)
        options = call.body.get("stream_options")
        wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        response = None
        try:
            response = await self._request("POST", path, body, call.trace)
            await self._check(response)
            if call.stream and not _is_document(response.content_type):
                chunks = (TextStream if text else ChunkStream)(call.capability.model, call.request_id, wants_usage)
                reader = _StreamReader(response, chunks)
                while (parts := await reader.next()) is not None:
                    for part in parts:
                        yield part
                return
            data = await response.read(limits.REQUEST_BYTES)
            answer = parse_json(data, response.content_type)
            whole = (text_completion if text else completion)(answer, call.capability.model, call.request_id)
            for part in (text_chunks_of if text else chunks_of)(whole, wants_usage) if call.stream else [whole]:
                yield part
        except (HttpError, BadAnswer, SseError) as error:
            raise self.failed(error) from error
        finally:
            if response is not None:
                await response.aclose()  # which waits for nothing

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None, trace: str = "") -> Response:
        headers = {"Accept": "application/json, text/event-stream", **_traced(trace)}
        data = None
        if body is not None:
            headers |= {"Content-Type": "application/json", **self._marked()}
            data = json.dumps(body, ensure_ascii=False).encode()
        if self._headers is not None:
            headers |= await self._headers()
        return await self._client.request(method, path, headers, data, self.config.first_byte_s)

    def _marked(self) -> dict[str, str]:
        """Returns the header that says which servers a request was sent to, this one included.

        Raises:
            RequestError: 508, it was sent to this one before: nodes ask each other in a circle.
        """
        marks = came_by()
        if self._mark in marks or len(marks) >= MOST:
            message = f"{self.label} has sent this request back to this node. Remove one of both from servers."
            raise RequestError(508, message, kind="server_error", code="request_loop")
        return {HEADER: " ".join((*marks, self._mark))}

    async def _check(self, response: Response) -> None:
        if response.status == 200:
            return
        data = b""
        try:
            data = await response.read(MAX_ERROR_BYTES)
        except HttpError:
            # The status alone says enough.
            data = b""
        raise self._status_error(response.status, data, _retry_s(response.headers))

    def _status_error(self, status: int, data: bytes, retry_s: float) -> RequestError:
        secret = self._secret().encode()
        # Before the message is cut, which would leave a part of the key.
        told = error_of(data.replace(secret, _MASK.encode()) if secret else data)
        message, code, param = (self._masked(text or "") or None for text in told)
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
            text = f"{self.label} has too many requests{said.removesuffix('.')}. Try again later."
            return RequestError(429, text, kind="rate_limit_error", code=code or "rate_limit_exceeded", retry_s=retry_s)
        if status in (400, 409, 413, 415, 422):
            return RequestError(400, f"{self.label} refused the request{said}", code=code, param=param)
        if status in (408, 504):
            return RequestError(504, f"{self.label} was too slow{said}", kind="server_error", code="upstream_late")
        what = (
            "redirects elsewhere; give its final URL" if 300 <= status < 400 else f"failed with status {status}{said}"
        )
        known = 503 if status == 503 else 502
        return RequestError(known, f"{self.label} {what}", kind="server_error", code="upstream", retry_s=retry_s)

    def failed(self, error: Exception) -> RequestError:
        """Returns what a client reads when the server was not reached, broke off or answered nonsense."""
        status, code = (504, "upstream_late") if isinstance(error, Late) else (502, "upstream_failed")
        return RequestError(status, f"{self.label} {self._masked(str(error))}.", kind="server_error", code=code)

    def _masked(self, text: str) -> str:
        """Returns a text without the key, and without the beginning of one where it was cut."""
        secret = self._secret()
        if not secret or not text:
            return text
        text = text.replace(secret, _MASK)
        cut = next((size for size in range(len(secret) - 1, _TELLING_CHARS - 1, -1) if text.endswith(secret[:size])), 0)
        return text[: len(text) - cut] + _MASK if cut else text


class _StreamReader:
    """Reads the chunks of one streamed answer; an object rather than a generator, so that nothing is left half read."""

    def __init__(self, response: Response, chunks: ChunkStream | TextStream) -> None:
        self._response = response
        self._chunks = chunks
        self._parser = SseParser()
        self._passing = Passing()
        self._started = False
        self._ended = False

    async def next(self) -> list[Part] | None:
        """Returns the next chunks, or None after the last.

        Raises:
            BadAnswer, HttpError, SseError: The stream is none, or broke off.
        """
        if self._ended:
            if not self._response.at_end:
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
        if piece:
            self._read(piece, parts)
        else:
            self._parse(self._parser.finish(), parts)
        if not piece and not self._ended and not self._chunks.finished:
            raise Broken("broke off in the middle of its answer")
        self._ended = self._ended or not piece
        if self._ended and not self._started:
            raise BadAnswer("ended its stream without an answer")
        if parts and isinstance(parts[-1], Encoded):
            parts[-1] = Encoded(parts[-1].data)
        return [*parts, *self._chunks.ending()] if self._ended else parts

    def _read(self, piece: bytes, parts: list[Part]) -> None:
        """Adds the chunks of a piece: ordinary ones as they are, the others parsed."""
        at = 0
        while at < len(piece) and not self._ended:
            end = piece.find(b"\n\n", at)
            if end >= 0 and self._parser.between and piece.startswith(b"data: ", at):
                passed = self._passing.passed(piece[at + 6 : end])
                if passed is not None:
                    parts.append(Encoded(passed, more=True))
                    at = end + 2
                    continue
            following = len(piece) if end < 0 else end + 2
            self._parse(self._parser.feed(piece[at:following]), parts)
            at = following

    def _parse(self, events: list[str], parts: list[Part]) -> None:
        for data in events:
            values, self._ended = _values(data)
            for value in values:
                self._started = True
                part = self._chunks.chunk(value)
                if part is not None:
                    parts.append(part)
                    if len(values) == 1:
                        self._passing.learn(data.encode("utf-8", "replace"), value, part)
            if self._ended:
                return

    async def _drain(self) -> None:
        """Reads what follows [DONE] so that the connection can be used again; the answer is complete without."""
        with trio.move_on_after(_DRAIN_S), suppress(HttpError):
            await self._response.read(MAX_ERROR_BYTES)


def _retry_s(headers: Mapping[str, str]) -> float:
    """Returns the seconds after which a server wants to be asked again; 0 where it does not say, or says a date."""
    for name, unit in (("retry-after-ms", 1_000.0), ("retry-after", 1.0)):
        text = headers.get(name, "")
        if _NUMBER.fullmatch(text):
            return min(MAX_RETRY_S, float(text) / unit)
    return 0.0


def _traced(trace: str) -> dict[str, str]:
    """Returns the header by which a server joins the trace of a request."""
    return {"traceparent": trace} if trace else {}


def _is_document(content_type: str) -> bool:
    return "html" in content_type or content_type == "application/json"


def _values(data: str) -> tuple[list[Any], bool]:
    """Returns the JSON of an event, and whether it ends the stream. Servers that forget blank lines send several."""
    values: list[Any] = []
    try:
        if data.strip() not in ("", _DONE):
            values.append(read_json(data))
            return values, False
    except (ValueError, RecursionError):
        values.clear()
    try:
        for line in map(str.strip, data.split("\n")):
            if line == _DONE:
                return values, True
            if line:
                values.append(read_json(line))
    except (ValueError, RecursionError):
        raise BadAnswer("sent an event in its stream that is not JSON") from None
    return values, False
