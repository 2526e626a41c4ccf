"""Ollama at a URL: its models by its own API, its answers by the OpenAI-compatible one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import trio

from atmo.backends.base import Backend, Call, Part
from atmo.backends.http_client import HttpClient
from atmo.backends.llm_names import ModelFacts, capabilities_of
from atmo.backends.upstream import Upstream, UpstreamConfig
from atmo.errors import RequestError, UserError
from atmo.router.capability import CHAT, EMBEDDINGS, Capability

log = logging.getLogger(__name__)

URL = "http://127.0.0.1:11434"
RECHECK_S = 15.0
"""Source: choice; one small request to this machine."""

CONCURRENCY = 4
"""Source: Ollama's default for OLLAMA_NUM_PARALLEL before it became automatic; it queues what is beyond."""

MAX_MODELS = 200
SHOWN_AT_ONCE = 4
KEPT_FACTS = 1_024


class OllamaBackend(Backend):
    """The backend `ollama`.

    Args:
        url: Of the server, without a path.
        config: Waiting times.

    Raises:
        UserError: The URL is not one.
    """

    name = "ollama"
    recheck_s = RECHECK_S

    def __init__(self, url: str = URL, config: UpstreamConfig = UpstreamConfig()) -> None:
        self._label = f"Ollama at {url}"
        self._facts: dict[tuple[str, str], ModelFacts] = {}
        self._trouble = ""
        try:
            self._upstream = Upstream(self._label, HttpClient(url), config=config)
        except ValueError as error:
            raise UserError(f"Ollama: {error}.", "Correct ollama_url in the settings.") from error

    async def discover(self) -> Sequence[Capability]:
        """Lists the models that are pulled; none when Ollama does not run."""
        try:
            rows = _rows(await self._upstream.ask("GET", "/api/tags"))
        except RequestError as error:
            self._note(str(error))
            return []
        if rows is None:
            self._note(f"{self._label} gave no list of models at /api/tags; another server listens there.")
            return []
        self._trouble = ""
        await self._learn([row for row in rows if _key(row) not in self._facts])
        found: list[Capability] = []
        for row in rows:
            facts = self._facts.get(_key(row)) or _facts_of_row(row)
            name = str(row["name"])
            found += capabilities_of(name, "Ollama", "ollama", facts, backend="ollama", concurrency=CONCURRENCY)
        return found

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on Ollama."""
        if call.capability.operation == EMBEDDINGS:
            yield await self._upstream.embed(call, "/v1/embeddings")
            return
        parts = self._upstream.chat(call, "/v1/chat/completions")
        try:
            async for part in parts:
                yield part
        finally:
            with trio.move_on_after(1, shield=True):
                await parts.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()

    def _note(self, text: str) -> None:
        """That Ollama is not there is the normal case on most machines."""
        if text != self._trouble:
            log.info("%s", text)
        self._trouble = text

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


def _rows(body: Any) -> list[Mapping[str, Any]] | None:
    """Returns the models of an `/api/tags` answer, or None where it is none."""
    models = body.get("models") if isinstance(body, Mapping) else None
    if models is None and isinstance(body, Mapping) and "models" in body:
        models = []
    if not isinstance(models, list):
        return None
    rows = [row for row in models if isinstance(row, Mapping) and isinstance(row.get("name"), str) and row["name"]]
    return rows[:MAX_MODELS]


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return (str(row["name"]), str(row.get("digest", "")))


def _facts_of_row(
    row: Mapping[str, Any], operations: frozenset[str] | None = None, context: int = 0, vision: bool = False
) -> ModelFacts:
    details = row.get("details")
    details = details if isinstance(details, Mapping) else {}
    remote = isinstance(row.get("remote_host"), str) and row["remote_host"]
    return ModelFacts(
        operations=operations,
        family=_short(details.get("family")),
        size=_short(details.get("parameter_size")),
        context=context,
        vision=vision,
        note=f"It runs at {_short(row['remote_host'])}, not on this machine." if remote else "",
    )


def _facts_of_show(row: Mapping[str, Any], answer: Mapping[str, Any]) -> ModelFacts:
    words = answer.get("capabilities")
    operations = None
    vision = False
    if isinstance(words, list):
        pairs = (("completion", CHAT), ("embedding", EMBEDDINGS))
        operations = frozenset(operation for word, operation in pairs if word in words)
        vision = "vision" in words
    return _facts_of_row(row, operations, _context(answer.get("model_info")), vision)


def _context(info: Any) -> int:
    if not isinstance(info, Mapping):
        return 0
    length = info.get(f"{info.get('general.architecture')}.context_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and 0 < length < 2**31 else 0


def _short(value: Any) -> str:
    return value[:64] if isinstance(value, str) else ""
