"""The models of this node and of its mesh: import, list, pull, remove."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from atmo.errors import UserError
from atmo.identity import Signer
from atmo.net.ports import MeshPort
from atmo.services.catalog import ModelRow, parse
from atmo.services.downloads import checker
from atmo.services.holdings import Scope
from atmo.services.progress import Meter, Report, done, with_reports
from atmo.services.pulling import Pulling
from atmo.services.scout import Scout
from atmo.services.transfers import Transfers
from atmo.storage import importing
from atmo.storage.audit import USER
from atmo.storage.chunks import ModelStorage
from atmo.storage.decisions import TrustPolicy
from atmo.storage.importing import Candidate, Converted, Preview
from atmo.storage.registry import LocalModel
from atmo.transfer.names import newest_first

__all__ = ["Convert", "ModelService", "Scope"]

Convert = Callable[[Path, Path], Awaitable[Converted]]
"""Turns the joblib or pickle file at the first path into ONNX at the second, in a process that can do no harm."""


class ModelService(Pulling):
    """What people and backends ask about models.

    Args:
        storage: Open.
        signer: Signs the manifests of imported models.
        node_name: Of this node, for people.
        mesh: Returns the running peer, None where there is none.
        convert: None where joblib and pickle files cannot be imported.
        scout: Finds holders in a large mesh; None where only known ones are asked.
        policy: Whose models may come here; without one everybody's may.

    Attributes:
        server: Answers other nodes; its statistics are of interest.
        transfers: Every download of this node, to be listed, paused, resumed and cancelled.
        consent: Decides on publishers.
        vetting: Decides which models may come here.
        offers: Asks nodes whose catalogs are too large to be told.
    """

    def __init__(
        self,
        storage: ModelStorage,
        signer: Signer,
        node_name: str,
        mesh: Callable[[], MeshPort | None],
        convert: Convert | None = None,
        scout: Scout | None = None,
        policy: TrustPolicy = TrustPolicy(first_time="allow"),
    ) -> None:
        super().__init__(storage, signer, node_name, mesh, scout, policy)
        self._convert = convert
        self.transfers = Transfers(storage.transfers, self)

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
        private: bool = False,
        progress: Report | None = None,
    ) -> ModelRow:
        """Copies a file into the store as a model and tells the mesh.

        Args:
            path: The file; stays as it is.
            name: Of the model; else what its sidecar says, else made of the file's name.
            version: PEP 440; else the sidecar's, else the next free one.
            kind: The manifest's `type`; else the sidecar's, else what the file tells.
            capabilities, description, config: As in the manifest.
            private: The mesh does not hear of it until it is published; so it is where the sidecar says
                `publish: false`.
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
        model = await with_reports(meter, progress, lambda: self._import(path, said, meter, private))
        await self.refresh()
        if progress:
            progress(done("done", model.manifest.size_bytes))
        return self._row(model)

    async def _import(self, path: Path, said: Mapping[str, Any], meter: Meter, private: bool) -> LocalModel:
        candidate = await trio.to_thread.run_sync(importing.look_at, path, said)
        self._check_may_write(candidate.name)
        if private or not candidate.publish:
            return await self._take_privately(candidate, meter)
        return await self._take(candidate, meter)

    async def _take_privately(self, candidate: Candidate, meter: Meter) -> LocalModel:
        """A model that is here already stays what it is; of a new one nobody hears, not even between two steps."""
        decisions = self._storage.decisions
        before = {model.manifest_id for model in self._models}
        await trio.to_thread.run_sync(decisions.begin_private, time.time(), before)
        model: LocalModel | None = None
        try:
            model = await self._take(candidate, meter)
            return model
        finally:
            fresh = model.manifest_id if model is not None and model.manifest_id not in before else None
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(decisions.end_private, fresh)

    async def preview(self, path: Path, said: Mapping[str, Any]) -> Preview:
        """Returns what a file would become if it were imported; `said` is as in `importing.look_at`.

        Raises:
            UserError: It cannot be imported.
        """
        candidate = await trio.to_thread.run_sync(importing.look_at, path, said)
        if candidate.detected.runs_code and self._convert is None:
            raise importing.unconverted(path)
        return await trio.to_thread.run_sync(importing.preview, self._storage, candidate)

    async def _take(self, candidate: Candidate, meter: Meter) -> LocalModel:
        path = candidate.source
        if not candidate.detected.runs_code:
            return await self._store(candidate, None, meter, path)
        if self._convert is None:
            raise importing.unconverted(path)
        made = await trio.to_thread.run_sync(importing.converted_before, self._storage, candidate, checker(meter))
        if made is not None:
            return made
        with self._storage.incoming(0, ".onnx") as target:
            meter.begin("converting", 0)
            converted = await self._convert(path, target)
            return await self._store(candidate, (target, converted), meter, target)

    def _check_may_write(self, name: str) -> None:
        held = next((model for model in self._models if model.name == name), None)
        if held is not None:
            own = self._signer.node_id
            self.vetting.check_write(held.manifest, held.publisher, own, f"The file would be {name}, which")

    async def _store(
        self, candidate: Candidate, converted: tuple[Path, Converted] | None, meter: Meter, source: Path
    ) -> LocalModel:
        meter.begin("reading", (await trio.Path(source).stat()).st_size)
        return await trio.to_thread.run_sync(
            importing.store, self._storage, self._signer, self._node_name, candidate, converted, checker(meter)
        )

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
        await self.transfers.dropped(wanted)
        if not doomed and not dropped:
            for model in self._bridged():
                if model.name == wanted.name:
                    problem = f"{spec} is not in this node's store: it belongs to {model.source}."
                    raise UserError(problem, f"Delete it there: {model.path}.")
            there = f"Here are: {', '.join(newest_first(here))}." if here else "See `atmo model list`."
            raise UserError(f"{spec} is not on this machine.", there)
        removed = [self._row(here[version]) for version in doomed]
        for version in doomed:
            await trio.to_thread.run_sync(self._storage.remove, wanted.name, version, USER)
        await self.refresh()
        return removed

    async def mark_loaded(self, name: str, version: str, loaded: bool) -> None:
        """Notes in the registry that a backend has loaded a model, or let go of it."""
        await trio.to_thread.run_sync(self._storage.set_loaded, name, version, loaded, self._node_name)
