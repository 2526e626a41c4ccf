"""The model store: plain files under `models/`, their chunks by BLAKE3 name, downloads under `partial/`.

A model's file stays one plain file that can be mapped into memory; a chunk is a place in it. Whatever is renamed into
or deleted from `models/` is first noted in the table `pending`, so that after a kill at any instant the next start
knows which files are left over; a file that nobody noted is never touched.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from atmo.errors import AtmoError, UserError
from atmo.storage import eviction, files, garbage, recovery, verify
from atmo.storage.audit import AuditLog, Event, What
from atmo.storage.database import Database
from atmo.storage.decisions import Decisions
from atmo.storage.downloads import PartialDownloads
from atmo.storage.eviction import Limits, was_pulled
from atmo.storage.files import Check, nothing
from atmo.storage.garbage import GarbageReport
from atmo.storage.partial import PartialDownload
from atmo.storage.pins import Pins
from atmo.storage.reading import ChunkReader, ChunkSource, CorruptChunk, MissingChunk
from atmo.storage.registry import LocalModel, Registry
from atmo.storage.transfers import TransferTable
from atmo.storage.verify import Repair, VerifyReport
from atmo.transfer.manifest import Manifest, manifest_id, open_manifest_untrusted
from atmo.transfer.names import Spec, version_key

log = logging.getLogger(__name__)

MODELS, PARTIAL, INCOMING = "models", "partial", "incoming"


TOUCH_S = 60.0
"""A model's last use is written down no more often than that. Source: guess; eviction counts in hours."""

__all__ = ["CorruptChunk", "MissingChunk", "ModelStorage", "WrongContent"]


class WrongContent(AtmoError):
    """Every chunk was right and the file's SHA-256 is not: the manifest lies."""


class ModelStorage:
    """The models of one home. Methods block on the disk: call them from worker threads.

    Opening it repairs what a kill left behind.

    Args:
        root: The home; the folders `models`, `partial` and `incoming` are made in it.
        database: Open, of the same home.
        wall: Returns Unix seconds.

    Attributes:
        audit: What happened to models, for people.
        reader: Finds chunks, wherever on this machine they are.
        downloads: Those under way and those that were stopped.
        arriving: Files in `incoming` that somebody writes.
        pins: Who uses which model.
        limits: What the store may hold; set once the settings are read.
        is_replaceable: Says which models may be evicted; those that came from the mesh where nobody sets it. Called
            with the lock held.
        lock: Held while models are added or removed; a caller may hold it over several steps.
        decisions: What a person decided about models.
        warnings: The latest things that went wrong and were handled, for people.
        transfers: Which downloads there are and how they stand.

    Raises:
        UserError: The home cannot be written or the database is damaged.
    """

    def __init__(self, root: Path, database: Database, wall: Callable[[], float] = time.time) -> None:
        self.root = root
        self.models_folder = root / MODELS
        self.warnings: collections.deque[str] = collections.deque(maxlen=100)
        self.registry = Registry(database, self.models_folder)
        self.decisions = Decisions(database)
        self.transfers = TransferTable(database)
        self._database = database
        self.lock = threading.RLock()
        self.pins = Pins()
        self.limits = Limits()
        self.is_replaceable: Callable[[LocalModel], bool] = was_pulled
        self.reader = ChunkReader(self.warn)
        self.reader.add(self.registry)
        self.downloads = PartialDownloads(root / PARTIAL, self.reader, self.lock)
        self.arriving: set[Path] = set()
        self._wall = wall
        self._touched: dict[str, float] = {}
        try:
            for name in (MODELS, PARTIAL, INCOMING):
                (root / name).mkdir(parents=True, exist_ok=True)
            recovery.recover(root, database, self.warn)
        except OSError as error:
            raise files.as_user_error(error, f"Opening the model store in {root}") from error
        self._write_view()
        self.audit = AuditLog(root, database, self.warn, wall)

    def warn(self, text: str) -> None:
        """Notes that something was wrong and was handled."""
        self.warnings.append(text)
        log.warning("%s", text)

    def models(self) -> list[LocalModel]:
        """Returns all models by name, the newest version of each first."""
        return self.registry.models()

    def read_chunk(self, name: bytes) -> bytes:
        """Returns the chunk of that BLAKE3 hash, verified: of a model, of an open download or of a further source.

        Raises:
            MissingChunk: It is not here, or its file was just removed.
            CorruptChunk: It should be here and the disk says otherwise.
        """
        data, path = self.reader.read(name)
        self._note_use(path)
        return data

    def read_chunk_into(self, name: bytes, room: memoryview) -> None:
        """As `read_chunk`, of a chunk that fills `room`; one of another size counts as missing."""
        self._note_use(self.reader.read_into(name, room))

    def _note_use(self, path: Path) -> None:
        if path.is_relative_to(self.models_folder):
            self._touch(path.relative_to(self.models_folder).as_posix())

    def _touch(self, place: str) -> None:
        """Notes that a model is used."""
        now, top = self._wall(), place.split("/")[0]
        if abs(now - self._touched.get(top, 0.0)) >= TOUCH_S:
            if len(self._touched) > 10_000:  # places of models long gone
                self._touched.clear()
            self._touched[top] = now
            try:
                self.registry.touch(place, now)
            except UserError as error:
                self.warn(f"the last use of {place} could not be noted: {error}")

    def add_source(self, source: ChunkSource) -> None:
        """Serves and shares the chunks of a further source, too, such as files outside of the store."""
        self.reader.add(source)

    @contextmanager
    def incoming(self, need_bytes: int, suffix: str = "") -> Iterator[Path]:
        """Gives a path for a file on its way in; whatever is left there at the end is deleted.

        Raises:
            UserError: There is not enough room.
        """
        files.check_room(self.root, need_bytes)
        path = self.root / INCOMING / f"{uuid.uuid4().hex}{suffix}"
        self.arriving.add(path)
        try:
            yield path
        finally:
            recovery.delete(path)
            self.arriving.discard(path)

    def find_same(self, name: str, sha256: bytes) -> LocalModel | None:
        """Returns the newest version of a model that has this very content."""
        matching = (model for model in self.models() if model.name == name)
        return next((model for model in matching if model.manifest.checksum_sha256 == sha256), None)

    def register(
        self, staged: Path, sealed: bytes, source_node: str, partial: str = "", who: str = "node", source: str = ""
    ) -> LocalModel:
        """Makes a synced file (or folder of files) a model: renamed, in the tables, in the view; all or nothing.

        Args:
            staged: On the same file system as the store.
            sealed: The manifest, sealed; its files are those staged.
            source_node: Name of the node it came from.
            partial: The download it comes from, by the name of its folder.
            who, source: At whose wish and from where, for the audit log; the node it came from where nobody says.

        Raises:
            UserError: The version is here already with another content, or the disk fails.
        """
        manifest, _ = open_manifest_untrusted(sealed)
        with self.lock:
            self._check_absent(manifest)
            place = self.registry.free_place(manifest)
            with self._database.transaction() as run:
                run.execute("INSERT OR REPLACE INTO pending VALUES (?, ?)", (place, partial))
            try:
                staged.rename(self.models_folder / place)
                files.sync_folder(self.models_folder)
            except OSError as error:
                raise files.as_user_error(error, f"Moving {manifest.name} into the store") from error
            try:
                with self._database.transaction() as run:
                    self.registry.insert(
                        run, manifest_id(sealed), sealed, manifest, place, source_node, self._wall(), bool(partial)
                    )
                    run.execute("DELETE FROM pending WHERE place = ?", (place,))
                    what: What = "download" if partial else "import"
                    self.audit.note(run, _event(what, manifest, who, source or source_node))
            except BaseException:
                (self.models_folder / place).rename(staged)
                raise
            self._write_view()
            self.audit.flush()
            model = self._lookup(manifest.name, manifest.version)
            assert model is not None
            return model

    def _write_view(self) -> None:
        try:
            self.registry.write_view()
        except OSError as error:
            self.warn(f"the view of the models in {self.models_folder} could not be written: {error.strerror}")

    def _lookup(self, name: str, version: str) -> LocalModel | None:
        same = (model for model in self.models() if model.name == name)
        return next((model for model in same if version_key(model.version) == version_key(version)), None)

    def _check_absent(self, manifest: Manifest) -> None:
        if self.registry.places_of(manifest.name, manifest.version) is not None:
            raise UserError(
                f"{manifest.name} {manifest.version} is already here with another content.",
                f"Use another version, or remove this one: atmo model remove {manifest.name}@{manifest.version}.",
            )

    def remove(self, name: str, version: str, who: str = "node") -> None:
        """Takes a model out and deletes its files; who has one open or mapped keeps what it has.

        Raises:
            UserError: There is no such model, or it is in use by what must end first, such as a verification.
        """
        with self.lock:
            model = self._lookup(name, version)
            if model is None:
                raise UserError(f"There is no model {name} {version} here.", "See `atmo model list`.")
            if users := self.pins.users(model.manifest_id):
                raise UserError(
                    f"{model.name} {model.version} is in use by {' and '.join(users)}.", "Try again when that is done."
                )
            self._take_out(model, "removal", who)

    def _take_out(self, model: LocalModel, what: What, who: str) -> None:
        tops = {place.split("/")[0] for place in self.registry.places_of(model.name, model.version) or ()}
        with self._database.transaction() as run:
            self.registry.delete(run, model.name, model.version)
            run.executemany("INSERT OR REPLACE INTO pending VALUES (?, '')", [(top,) for top in tops])
            self.audit.note(run, _event(what, model.manifest, who, model.source_node))
        try:
            for top in tops:
                recovery.delete(self.models_folder / top)
            with self._database.transaction() as run:
                run.executemany("DELETE FROM pending WHERE place = ?", [(top,) for top in tops])
        except (OSError, UserError) as error:
            self.warn(f"{model.name} {model.version} is removed, its files go with the next start: {error}")
        self._write_view()
        self.audit.flush()

    def make_room(self, need_bytes: int, manifest: bytes = b"") -> list[LocalModel]:
        """Evicts models until one of `need_bytes` fits within the limits; with 0, until the store itself does.

        Never one that is loaded, pinned, was used within the last minutes, or is not replaceable.

        Args:
            need_bytes: Of the model that comes.
            manifest: Its id, so that what has arrived of it does not count twice.

        Returns:
            What was evicted.

        Raises:
            UserError: The limits do not allow it; nothing was evicted.
        """
        with self.lock:
            now, arrived = self._wall(), 0
            if self.limits.max_bytes is not None:
                arrived = sum(found.size_bytes for key, (_, found) in self.partials().items() if key != manifest)

            def may_go(model: LocalModel) -> bool:
                used = eviction.in_use(model, now) or bool(self.pins.users(model.manifest_id))
                return not used and self.is_replaceable(model)

            prefetched = self.transfers.prefetched()

            def was_prefetched(model: LocalModel) -> bool:
                return (model.name, version_key(model.version)) in prefetched

            going = eviction.plan(
                self.models(), self.limits, need_bytes, int(need_bytes > 0), arrived, now, may_go, was_prefetched
            )
            for model in going:
                self._take_out(model, "eviction", "the limits of the store")
            return going

    def set_loaded(self, name: str, version: str, loaded: bool, who: str = "node") -> None:
        """Notes that a backend has loaded or let go of a model; one that is not here is not noted."""
        with self.lock:
            model = self._lookup(name, version)
            if model is not None:
                with self._database.transaction() as run:
                    self.registry.set_loaded(run, name, version, self._wall() if loaded else None)
                    what: What = "load" if loaded else "unload"
                    self.audit.note(run, _event(what, model.manifest, who, model.source_node))
                self._write_view()
                self.audit.flush()

    def pin(self, manifest: bytes, who: str) -> AbstractContextManager[None]:
        """Keeps a model from being evicted, collected or removed while the block lasts; see `Pins.hold`."""
        return self.pins.hold(manifest, who)

    def collect_garbage(self, now: float, dry_run: bool = False) -> GarbageReport:
        """Deletes what nobody needs and the store itself has made; see `garbage.collect`."""
        return garbage.collect(self, self._database, now, dry_run)

    def verify(
        self, spec: Spec | None = None, check: Check = nothing, repair: Repair | None = None, who: str = "node"
    ) -> VerifyReport:
        """Reads every byte again and repairs what is damaged; see `verify.verify`."""
        return verify.verify(self, spec, check, repair, who)

    def open_partial(self, sealed: bytes, check: Check = nothing) -> PartialDownload:
        """Starts a download or continues one.

        Chunks of a former run are verified again; those that are elsewhere on this machine are shared or copied.

        Raises:
            WireError: The manifest is not sound.
            UserError: There is not enough room, the disk fails, or this download is open already.
        """
        return self.downloads.open(sealed, check)

    def close_partial(self, partial: PartialDownload) -> None:
        """Stops a download; it can be continued later."""
        self.downloads.close(partial)

    def partials(self) -> dict[bytes, tuple[bytes, Manifest]]:
        """Returns the downloads that can be continued: id to (sealed manifest, manifest)."""
        return self.downloads.all()

    def partial(self, identity: bytes) -> tuple[bytes, Manifest] | None:
        """Returns the sealed manifest and the manifest of one download that can be continued."""
        return self.downloads.one(identity)

    def discard_partial(self, identity: bytes) -> None:
        """Deletes one download that was stopped; it need not exist."""
        self.downloads.discard(identity)

    def discard_partials(self, spec: Spec) -> int:
        """Deletes downloads that were stopped and match; returns how many."""
        return self.downloads.discard_matching(spec)

    def finish(
        self, partial: PartialDownload, source_node: str, check: Check = nothing, who: str = "node"
    ) -> LocalModel:
        """Makes a complete download a model: the SHA-256 of every file verified, then as `register`.

        Raises:
            WrongContent: A file is not what the manifest says though every chunk is; the download is deleted.
            UserError: The version is here already with another content, or the disk fails.
        """
        try:
            wrong = partial.wrong_file(check)
            if wrong is None:
                partial.sync()
        except OSError as error:
            raise files.as_user_error(error, f"Verifying {partial.folder}") from error
        partial.close()
        try:
            if wrong is not None:
                recovery.delete(partial.folder)
                lie = f"the SHA-256 of {wrong} is not the one in its manifest"
                self.note(_event("download", partial.manifest, who, source_node, lie))
                raise WrongContent(lie)
            model = self.register(partial.staged, partial.sealed, source_node, partial.folder.name, who)
            recovery.delete(partial.folder)
        finally:
            self.close_partial(partial)
        return model

    def note(self, event: Event) -> None:
        """Keeps an event in the audit log; where that fails, there is a warning, and what happened stands."""
        try:
            self.audit.record(event)
        except UserError as error:
            self.warn(f"the audit log misses that {event.what} of {event.name} ended in {event.outcome}: {error}")


def _event(what: What, manifest: Manifest, who: str, source: str, outcome: str = "ok") -> Event:
    checksum = f"sha256:{manifest.checksum_sha256.hex()}"
    return Event(what, who, manifest.name, manifest.version, source, checksum, outcome)
