"""Small GGUF models with random weights, and the backend that runs them by llama.cpp itself."""

from __future__ import annotations

import atexit
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from atmo.backends.base import Call, Object, as_object
from atmo.backends.gguf import GgufBackend
from atmo.backends.gguf_process import GgufProcess
from atmo.backends.gguf_runners import Memory, Runners, RunnersConfig
from atmo.backends.http_client import HttpClient
from atmo.backends.upstream import Upstream
from atmo.router.capability import Capability
from tests.backends.graphs import Stored

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from make_gguf import Shape, make

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


def _folder() -> Path:
    """Returns a folder that is there until the tests end."""
    path = mkdtemp(prefix="atmo-test-gguf-")
    atexit.register(rmtree, path, ignore_errors=True)
    return Path(path)


@cache
def chat_file(template: str | None = None, context: int = 2_048) -> Path:
    """Returns a chat model; written once for all tests."""
    path = _folder() / "tiny.gguf"
    shape = Shape(context=context) if template is None else Shape(context=context, template=template)
    make(path, "chat", shape)
    return path


@cache
def slow_file() -> Path:
    """Returns a chat model that takes half a minute to fill its context."""
    path = _folder() / "slow.gguf"
    make(path, "chat", Shape(width=384, layers=8, half=True))
    return path


@cache
def embedder_file() -> Path:
    """Returns an embedding model."""
    path = _folder() / "letters.gguf"
    make(path, "embedding")
    return path


def stored(path: Path, name: str = "tiny", kind: str = "llm") -> Stored:
    """Returns a file as the store would list it."""
    return Stored(path, name=name, type=kind, format="gguf")


@dataclass
class Lab:
    """A backend with its models.

    Attributes:
        backend, runners: What is tested.
        models: What the store has; may be changed.
        capabilities: What was offered, by model.
    """

    backend: GgufBackend
    runners: Runners
    models: list[Stored]
    capabilities: dict[str, Capability] = field(default_factory=dict)

    async def look(self) -> dict[str, Capability]:
        """Has the backend look at the store."""
        self.capabilities = {found.model: found for found in await self.backend.discover()}
        return self.capabilities

    def call(self, body: Mapping[str, Any], model: str = "tiny", *, asked: str = "", stream: bool = False) -> Call:
        """Returns a call as the gateway makes it."""
        options = {"stream_options": {"include_usage": True}} if stream else {}
        return Call(self.capabilities[model], {**options, **body}, stream, "request-1", asked)

    async def ask(self, body: Mapping[str, Any], model: str = "tiny", asked: str = "") -> Object:
        """Returns a whole answer."""
        [part] = [part async for part in self.backend.execute(self.call(body, model, asked=asked))]
        return as_object(part)

    async def stream(self, body: Mapping[str, Any], model: str = "tiny", asked: str = "") -> list[Object]:
        """Returns the chunks of a streamed answer."""
        call = self.call(body, model, asked=asked, stream=True)
        return [as_object(part) async for part in self.backend.execute(call)]

    @property
    def process(self) -> GgufProcess:
        """The one process that runs."""
        [process] = self.runners.loaded().values()
        return process

    async def busy(self) -> int:
        """Returns how many requests llama.cpp computes."""
        client = HttpClient("http://llama", unix=self.process.socket)
        slots = await Upstream("llama.cpp", client).ask("GET", "/slots")
        await client.aclose()
        return sum(slot["is_processing"] for slot in slots)


@asynccontextmanager
async def lab(
    *models: Stored,
    config: RunnersConfig = RunnersConfig(),
    machine: Memory = Memory(),
    clock: Callable[[], float] | None = None,
) -> AsyncGenerator[Lab, None]:
    """Runs a backend that has looked at these models."""
    kept: list[Stored] = list(models) or [stored(chat_file())]
    runners = Runners(config, machine, clock) if clock else Runners(config, machine)
    found = Lab(GgufBackend(lambda: list(kept), runners), runners, kept)
    try:
        await found.look()
        yield found
    finally:
        await found.backend.aclose()


ENDLESS = {"max_tokens": 8_000, "logit_bias": {"258": -100}}
"""Never the token that ends an answer."""


def says(content: str) -> Mapping[str, Sequence[Mapping[str, str]]]:
    """Returns a body with one message."""
    return {"messages": [{"role": "user", "content": content}]}
