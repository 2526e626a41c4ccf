"""Small services behind the control API: real objects that keep a mesh and models in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from atmo.api.control.routes import ControlServices, control_router
from atmo.api.routing import Router
from atmo.errors import RemoteError, StoppedError, UserError
from atmo.services.consent import ConsentNeeded
from atmo.services.progress import Progress
from atmo.services.transfer import TransferRow
from atmo.storage.importing import Preview

NODE_ID = "a" * 52
DECISION = {
    "node": NODE_ID,
    "name": "attic",
    "roles": ["edge"],
    "fingerprint": "aaaa-bbbb",
    "trusted": True,
    "decided_at": 1_700_000_000.0,
}


def hundred(phase: str = "pull", bytes_done: int = 0, sources: tuple[str, ...] = ("kitchen",)) -> Progress:
    """Returns a report of a job of 100 bytes."""
    return Progress(phase, bytes_done, 100, 10.0, sources, 9.0)


@dataclass
class Row:
    """As `atmo.services.models.ModelRow`."""

    name: str
    version: str = "1.0.0"
    local: bool = True
    nodes: tuple[str, ...] = ("kitchen",)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "sha256": "ab" * 32,
            "size_bytes": 1_500_000,
            "format": "onnx",
            "nodes": list(self.nodes),
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
    pulled: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    waiting: bool = False
    transfers: MemoryTransfers = field(default_factory=lambda: MemoryTransfers())
    consent: Any = field(default_factory=lambda: SimpleNamespace(rows=lambda: [DECISION]))

    def local_models(self) -> list[Any]:
        return []

    async def import_model(
        self,
        path: Path,
        *,
        name: str | None = None,
        version: str | None = None,
        kind: str | None = None,
        capabilities: Sequence[str] = (),
        description: str = "",
        private: bool = False,
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
        } | ({"private": True} if private else {})
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

    async def preview(self, path: Path, said: Mapping[str, Any]) -> Preview:
        await trio.lowlevel.checkpoint()
        name = said.get("name") or path.stem
        given = tuple(said.get("capabilities") or ("classify",))
        return Preview(name, "1.0.0", "classifier", "onnx", given, "", 1_500_000, path.suffix == ".pkl", {"opset": 17})

    async def pull_later(self, spec: str) -> Row | TransferRow:
        await trio.lowlevel.checkpoint()
        return self.local[spec] if spec in self.local else self.transfers.add(spec)

    async def pull_capable(self, capabilities: Sequence[str], progress: Any = None, **more: Any) -> Row:
        self.pulled = {"capabilities": list(capabilities), **more}
        return await self.pull("far", progress)

    async def pull(
        self, spec: str, progress: Callable[[Progress], None] | None = None, *, wait: bool = False, **more: Any
    ) -> Row:
        self.pulled = self.pulled or {"wait": wait, **more}
        name = spec.partition("@")[0]
        if "stopped" in spec:
            await trio.lowlevel.checkpoint()
            raise StoppedError("The transfer of far 1.0.0 was paused by another command.", "Resume it.")
        if "strange" in spec and more.get("trust") != NODE_ID:
            await trio.lowlevel.checkpoint()
            about = {"node": NODE_ID, "roles": ["edge"], "fingerprint": "aaaa-bbbb", "models": ["far"]}
            raise ConsentNeeded("far 1.0.0 was published by attic.", "Pull it with --trust.", about)
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


@dataclass
class MemoryTransfers:
    """Transfers that are remembered."""

    kept: dict[int, TransferRow] = field(default_factory=dict)

    def add(self, name: str, state: str = "running", **more: Any) -> TransferRow:
        number = len(self.kept) + 1
        row = TransferRow(number, name, "1.0.0", "pull", state, "", 250, 1_000, 25.0, 5.0, **more)
        self.kept[number] = row
        return row

    async def rows(self, *, over: bool = False) -> list[TransferRow]:
        await trio.lowlevel.checkpoint()
        return [row for row in self.kept.values() if over or row.state not in ("done", "cancelled")]

    async def history(self) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    async def pause(self, which: str) -> list[TransferRow]:
        return await self._become(which, "paused")

    async def resume(self, which: str) -> list[TransferRow]:
        return await self._become(which, "running")

    async def cancel(self, which: str, *, keep: bool = False) -> list[TransferRow]:
        return await self._become(which, "cancelled", "kept" if keep else "")

    async def _become(self, which: str, state: str, reason: str = "") -> list[TransferRow]:
        await trio.lowlevel.checkpoint()
        found = [row for row in self.kept.values() if which in (str(row.id), row.name)]
        if not found:
            raise UserError(
                f"No transfer {which} is under way: there is none, or it is over.", "See `atmo model transfers --all`."
            )
        for row in found:
            self.kept[row.id] = replace(row, state=state, reason=reason)
        return [self.kept[row.id] for row in found]


class MemorySide:
    """What looks after models: remembers what it was asked for, and answers with what `answers` says.

    Its methods are those of `Versions`, `Publishing` and `Care` that jobs call.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        async def answer(*given: Any, **more: Any) -> Any:
            await trio.lowlevel.checkpoint()
            self.asked.append((name, tuple(value for value in given if not callable(value)), more))
            if name not in self.answers:
                raise UserError(f"There is nothing to {name}.")
            return self.answers[name]

        return answer

    def rows(self) -> list[dict[str, Any]]:
        return [{"name": "iris", "active": "1.0", "newest": "2.0", "rolled_back": True, "auto": None}]

    def deprecations(self) -> list[dict[str, Any]]:
        return [{"name": "iris", "range": "<2", "by": "attic", "counts": "own", "reason": "wrong labels"}]


@dataclass
class MemoryServices:
    """What the control routes serve."""

    mesh: MemoryMesh
    models: MemoryModels
    side: MemorySide = field(default_factory=MemorySide)

    @property
    def versions(self) -> MemorySide:
        return self.side

    publishing = care = versions


async def examine() -> Mapping[str, Any]:
    """What `atmo mesh doctor` shows, of a node that is well but for its relay."""
    await trio.lowlevel.checkpoint()
    good = {"name": "UDP", "verdict": "good", "found": "goes out and comes back", "next": ""}
    return {"checks": [good, {"name": "relay", "verdict": "bad", "found": "none: refused", "next": "Check the URL."}]}


def memory_routes(
    token: str,
    mesh: MemoryMesh,
    models: MemoryModels,
    status: Callable[[], Mapping[str, Any]],
    side: MemorySide | None = None,
    config: Sequence[Mapping[str, Any]] = (),
) -> Router:
    """Returns the control routes over these services."""
    services = MemoryServices(mesh, models, side or MemorySide())
    return control_router(token, cast(ControlServices, services), status, examine, config=config)
