"""Pulling models: which version, from whom, and what stands against it."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from packaging.version import Version as Number

from atmo.errors import UserError, WireError
from atmo.identity import NodeId
from atmo.index.keys import model_capability_key, model_key
from atmo.net.ports import MeshPort
from atmo.services.catalog import ModelRow, Version, best_of_each_name, choose, parse, rivals
from atmo.services.consent import ConsentNeeded
from atmo.services.downloads import Unobtainable, check_travels
from atmo.services.holdings import Holdings
from atmo.services.offers import ModelRequest
from atmo.services.progress import Latest, Meter, Report, done, with_reports
from atmo.services.transfer import TransferRow, Wanted
from atmo.services.transfers import Transfers
from atmo.services.vetting import Allowed, Forbidden, Unfit
from atmo.storage.audit import USER
from atmo.storage.bridge import BridgedModel
from atmo.storage.registry import LocalModel
from atmo.storage.transfers import Purpose
from atmo.transfer.names import Spec


class Pulling(Holdings):
    """This part of the model service."""

    transfers: Transfers

    async def pull(
        self,
        spec: str,
        progress: Report | None = None,
        *,
        wait: bool = False,
        trust: bool | str = False,
        force: bool = False,
        purpose: Purpose = "pull",
    ) -> ModelRow:
        """Downloads the newest version in `NAME[@RANGE]` from all its holders; nothing is done if it is here.

        Args:
            spec: Which.
            progress: Told how far it is.
            wait: Where no holder is up any more, wait until one is back, for days.
            trust: The publisher may be one from whom nothing came before: any, or the one with this node id.
            force: It may be one that does not fit this machine or the settings.
            purpose: Who wishes for it.

        Raises:
            ConsentNeeded: Nobody has decided on its publisher yet.
            Unfit: It does not fit here.
            StoppedError: Another command has paused or cancelled it.
            UserError: Nobody has it, or it cannot be had now; what arrived is kept and continued the next time.
        """
        allowed = Allowed(_trusted(trust), force)
        chosen = await self._resolve(spec, progress, allowed, left=wait)
        if isinstance(chosen, ModelRow):
            if progress:
                progress(done("here already", chosen.size_bytes))
            return chosen
        self.vetting.allow(chosen.key, allowed)
        try:
            latest = Latest(progress)
            model = await self.transfers.pull(chosen, latest, patient=wait, purpose=purpose)
        finally:
            self.vetting.allow(chosen.key, Allowed())
        await self._go_on(model)
        if progress:
            progress(done("done", model.manifest.size_bytes, **latest.travel()))
        return self._row(model)

    async def _go_on(self, model: LocalModel) -> None:
        """Who pulls a newer version than the one that was gone back to wants that one."""
        active = self.active(model.name)
        if active is not None and Number(model.version) > Number(active):
            await trio.to_thread.run_sync(self._storage.decisions.set_active, model.name, None)
            await self.refresh()

    async def pull_capable(
        self,
        capabilities: Sequence[str],
        progress: Report | None = None,
        *,
        trust: bool | str = False,
        force: bool = False,
    ) -> ModelRow:
        """Pulls the best model with all of these capabilities that may come here and fits.

        The best one is what most nodes have, and of these the smallest. One that is here already will do.

        Raises:
            UserError: Nobody has one, or none can be had; says why the best one cannot.
        """
        wanted = tuple(capabilities)
        keys = [model_capability_key(capability) for capability in wanted]
        await self._look_around(ModelRequest(capabilities=wanted), keys, progress)
        fitting = best_of_each_name(version for version in self.versions() if version.has(wanted))
        if not fitting:
            raise UserError(f"No node has a model with {' and '.join(wanted)}.", "See `atmo model list --mesh`.")
        problems: list[UserError] = []
        for version in fitting:
            record = version.record
            try:
                return await self.pull(f"{record.name}@=={record.version}", progress, trust=trust, force=force)
            except (Unfit, ConsentNeeded, Unobtainable, Forbidden) as error:
                problems.append(error)
        raise next((problem for problem in problems if isinstance(problem, ConsentNeeded)), problems[0])

    async def pull_later(self, spec: str) -> ModelRow | TransferRow:
        """Leaves a pull to the node, which does it in the background; returns the model's row if it is here already.

        Raises:
            UserError: Nobody has it.
        """
        chosen = await self._resolve(spec, None, Allowed(), left=True)
        return chosen if isinstance(chosen, ModelRow) else await self.transfers.later(chosen)

    async def _resolve(self, spec: str, progress: Report | None, allowed: Allowed, *, left: bool) -> ModelRow | Wanted:
        """Returns the row of what is here already, else what has to be fetched.

        Args:
            spec: `NAME[@RANGE]`.
            progress: Told where looking takes a while.
            allowed: What a person said.
            left: Where nobody has it now, take what a transfer that was left wants of it.
        """
        wanted, mesh = parse(spec), self._mesh()
        active = self.active(wanted.name)
        if active is not None and wanted.text in ("", "latest"):
            return self.row(wanted.name, active)
        problem: UserError | None = None
        try:
            version = await self._choose(mesh, wanted, progress) if mesh else self._choose_local(wanted.name, spec)
        except UserError as error:
            problem = error
        if problem is not None:
            row = await self.transfers.find(wanted) if left else None
            if row is None:
                raise problem
            return Wanted(row.name, row.version, row.manifest, row.bytes_total)
        if version.local is not None:
            return version.row(self._node_name)
        self._check_not_taken(version)
        version = self.vetting.preferred(rivals(version, self.versions()), allowed, len(self._models))
        record = version.record
        return Wanted(record.name, record.version, record.manifest, record.size_bytes)

    async def attempt(self, wanted: Wanted, report: Report, purpose: Purpose) -> LocalModel:
        """Downloads one version from whoever has it now; see `atmo.services.transfer.Fetching`."""
        mesh = self._mesh()
        if mesh is None:
            raise Unobtainable(f"{wanted} cannot be had: this node is in no mesh that runs.", "Start it in a mesh.")
        claims = self._claims(wanted)
        if not claims and self._scout is not None and mesh.peer.mesh_size.large:
            await self._scout.find([model_key(wanted.name)])
            claims = self._claims(wanted)
        if not claims:
            raise Unobtainable(f"{wanted} cannot be had: no node that has it is up.", "What has arrived is kept.")
        if (here := next((claim.local for claim in claims if claim.local), None)) is not None:
            return here
        if purpose == "update":
            claims = self._of_publisher(wanted, claims)
        model = await self._pull_any(mesh, claims, report, USER if purpose == "pull" else self._node_name)
        await self.refresh()
        return model

    def is_held(self, wanted: Wanted) -> bool:
        """Says whether a node that is believed to live has that version."""
        return bool(self._claims(wanted))

    def discard(self, wanted: Wanted) -> None:
        """Deletes what has arrived of a version; blocks."""
        self._storage.discard_partials(parse(f"{wanted.name}@=={wanted.version}"))

    def _claims(self, wanted: Wanted) -> list[Version]:
        """Returns all manifests that claim a version, the one that was chosen first."""
        same = [version for version in self.versions() if version.key[:2] == wanted.key]
        chosen = [version for version in same if version.record.manifest == wanted.manifest]
        return rivals((chosen or same)[0], same) if same else []

    def _of_publisher(self, wanted: Wanted, claims: Sequence[Version]) -> list[Version]:
        """Returns the claims of those whose versions are here: nobody else brings a model up to date.

        A holder that does not tell the publisher is left out, as only a manifest that contradicts it is refused.
        """
        publishers = {model.publisher for model in self._models if model.name == wanted.name}
        left = [claim for claim in claims if claim.publisher in publishers]
        if not left:
            raise Unobtainable(
                f"{wanted} cannot be had: nobody who is up has it from the publisher of the version that is here.",
                f"To have another one's: atmo model pull {wanted.name}@=={wanted.version}.",
            )
        return left

    async def _pull_any(
        self, mesh: MeshPort, claims: Sequence[Version], progress: Report | None, who: str
    ) -> LocalModel:
        """Pulls by the first of several manifests of one version that works; one that lies must not spoil the rest."""
        problems: list[UserError] = []
        for claim in claims:
            if problems:
                failed = claims[len(problems) - 1].record.manifest
                await trio.to_thread.run_sync(self._storage.discard_partial, failed)
            try:
                check_travels(claim.record)
                return await self._downloads.pull(mesh, claim, progress, who)
            except (Unobtainable, ConsentNeeded) as error:
                problems.append(error)
        raise problems[0]

    async def _choose(self, mesh: MeshPort, wanted: Spec, progress: Report | None) -> Version:
        """Chooses among what is known, and what large catalogs have; in a large mesh others may have it, too."""
        await self.offers.seek(ModelRequest(wanted.name))
        try:
            return choose(wanted, self.versions())
        except UserError:
            if self._scout is None or not mesh.peer.mesh_size.large:
                raise
        await self._look_around(ModelRequest(wanted.name), [model_key(wanted.name)], progress)
        return choose(wanted, self.versions())

    async def _look_around(self, request: ModelRequest, keys: Sequence[bytes], progress: Report | None) -> None:
        """Has everybody tell what is wanted: in a large mesh whom the index knows, then all with large catalogs."""
        scout, mesh = self._scout, self._mesh()
        if scout is not None and mesh is not None and mesh.peer.mesh_size.large:
            await with_reports(Meter("looking in the index"), progress, lambda: scout.find(keys))
        await self.offers.seek(request)

    def _choose_local(self, name: str, spec: str) -> Version:
        try:
            return choose(parse(spec), self.versions())
        except UserError as error:
            raise UserError(
                f"{name} is not here, and this node is in no mesh that runs.",
                "Start it with `atmo node`; join a mesh with `atmo mesh join CODE`.",
            ) from error

    def _check_not_taken(self, wanted: Version) -> None:
        for version in self.versions():
            bridged = isinstance(version.local, BridgedModel)
            if version.local is not None and not bridged and version.key[:2] == wanted.key[:2]:
                ours = f"{version.record.name}@{version.record.version}"
                if version.content == wanted.content:
                    problem = f"{wanted.record.version} and {version.record.version} are one version: {ours} is here."
                else:
                    problem = f"{ours} is here with another content than in the mesh."
                raise UserError(problem, f"Remove ours first (atmo model remove {ours}), or pull another version.")


def _trusted(trust: bool | str) -> bool | NodeId:
    if isinstance(trust, bool):
        return trust
    try:
        return NodeId.parse(trust)
    except WireError as error:
        raise UserError(f"{error}.", "Give the id of the publisher's node.") from error
