"""Model servers on this machine that nobody configured, looked for at their usual ports and asked gently.

Where nothing listens, a look costs a refused connection. What listens is a model server only if its list of models is
exactly one; another Atmosphere node, which has such a list too, says so in its health and is left alone: its models
come by the mesh. Ollama and LlamaFarm have backends of their own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

import trio

from atmo.backends.base import Backend, Call, Part
from atmo.backends.closing import close_parts
from atmo.backends.http_client import HttpClient
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.openai_shapes import BadAnswer
from atmo.backends.places import PLACES, Place
from atmo.backends.server_backend import CLOSE_S
from atmo.backends.upstream import Upstream, UpstreamConfig
from atmo.errors import RequestError
from atmo.router.capability import Capability

log = logging.getLogger(__name__)

RECHECK_S = 20.0
"""Source: choice; one refused connection for each place."""

CONCURRENCY = 4
_LOOK = UpstreamConfig(discover_s=1.0)


class FoundBackend(Backend):
    """The backend `found`.

    Args:
        names: Of the places to look at; unknown ones are ignored.
        taken: Ports of this machine that are left alone: the node's own, and those of servers that are configured.
        places: Where servers usually are.
    """

    name = "found"
    recheck_s = RECHECK_S

    def __init__(self, names: Collection[str], taken: Collection[int] = (), places: Sequence[Place] = PLACES) -> None:
        self._places = [place for place in places if place.name in names and place.port not in taken]
        self._servers: dict[Place, OpenAIBackend] = {}
        self._runs: dict[str, OpenAIBackend] = {}
        self._told: dict[Place, str] = {}

    async def discover(self) -> Sequence[Capability]:
        """Looks at every place, and lists what the servers there have."""
        found: dict[Place, Sequence[Capability]] = {}
        async with trio.open_nursery() as nursery:
            for place in self._places:
                nursery.start_soon(self._look, place, found)
        # In the order of the places, whoever answered first.
        pairs = [(place, capability) for place in self._places for capability in found.get(place, ())]
        self._runs = {capability.id: self._servers[place] for place, capability in pairs}
        return [capability for _, capability in pairs]

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns what the server that runs the call does not honour."""
        server = self._runs.get(call.capability.id)
        return server.ignored(call) if server is not None else ()

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on the server that has the model."""
        server = self._runs.get(call.capability.id)
        if server is None:
            message = f"The server with {call.capability.model} is not there any more. See /v1/models for what is."
            raise RequestError(404, message, code="model_not_found", param="model")
        parts = server.execute(call)
        try:
            async for part in parts:
                yield part
        finally:
            await close_parts(parts, CLOSE_S)  # noqa: ASYNC102 - it shields itself

    async def aclose(self) -> None:
        """Closes the connections."""
        for server in self._servers.values():
            await server.aclose()

    async def _look(self, place: Place, found: dict[Place, Sequence[Capability]]) -> None:
        if not await self._is_model_server(place):
            # Whoever listens there next may be somebody else.
            if (gone := self._servers.pop(place, None)) is not None:
                await gone.aclose()
            return
        if place not in self._servers:
            log.info("found a model server at %s, offered as %s", place.url, place.name)
            server = OpenAIServer(place.name, place.url, concurrency=CONCURRENCY)
            self._servers[place] = OpenAIBackend(server, expected=False)
        found[place] = await self._servers[place].discover()

    async def _is_model_server(self, place: Place) -> bool:
        root = Upstream(f"The server at {place.url}", HttpClient(f"http://127.0.0.1:{place.port}"), config=_LOOK)
        try:
            if _is_atmosphere(await _health(root)):
                self._tell(place, "an Atmosphere node listens there")
                return False
            models = await root.ask("GET", f"{place.path}/models")
        except RequestError as error:
            if error.code == "upstream_refused":
                self._tell(place, "it wants a key: add it to `servers` in the settings")
            return False
        finally:
            await root.aclose()
        if not _is_model_list(models):
            self._tell(place, "what listens there is no model server")
            return False
        self._told.pop(place, None)
        return True

    def _tell(self, place: Place, reason: str) -> None:
        if self._told.get(place) != reason:
            log.info("nothing is offered of %s: %s", place.url, reason)
        self._told[place] = reason


async def _health(root: Upstream) -> Any:
    """Returns what `/health` says; None where there is no such thing, or it is not JSON.

    Raises:
        RequestError: Nothing listens there, or it does not answer.
    """
    try:
        return await root.ask("GET", "/health")
    except RequestError as error:
        if error.code in ("upstream_failed", "upstream_late") and not isinstance(error.__cause__, BadAnswer):
            raise
        return None


def _is_atmosphere(health: Any) -> bool:
    return isinstance(health, Mapping) and "node_id" in health


def _is_model_list(body: Any) -> bool:
    """Returns whether an answer is OpenAI's list of models, and no other program's that happens to look like one."""
    rows = body.get("data") if isinstance(body, Mapping) else None
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(
            isinstance(row, Mapping)
            and isinstance(row.get("id"), str)
            and row.get("object") == "model"
            and "nodes" not in row
            for row in rows
        )
    )
