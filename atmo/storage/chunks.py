"""The model store: plain files under `models/`, their chunks by BLAKE3 name, downloads under `partial/`.

A model's file stays one plain file that can be mapped into memory; a chunk is a place in it. Whatever is renamed into
or deleted from `models/` is first noted in the table `pending`, so that after a kill at any instant the next start
knows which files are left over; a file that nobody noted is never touched.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atmo.errors import AtmoError, UserError
from atmo.storage import files, recovery
from atmo.storage.database import Database
from atmo.storage.files import Check, nothing
from atmo.storage.partial import PartialDownload
from atmo.storage.registry import LocalModel, Registry
from atmo.transfer.manifest import Manifest, chunk_hash, manifest_id, open_manifest_untrusted
from atmo.transfer.names import Spec

log = logging.getLogger(__name__)

MODELS, PARTIAL, INCOMING = "models", "partial", "incoming"


class MissingChunk(AtmoError):
    """No file here has the chunk."""


class CorruptChunk(AtmoError):
    """A file here should have the chunk, and its bytes are others."""


class WrongContent(AtmoError):
    """Every chunk was right and the file's SHA-256 is not: the manifest lies."""


class ModelStorage:
    """The models of one home. Methods block on the disk: call them from worker threads.

    Opening it repairs what a kill left behind.

    Args:
        root: The home; the folders `models`, `partial` and `incoming` are made in it.
        database: Open, of the same home.

    Attributes:
        lock: Held while models are added or removed; a caller may hold it over several steps.
        warnings: The latest things that went wrong and were handled, for people.

    Raises:
        UserError: The home cannot be written or the database is damaged.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self.models_folder = root / MODELS
        self.warnings: collections.deque[str] = collections.deque(maxlen=100)
        self.registry = Registry(database, self.models_folder)
        self._database = database
        self.lock = threading.RLock()
        self._open_partials: set[str] = set()
        try:
            for name in (MODELS, PARTIAL, INCOMING):
                (root / name).mkdir(parents=True, exist_ok=True)
            recovery.recover(root, database, self.registry, self.warn)
        except OSError as error:
            raise files.as_user_error(error, f"Opening the model store in {root}") from error

    def warn(self, text: str) -> None:
        """Notes that something was wrong and was handled."""
        self.warnings.append(text)
        log.warning("%s", text)

    def models(self) -> list[LocalModel]:
        """Returns all models by name, the newest version of each first."""
        return self.registry.models()

    def read_chunk(self, name: bytes) -> bytes:
        """Returns the chunk of that BLAKE3 hash, verified.

        Raises:
            MissingChunk: It is not here, or its file was just removed.
            CorruptChunk: It should be here and the disk says otherwise.
        """
        rows = self._database.query(
            "SELECT place, offset, size FROM chunks JOIN files ON files.id = chunks.file WHERE hash = ?", name
        )
        corrupt = ""
        for place, offset, size in rows:
            try:
                data = _pread(self.models_folder / place, size, offset)
            except FileNotFoundError:
                continue
            except OSError as error:
                corrupt = f"{place} cannot be read: {error.strerror}"
            else:
                if chunk_hash(data) == name:
                    return data
                corrupt = f"{place} is damaged between bytes {offset} and {offset + size}"
            self.warn(f"{corrupt}; remove that model and pull or import it again")
        raise CorruptChunk(corrupt) if corrupt else MissingChunk(f"chunk {name.hex()[:16]} is not here")

    def _find_chunk(self, name: bytes) -> bytes | None:
        try:
            return self.read_chunk(name)
        except (MissingChunk, CorruptChunk):  # read_chunk has warned of the damaged file
            return None

    @contextmanager
    def incoming(self, need_bytes: int, suffix: str = "") -> Iterator[Path]:
        """Gives a path for a file on its way in; whatever is left there at the end is deleted.

        Raises:
            UserError: There is not enough room.
        """
        files.check_room(self.root, need_bytes)
        path = self.root / INCOMING / f"{uuid.uuid4().hex}{suffix}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def find_same(self, name: str, sha256: bytes) -> LocalModel | None:
        """Returns the newest version of a model that has this very content."""
        matching = (model for model in self.models() if model.name == name)
        return next((model for model in matching if model.manifest.checksum_sha256 == sha256), None)

    def register(self, staged: Path, sealed: bytes, source_node: str, partial: str = "") -> LocalModel:
        """Makes a synced file (or folder of files) a model: renamed, in the tables, in the view; all or nothing.

        Args:
            staged: On the same file system as the store.
            sealed: The manifest, sealed; its files are those staged.
            source_node: Name of the node it came from.
            partial: The download it comes from, by the name of its folder.

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
                    self.registry.insert(run, manifest_id(sealed), sealed, manifest, place, source_node, time.time())
                    run.execute("DELETE FROM pending WHERE place = ?", (place,))
            except BaseException:
                (self.models_folder / place).rename(staged)
                raise
            self.registry.write_view()
            return next(model for model in self.models() if _is(model, manifest.name, manifest.version))

    def _check_absent(self, manifest: Manifest) -> None:
        if self.registry.places_of(manifest.name, manifest.version) is not None:
            raise UserError(
                f"{manifest.name} {manifest.version} is already here with another content.",
                f"Use another version, or remove this one: atmo model remove {manifest.name}@{manifest.version}.",
            )

    def remove(self, name: str, version: str) -> None:
        """Takes a model out and deletes its files; who has one open or mapped keeps what it has.

        Raises:
            UserError: There is no such model.
        """
        with self.lock:
            places = self.registry.places_of(name, version)
            if places is None:
                raise UserError(f"There is no model {name} {version} here.", "See `atmo model list`.")
            tops = {place.split("/")[0] for place in places}
            with self._database.transaction() as run:
                self.registry.delete(run, name, version)
                run.executemany("INSERT OR REPLACE INTO pending VALUES (?, '')", [(top,) for top in tops])
            for top in tops:
                recovery.delete(self.models_folder / top)
            with self._database.transaction() as run:
                run.executemany("DELETE FROM pending WHERE place = ?", [(top,) for top in tops])
            self.registry.write_view()

    def set_loaded(self, name: str, version: str, loaded: bool) -> None:
        """Notes that a backend has loaded or let go of a model."""
        with self.lock:
            self.registry.set_loaded(name, version, time.time() if loaded else None)

    def open_partial(self, sealed: bytes, check: Check = nothing) -> PartialDownload:
        """Starts a download or continues one.

        Chunks of a former run are verified again; those that another model here has are copied.

        Raises:
            WireError: The manifest is not sound.
            UserError: There is not enough room, the disk fails, or this download is open already.
        """
        manifest, _ = open_manifest_untrusted(sealed)
        name = manifest_id(sealed).hex()
        with self.lock:
            if name in self._open_partials:
                raise UserError(f"{manifest.name} {manifest.version} is already being downloaded.")
            self._open_partials.add(name)
        try:
            return PartialDownload(self.root / PARTIAL / name, sealed, manifest, check, self._find_chunk)
        except BaseException:
            self._open_partials.discard(name)
            raise

    def close_partial(self, partial: PartialDownload) -> None:
        """Stops a download; it can be continued later."""
        partial.close()
        self._open_partials.discard(partial.folder.name)

    def partials(self) -> dict[bytes, tuple[bytes, Manifest]]:
        """Returns the downloads that can be continued: id to (sealed manifest, manifest)."""
        folders = sorted((self.root / PARTIAL).iterdir())
        return {bytes.fromhex(folder.name): found for folder in folders if (found := recovery.sealed_manifest(folder))}

    def partial(self, identity: bytes) -> tuple[bytes, Manifest] | None:
        """Returns the sealed manifest and the manifest of one download that can be continued."""
        return recovery.sealed_manifest(self.root / PARTIAL / identity.hex())

    def discard_partial(self, identity: bytes) -> None:
        """Deletes one download that was stopped; it need not exist."""
        with self.lock:
            if identity.hex() not in self._open_partials:
                recovery.delete(self.root / PARTIAL / identity.hex())

    def discard_partials(self, spec: Spec) -> int:
        """Deletes downloads that were stopped and match; returns how many."""
        dropped = 0
        for identity, (_, manifest) in self.partials().items():
            matches = manifest.name == spec.name and spec.matching([manifest.version])
            with self.lock:
                if matches and identity.hex() not in self._open_partials:
                    recovery.delete(self.root / PARTIAL / identity.hex())
                    dropped += 1
        return dropped

    def finish(self, partial: PartialDownload, source_node: str, check: Check = nothing) -> LocalModel:
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
        self.close_partial(partial)
        if wrong is not None:
            recovery.delete(partial.folder)
            raise WrongContent(f"the SHA-256 of {wrong} is not the one in its manifest")
        model = self.register(partial.staged, partial.sealed, source_node, partial.folder.name)
        recovery.delete(partial.folder)
        return model


def _is(model: LocalModel, name: str, version: str) -> bool:
    return model.name == name and model.version == version


def _pread(path: Path, size: int, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
