"""Which backends a node runs, from its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atmo.backends.base import Backend
from atmo.backends.embedder import Embedder
from atmo.backends.embeddings import EmbeddingsBackend
from atmo.backends.ml import BuiltinBackend
from atmo.backends.ollama import OllamaBackend
from atmo.backends.onnx import OnnxBackend
from atmo.backends.onnx_session import SessionCache
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.rag import Generate, RagBackend, RagProject, builtin_docs
from atmo.backends.store import StoredModel
from atmo.config.settings import Settings
from atmo.storage.home import Home


def build_backends(
    settings: Settings,
    home: Home,
    embedder: Embedder,
    models: Callable[[], Sequence[StoredModel]],
    generate: Generate,
    sessions: SessionCache,
) -> list[Backend]:
    """Returns the backends of a node, the ones that are always there first.

    Args:
        settings: Which servers and folders of documents there are.
        home: Where caches may be kept.
        embedder: Embeds texts.
        models: Lists the models of the local store.
        generate: Asks a general language model of the mesh.
        sessions: Where ONNX models are kept loaded.
    """
    projects = [RagProject(project.name, project.path, project.description) for project in settings.projects]
    docs = builtin_docs()
    backends: list[Backend] = [
        EmbeddingsBackend(embedder),
        BuiltinBackend(embedder),
        OnnxBackend(models, embedder, sessions),
        RagBackend([*projects, *([docs] if docs else [])], embedder, generate, home.path / "cache" / "rag"),
    ]
    if settings.ollama_url:
        backends.append(OllamaBackend(settings.ollama_url))
    for server in settings.servers:
        access = (server.name, server.url, server.key_env, server.key_file, server.price)
        backends.append(OpenAIBackend(OpenAIServer(*access, server.allow, server.hide)))
    return backends
