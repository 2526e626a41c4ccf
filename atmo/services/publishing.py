"""What this node publishes: models made public, versions signed anew, and what it advises against."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import trio

from atmo.errors import UserError, WireError
from atmo.gossip.records import DeprecationBody
from atmo.identity import NodeId, Signer
from atmo.net.ports import MeshPort
from atmo.services.catalog import Version, choose, moment, parse
from atmo.services.models import ModelService
from atmo.storage import resealing
from atmo.storage.chunks import ModelStorage
from atmo.storage.decisions import OwnDeprecation
from atmo.wire.versions import parse_range

log = logging.getLogger(__name__)

REASON_CHARS = 200


class Publishing:
    """Publishes and advises.

    Args:
        models: What is here and in the mesh.
        storage: Where the models and what was decided are.
        signer: This node's key.
        mesh: Returns the running peer, None where there is none.
        wall: Unix seconds.
    """

    def __init__(
        self,
        models: ModelService,
        storage: ModelStorage,
        signer: Signer,
        mesh: Callable[[], MeshPort | None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        self._storage = storage
        self._signer = signer
        self._mesh = mesh
        self._wall = wall

    def attach(self, mesh: MeshPort) -> None:
        """Says again what this node advises against: a record counts only while its author repeats it in each run."""
        for said in self._storage.decisions.deprecations.values():
            self._tell(mesh, said)
        mesh.kick()

    # --- publishing -----------------------------------------------------------------------------------------------

    async def publish(self, spec: str, *, sign: bool = False) -> dict[str, Any]:
        """Makes a model of this machine known to the mesh, in this node's name if that is asked for.

        Args:
            spec: `NAME[@RANGE]`, of which the newest version that is here counts.
            sign: Sign the manifest with this node's key where another node has published it: this node answers for it
                from now on. Then it is another manifest, of the same content.

        Returns:
            The model's row, with `was_private` and `signed`: whether either changed.

        Raises:
            UserError: It is not here, or this node may not publish versions of that name.
        """
        wanted = parse(spec)
        here = {model.version: model for model in self._models.local_models() if model.name == wanted.name}
        version = wanted.best(here)
        if version is None:
            raise UserError(f"{spec} is not in this node's store.", "Import it first: atmo model import PATH.")
        model = here[version]
        own = self._signer.node_id
        signed = sign and model.publisher != own
        if signed:
            label = f"{model.name} {model.version}"
            self._models.vetting.check_write(model.manifest, model.publisher, own, label)
            await trio.to_thread.run_sync(resealing.reseal, self._storage, self._signer, model.name, model.version)
        was_private = await trio.to_thread.run_sync(self._storage.decisions.make_public, model.manifest_id)
        await self._models.refresh()
        return {**self._models.row(model.name, model.version).to_json(), "was_private": was_private, "signed": signed}

    # --- deprecation ----------------------------------------------------------------------------------------------

    async def deprecate(self, spec: str, reason: str = "", replacement: str = "") -> dict[str, Any]:
        """Advises everybody against versions of a model; it counts for models of one's own, and of an admin for all.

        Args:
            spec: `NAME[@RANGE]`; a bare name means all its versions.
            reason: For people.
            replacement: What to use instead, `NAME[@RANGE]`.

        Raises:
            UserError: There is no such model, or nobody would heed this node.
        """
        wanted = parse(spec)
        if replacement:
            parse(replacement)
        if len(reason) > REASON_CHARS or not reason.isprintable():
            raise UserError(f"A reason has at most {REASON_CHARS} printable characters.")
        versions = self._range(wanted.text, wanted.name)
        meant = parse_range(versions)
        fitting = [
            version
            for version in self._models.versions(wanted.name)
            if meant.contains(version.record.version, prereleases=True)
        ]
        if not fitting:
            raise UserError(f"Nobody has {spec}.", "See `atmo model list --mesh`.")
        self._check_heeded(fitting)
        said = OwnDeprecation(wanted.name, versions, reason, replacement, False, self._wall())
        await self._say(said)
        return {
            "name": said.name,
            "versions": [version.record.version for version in fitting],
            "range": versions,
            "reason": reason,
            "replacement": replacement,
        }

    async def undeprecate(self, spec: str) -> dict[str, Any]:
        """Takes back what this node advised, for exactly that `NAME[@RANGE]`.

        Raises:
            UserError: This node did not advise that.
        """
        wanted = parse(spec)
        versions = self._range(wanted.text, wanted.name)
        said = self._storage.decisions.deprecations.get((wanted.name, versions))
        if said is None or said.withdrawn:
            raise UserError(f"This node does not advise against {spec}.", "See `atmo model deprecate --list`.")
        await self._say(OwnDeprecation(said.name, said.versions, "", "", True, self._wall()))
        return {"name": said.name, "range": versions}

    def deprecations(self) -> list[dict[str, Any]]:
        """Lists what is advised against; `counts` for all versions, for the author's own, or for none."""
        mesh = self._mesh()
        if mesh is None:
            return []
        publishers: dict[str, set[NodeId | None]] = {}
        for version in self._models.versions():
            publishers.setdefault(version.record.name, set()).add(version.publisher)
        return [
            {
                "name": row.name,
                "range": row.versions,
                "reason": row.reason,
                "replacement": row.replacement,
                "by": row.author_name,
                "node": str(row.author),
                "since": moment(row.issued_s),
                "counts": "all" if row.admin else "own" if row.author in publishers.get(row.name, ()) else "none",
            }
            for row in sorted(mesh.peer.deprecations(mesh.now()), key=lambda row: (row.name, row.versions, row.author))
        ]

    def _range(self, text: str, name: str) -> str:
        """Returns the range as it is said: `latest` is the version that it means now, as words do not age well."""
        if text != "latest":
            return text
        return f"=={choose(parse(name), self._models.versions(name)).record.version}"

    def _check_heeded(self, fitting: list[Version]) -> None:
        mesh, own = self._mesh(), self._signer.node_id
        admin = mesh is not None and mesh.peer.trust.is_admin(mesh.now().wall, own)
        if not admin and not any(version.publisher == own for version in fitting):
            raise UserError(
                f"This node has published no such version of {fitting[0].record.name}, and is no admin of the mesh:"
                " nobody would heed it.",
                "Ask the publisher, or an admin.",
            )

    async def _say(self, said: OwnDeprecation) -> None:
        await trio.to_thread.run_sync(self._storage.decisions.deprecate, said)
        mesh = self._mesh()
        if mesh is not None:
            self._tell(mesh, said)
            mesh.kick()

    def _tell(self, mesh: MeshPort, said: OwnDeprecation) -> None:
        body = DeprecationBody(said.name, said.versions, said.reason, said.replacement)
        try:
            mesh.peer.publish_deprecation(mesh.now(), body, withdrawn=said.withdrawn)
        except WireError as error:
            log.error("the mesh does not learn that %s %s is advised against: %s", said.name, said.versions, error)
