"""Small services behind the control API: real objects that keep a mesh and models in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import trio
from fastapi import APIRouter

from atmo.api.control import control_router
from atmo.errors import RemoteError, UserError
from atmo.services.mesh import MeshService
from atmo.services.models import ModelService
from atmo.services.progress import Progress


def hundred(phase: str = "pull", bytes_done: int = 0, sources: tuple[str, ...] = ("kitchen",)) -> Progress:
    """Returns a report of a job of 100 bytes."""
    return Progress(phase, bytes_done, 100, 10.0, sources, 9.0)


@dataclass
class Row:
    """As `atmo.services.models.ModelRow`."""

    name: str
    version: str = "1.0.0"
    local: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "sha256": "ab" * 32,
            "size_bytes": 1_500_000,
            "format": "onnx",
            "nodes": ["kitchen"],
            "local": self.local,
            "type": "classifier",
            "capabilities": ["classify"],
        }


@dataclass
class MemoryMesh:
    """A mesh of remembered members."""

    members: list[dict[str, Any]] = field(default_factory=list)
    mesh: dict[str, Any] | None = None

    async def create(self, name: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.mesh is not None:
            raise UserError(f"This node is in the mesh {self.mesh['name']} already.", "Use another home.")
        self.mesh = {"id": "m" * 52, "name": name}
        me = {"id": "a" * 52, "name": "kitchen", "roles": ["admin"], "path": "local", "rtt_ms": 0.0}
        self.members.append({**me, "last_seen_s": 0.0, "self": True})
        return self.mesh

    async def invite(self, role: str = "edge", expires_s: float = 86_400) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.mesh is None:
            raise UserError("This node is in no mesh.", "Create one with `atmo mesh create NAME`.")
        return {"code": f"atmo1-{role}", "role": role, "expires_at": 1_000.0 + expires_s}

    async def join(self, code: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if code == "unreachable":
            raise RemoteError("kitchen did not answer")
        if not code.startswith("atmo1-"):
            raise ExceptionGroup("nursery", [UserError("This is not a join code.", "Ask for a new one.")])
        self.mesh = {"id": "m" * 52, "name": "home"}
        return self.mesh

    def nodes(self) -> list[dict[str, Any]]:
        return self.members

    async def revoke(self, node: str, *, force: bool = False) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        for member in self.members:
            if node in (member["name"], member["id"]):
                self.members.remove(member)
                return {"id": member["id"], "name": member["name"]}
        raise UserError(f"No member is called {node}.", "See `atmo mesh nodes`.")

    async def hand_over(self, node: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        for member in self.members:
            if node in (member["name"], member["id"]):
                return {"id": member["id"], "name": member["name"]}
        raise UserError(f"No member is called {node}.", "See `atmo mesh nodes`.")


@dataclass
class MemoryModels:
    """Models by name; what a pull does is decided by the name that is asked for."""

    local: dict[str, Row] = field(default_factory=dict)
    remote: dict[str, Row] = field(default_factory=lambda: {"far": Row("far", local=False)})
    imported: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    waiting: bool = False

    async def import_model(
        self,
        path: Path,
        *,
        name: str | None = None,
        version: str | None = None,
        kind: str | None = None,
        capabilities: Sequence[str] = (),
        description: str = "",
        progress: Callable[[Progress], None] | None = None,
    ) -> Row:
        if not await trio.Path(path).exists():
            raise UserError(f"{path}: there is no such file.")
        self.imported = {
            "path": path,
            "name": name,
            "version": version,
            "kind": kind,
            "capabilities": tuple(capabilities),
            "description": description,
        }
        if progress is not None:
            await trio.to_thread.run_sync(progress, hundred("hash", 50, ()))
            await trio.testing.wait_all_tasks_blocked()
        row = Row(name or path.stem, version or "1.0.0")
        self.local[row.name] = row
        return row

    def rows(self, scope: str) -> list[Row]:
        mine, theirs = list(self.local.values()), list(self.remote.values())
        return {"local": mine, "mesh": mine + theirs, "available": theirs}[scope]

    def info(self, name: str) -> dict[str, Any]:
        row = self.local.get(name) or self.remote.get(name)
        if row is None:
            raise UserError(f"Nobody in the mesh has the model {name}.", "See `atmo model list --mesh`.")
        older = Row(name, "0.9.0", row.local)
        manifest = {"name": name, "trained_on": "2026-01-02", "config": {"depth": 3, "x": None}, "requirements": []}
        return {**row.to_json(), "manifest": manifest, "versions": [row.to_json(), older.to_json()]}

    async def pull(self, spec: str, progress: Callable[[Progress], None] | None = None) -> Row:
        name = spec.partition("@")[0]
        if name not in self.remote:
            await trio.lowlevel.checkpoint()
            raise UserError(f"Nobody in the mesh has the model {name}.", "See `atmo model list --mesh`.")
        for done in (0, 40, 80):
            if progress is not None:
                progress(hundred("pull", done))
            await trio.testing.wait_all_tasks_blocked()
        if "slow" in spec:
            try:
                self.waiting = True
                await trio.sleep_forever()
            except trio.Cancelled:
                self.cancelled = True
                raise
        if "broken" in spec:
            raise RemoteError("kitchen vanished")
        self.local[name] = Row(name)
        return self.local[name]

    async def remove(self, spec: str) -> list[Row]:
        await trio.lowlevel.checkpoint()
        if spec not in self.local:
            raise UserError(f"The model {spec} is not on this machine.")
        return [self.local.pop(spec)]


async def examine() -> Mapping[str, Any]:
    """What `atmo mesh doctor` shows, of a node that is well but for its relay."""
    await trio.lowlevel.checkpoint()
    good = {"name": "UDP", "verdict": "good", "found": "goes out and comes back", "next": ""}
    return {"checks": [good, {"name": "relay", "verdict": "bad", "found": "none: refused", "next": "Check the URL."}]}


def memory_routes(
    token: str, mesh: MemoryMesh, models: MemoryModels, status: Callable[[], Mapping[str, Any]]
) -> APIRouter:
    """Returns the control routes over these services."""
    return control_router(token, cast(MeshService, mesh), cast(ModelService, models), status, examine)
