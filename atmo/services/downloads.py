"""Downloads: from a choice of the catalog to a model in the store, from all holders at once.

Who pulls first leads: the download lives in that task. Others who pull the same follow; when the leader is cancelled,
the first of them takes over and continues from what is on the disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from atmo.engine import FetchChunk
from atmo.errors import RemoteError, UserError
from atmo.gossip.records import ModelRecord
from atmo.identity import NodeId
from atmo.index.keys import manifest_key
from atmo.net.ports import Buffer, MeshPort
from atmo.services.catalog import Key, Version, gather
from atmo.services.deltas import Deltas, find_deltas
from atmo.services.fetch import Came, Fetcher, Misled, NotThere, Refused, contradiction, first_manifest
from atmo.services.progress import Meter, Report, beside, with_reports
from atmo.services.scout import Scout
from atmo.storage.audit import USER
from atmo.storage.chunks import ModelStorage, WrongContent
from atmo.storage.partial import PartialDownload
from atmo.storage.registry import LocalModel
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferDone, TransferFailed, TransferProgress
from atmo.transfer.manifest import Manifest, manifest_id, open_manifest_untrusted

REFRESH_S = 1.0
"""How often holders that came or went are looked up. Source: guess."""

REST_S = 30.0
"""A holder to whom there is no way is left out for so long, unless it is linked again before. Source: guess; a mesh
holds a dead node for gone within about that time."""

SOURCES_MOST = TransferConfig().sources_most
"""Holders of one download at once; others take the places of those who leave."""

THREADS_MOST = 32
"""Threads that verify and write chunks which came over QUIC, each with one in memory; connections over TCP have threads
of their own. Source: guess; two for each core of a large machine."""

TRAVELLING = ("onnx", "safetensors", "gguf")
"""Formats that are only data. Others can run code when they are loaded, so nothing here would ever load them."""

Vet = Callable[[bytes, Manifest, NodeId], Awaitable[None]]
"""Raises a `UserError` where a manifest of that name and publisher may not come here; see `Vetting.check`."""

MakeRoom = Callable[[int, bytes], Awaitable[None]]
"""Evicts models until one of that size and manifest fits; raises a `UserError` where the limits forbid it."""

_AGAIN = "What has arrived is kept: pull it again to continue."


class Unobtainable(UserError):
    """This manifest's content cannot be had; another manifest that claims the same version may do better."""


class _Download:
    """One download under way."""

    def __init__(self, mesh: MeshPort, version: Version, who: str) -> None:
        self.mesh = mesh
        self.version = version
        self.who = who
        self.meter = Meter("looking")
        self.finished = trio.Event()
        self.model: LocalModel | None = None
        self.error: UserError | None = None
        self.partial: PartialDownload | None = None
        self.deltas = Deltas({})
        self.transfer = ""
        self.settled = trio.Event()
        self.problem: UserError | None = None
        self.told: dict[NodeId, None] = {}
        self.gone: set[NodeId] = set()
        self.refusal = ""  # the last reason of a holder that does not give it
        self.resting: dict[NodeId, float] = {}
        self.origin = ""

    @property
    def label(self) -> str:
        return f"{self.version.record.name} {self.version.record.version}"

    def fail(self, problem: UserError) -> None:
        if not self.settled.is_set():
            self.problem = problem
            self.settled.set()

    def holders(self) -> dict[NodeId, tuple[str, ModelRecord]]:
        """Returns who has this manifest now, in the order in which they are asked."""
        return self._present(lambda version: version.key == self.version.key)

    def sources(self) -> dict[NodeId, None]:
        """Returns from whom its chunks are asked: its holders, and those of other manifests that promise the same file.

        Those who were asked before stay, so that a mesh full of holders costs a bounded number of links.
        """
        held = self._present(lambda version: version.content == self.version.content)
        kept = {node: None for node in self.told if node in held}
        for node in held:
            if len(kept) >= SOURCES_MOST:
                break
            kept[node] = None
        return kept

    def lost(self, node: NodeId) -> None:
        """There is no way to a holder at the moment."""
        self.resting[node] = self.mesh.now().mono + REST_S

    def _present(self, wanted: Callable[[Version], bool]) -> dict[NodeId, tuple[str, ModelRecord]]:
        """Returns holders that are believed to live: those with a link first, then by their distance from this node, so
        that not every node asks the same ones."""
        peer, now = self.mesh.peer, self.mesh.now()
        own = int.from_bytes(peer.node_id)
        versions = gather((), peer.models(now))
        held = {node: holder for version in versions if wanted(version) for node, holder in version.holders.items()}
        rows = [
            (not linked, own ^ int.from_bytes(node), node)
            for node in held
            if (linked := peer.is_ready(node)) or self.resting.get(node, now.mono) <= now.mono
        ]
        return {node: held[node] for _, _, node in sorted(rows) if node not in self.gone}


class Downloads:
    """All downloads of this node.

    Args:
        storage: Where they go.
        scout: Finds further holders in a large mesh; None where only known ones are asked.
        vet: Looks at each manifest before the first chunk of it is fetched.
        make_room: Called then, too.

    Attributes:
        writers: Of the threads that verify and write chunks which came over QUIC.
        fetcher: Fetches chunks; its statistics are of interest.
    """

    def __init__(self, storage: ModelStorage, scout: Scout | None, vet: Vet, make_room: MakeRoom) -> None:
        self._storage = storage
        self._scout = scout
        self._vet = vet
        self._make_room = make_room
        self._active: dict[Key, _Download] = {}
        self._by_transfer: dict[str, _Download] = {}
        self.writers = trio.CapacityLimiter(THREADS_MOST)
        self.fetcher = Fetcher(self.writers)

    async def pull(self, mesh: MeshPort, version: Version, report: Report | None, who: str) -> LocalModel:
        """Downloads a version, or joins the download of it that is under way.

        Args:
            mesh: The way to its holders.
            version: Which.
            report: Told how far it is.
            who: At whose wish, for the audit log; a person's goes before this node's own.

        Raises:
            Unobtainable: It cannot be had now; what arrived is kept.
            UserError: This machine is in the way, such as a full disk.
        """
        while True:
            active = self._active.get(version.key)
            if active is None:
                return await self._lead(_Download(mesh, version, who), report)
            active.who = USER if USER in (who, active.who) else who
            await with_reports(active.meter, report, active.finished.wait)
            if active.error is not None:
                raise type(active.error)(active.error.message, active.error.hint)
            if active.model is not None:
                return active.model

    def on_event(self, event: Any) -> None:
        """Takes what the transfer engine tells."""
        if not isinstance(event, TransferProgress | TransferDone | TransferFailed):
            return
        download = self._by_transfer.get(event.transfer)
        match download, event:
            case None, _:
                pass
            case _Download(), TransferProgress(_, bytes_done, _, sources):
                download.meter.done = bytes_done
                download.meter.sources = tuple(download.mesh.peer.name(node) for node in sources)
            case _Download(), TransferDone():
                download.settled.set()
            case _Download(), TransferFailed(_, reason):
                download.fail(
                    Unobtainable(f"{download.label} could not be downloaded: {reason}{download.refusal}.", _AGAIN)
                )

    async def fetch(self, effect: FetchChunk) -> None:
        """Fetches, verifies and writes one chunk, and tells the engine how it went; cancelled, it tells nothing."""
        download = self._by_transfer.get(effect.transfer)
        if download is None or download.partial is None:
            return
        mesh, peer, source = download.mesh, download.mesh.peer, effect.source
        try:
            came = await self._fetch(download, download.partial, effect)
        except NotThere as error:
            download.gone.add(source)
            download.refusal = f"; {peer.name(source)}: {error}"
            peer.holder_left(mesh.now(), effect.transfer, source)
        except RemoteError as error:
            if not peer.is_ready(source):
                download.lost(source)
            peer.chunk_failed(mesh.now(), effect, str(error), fatal=False)
            self._refresh(download)
        except Misled as error:
            self._wrong(download, effect, str(error))
        except UserError as error:
            download.fail(error)
        else:
            download.meter.travelled += came.travelled
            if came.right:
                download.origin = download.origin or peer.name(source)
                peer.chunk_done(mesh.now(), effect, came.travelled)
            else:
                self._wrong(download, effect, f"chunk {effect.index} of {download.label} with wrong bytes")
        mesh.kick()

    async def _fetch(self, download: _Download, partial: PartialDownload, effect: FetchChunk) -> Came:
        """Gets a chunk and writes it: as a delta where one pays, and as it is where a delta does not work."""
        mesh, deltas, source, index = download.mesh, download.deltas, effect.source, effect.index
        place = partial.places[index]

        def write(data: Buffer) -> bool:
            return partial.write(index, data)

        base = deltas.base(mesh, effect)
        if base is not None:
            try:
                came = await self.fetcher.fetch_delta(mesh, source, place, base, self._storage.read_chunk, write)
            except Refused:
                raise
            except RemoteError:
                if mesh.peer.is_ready(source):
                    deltas.without(source)
                raise
            if came is not None:
                deltas.came(as_delta=came.is_delta)
                return came
            deltas.forget(index)
        return Came(await self.fetcher.fetch(mesh, source, place, write), place.size)

    def _wrong(self, download: _Download, effect: FetchChunk, reason: str) -> None:
        """Drops a source; it is blamed only where it holds the manifest, which may lie about what others hold."""
        peer, source = download.mesh.peer, effect.source
        if source in download.holders():
            peer.chunk_failed(download.mesh.now(), effect, reason, fatal=True)
        else:
            download.gone.add(source)
            peer.holder_left(download.mesh.now(), effect.transfer, source)

    async def _lead(self, download: _Download, report: Report | None) -> LocalModel:
        key = download.version.key
        self._active[key] = download
        try:
            download.model = await with_reports(download.meter, report, lambda: self._run_seeking(download))
        except UserError as error:
            download.error = error
            raise
        finally:
            del self._active[key]
            download.finished.set()
        return download.model

    async def _run_seeking(self, download: _Download) -> LocalModel:
        """Looks for more holders in the index beside the download, which takes them as they come."""
        scout, held = self._scout, download.holders
        if scout is None or len(held()) >= SOURCES_MOST:
            return await self._run(download)
        keys = [manifest_key(download.version.record.manifest)]
        return await beside(lambda: scout.find(keys, lambda: len(held()) >= SOURCES_MOST), lambda: self._run(download))

    async def _run(self, download: _Download) -> LocalModel:
        self._storage.limits.check_size(download.version.record.size_bytes)
        sealed, manifest = await self._find_manifest(download)
        check_travels(manifest)
        _, publisher = await trio.to_thread.run_sync(open_manifest_untrusted, sealed)
        if contradiction(download.version.record, manifest, publisher) is not None:
            raise Unobtainable(f"{download.label} is not by the publisher that its holders name.", "Pull it anew.")
        await self._vet(manifest_id(sealed), manifest, publisher)
        await self._make_room(manifest.size_bytes, manifest_id(sealed))
        meter, check = download.meter, checker(download.meter)
        meter.begin("checking", manifest.size_bytes)
        partial = await trio.to_thread.run_sync(self._storage.open_partial, sealed, check)
        try:
            download.deltas = await trio.to_thread.run_sync(find_deltas, self._storage, partial)
            download.partial = partial
            download.transfer = partial.folder.name
            meter.copied = partial.copied_bytes
            meter.begin("downloading", manifest.size_bytes, partial.bytes_done)
            await self._transfer(download, partial)
            meter.begin("verifying", manifest.size_bytes)
            origin = download.origin or "mesh"
            return await trio.to_thread.run_sync(self._storage.finish, partial, origin, check, download.who)
        except WrongContent as error:
            mesh = download.mesh
            mesh.peer.unshare(mesh.now(), download.transfer)
            mesh.peer.accuse(mesh.now(), publisher, f"a manifest of {download.label} that lies: {error}")
            mesh.kick()
            raise Unobtainable(
                f"{download.label} is not what its manifest says: {error}.", "Nothing was kept; tell its publisher."
            ) from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._storage.close_partial, partial)

    async def _find_manifest(self, download: _Download) -> tuple[bytes, Manifest]:
        """Takes the manifest of a download that was stopped, else that of the first holder who answers."""
        record, mesh = download.version.record, download.mesh
        stopped = await trio.to_thread.run_sync(self._storage.partial, record.manifest)
        if stopped is not None and contradiction(record, stopped[1]) is None:
            return stopped

        def blame(node: NodeId, reason: str) -> None:
            download.gone.add(node)
            mesh.peer.accuse(mesh.now(), node, reason)
            mesh.kick()

        try:
            found = await first_manifest(mesh, download.holders(), blame)
        except RemoteError as error:
            raise Unobtainable(
                f"{record.name} {record.version} could not be asked for: {error}.",
                "See `atmo mesh nodes`, and try again.",
            ) from error
        download.origin = found.holder
        return found.sealed, found.manifest

    async def _transfer(self, download: _Download, partial: PartialDownload) -> None:
        mesh, transfer = download.mesh, download.transfer
        self._by_transfer[transfer] = download
        try:
            download.told = download.sources()
            sizes = [place.size for place in partial.places]
            mesh.peer.want(mesh.now(), transfer, sizes, set(partial.have), download.told, serves=True)
            mesh.kick()
            while not download.settled.is_set():
                with trio.move_on_after(REFRESH_S):
                    await download.settled.wait()
                self._refresh(download)
        finally:
            mesh.peer.cancel(mesh.now(), transfer)
            mesh.kick()
            del self._by_transfer[transfer]
        if download.problem is not None:
            raise download.problem

    def _refresh(self, download: _Download) -> None:
        """Tells the engine who has the model now, also anew: it has dropped those to whom a link was lost meanwhile."""
        mesh, transfer = download.mesh, download.transfer
        held = download.sources()
        for node in held:
            mesh.peer.holder_up(mesh.now(), transfer, node)
        for node in download.told:
            if node not in held:
                mesh.peer.holder_left(mesh.now(), transfer, node)
        download.told = held
        mesh.kick()


def check_travels(model: Manifest | ModelRecord) -> None:
    """Refuses what nothing would ever load.

    Raises:
        Unobtainable: Its format is not one of data only.
    """
    if model.format not in TRAVELLING:
        raise Unobtainable(
            f"{model.name} {model.version} is of the format {model.format[:32]}, which is not pulled: it may run code.",
            f"Only {', '.join(TRAVELLING)} travel; ask its publisher for one of these.",
        )


def checker(meter: Meter) -> Callable[[int], None]:
    """Returns what a worker thread calls as it goes: it counts, and stops the thread when its task is cancelled."""

    def check(done: int) -> None:
        meter.done = done
        trio.from_thread.check_cancelled()

    return check
