"""Which backends a node runs, from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from atmo.backends.base import Backend
from atmo.backends.embedder import Embedder
from atmo.backends.embeddings import EmbeddingsBackend
from atmo.backends.found import FoundBackend
from atmo.backends.gguf import GgufBackend
from atmo.backends.gguf_runners import Runners
from atmo.backends.llamafarm import LlamaFarmBackend
from atmo.backends.ml import BuiltinBackend
from atmo.backends.ml_children import ChildrenBackend
from atmo.backends.ollama import OllamaBackend
from atmo.backends.onnx import OnnxBackend
from atmo.backends.onnx_session import SessionCache
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.rag import Generate, RagBackend, RagProject, builtin_docs
from atmo.backends.store import StoredModel
from atmo.config.settings import Settings
from atmo.config.values import HostPort, ServerSettings
from atmo.errors import UserError
from atmo.storage.home import Home


def build_backends(
    settings: Settings,
    home: Home,
    embedder: Embedder,
    models: Callable[[], Sequence[StoredModel]],
    generate: Generate,
    sessions: SessionCache,
    runners: Runners,
) -> list[Backend]:
    """Returns the backends of a node, the ones that are always there first.

    Args:
        settings: Which servers and folders of documents there are.
        home: Where caches may be kept.
        embedder: Embeds texts.
        models: Lists the models of the local store.
        generate: Asks a general language model of the mesh.
        sessions: Where ONNX models are kept loaded.
        runners: Where GGUF models are.
    """
    projects = [RagProject(project.name, project.path, project.description) for project in settings.projects]
    docs = builtin_docs()
    backends: list[Backend] = [
        EmbeddingsBackend(embedder),
        BuiltinBackend(embedder),
        ChildrenBackend(embedder),
        OnnxBackend(models, embedder, sessions),
        GgufBackend(models, runners),
        RagBackend([*projects, *([docs] if docs else [])], embedder, generate, home.path / "cache" / "rag"),
    ]
    return [*backends, *server_backends(settings)]


def server_backends(settings: Settings) -> list[Backend]:
    """Returns the backends of model servers: each server once, as whoever configured it wants it.

    Raises:
        UserError: One of them is this node.
    """
    for server in settings.servers:
        if settings.http.port and settings.http.port in _ports([server.url]):
            raise UserError(
                f"The server {server.name!r} at {server.url} is this node itself.", "Remove it from servers."
            )
    backends: list[Backend] = [OpenAIBackend(_openai_server(server)) for server in settings.servers]
    configured = _ports([server.url for server in settings.servers])
    if settings.ollama_url and not configured & _ports([settings.ollama_url]):
        backends.append(OllamaBackend(settings.ollama_url))
    farm, runtime = (
        url if url and not configured & _ports([url]) else None
        for url in (settings.llamafarm_url, settings.llamafarm_runtime_url)
    )
    if farm or runtime:
        backends.append(LlamaFarmBackend(farm, runtime))
    known = [settings.ollama_url, settings.llamafarm_url, settings.llamafarm_runtime_url]
    own = {place.port for place in (settings.http, settings.listen, settings.bridge.http) if place is not None}
    taken = configured | _ports([url for url in known if url]) | own
    if places := set(settings.discover) - {"ollama", "llamafarm"}:
        backends.append(FoundBackend(places, taken))
    return backends


def _openai_server(server: ServerSettings) -> OpenAIServer:
    return OpenAIServer(
        name=server.name,
        url=server.url,
        key_env=server.key_env,
        key_file=server.key_file,
        price=server.price,
        allow=server.allow,
        hide=server.hide,
        concurrency=server.concurrency,
        operations=server.operations,
        priority=server.priority,
        latency_class=server.latency_class,
        residency=server.residency,
    )


def _ports(urls: Iterable[str]) -> set[int]:
    """Returns the ports of those URLs that are on this machine."""
    found = set()
    for url in urls:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.hostname and HostPort(parts.hostname, port).loopback:
            found.add(port)
    return found
