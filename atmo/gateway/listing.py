"""Every model of the mesh: what runs somewhere now, and what lies in somebody's store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from packaging.version import InvalidVersion, Version

from atmo.router.offer import Offer


class CatalogRow(Protocol):
    """A model in a store of the mesh; `services.models.ModelRow` is one."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def nodes(self) -> Sequence[str]: ...
    @property
    def local(self) -> bool: ...


@dataclass(slots=True)
class _Entry:
    nodes: dict[str, None] = field(default_factory=dict)
    stored_on: dict[str, None] = field(default_factory=dict)
    versions: dict[str, None] = field(default_factory=dict)
    operations: dict[str, None] = field(default_factory=dict)
    backends: dict[str, None] = field(default_factory=dict)
    features: dict[str, None] = field(default_factory=dict)
    context: int = 0
    description: str = ""
    local: bool = False
    stored: CatalogRow | None = None


def list_models(offers: Iterable[Offer], stored: Iterable[CatalogRow]) -> list[dict[str, Any]]:
    """Returns one object of `/v1/models` for each model, sorted by name.

    OpenAI's four keys, and beside them: `nodes` that run it, `ready` when there are any, `operations`, `backends`,
    `features`, `context` in tokens where it is known, `versions` newest first, `local`, `description`, and for a model
    of a store `stored_on`, `type`, `format` and `size_bytes`.
    """
    entries: dict[str, _Entry] = {}
    for offer in offers:
        capability = offer.capability
        entry = entries.setdefault(capability.model, _Entry())
        entry.nodes[offer.node_name] = None
        entry.operations.update(dict.fromkeys(capability.operations))
        entry.features.update(dict.fromkeys(capability.features))
        entry.context = max(entry.context, capability.context)
        entry.local = entry.local or offer.local
        if capability.version:
            entry.versions[capability.version] = None
        if capability.backend:
            entry.backends[capability.backend] = None
        if offer.local or not entry.description:
            entry.description = capability.description
    for model in stored:
        entry = entries.setdefault(model.name, _Entry())
        entry.stored_on.update(dict.fromkeys(model.nodes))
        entry.versions[model.version] = None
        entry.local = entry.local or model.local
        if entry.stored is None or _newer(model.version, entry.stored.version):
            entry.stored = model
    return [_row(name, entry) for name, entry in sorted(entries.items())]


def _row(name: str, entry: _Entry) -> dict[str, Any]:
    owners = sorted(entry.nodes or entry.stored_on)
    row: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": ", ".join(owners) or "atmosphere",
        "ready": bool(entry.nodes),
        "nodes": sorted(entry.nodes),
        "local": entry.local,
        "operations": sorted(entry.operations),
        "backends": sorted(entry.backends),
        "features": sorted(entry.features),
        "context": entry.context or None,
        "versions": sorted(entry.versions, key=_version, reverse=True),
        "description": entry.description,
    }
    if entry.stored is not None:
        row["stored_on"] = sorted(entry.stored_on)
        row["type"] = entry.stored.type
        row["format"] = entry.stored.format
        row["size_bytes"] = entry.stored.size_bytes
    return row


def _newer(version: str, than: str) -> bool:
    return _version(version) > _version(than)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0.dev0")
