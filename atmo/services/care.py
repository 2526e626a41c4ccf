"""Looking after the models of this node: reading them again, repairing them from the mesh, tidying up, comparing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import trio

from atmo.errors import RemoteError, UserError
from atmo.identity import NodeId
from atmo.net.ports import Buffer, MeshPort
from atmo.services.catalog import Version, choose, parse
from atmo.services.downloads import checker
from atmo.services.fetch import Fetcher, Misled, NotThere, first_manifest
from atmo.services.models import ModelService
from atmo.services.progress import Meter, Report, with_reports
from atmo.storage.audit import USER
from atmo.storage.chunks import ModelStorage
from atmo.storage.comparison import travel_of
from atmo.storage.verify import VerifyReport
from atmo.transfer.alignment import diff
from atmo.transfer.manifest import ChunkPlace, Manifest, chunk_hash

HOLDERS_MOST = 8
"""Nodes that are asked for one damaged chunk. Source: guess."""

CHUNK_S = 30.0
"""For one of them to send it. Source: as the first deadline of a download."""


class Care:
    """What a person asks about the state of the store.

    Args:
        models: Of this node.
        storage: Where they are.
        mesh: Returns the running peer, None where there is none.
        wall: Unix seconds.
    """

    def __init__(
        self,
        models: ModelService,
        storage: ModelStorage,
        mesh: Callable[[], MeshPort | None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        self._storage = storage
        self._mesh = mesh
        self._wall = wall
        self._fetcher = Fetcher(trio.CapacityLimiter(2))

    # --- reading again --------------------------------------------------------------------------------------------

    async def verify(self, spec: str | None, report: Report | None, *, repair: bool) -> VerifyReport:
        """Reads every byte of the models of `NAME[@RANGE]` again, of all without one.

        Args:
            spec: Which.
            report: Told how far it is.
            repair: What is damaged is made whole, from elsewhere on this machine or from the mesh.

        Raises:
            UserError: There is no such model here.
        """
        wanted = parse(spec) if spec else None
        meter = Meter("reading")
        meter.total = sum(
            model.manifest.size_bytes
            for model in self._models.local_models()
            if wanted is None or (model.name == wanted.name and wanted.matching([model.version]))
        )

        def read() -> VerifyReport:
            fetch = self._fetch_from_thread if repair else None
            return self._storage.verify(wanted, checker(meter), fetch, USER)

        found = await with_reports(meter, report, lambda: trio.to_thread.run_sync(read))
        if found.repaired:
            await self._models.refresh()
        return found

    def _fetch_from_thread(self, name: bytes, size: int) -> bytes | None:
        return trio.from_thread.run(self._fetch, name, size)

    async def _fetch(self, name: bytes, size: int) -> bytes | None:
        """Gets a chunk from a node that holds a model with it; None where nobody sends it."""
        mesh = self._mesh()
        if mesh is None:
            await trio.lowlevel.checkpoint()
            return None
        kept: list[bytes] = []

        def take(data: Buffer) -> bool:
            right = chunk_hash(data) == name
            if right:
                kept.append(bytes(data))
            return right

        for node in self._holders_of(name)[:HOLDERS_MOST]:
            with trio.move_on_after(CHUNK_S):
                try:
                    if await self._fetcher.fetch(mesh, node, ChunkPlace(0, 0, size, name), take):
                        return kept[0]
                    mesh.peer.accuse(mesh.now(), node, "a chunk with wrong bytes")
                    mesh.kick()
                except (RemoteError, NotThere, Misled):
                    continue
        return None

    def _holders_of(self, name: bytes) -> list[NodeId]:
        """Returns who holds a model of ours that has a chunk, those with the very manifest first."""
        ours = [m for m in self._models.local_models() if any(name in file.chunks for file in m.manifest.files)]
        manifests = {model.manifest_id for model in ours}
        contents = {model.manifest.checksum_sha256 for model in ours}
        versions = [version for version in self._models.versions() if version.record.sha256 in contents]
        versions.sort(key=lambda version: version.record.manifest not in manifests)
        return list(dict.fromkeys(node for version in versions for node in version.holders))

    # --- tidying up -----------------------------------------------------------------------------------------------

    async def collect(self, *, dry_run: bool) -> dict[str, Any]:
        """Deletes what nobody needs, and evicts models until the store is within its limits.

        Args:
            dry_run: Only say what would be deleted; nothing is evicted.

        Returns:
            What `GarbageReport` tells, and what was `evicted`, as `NAME VERSION`.

        Raises:
            UserError: The store is over its limits, and nothing more may be evicted.
        """

        def work() -> dict[str, Any]:
            report = self._storage.collect_garbage(self._wall(), dry_run)
            evicted = [] if dry_run else self._storage.make_room(0)
            return {**report.to_json(), "evicted": [f"{model.name} {model.version}" for model in evicted]}

        found = await trio.to_thread.run_sync(work)
        if found["evicted"]:
            await self._models.refresh()
        return found

    # --- comparing ------------------------------------------------------------------------------------------------

    async def diff(self, base: str, target: str, report: Report | None) -> dict[str, Any]:
        """Tells what would travel to a node that has one version when it pulls another.

        Deltas are measured where both are on this machine. Of others only the manifests are fetched: what travels is
        then at most what is told, which is not `exact` where any chunk differs.

        Args:
            base: `NAME[@RANGE]` of what the node has.
            target: What it pulls.
            report: Told how far it is.

        Raises:
            UserError: Nobody has one of them, or its manifest cannot be had.
        """
        versions = self._models.versions()
        old, new = choose(parse(base), versions), choose(parse(target), versions)
        before, after = await self._manifest(old), await self._manifest(new)
        measured = old.local is not None and new.local is not None
        if measured:
            meter = Meter("comparing")
            meter.total = after.size_bytes
            travel = await with_reports(
                meter,
                report,
                lambda: trio.to_thread.run_sync(travel_of, after, before, self._storage.read_chunk, checker(meter)),
            )
            files = [asdict(file) for file in travel.files]
            exact, travels = travel.exact, sum(file.delta_bytes for file in travel.files)
        else:
            plain = diff(after, before)
            files = [asdict(file) for file in plain]
            travels = sum(file.whole_bytes for file in plain)
            exact = not travels
        return {
            "base": f"{before.name} {before.version}",
            "target": f"{after.name} {after.version}",
            "size_bytes": after.size_bytes,
            "travels_bytes": travels,
            "deltas_measured": measured,
            "exact": exact,
            "files": files,
        }

    async def _manifest(self, version: Version) -> Manifest:
        mesh = self._mesh()
        if version.local is not None:
            return version.local.manifest
        label = f"{version.record.name} {version.record.version}"
        if mesh is None:
            raise UserError(f"{label} is not on this machine, and no mesh runs.", "Start the node with `atmo node`.")
        try:
            return (await first_manifest(mesh, version.holders, lambda node, reason: None)).manifest
        except RemoteError as error:
            raise UserError(f"{label} could not be asked for: {error}.", "See `atmo mesh nodes`.") from error
