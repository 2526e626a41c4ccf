"""The models of this node and of its mesh: import, list, pull, remove."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import trio

from atmo.engine import FetchChunk
from atmo.errors import UserError, WireError
from atmo.gossip.records import ModelOffer
from atmo.identity import Signer
from atmo.index.keys import model_key
from atmo.net.ports import MeshPort
from atmo.services.catalog import ModelRow, Version, choose, gather, parse, record_of, rivals
from atmo.services.downloads import Downloads, Unobtainable, check_travels, checker
from atmo.services.fetch import FetchStats
from atmo.services.progress import Meter, Progress, Report, with_reports
from atmo.services.scout import Scout
from atmo.services.serve import Server
from atmo.storage import importing
from atmo.storage.chunks import ModelStorage
from atmo.storage.importing import Candidate, Converted
from atmo.storage.registry import LocalModel
from atmo.transfer.document import to_document
from atmo.transfer.names import Spec, newest_first

log = logging.getLogger(__name__)

Scope = Literal["local", "mesh", "available"]
Convert = Callable[[Path, Path], Awaitable[Converted]]
"""Turns the joblib or pickle file at the first path into ONNX at the second, in a process that can do no harm."""


class ModelService:
    """What people and backends ask about models.

    Args:
        storage: Open.
        signer: Signs the manifests of imported models.
        node_name: Of this node, for people.
        mesh: Returns the running peer, None where there is none.
        convert: None where joblib and pickle files cannot be imported.
        scout: Finds holders in a large mesh; None where only known ones are asked.

    Attributes:
        server: Answers other nodes; its statistics are of interest.
    """

    def __init__(
        self,
        storage: ModelStorage,
        signer: Signer,
        node_name: str,
        mesh: Callable[[], MeshPort | None],
        convert: Convert | None = None,
        scout: Scout | None = None,
    ) -> None:
        self.server = Server(storage)
        self._storage = storage
        self._signer = signer
        self._node_name = node_name
        self._mesh = mesh
        self._convert = convert
        self._scout = scout
        self._downloads = Downloads(storage, scout)
        self._callbacks: list[Callable[[], None]] = []
        self._models = storage.models()

    # --- the network ----------------------------------------------------------------------------------------------

    def attach(self, mesh: MeshPort) -> None:
        """Answers other nodes through `mesh` and tells it what is here."""
        self.server.attach(mesh)
        self._publish(mesh)

    async def fetch(self, effect: FetchChunk) -> None:
        """Performs the effect and reports to the transfer engine; the driver calls it and may cancel it."""
        await self._downloads.fetch(effect)

    def on_event(self, event: Any) -> None:
        """Takes every event that the peer emits; those of transfers are acted on."""
        self._downloads.on_event(event)

    def _publish(self, mesh: MeshPort) -> None:
        try:
            mesh.peer.publish_models(mesh.now(), tuple(record_of(model) for model in self._models))
        except WireError as error:
            log.error("the mesh does not learn of this node's models: %s", error)
        mesh.kick()

    @property
    def fetching(self) -> FetchStats:
        """What downloads fetched, and how."""
        return self._downloads.fetcher.stats

    @property
    def threads(self) -> tuple[trio.CapacityLimiter, ...]:
        """The limiters of the threads that read and write chunks; all others use trio's own."""
        return self._downloads.writers, self.server.readers

    # --- reading --------------------------------------------------------------------------------------------------

    def local_models(self) -> list[LocalModel]:
        """Returns the models on this machine by name, the newest version of each first."""
        return list(self._models)

    def rows(self, scope: Scope) -> list[ModelRow]:
        """Lists models: on this machine, anywhere in the mesh, or in the mesh and not here."""
        versions = self._versions()
        if scope == "local":
            versions = [version for version in versions if version.local]
        elif scope == "available":
            versions = [version for version in versions if not version.local]
        return [version.row(self._node_name) for version in versions]

    def info(self, name: str) -> dict[str, Any]:
        """Tells everything known of `NAME[@RANGE]`: the newest version in the range, all versions, who has it.

        `claims` is how many different manifests claim that version; more than one deserves a look.

        Raises:
            UserError: No node has it.
        """
        spec = parse(name)
        versions = self._versions()
        version = choose(spec, versions)
        row = version.row(self._node_name)
        about: dict[str, Any] = row.to_json()
        if version.local is not None:
            model = version.local
            about["path"] = str(model.path)
            about["source_node"] = model.source_node
            about["added_at"] = model.added_at
            about["loaded"] = model.loaded_at is not None
            about["manifest"] = to_document(model.manifest, model.publisher)
        else:
            about["manifest"] = None
        same_name = [other for other in versions if other.record.name == spec.name]
        about["claims"] = len(rivals(version, versions))
        about["versions"] = [other.row(self._node_name).to_json() for other in same_name]
        return about

    def on_change(self, callback: Callable[[], None]) -> None:
        """Has `callback` run after each change of the models on this machine."""
        self._callbacks.append(callback)

    def _versions(self) -> list[Version]:
        mesh = self._mesh()
        offers: Sequence[ModelOffer] = mesh.peer.models(mesh.now()) if mesh else ()
        return gather(self._models, offers)

    # --- changing -------------------------------------------------------------------------------------------------

    async def import_model(
        self,
        path: Path,
        *,
        name: str | None = None,
        version: str | None = None,
        kind: str | None = None,
        capabilities: Sequence[str] = (),
        description: str = "",
        config: Mapping[str, Any] | None = None,
        progress: Report | None = None,
    ) -> ModelRow:
        """Copies a file into the store as a model and tells the mesh.

        Args:
            path: The file; stays as it is.
            name: Of the model; else what its sidecar says, else made of the file's name.
            version: PEP 440; else the sidecar's, else the next free one.
            kind: The manifest's `type`; else the sidecar's, else what the file tells.
            capabilities, description, config: As in the manifest.
            progress: Told how far it is, a few times a second.

        Raises:
            UserError: The file is no whole model that is known here, or cannot be stored.
        """
        said = {
            "name": name,
            "version": version,
            "type": kind,
            "capabilities": tuple(capabilities),
            "description": description,
            "config": dict(config or {}),
        }
        meter = Meter("reading")
        model = await with_reports(meter, progress, lambda: self._import(path, said, meter))
        await self._refresh()
        if progress:
            progress(_done("done", model.manifest.size_bytes))
        return self._row(model)

    async def _import(self, path: Path, said: Mapping[str, Any], meter: Meter) -> LocalModel:
        candidate = await trio.to_thread.run_sync(importing.look_at, path, said)
        if not candidate.detected.runs_code:
            return await self._store(candidate, None, meter, path)
        if self._convert is None:
            raise importing.unconverted(path)
        with self._storage.incoming(0, ".onnx") as target:
            meter.begin("converting", 0)
            converted = await self._convert(path, target)
            return await self._store(candidate, (target, converted), meter, target)

    async def _store(
        self, candidate: Candidate, converted: tuple[Path, Converted] | None, meter: Meter, source: Path
    ) -> LocalModel:
        meter.begin("reading", (await trio.Path(source).stat()).st_size)
        return await trio.to_thread.run_sync(
            importing.store, self._storage, self._signer, self._node_name, candidate, converted, checker(meter)
        )

    async def pull(self, spec: str, progress: Report | None = None) -> ModelRow:
        """Downloads the newest version in `NAME[@RANGE]` from all its holders; nothing is done if it is here.

        Raises:
            UserError: Nobody has it, or it cannot be had now; what arrived is kept and continued the next time.
        """
        wanted = parse(spec)
        mesh = self._mesh()
        version = await self._choose(mesh, wanted, progress) if mesh else self._choose_local(wanted.name, spec)
        if version.local is not None or mesh is None:
            assert version.local is not None
            if progress:
                progress(_done("here already", version.record.size_bytes))
            return version.row(self._node_name)
        self._check_not_taken(version)
        model = await self._pull_any(mesh, rivals(version, self._versions()), progress)
        await self._refresh()
        if progress:
            progress(_done("done", model.manifest.size_bytes))
        return self._row(model)

    async def _pull_any(self, mesh: MeshPort, claims: Sequence[Version], progress: Report | None) -> LocalModel:
        """Pulls by the first of several manifests of one version that works; one that lies must not spoil the rest."""
        problems: list[UserError] = []
        for claim in claims:
            if problems:
                failed = claims[len(problems) - 1].record.manifest
                await trio.to_thread.run_sync(self._storage.discard_partial, failed)
            try:
                check_travels(claim.record)
                return await self._downloads.pull(mesh, claim, progress)
            except Unobtainable as error:
                problems.append(error)
        raise problems[0]

    async def _choose(self, mesh: MeshPort, wanted: Spec, progress: Report | None) -> Version:
        """Chooses among what is known; in a large mesh others may have what nobody known has."""
        scout = self._scout
        try:
            return choose(wanted, self._versions())
        except UserError:
            if scout is None or not mesh.peer.mesh_size.large:
                raise
        await with_reports(Meter("looking in the index"), progress, lambda: scout.find([model_key(wanted.name)]))
        return choose(wanted, self._versions())

    def _choose_local(self, name: str, spec: str) -> Version:
        try:
            return choose(parse(spec), self._versions())
        except UserError as error:
            raise UserError(
                f"{name} is not here, and this node is in no mesh that runs.",
                "Start it with `atmo node`; join a mesh with `atmo mesh join CODE`.",
            ) from error

    def _check_not_taken(self, wanted: Version) -> None:
        for version in self._versions():
            if version.local is not None and version.key[:2] == wanted.key[:2]:
                ours = f"{version.record.name}@{version.record.version}"
                if version.content == wanted.content:
                    problem = f"{wanted.record.version} and {version.record.version} are one version: {ours} is here."
                else:
                    problem = f"{ours} is here with another content than in the mesh."
                raise UserError(problem, f"Remove ours first (atmo model remove {ours}), or pull another version.")

    async def remove(self, spec: str) -> list[ModelRow]:
        """Removes the versions of `NAME[@RANGE]` from this machine, all of them without a range.

        Raises:
            UserError: There is none here.
        """
        wanted = parse(spec)
        here = {model.version: model for model in self._models if model.name == wanted.name}
        if wanted.text == "latest":
            doomed = newest_first(here)[:1]
        else:
            doomed = wanted.matching(here) if wanted.text else newest_first(here)
        dropped = await trio.to_thread.run_sync(self._storage.discard_partials, wanted)
        if not doomed and not dropped:
            there = f"Here are: {', '.join(newest_first(here))}." if here else "See `atmo model list`."
            raise UserError(f"{spec} is not on this machine.", there)
        removed = [self._row(here[version]) for version in doomed]
        for version in doomed:
            await trio.to_thread.run_sync(self._storage.remove, wanted.name, version)
        await self._refresh()
        return removed

    async def mark_loaded(self, name: str, version: str, loaded: bool) -> None:
        """Notes in the registry that a backend has loaded a model, or let go of it."""
        await trio.to_thread.run_sync(self._storage.set_loaded, name, version, loaded)

    async def _refresh(self) -> None:
        self._models = await trio.to_thread.run_sync(self._storage.models)
        mesh = self._mesh()
        if mesh is not None:
            self._publish(mesh)
        for callback in self._callbacks:
            callback()

    def _row(self, model: LocalModel) -> ModelRow:
        own = Version(record_of(model), model)
        return next((version for version in self._versions() if version.key == own.key), own).row(self._node_name)


def _done(phase: str, size_bytes: int) -> Progress:
    return Progress(phase, size_bytes, size_bytes, eta_s=0.0)
