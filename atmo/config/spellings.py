"""What seed 003 calls things in Atmosphere's own file, read as the same keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atmo.config.checks import choice, entry_of, refuse_unknown, switch
from atmo.config.keys import Problems
from atmo.config.layout import Layout, Note, Spread, To
from atmo.errors import UserError

_BACKEND_KEYS = ("type", "enabled", "discovery", "prefer_local", "priority")
_TYPES = ("llamafarm", "ollama")
_LOOPBACK = ("//localhost", "//127.0.0.1")


def _backends(value: Any, where: str, problems: Problems) -> Iterator[tuple[str, Any, str]]:
    """Yields the servers of the mapping `backends`, each under a name of its own."""
    for name, item in entry_of(value, where).items():
        with problems.kept():
            yield from _backend(name, item, f"{where}: {name}", problems)


def _backend(name: str, value: Any, where: str, problems: Problems) -> Iterator[tuple[str, Any, str]]:
    entry = entry_of(value, where)
    refuse_unknown(entry, _BACKEND_KEYS, where)
    kind = choice(_TYPES)(entry.get("type", name), f"{where}: type" if "type" in entry else where, Path())
    for key in ("prefer_local", "priority"):
        if key in entry:
            problems.notes.append(f"{where}: {key}: has no effect: requests go where they are answered soonest.")
    enabled = switch(entry.get("enabled", True), f"{where}: enabled", Path())
    given = _discovery(entry.get("discovery", {}), f"{where}: discovery", problems)
    if not enabled:
        yield kind, False, f"{where}: enabled"
    elif given is not None:
        yield kind, given, f"{where}: discovery"


def _discovery(value: Any, where: str, problems: Problems) -> Any:
    """Returns what the key of the server is set to: a URL, false, or None where nothing is said."""
    entry = entry_of(value, where)
    refuse_unknown(entry, ("auto", "urls"), where)
    urls = entry.get("urls", [])
    if not isinstance(urls, list) or not all(isinstance(text, str) for text in urls):
        raise UserError(f"{where}: urls: is not a list of URLs.", 'Write it as ["http://localhost:11434"].')
    auto = switch(entry.get("auto", True), f"{where}: auto", Path())
    different = dict.fromkeys(text.rstrip("/").replace(*_LOOPBACK) for text in urls)
    if len(different) > 1:
        problems.notes.append(f"{where}: urls: only the first one is used.")
    return urls[0] if urls else None if auto else False


_KNOWN = "has no effect: a node belongs to the mesh that it has joined."
SPELLINGS: Layout = {
    "node_name": To("name"),
    "backends": Spread(_backends),
    "mesh.mesh_id": Note(_KNOWN),
    "mesh.mesh_name": Note(_KNOWN),
    "mesh.role": Note("has no effect: a node's roles are those of its certificate."),
    "mesh.gossip_interval": Note("has no effect: the mesh is told of every change at once."),
}
"""Entries beside the keys themselves."""
