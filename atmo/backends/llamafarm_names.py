"""What LlamaFarm's lists of projects and models tell. No I/O.

A project's instructions are its own business and stay out of its description, which the whole mesh reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from atmo.backends.llm_names import is_known_family, operations_of
from atmo.router.capability import CHAT, EMBEDDINGS
from atmo.wire import limits

MAX_ROWS = 1_024
MAX_DESCRIPTION = 1_024
MAX_PARTS = 12
"""Databases and data sets of a project that its description names."""

DEFAULT_NAMESPACE = "default"
RAG, AGENT, PLAIN = "rag", "agent", "project"

_KEY = re.compile(
    r"(language|causal_lm|encoder:embedding|embedding):(?P<name>.+?)(?::(?:ctx|len|quant|batch|gpu|threads)[^:/]*)*"
)
"""The runtime lists models by the keys of its cache: `language:Qwen/Qwen3-1.7B-GGUF:ctxauto:quantdefault`."""

_LANGUAGE, _EMBEDDING = ("language", "causal_lm"), ("encoder_embedding", "embedding")


@dataclass(frozen=True, slots=True)
class Project:
    """One project.

    Attributes:
        namespace, name: As LlamaFarm has them.
        kind: `rag` where it answers from documents, `agent` where it has tools, else `project`.
        description: For people and for routing by meaning.
    """

    namespace: str
    name: str
    kind: str
    description: str

    @property
    def key(self) -> str:
        """The capability's id."""
        return f"llamafarm:{self.kind}:{self.namespace}/{self.name}"

    @property
    def model(self) -> str:
        """The name that requests use."""
        return self.name if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{self.name}"

    @property
    def chat_path(self) -> str:
        """Where it answers."""
        return f"/v1/projects/{quote(self.namespace, safe='')}/{quote(self.name, safe='')}/chat/completions"


def projects_of(body: Any, namespace: str = DEFAULT_NAMESPACE) -> list[Project]:
    """Returns the projects of a list that can answer; those that LlamaFarm itself finds invalid cannot.

    Args:
        body: The answer, whatever it is.
        namespace: Of projects that do not say theirs.
    """
    return [project for row in _rows(body, "projects") if (project := _project(row, namespace)) is not None]


def disk_models(body: Any) -> list[tuple[str, str]]:
    """Returns the name and operation of models on disk that the runtime can chat or embed with.

    The list is the cache of a hub and holds anything: what is of no known family is left alone.
    """
    found = []
    for row in _rows(body, "models"):
        name = row.get("id")
        if not isinstance(name, str) or not 0 < len(name) <= limits.NAME_CHARS:
            continue
        for operation in operations_of(name):
            if operation == EMBEDDINGS or (operation == CHAT and (is_known_family(name) or "gguf" in name.lower())):
                found.append((name, operation))
    return found


def loaded_models(body: Any) -> list[tuple[str, str]]:
    """Returns the name and operation of models that the runtime has loaded."""
    found = []
    for row in _rows(body, "models"):
        key, kind = row.get("id"), row.get("type")
        if not isinstance(key, str) or not 0 < len(key) <= limits.NAME_CHARS:
            continue
        match = _KEY.fullmatch(key)
        if match is not None:
            found.append((match["name"], CHAT if match[1] in _LANGUAGE else EMBEDDINGS))
        elif kind in _LANGUAGE or kind in _EMBEDDING:
            found.append((key, CHAT if kind in _LANGUAGE else EMBEDDINGS))
    return found


def _rows(body: Any, name: str) -> list[Mapping[str, Any]]:
    rows = body
    if isinstance(body, Mapping):
        rows = body.get("data") if isinstance(body.get("data"), list) else body.get(name)
    return [row for row in rows[:MAX_ROWS] if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _project(row: Mapping[str, Any], namespace: str) -> Project | None:
    name = _word(row.get("name")) or _word(row.get("id"))
    identity = _word(row.get("id")) or name
    if "namespace" in row:
        # Here the name is what paths take; where there is no namespace, the id is.
        namespace, identity = _word(row["namespace"]), name
    if not identity or not namespace or row.get("validation_error"):
        return None
    config = row.get("config")
    config = config if isinstance(config, Mapping) else {}
    kind = _kind(row, config)
    project = Project(namespace, identity, kind, _description(row, config, name, kind))
    return project if max(len(project.key), len(project.model)) <= limits.NAME_CHARS else None


def _kind(row: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    said = row.get("type")
    if said in (RAG, AGENT, "agents"):
        return RAG if said == RAG else AGENT
    if list(_names(config)):
        return RAG
    mcp = config.get("mcp")
    return AGENT if isinstance(mcp, Mapping) and mcp.get("servers") else PLAIN


def _description(row: Mapping[str, Any], config: Mapping[str, Any], name: str, kind: str) -> str:
    for said in (row.get("description"), config.get("description")):
        if isinstance(said, str) and said.strip():
            return " ".join(said.split())[:MAX_DESCRIPTION]
    parts = list(dict.fromkeys(_names(config)))[:MAX_PARTS]
    about = f" about {', '.join(parts)}" if parts else ""
    what = {RAG: f"answers questions from its documents{about}", AGENT: "an assistant with tools"}.get(
        kind, "an assistant"
    )
    return f"{name} on LlamaFarm: {what}.".replace("_", " ")[:MAX_DESCRIPTION]


def _names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the databases and data sets that a project answers from."""
    rag = config.get("rag")
    databases = rag.get("databases") if isinstance(rag, Mapping) else None
    for rows in (config.get("datasets"), databases):
        for row in rows[:MAX_PARTS] if isinstance(rows, list) else ():
            if isinstance(row, Mapping) and (name := _word(row.get("name"))):
                yield name


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) <= limits.NAME_CHARS else ""
