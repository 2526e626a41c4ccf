"""Any OpenAI-compatible server by URL: vLLM, llama-server, LM Studio, a cloud."""

from __future__ import annotations

import errno
import fnmatch
import logging
import os
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import trio

from atmo.backends.base import Call, Part
from atmo.backends.closing import close_parts
from atmo.backends.http_client import HttpClient
from atmo.backends.llm_capabilities import Terms, capabilities_of
from atmo.backends.model_rows import facts_of, is_elsewhere, owner_of, props_facts, rows_of
from atmo.backends.openai_shapes import BadAnswer
from atmo.backends.server_backend import CLOSE_S, ServerBackend
from atmo.backends.upstream import Upstream, UpstreamConfig
from atmo.backends.upstream_media import draw, speak, transcribe
from atmo.errors import RequestError, UserError
from atmo.router.capability import EMBEDDINGS, IMAGES, SPEECH, TRANSCRIPTION, Capability

log = logging.getLogger(__name__)

RECHECK_S = 60.0
"""Source: choice; a cloud's list seldom changes, and a failed call has it looked at again at once."""

MAX_MODELS = 200
CONCURRENCY = 8
MAX_KEY_BYTES = 8 * 1024

_CHAT_ONLY = ("openai.com", "anthropic.com", "googleapis.com", "mistral.ai", "x.ai", "groq.com", "cohere.com")
"""Clouds whose chat models continue no plain text. Source: their documentation of `/v1/completions`, or its absence."""


@dataclass(frozen=True, slots=True)
class OpenAIServer:
    """One server of the settings.

    Attributes:
        name: For people, and in the ids of its capabilities.
        url: Its base URL as OpenAI's clients take it, `https://host/v1`; without a path, `/v1` is meant.
        key_env: Environment variable with its key; empty for none.
        key_file: File with its key; empty for none. Read at each request, so that a key can be changed.
        price: US dollars for a thousand tokens.
        allow: Patterns of model names (`gpt-4*`) that are offered; empty means all.
        hide: Patterns of model names that are not.
        concurrency: Requests that it gets at once, for each model.
        operations: What its models do, of `router.capability.OPERATIONS`, where their names do not tell; empty leaves
            it to names and to what the server says.
        priority: `low`, `normal` or `high`; empty for normal.
        latency_class: `local`, `regional`, `global`, or empty.
        residency: Where data stays, such as `US`; empty where nothing is promised.
    """

    name: str
    url: str
    key_env: str = ""
    key_file: str = ""
    price: float = 0.0
    allow: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    concurrency: int = CONCURRENCY
    operations: tuple[str, ...] = ()
    priority: str = ""
    latency_class: str = ""
    residency: str = ""


class OpenAIBackend(ServerBackend):
    """The backend of one server; its name is `openai:NAME`.

    Args:
        server: Which one.
        config: Waiting times.
        environ: Where keys are looked up.
        tls: For a server with a certificate of its own.
        expected: Somebody wishes that it is there.

    Raises:
        UserError: The URL is not one.
    """

    def __init__(
        self,
        server: OpenAIServer,
        config: UpstreamConfig = UpstreamConfig(),
        environ: Mapping[str, str] = os.environ,
        tls: ssl.SSLContext | None = None,
        *,
        expected: bool = True,
    ) -> None:
        super().__init__(f"openai:{server.name}", RECHECK_S, expected=expected)
        self._server = server
        self._terms = _terms_of(server)
        self._environ = environ
        self._key = ""
        self._told_models = 0
        self._label = f"The server {server.name} at {server.url}"
        try:
            url = server.url if urlsplit(server.url).path.strip("/") else server.url.rstrip("/") + "/v1"
            self._upstream = self._reach(url, config, tls)
            self._root = self._reach(_root_of(url), config, tls)
        except ValueError as error:
            raise UserError(f"Server {server.name!r}: {error}.", "Correct its url in the settings.") from error

    async def models(self) -> Sequence[Capability]:
        """Asks for the models, and a server of a known kind for more about them."""
        try:
            listed = rows_of(await self._upstream.ask("GET", "/models"))
        except BadAnswer as error:
            raise self._upstream.failed(error) from error
        rows = [row for row in listed if not is_elsewhere(row)]
        facts = {str(row["id"]): facts_of(row) for row in rows if self._shown(str(row["id"]))}
        self._tell_of_many(len(facts))
        owner = owner_of(rows)
        if owner == "llamacpp" and len(rows) == 1:
            await self._check_health()
            props = await self._more("/props")
            facts = {name: props_facts(fact, props) for name, fact in facts.items()}
        elif owner in ("vllm", "sglang"):
            await self._check_health()
        elif owner.startswith("organization"):
            # What LM Studio says of every model; its own list knows their kinds.
            known = await self._more("/api/v0/models")
            facts |= {name: fact for name, fact in _native_facts(known).items() if name in facts}
        found: list[Capability] = []
        for name in list(facts)[:MAX_MODELS]:
            found += capabilities_of(name, facts[name], self._terms)
        return found

    async def run(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on the server."""
        operation = call.capability.operation
        if operation == EMBEDDINGS:
            yield await self._upstream.embed(call)
        elif operation == IMAGES:
            yield await draw(self._upstream, call)
        elif operation == TRANSCRIPTION:
            yield await transcribe(self._upstream, call)
        else:
            parts = speak(self._upstream, call) if operation == SPEECH else self._upstream.chat(call)
            try:
                async for part in parts:
                    yield part
            finally:
                await close_parts(parts, CLOSE_S)  # noqa: ASYNC102 - it shields itself

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()
        await self._root.aclose()

    def _reach(self, url: str, config: UpstreamConfig, tls: ssl.SSLContext | None) -> Upstream:
        return Upstream(self._label, HttpClient(url, tls=tls), self._headers, lambda: self._key, config)

    async def _check_health(self) -> None:
        """Asks those whose lists do not depend on it whether they are well: llama-server lists what it still loads.

        Raises:
            RequestError: It is not.
        """
        status = await self._root.status("/health")
        if status >= 500:
            raise RequestError(503, f"{self._label} is not well: its /health answers {status}.", kind="server_error")

    async def _more(self, path: str) -> Any:
        try:
            return await self._root.ask("GET", path)
        except RequestError as error:
            log.debug("%s", error)
            return None

    def _tell_of_many(self, count: int) -> None:
        if count > MAX_MODELS and count != self._told_models:
            log.info("%s has %d models; the first %d are offered", self._label, count, MAX_MODELS)
        self._told_models = count

    def _shown(self, name: str) -> bool:
        allowed = not self._server.allow or _matches(name, self._server.allow)
        return allowed and not _matches(name, self._server.hide)

    async def _headers(self) -> Mapping[str, str]:
        self._key = await self._read_key()
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    async def _read_key(self) -> str:
        key = ""
        if self._server.key_env:
            key = self._environ.get(self._server.key_env, "").strip()
            if not key:
                raise self._no_key(
                    f"the environment variable {self._server.key_env} with its key is not set where this node runs"
                )
        elif self._server.key_file:
            path = Path(self._server.key_file).expanduser()
            try:
                key = (await trio.to_thread.run_sync(_beginning, path)).decode("utf-8", "replace").strip()
            except OSError as error:
                raise self._no_key(f"its key file {path} cannot be read: {error.strerror}") from error
            if not key:
                raise self._no_key(f"its key file {path} is empty")
        if not (key.isascii() and key.isprintable()):
            raise self._no_key("its key holds characters that no key has")
        return key

    def _no_key(self, reason: str) -> RequestError:
        return RequestError(502, f"{self._label}: {reason}.", kind="server_error", code="no_key")


def _beginning(path: Path) -> bytes:
    """Returns what a file begins with; a pipe or a device would be waited for, or never end."""
    if not path.is_file():
        path.stat()
        raise OSError(errno.EINVAL, "it is no file")
    with path.open("rb") as file:
        return file.read(MAX_KEY_BYTES)


def _terms_of(server: OpenAIServer) -> Terms:
    host = urlsplit(server.url).hostname or ""
    return Terms(
        source=f"the server {server.name}",
        prefix=f"openai:{server.name}",
        backend="openai",
        concurrency=server.concurrency,
        price=server.price,
        priority=server.priority,
        latency_class=server.latency_class,
        residency=server.residency,
        completes=not any(host == cloud or host.endswith(f".{cloud}") for cloud in _CHAT_ONLY),
        operations=server.operations,
    )


def _root_of(url: str) -> str:
    """Returns where a server has what is its own: without the `/v1` of OpenAI's API."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path.removesuffix("/v1")))


def _native_facts(known: Any) -> dict[str, Any]:
    try:
        return {str(row["id"]): facts_of(row) for row in rows_of(known)}
    except BadAnswer:
        return {}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
