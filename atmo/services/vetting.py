"""What stands between a choice of the catalog and a download: whom it is for, whose it is, and whether it fits here.

It is looked at twice: by what holders say of a model, before anything is fetched, and by the manifest itself, before
the first chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.net.ports import MeshPort
from atmo.services.access import Access
from atmo.services.catalog import Version
from atmo.services.consent import Consent, ConsentNeeded
from atmo.storage.chunks import ModelStorage
from atmo.transfer.manifest import Manifest
from atmo.transfer.names import newest_first, version_key
from atmo.transfer.requirements import Profile, packages, unfit, unwanted

log = logging.getLogger(__name__)

ALLOWED_MOST = 256
"""Pulls for which a person allowed more than the rules do, until they are over. Source: guess."""

Key = tuple[str, str]


class Unfit(UserError):
    """This machine is not one that the model is for, or its owner wants no such model."""

    code = "unfit"


class Forbidden(UserError):
    """This node has none of the roles whose members may have the model."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a person said about one pull.

    Attributes:
        trust: Its publisher is trusted: whoever it is, or this node.
        force: It is fetched whether or not it fits here.
    """

    trust: bool | NodeId = False
    force: bool = False

    def trusts(self, publisher: NodeId) -> bool:
        """Says whether the person trusts this publisher."""
        return self.trust is True or self.trust == publisher


class Vetting:
    """Decides which models may come here.

    Args:
        storage: What is here.
        consent: Decides on publishers.
        access: Keeps what arrives from whom it may not be given to.
        mesh: Returns the running peer, None where there is none.
    """

    def __init__(
        self, storage: ModelStorage, consent: Consent, access: Access, mesh: Callable[[], MeshPort | None]
    ) -> None:
        self._storage = storage
        self._consent = consent
        self._access = access
        self._mesh = mesh
        self._allowed: dict[Key, Allowed] = {}

    # --- what a person allows -------------------------------------------------------------------------------------

    def allow(self, key: Key, allowed: Allowed) -> None:
        """Notes what a person said about the pull of a version that begins."""
        self._allowed.pop(key, None)
        if allowed != Allowed():
            self._allowed[key] = allowed
        while len(self._allowed) > ALLOWED_MOST:
            del self._allowed[next(iter(self._allowed))]

    # --- before anything is fetched -------------------------------------------------------------------------------

    def preferred(self, claims: Sequence[Version], allowed: Allowed, models: int) -> Version:
        """Returns the first of the manifests that claim one version that may come here, by what holders say of it.

        Args:
            claims: At least one.
            allowed: What a person said.
            models: So many are here.

        Raises:
            UserError: None may; says why the first may not.
        """
        problems = []
        for claim in claims:
            try:
                self._look(claim, allowed, models)
            except UserError as error:
                problems.append(error)
            else:
                return claim
        raise problems[0]

    def _look(self, version: Version, allowed: Allowed, models: int) -> None:
        record, label = version.record, f"{version.record.name} {version.record.version}"
        roles = self.own_roles()
        if record.read and roles.isdisjoint(record.read):
            have = ", ".join(sorted(roles)) or "none"
            raise Forbidden(
                f"{label} is only for members with the role {' or '.join(record.read)}; this node's: {have}.",
                "Ask an admin of the mesh for a join code with that role.",
            )
        if not allowed.force and (reasons := unwanted(record.size_bytes, self.profile(), models)):
            raise _unfit(label, reasons)
        if record.publisher is not None and not allowed.trusts(record.publisher):
            self._consent.check(record.publisher, label)

    # --- before the first chunk -----------------------------------------------------------------------------------

    async def check(self, identity: bytes, manifest: Manifest, publisher: NodeId) -> None:
        """Looks at a manifest whose signature holds.

        Raises:
            ConsentNeeded: Nobody has decided on its publisher yet.
            Unfit: It does not fit here.
            UserError: Its publisher may not publish it, or is not trusted.
        """
        label = f"{manifest.name} {manifest.version}"
        allowed = self._allowed.get((manifest.name, version_key(manifest.version)), Allowed())
        models = await trio.to_thread.run_sync(self._storage.models)
        if not allowed.force:
            held = {model.version: model for model in models if model.name == manifest.name}
            for version in newest_first(held)[:1]:
                latest = held[version]
                self.check_write(latest.manifest, latest.publisher, publisher, label)
        await self._check_consent(publisher, label, allowed)
        reasons = () if allowed.force else unfit(manifest, self.profile(), len(models))
        if reasons and await trio.to_thread.run_sync(self._storage.partial, identity) is None:
            raise _unfit(label, reasons)  # one that has begun was allowed then
        for missing in packages(manifest, self.profile()):
            log.warning("%s %s", label, missing)
        await self._access.expect(identity, manifest)

    async def _check_consent(self, publisher: NodeId, label: str, allowed: Allowed) -> None:
        try:
            self._consent.check(publisher, label)
        except ConsentNeeded:
            if not allowed.trusts(publisher):
                raise
            await self._consent.decide(publisher, trusted=True)

    def check_write(self, held: Manifest, held_publisher: NodeId, publisher: NodeId, label: str) -> None:
        """Checks that a publisher may publish versions of a name of which another one is here.

        Raises:
            UserError: It may not.
        """
        if publisher == held_publisher or held.access.may_write(self._roles(publisher)):
            return
        raise UserError(
            f"{label} was published by {self._consent.name(publisher)}, and only {' and '.join(held.access.write)} may"
            f" publish versions of {held.name}.",
            "Ask its publisher for another name.",
        )

    # --- this node ------------------------------------------------------------------------------------------------

    def profile(self) -> Profile:
        """Returns what this node has, as it tells the mesh."""
        mesh = self._mesh()
        return mesh.peer.profile(mesh.peer.node_id) if mesh is not None else Profile()

    def own_roles(self) -> frozenset[str]:
        """Returns the roles of this node that have effect now."""
        mesh = self._mesh()
        return self._roles(mesh.peer.node_id) if mesh is not None else frozenset()

    def _roles(self, node: NodeId) -> frozenset[str]:
        mesh = self._mesh()
        return mesh.peer.standing(mesh.now(), node) if mesh is not None else frozenset()


def _unfit(label: str, reasons: Sequence[str]) -> Unfit:
    return Unfit(f"{label} does not fit here: it {'; it '.join(reasons)}.", "Pull it with --force all the same.")
