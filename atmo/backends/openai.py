"""Any OpenAI-compatible server by URL: vLLM, llama-server, LM Studio, a cloud."""

from __future__ import annotations

import fnmatch
import logging
import os
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trio

from atmo.backends.base import Backend, Call, Part
from atmo.backends.http_client import HttpClient
from atmo.backends.llm_names import ModelFacts, capabilities_of
from atmo.backends.openai_shapes import BadAnswer, model_ids
from atmo.backends.upstream import Upstream, UpstreamConfig
from atmo.errors import RequestError, UserError
from atmo.router.capability import EMBEDDINGS, Capability

log = logging.getLogger(__name__)

RECHECK_S = 60.0
"""Source: choice; a cloud's list seldom changes, and a failed call has it looked at again at once."""

MAX_MODELS = 200
CONCURRENCY = 8
MAX_KEY_BYTES = 8 * 1024


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
    """

    name: str
    url: str
    key_env: str = ""
    key_file: str = ""
    price: float = 0.0
    allow: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    concurrency: int = CONCURRENCY


class OpenAIBackend(Backend):
    """The backend of one server; its name is `openai:NAME`.

    Args:
        server: Which one.
        config: Waiting times.
        environ: Where keys are looked up.
        tls: For a server with a certificate of its own.

    Raises:
        UserError: The URL is not one.
    """

    recheck_s = RECHECK_S

    def __init__(
        self,
        server: OpenAIServer,
        config: UpstreamConfig = UpstreamConfig(),
        environ: Mapping[str, str] = os.environ,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = f"openai:{server.name}"
        self._server = server
        self._environ = environ
        self._key = ""
        self._trouble = ""
        self._label = f"The server {server.name} at {server.url}"
        try:
            url = server.url if urlsplit(server.url).path.strip("/") else server.url.rstrip("/") + "/v1"
            client = HttpClient(url, tls=tls)
        except ValueError as error:
            raise UserError(f"Server {server.name!r}: {error}.", "Correct its url in the settings.") from error
        self._upstream = Upstream(self._label, client, self._headers, lambda: self._key, config)

    async def discover(self) -> Sequence[Capability]:
        """Asks for the models; no answer, or one of another kind of server, means none. Trouble is logged once."""
        try:
            names = model_ids(await self._upstream.ask("GET", "/models"))
        except (RequestError, BadAnswer, UserError) as error:
            text = str(error) if not isinstance(error, BadAnswer) else f"{self._label} {error}."
            if text != self._trouble:
                log.warning("%s", text)
            self._trouble = text
            return []
        self._trouble = ""
        offered = [name for name in names if self._shown(name)]
        if len(offered) > MAX_MODELS:
            log.info("%s has %d models; the first %d are offered", self._label, len(offered), MAX_MODELS)
        found: list[Capability] = []
        for name in offered[:MAX_MODELS]:
            found += capabilities_of(
                name,
                f"the server {self._server.name}",
                f"openai:{self._server.name}",
                ModelFacts(),
                backend="openai",
                concurrency=self._server.concurrency,
                price=self._server.price,
            )
        return found

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on the server."""
        if call.capability.operation == EMBEDDINGS:
            yield await self._upstream.embed(call)
            return
        parts = self._upstream.chat(call)
        try:
            async for part in parts:
                yield part
        finally:
            with trio.move_on_after(1, shield=True):
                await parts.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()

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
                key = (await trio.Path(path).read_text(encoding="utf-8", errors="replace"))[:MAX_KEY_BYTES].strip()
            except OSError as error:
                raise self._no_key(f"its key file {path} cannot be read: {error.strerror}") from error
            if not key:
                raise self._no_key(f"its key file {path} is empty")
        if not (key.isascii() and key.isprintable()):
            raise self._no_key("its key holds characters that no key has")
        return key

    def _no_key(self, reason: str) -> RequestError:
        return RequestError(502, f"{self._label}: {reason}.", kind="server_error", code="no_key")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
