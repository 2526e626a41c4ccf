"""What models this machine and its mesh have: the catalog as people see it, and what the mesh is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import trio
from packaging.version import Version as Number

from atmo.engine import FetchChunk
from atmo.errors import WireError
from atmo.gossip.records import ModelOffer
from atmo.identity import NodeId, Signer
from atmo.net.ports import MeshPort
from atmo.services.access import Access
from atmo.services.catalog import (
    ModelRow,
    Version,
    choose,
    gather,
    mark_deprecated,
    moment,
    parse,
    record_of,
    registry_view,
    rivals,
)
from atmo.services.consent import Consent
from atmo.services.downloads import Downloads
from atmo.services.fetch import FetchStats
from atmo.services.offers import PROTOCOL as OFFERS_PROTOCOL
from atmo.services.offers import ModelRequest, Offers
from atmo.services.scout import Scout
from atmo.services.serve import Server
from atmo.services.vetting import Vetting
from atmo.storage.audit import USER, Event
from atmo.storage.bridge import Bridge, BridgedModel
from atmo.storage.chunks import ModelStorage
from atmo.storage.decisions import TrustPolicy
from atmo.storage.registry import LocalModel
from atmo.transfer.document import to_document
from atmo.transfer.manifest import HASH_BYTES
from atmo.transfer.names import version_key
from atmo.transfer.requirements import unmet

log = logging.getLogger(__name__)

Scope = Literal["local", "mesh", "available"]


class Holdings:
    """This part of the model service; see `ModelService` for the arguments.

    Attributes:
        tells: Whether other nodes are told of what is here, and served from it.
    """

    def __init__(
        self,
        storage: ModelStorage,
        signer: Signer,
        node_name: str,
        mesh: Callable[[], MeshPort | None],
        scout: Scout | None,
        policy: TrustPolicy,
    ) -> None:
        self._storage = storage
        self._signer = signer
        self._node_name = node_name
        self._mesh = mesh
        self._scout = scout
        self._access = Access(storage, self._standing)
        self.consent = Consent(storage.decisions, signer.node_id, mesh, policy)
        self.consent.audit = self._note_consent
        self.vetting = Vetting(storage, self.consent, self._access, mesh)
        self.offers = Offers(mesh)
        self.server = Server(storage, self._access.may_read, self._access.is_open)
        self._downloads = Downloads(storage, scout, self.vetting.check, self._make_room)
        self._bridged: Callable[[], Sequence[BridgedModel]] = tuple
        self._callbacks: list[Callable[[], None]] = []
        self._models = storage.models()
        self._shared: set[str] = set()
        self.tells = True

    # --- the network ----------------------------------------------------------------------------------------------

    def attach(self, mesh: MeshPort) -> None:
        """Answers other nodes through `mesh` and tells it what is here, where the node tells anything."""
        if self.tells:
            self.server.attach(mesh)
            mesh.handle(OFFERS_PROTOCOL, self.offers.serve)
            self._publish(mesh)

    async def fetch(self, effect: FetchChunk) -> None:
        """Performs the effect and reports to the transfer engine; the driver calls it and may cancel it."""
        await self._downloads.fetch(effect)

    def on_event(self, event: Any) -> None:
        """Takes every event that the peer emits; those of transfers are acted on."""
        self._downloads.on_event(event)

    def _publish(self, mesh: MeshPort) -> None:
        public = [model for model in self._here() if not self._is_private(model)]
        try:
            self.offers.tell(mesh.peer.publish_models(mesh.now(), [record_of(model) for model in public]))
        except WireError as error:
            log.error("the mesh does not learn of this node's models: %s", error)
        self._share(mesh, public)
        mesh.kick()

    def _share(self, mesh: MeshPort, models: Sequence[LocalModel]) -> None:
        """Tells the transfer engine what is here as a whole, so that others fetch it from each other, too."""
        chunks = {m.manifest_id.hex(): sum(len(f.hashes) for f in m.manifest.files) // HASH_BYTES for m in models}
        for gone in self._shared - chunks.keys():
            mesh.peer.unshare(mesh.now(), gone)
        for transfer, count in chunks.items():
            mesh.peer.share(mesh.now(), transfer, count)
        self._shared = set(chunks)

    def _standing(self, node: NodeId) -> frozenset[str]:
        mesh = self._mesh()
        return mesh.peer.standing(mesh.now(), node) if mesh is not None else frozenset()

    def _is_private(self, model: LocalModel) -> bool:
        return self._storage.decisions.is_private(model.manifest_id, model.added_at)

    def is_public(self, model: LocalModel) -> bool:
        """Says whether everybody may have a model of this machine."""
        return not model.manifest.access.read and not self._is_private(model)

    def offer(self, bridge: Bridge) -> None:
        """Offers models of other programs like those of the store."""
        self._bridged = bridge.models
        self._storage.add_source(bridge)
        self.server.further_manifests = bridge.sealed

    def publish(self) -> None:
        """Tells the mesh again what is here."""
        mesh = self._mesh()
        if mesh is not None and self.tells:
            self._publish(mesh)

    @property
    def fetching(self) -> FetchStats:
        """What downloads fetched, and how."""
        return self._downloads.fetcher.stats

    @property
    def threads(self) -> tuple[trio.CapacityLimiter, ...]:
        """The limiters of the threads that read and write chunks; all others use trio's own."""
        return self._downloads.writers, self._downloads.fetcher.makers, self.server.readers, self.server.makers

    async def refresh(self) -> None:
        """Takes over what is on the disk or was decided now, and tells everybody."""
        self._models = await trio.to_thread.run_sync(self._storage.models)
        await trio.to_thread.run_sync(self._access.refresh, self._here())
        self.publish()
        for callback in self._callbacks:
            callback()

    async def _make_room(self, size_bytes: int, manifest: bytes) -> None:
        """Has models evicted until one of this size fits; see `ModelStorage.make_room`."""
        if await trio.to_thread.run_sync(self._storage.make_room, size_bytes, manifest):
            await self.refresh()

    def _note_consent(self, publisher: NodeId, name: str, trusted: bool) -> None:
        outcome = "trusted" if trusted else "refused"
        self._storage.note(Event("consent", USER, source=name, hash=str(publisher), outcome=outcome))

    def on_change(self, callback: Callable[[], None]) -> None:
        """Has `callback` run after each change of the models on this machine."""
        self._callbacks.append(callback)

    # --- reading --------------------------------------------------------------------------------------------------

    def local_models(self) -> list[LocalModel]:
        """Returns the models on this machine by name, the newest version of each first."""
        return list(self._models)

    def offered_models(self) -> list[LocalModel]:
        """Returns the same without versions that are newer than the one that was gone back to: backends offer these."""
        return [
            model
            for model in self._models
            if (active := self.active(model.name)) is None or Number(model.version) <= Number(active)
        ]

    def active(self, name: str) -> str | None:
        """Returns the version that a person went back to, for as long as it is here."""
        version = self._storage.decisions.active.get(name)
        return version if any((model.name, model.version) == (name, version) for model in self._models) else None

    def versions(self, name: str | None = None) -> list[Version]:
        """Returns what is here and in the mesh, of one name or of all: by name, the newest version of each first."""
        mesh = self._mesh()
        offers: Sequence[ModelOffer] = mesh.peer.models(mesh.now()) if mesh else ()
        versions = gather(self._here(), offers)
        mark_deprecated(versions, mesh.peer.deprecations(mesh.now()) if mesh else ())
        for version in versions:
            version.private = version.local is not None and self._is_private(version.local)
        return [version for version in versions if name in (None, version.record.name)]

    def row(self, name: str, version: str) -> ModelRow:
        """Returns the row of a version that is here."""
        return self._row(next(model for model in self._models if (model.name, model.version) == (name, version)))

    def _here(self) -> list[LocalModel]:
        """Returns the models of the store and of the bridge; of one version that both have, the store's."""
        taken = {(model.name, version_key(model.version)) for model in self._models}
        bridged = (model for model in self._bridged() if (model.name, version_key(model.version)) not in taken)
        return [*self._models, *bridged]

    def rows(self, scope: Scope) -> list[ModelRow]:
        """Lists models: on this machine, anywhere in the mesh, or in the mesh and not here."""
        versions = self.versions()
        if scope == "local":
            versions = [version for version in versions if version.local]
        elif scope == "available":
            versions = [version for version in versions if not version.local]
        return [version.row(self._node_name) for version in versions]

    async def mesh_models(self) -> dict[str, Any]:
        """Returns the registry of the mesh, large catalogs that answer in time included; see `registry_view`."""
        await self.offers.seek(ModelRequest())
        return registry_view(self.versions(), self._node_name, self._storage.decisions.first_seen)

    def info(self, name: str) -> dict[str, Any]:
        """Tells everything known of `NAME[@RANGE]`: the newest version in the range, all versions, who has it.

        `claims` is how many different manifests claim that version; more than one deserves a look, and `rivals` lists
        them. `unmet` says what this machine lacks for a model that is here.

        Raises:
            UserError: No node has it.
        """
        spec = parse(name)
        versions = self.versions()
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
        claims = rivals(version, versions)
        about["claims"] = len(claims)
        about["rivals"] = [claim.claim(self._node_name) for claim in claims] if len(claims) > 1 else []
        about["deprecation"] = asdict(version.deprecation) if version.deprecation else None
        about["first_seen"] = moment(self._storage.decisions.first_seen.get(version.record.manifest))
        about["active"] = self.active(spec.name)
        about["unmet"] = list(unmet(version.local.manifest, self.vetting.profile())) if version.local else []
        about["versions"] = [other.row(self._node_name).to_json() for other in same_name]
        return about

    def _row(self, model: LocalModel) -> ModelRow:
        own = Version(record_of(model), model)
        return next((version for version in self.versions() if version.key == own.key), own).row(self._node_name)
