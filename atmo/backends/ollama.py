"""Ollama at a URL: its models by its own API, its answers by the OpenAI-compatible one where that takes the request."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import trio

from atmo.backends.base import Call, Part
from atmo.backends.closing import close_parts
from atmo.backends.http_client import HttpClient, HttpError, Response
from atmo.backends.llm_capabilities import Terms, capabilities_of
from atmo.backends.llm_names import ModelFacts, operations_of
from atmo.backends.ollama_native import (
    NativeAnswer,
    compatible,
    ignored_fields,
    native_chat,
    native_text,
    wants_native,
)
from atmo.backends.openai_shapes import BadAnswer, parse_json
from atmo.backends.server_backend import CLOSE_S, ServerBackend
from atmo.backends.upstream import Upstream, UpstreamConfig
from atmo.backends.upstream_media import draw
from atmo.errors import RequestError, UserError
from atmo.router.capability import AUDIO, CHAT, COMPLETIONS, EMBEDDINGS, IMAGES, JSON_SCHEMA, TOOLS, VISION, Capability
from atmo.wire import limits

log = logging.getLogger(__name__)

URL = "http://127.0.0.1:11434"
RECHECK_S = 15.0
"""Source: choice; two small requests to this machine."""

CONCURRENCY = 4
"""Source: Ollama's default for OLLAMA_NUM_PARALLEL before it became automatic; it queues what is beyond."""

MAX_MODELS = 200
MAX_ROWS = 4_096
SHOWN_AT_ONCE = 4
KEPT_FACTS = 1_024
MAX_LINE_BYTES = 4 * 1024 * 1024
"""One object of a stream. Source: choice; a tool call's arguments are the longest."""

_JSON = "application/json"
_OPERATIONS = {"completion": CHAT, "embedding": EMBEDDINGS, "image": IMAGES}
_FEATURES = {"vision": VISION, "audio": AUDIO, "tools": TOOLS}
"""Ollama's words for what a model does and takes. Source: `types/model/capability.go` of Ollama 0.13."""


class OllamaBackend(ServerBackend):
    """The backend `ollama`.

    Args:
        url: Of the server, without a path.
        config: Waiting times.

    Raises:
        UserError: The URL is not one.
    """

    def __init__(self, url: str = URL, config: UpstreamConfig = UpstreamConfig()) -> None:
        # That Ollama is not there is the normal case on most machines.
        super().__init__("ollama", RECHECK_S, expected=False)
        self._label = f"Ollama at {url}"
        self._facts: dict[tuple[str, str], ModelFacts] = {}
        self._devices: dict[str, str] = {}
        self._version = ""
        try:
            self._upstream = Upstream(self._label, HttpClient(url), config=config)
            self._compatible = Upstream(self._label, HttpClient(url.rstrip("/") + "/v1"), config=config)
        except ValueError as error:
            raise UserError(f"Ollama: {error}.", "Correct ollama_url in the settings.") from error

    async def models(self) -> Sequence[Capability]:
        """Lists the models that are pulled."""
        rows = _rows(await self._upstream.ask("GET", "/api/tags"))
        if rows is None:
            text = f"{self._label} gave no list of models at /api/tags; another server listens there."
            raise RequestError(502, text, kind="server_error", code="upstream")
        await self._learn([row for row in rows if _key(row) not in self._facts])
        await self._see_devices()
        await self._greet(len(rows))
        terms = Terms("Ollama", "ollama", "ollama", CONCURRENCY)
        found: list[Capability] = []
        for row in rows:
            facts = self._facts.get(_key(row)) or _facts_of_row(row)
            name = str(row["name"])
            found += capabilities_of(name, replace(facts, device=self._devices.get(name, "")), terms)
        return found

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns the fields that Ollama drops though they change the answer."""
        if call.operation not in (CHAT, COMPLETIONS):
            return ()
        return ignored_fields(call.body, chat=call.operation == CHAT)

    async def run(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on Ollama."""
        if call.capability.operation == EMBEDDINGS:
            yield await self._compatible.embed(call)
            return
        if call.capability.operation == IMAGES:
            yield await draw(self._compatible, call)
            return
        if wants_native(call.body):
            parts = self._run_native(call)
        else:
            parts = self._compatible.chat(replace(call, body=compatible(call.body, chat=call.operation == CHAT)))
        try:
            async for part in parts:
                yield part
        finally:
            await close_parts(parts, CLOSE_S)  # noqa: ASYNC102 - it shields itself

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()
        await self._compatible.aclose()

    async def _run_native(self, call: Call) -> AsyncGenerator[Part, None]:
        chat = call.operation == CHAT
        body = (native_chat if chat else native_text)(call.body, call.capability.model, stream=call.stream)
        data = json.dumps(body, ensure_ascii=False).encode()
        answer = NativeAnswer(call.capability.model, call.request_id, chat=chat)
        response = await self._upstream.post("/api/chat" if chat else "/api/generate", data, _JSON, "*/*", call.trace)
        try:
            async with response:
                if not call.stream:
                    whole = parse_json(await response.read(limits.REQUEST_BYTES), response.content_type)
                    yield answer.whole(whole)  # noqa: ASYNC119 - whoever executes closes it
                    return
                lines = _Lines(response)
                while not answer.finished:
                    for part in answer.chunks(await lines.next()):
                        yield part  # noqa: ASYNC119 - whoever executes closes it
                yield answer.usage_chunk()  # noqa: ASYNC119 - whoever executes closes it
        except (HttpError, BadAnswer) as error:
            raise self._upstream.failed(error) from error

    async def _greet(self, count: int) -> None:
        """Says once which version it is: what it can differs."""
        if self._version:
            return
        try:
            answer = await self._upstream.ask("GET", "/api/version")
        except RequestError as error:
            log.debug("%s", error)
            return
        self._version = _short(answer.get("version")) if isinstance(answer, Mapping) else ""
        log.info("%s is version %s and has %d models", self._label, self._version or "unknown", count)

    async def _see_devices(self) -> None:
        """Notes where the loaded models run; what was seen once is kept, so that adverts change seldom."""
        try:
            answer = await self._upstream.ask("GET", "/api/ps")
        except RequestError as error:
            log.debug("%s", error)
            return
        for row in _rows(answer) or ():
            if type(row.get("size_vram")) is int:
                self._devices[str(row["name"])] = "gpu" if row["size_vram"] > 0 else "cpu"
        while len(self._devices) > KEPT_FACTS:
            del self._devices[next(iter(self._devices))]

    async def _learn(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Asks for what the list does not tell, within the time of one question; the rest waits for the next check."""
        while len(self._facts) + len(rows) > KEPT_FACTS and self._facts:
            del self._facts[next(iter(self._facts))]
        at_once = trio.CapacityLimiter(SHOWN_AT_ONCE)
        with trio.move_on_after(self._upstream.config.discover_s):
            async with trio.open_nursery() as nursery:
                for row in rows:
                    nursery.start_soon(self._show, row, at_once)

    async def _show(self, row: Mapping[str, Any], at_once: trio.CapacityLimiter) -> None:
        async with at_once:
            try:
                answer = await self._upstream.ask("POST", "/api/show", {"model": row["name"]})
            except RequestError as error:
                log.debug("%s: %s", row["name"], error)
                return
        if isinstance(answer, Mapping):
            self._facts[_key(row)] = _facts_of_show(row, answer)


class _Lines:
    """The lines of a streamed answer, each one JSON value."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._buffer = bytearray()
        self._seen = 0

    async def next(self) -> Any:
        """Returns the next value.

        Raises:
            BadAnswer, HttpError: There is none, or it is no JSON.
        """
        while True:
            end = self._buffer.find(b"\n", self._seen)
            if end >= 0:
                line = bytes(self._buffer[:end]).strip()
                del self._buffer[: end + 1]
                self._seen = 0
                if line:
                    return parse_json(line)
                continue
            self._seen = len(self._buffer)
            piece = await self._response.receive()
            if not piece:
                if not self._buffer:
                    raise BadAnswer("broke off in the middle of its answer")
                piece = b"\n"
            self._buffer += piece
            if len(self._buffer) > MAX_LINE_BYTES + len(piece):
                raise BadAnswer(f"sent a line of more than {MAX_LINE_BYTES} bytes")


def _rows(body: Any) -> list[Mapping[str, Any]] | None:
    """Returns the models of an `/api/tags` answer, each name once, or None where it is none."""
    models = body.get("models") if isinstance(body, Mapping) else None
    if models is None and isinstance(body, Mapping) and "models" in body:
        models = []
    if not isinstance(models, list):
        return None
    named: dict[str, Mapping[str, Any]] = {}
    for row in models[:MAX_ROWS]:
        name = row.get("name") if isinstance(row, Mapping) else None
        if isinstance(name, str) and 0 < len(name) <= limits.NAME_CHARS:
            named.setdefault(name, row)
    return list(named.values())[:MAX_MODELS]


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return (str(row["name"]), _short(row.get("digest")))


def _facts_of_row(row: Mapping[str, Any]) -> ModelFacts:
    details = row.get("details")
    details = details if isinstance(details, Mapping) else {}
    remote = isinstance(row.get("remote_host"), str) and row["remote_host"]
    return ModelFacts(
        # Until it was asked about the model, and of versions that do not tell.
        operations=operations_of(str(row["name"])) & {CHAT, EMBEDDINGS},
        family=_short(details.get("family")),
        size=_short(details.get("parameter_size")),
        quantisation=_short(details.get("quantization_level")),
        note=f"It runs at {_short(row['remote_host'])}, not on this machine." if remote else "",
    )


def _facts_of_show(row: Mapping[str, Any], answer: Mapping[str, Any]) -> ModelFacts:
    words = answer.get("capabilities")
    facts = replace(_facts_of_row(row), context=_context(answer.get("model_info")))
    if not isinstance(words, list):
        return facts
    operations = frozenset(operation for word, operation in _OPERATIONS.items() if word in words)
    features = frozenset({JSON_SCHEMA, *(feature for word, feature in _FEATURES.items() if word in words)})
    return replace(facts, operations=operations, features=features)


def _context(info: Any) -> int:
    if not isinstance(info, Mapping):
        return 0
    length = info.get(f"{info.get('general.architecture')}.context_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and 0 < length < 2**31 else 0


def _short(value: Any) -> str:
    return value[:64] if isinstance(value, str) else ""
