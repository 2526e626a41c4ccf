"""LlamaFarm: its server with projects and fitted models, and its universal runtime with language models.

The server has no chat of its own: a project answers, which is a language model with its instructions, tools and
documents. The runtime lists only what it has loaded, the server what is on disk; the runtime loads any of it by name.
Nothing is taken for granted of an answer: versions differ, and the server gives a web page for paths that it does not
know. Source: LlamaFarm 0.0.27, `server/api/routers` and `runtimes/universal/routers`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from atmo.backends.base import Call, Part
from atmo.backends.closing import close_parts
from atmo.backends.honoured import unhonoured
from atmo.backends.http_client import HttpClient
from atmo.backends.llamafarm_ml import classifiers, classify, detect, detector_capability, detectors
from atmo.backends.llamafarm_names import Project, disk_models, loaded_models, projects_of
from atmo.backends.llm_capabilities import Terms, capabilities_of
from atmo.backends.llm_names import ModelFacts
from atmo.backends.server_backend import CLOSE_S, ServerBackend
from atmo.backends.upstream import Upstream, UpstreamConfig
from atmo.errors import RequestError, UserError
from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, EMBEDDINGS, TOOLS, Capability

log = logging.getLogger(__name__)

RECHECK_S = 30.0
"""Source: choice; half a dozen small requests to this machine."""

CONCURRENCY = 4
"""Source: choice, as of Ollama: the runtime runs one request for each model at a time and queues the others."""

NAMESPACES = ("default",)
"""Namespaces whose projects are listed where the server does not list all of them."""

MAX_PROJECTS = 64
MAX_MODELS = 128

_NO_SESSION = {"X-No-Session": "true"}
"""Without it the server keeps each conversation for half an hour."""

_PROJECT_FIELDS = frozenset({"messages", "tools", "rag_enabled", "database", "rag_retrieval_strategy", "rag_top_k"}) | {
    "rag_score_threshold",
    "n_ctx",
}
"""What a project reads of a request; how its model samples is the project's own business."""

_RUNTIME_FIELDS = frozenset(
    {
        "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "logprobs", "top_logprobs",
        "presence_penalty", "frequency_penalty", "tools", "tool_choice", "think", "thinking_budget", "n_ctx", "n_batch",
        "n_gpu_layers", "n_threads", "flash_attn", "use_mmap", "use_mlock", "cache_type_k", "cache_type_v",
        "auto_truncate", "truncation_strategy", "extra_body",
    }
)  # fmt: skip


class LlamaFarmBackend(ServerBackend):
    """The backend `llamafarm`.

    Args:
        url: Of its server, None to leave it alone.
        runtime_url: Of its universal runtime, None to leave it alone.
        config: Waiting times.

    Raises:
        UserError: A URL is not one.
    """

    def __init__(
        self, url: str | None, runtime_url: str | None = None, config: UpstreamConfig = UpstreamConfig()
    ) -> None:
        super().__init__("llamafarm", RECHECK_S, expected=False)
        self._server = _reach("LlamaFarm", url, config, _NO_SESSION) if url else None
        self._runtime = _reach("LlamaFarm's runtime", runtime_url, config) if runtime_url else None
        self._chats = _reach("LlamaFarm's runtime", runtime_url.rstrip("/") + "/v1", config) if runtime_url else None
        self._projects: dict[str, Project] = {}
        self._kinds: dict[str, str] = {}
        self._runs_here = False

    async def models(self) -> Sequence[Capability]:
        """Lists projects, fitted models, and the models that the runtime has or can load."""
        found: list[Capability] = []
        troubles: list[RequestError] = []
        on_disk: list[tuple[str, str]] = []
        if self._server is not None:
            try:
                await _identify(self._server, _is_server)
                on_disk = disk_models(await _maybe(self._server, "/v1/models"))
                found += await self._of_server(self._server)
            except RequestError as error:
                troubles.append(error)
        if self._runtime is not None:
            try:
                found += await self._of_runtime(self._runtime, on_disk)
            except RequestError as error:
                troubles.append(error)
        if troubles and not found:
            raise troubles[0]
        for trouble in troubles:
            log.debug("%s", trouble)
        return found

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns the fields that LlamaFarm drops though they change the answer."""
        if call.capability.operation != CHAT:
            return ()
        return unhonoured(call.body, _PROJECT_FIELDS if call.capability.id in self._projects else _RUNTIME_FIELDS)

    async def run(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on the server or the runtime."""
        operation = call.capability.operation
        if operation == EMBEDDINGS:
            assert self._chats is not None
            yield await self._chats.embed(call)
        elif operation == CLASSIFY:
            assert self._server is not None
            yield await classify(self._server, call)
        elif operation == ANOMALY:
            assert self._server is not None
            yield await detect(self._server, call, self._kinds.get(call.capability.model, ""))
        else:
            parts = self._chat(call)
            try:
                async for part in parts:
                    yield part
            finally:
                await close_parts(parts, CLOSE_S)  # noqa: ASYNC102 - it shields itself

    async def aclose(self) -> None:
        """Closes the connections."""
        for upstream in (self._server, self._runtime, self._chats):
            if upstream is not None:
                await upstream.aclose()

    def _chat(self, call: Call) -> AsyncGenerator[Part, None]:
        body = _plain(call.body)
        project = self._projects.get(call.capability.id)
        if project is not None:
            assert self._server is not None
            return self._server.chat(replace(call, body=body), project.chat_path, named=False)
        assert self._chats is not None
        return self._chats.chat(replace(call, body=body))

    async def _of_server(self, server: Upstream) -> list[Capability]:
        rows = projects_of(await _maybe(server, "/v1/projects"))
        if not rows:
            for namespace in NAMESPACES:
                rows += projects_of(await _maybe(server, f"/v1/projects/{namespace}"), namespace)
        self._projects = {project.key: project for project in rows[:MAX_PROJECTS]}
        detecting = detectors(await _maybe(server, "/v1/ml/anomaly/models"))
        self._kinds = dict(detecting)
        found = [_project_capability(project) for project in self._projects.values()]
        found += [detector_capability(name, kind) for name, kind in detecting]
        return [*found, *classifiers(await _maybe(server, "/v1/ml/classifier/models"))]

    async def _of_runtime(self, runtime: Upstream, on_disk: Sequence[tuple[str, str]]) -> list[Capability]:
        health = await _identify(runtime, _is_runtime)
        # What is loaded is known by its kind, what is on disk by its name.
        models = dict.fromkeys([*loaded_models(await _maybe(runtime, "/v1/models")), *on_disk])
        device = _device(health)
        found: list[Capability] = []
        for name, operation in list(models)[:MAX_MODELS]:
            chat = operation == CHAT
            facts = ModelFacts(
                operations=frozenset({operation}), features=frozenset({TOOLS}) if chat else None, device=device
            )
            found += capabilities_of(name, facts, _CHAT_TERMS if chat else _EMBEDDING_TERMS)
        return found


_CHAT_TERMS = Terms("LlamaFarm", "llamafarm:llm", "llamafarm", CONCURRENCY, completes=False)
_EMBEDDING_TERMS = replace(_CHAT_TERMS, prefix="llamafarm:embeddings")


def _reach(what: str, url: str, config: UpstreamConfig, headers: Mapping[str, str] = MappingProxyType({})) -> Upstream:
    async def added() -> Mapping[str, str]:  # noqa: ASYNC124 - it is asked for as such
        return headers

    try:
        return Upstream(f"{what} at {url}", HttpClient(url), added, config=config)
    except ValueError as error:
        raise UserError(f"{what}: {error}.", "Correct llamafarm and llamafarm_runtime in the settings.") from error


async def _identify(upstream: Upstream, known: Callable[[Any], bool]) -> Mapping[str, Any]:
    """Returns the health of a server that is what it should be.

    Raises:
        RequestError: It is away, or another program listens there.
    """
    health = await upstream.ask("GET", "/health")
    if not known(health):
        text = f"{upstream.label} says of its health what LlamaFarm does not; another program listens there."
        raise RequestError(502, text, kind="server_error", code="upstream")
    assert isinstance(health, Mapping)
    return health


async def _maybe(upstream: Upstream, path: str) -> Any:
    """Returns an answer that a version of LlamaFarm may not have; None where it has not."""
    try:
        return await upstream.ask("GET", path)
    except RequestError as error:
        log.debug("%s", error)
        return None


def _is_server(health: Any) -> bool:
    if not isinstance(health, Mapping) or "node_id" in health:
        return False
    return health.get("service") == "llamafarm" or (
        "status" in health and isinstance(health.get("components"), list | dict)
    )


def _is_runtime(health: Any) -> bool:
    if not isinstance(health, Mapping) or "node_id" in health:
        return False
    return "status" in health and isinstance(health.get("loaded_models"), list)


def _device(health: Mapping[str, Any]) -> str:
    """Returns `gpu` or `cpu` as the runtime's health tells, empty where it does not."""
    device = health.get("device")
    kind = device.get("device") or device.get("type") if isinstance(device, Mapping) else device
    if not isinstance(kind, str):
        return ""
    return "cpu" if kind.startswith("cpu") else "gpu" if kind.startswith(("cuda", "mps", "rocm", "xpu")) else ""


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a chat's request in the older terms that LlamaFarm knows."""
    out = dict(body)
    if (most := out.pop("max_completion_tokens", None)) is not None:
        out.setdefault("max_tokens", most)
    out["messages"] = [
        {**message, "role": "system"} if message.get("role") == "developer" else message for message in body["messages"]
    ]
    return out


def _project_capability(project: Project) -> Capability:
    return Capability(
        id=project.key,
        operation=CHAT,
        model=project.model,
        description=project.description,
        general=False,
        concurrency=CONCURRENCY,
        backend="llamafarm",
        features=(TOOLS,),
    )
