"""The downloads of a home: those that are open, and those that were stopped and can be continued."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from atmo.errors import UserError
from atmo.storage import files, recovery
from atmo.storage.files import Check
from atmo.storage.partial import MANIFEST, PartialDownload
from atmo.storage.reading import ChunkReader
from atmo.transfer.manifest import Manifest, manifest_id, open_manifest_untrusted
from atmo.transfer.names import Spec


class PartialDownloads:
    """The folders under `partial/`, each named after its manifest.

    Args:
        folder: Of them all.
        reader: Gives the chunks that are here already, and learns of each open download's own.
        lock: Held while one is opened or deleted.
    """

    def __init__(self, folder: Path, reader: ChunkReader, lock: threading.RLock) -> None:
        self.folder = folder
        self._reader = reader
        self._lock = lock
        self._open: dict[str, PartialDownload | None] = {}

    def is_open(self, identity: bytes) -> bool:
        """Says whether a download is under way."""
        return identity.hex() in self._open

    def open(self, sealed: bytes, check: Check) -> PartialDownload:
        """Starts or continues one; see `ModelStorage.open_partial`."""
        manifest, _ = open_manifest_untrusted(sealed)
        name = manifest_id(sealed).hex()
        with self._lock:
            if name in self._open:
                raise UserError(f"{manifest.name} {manifest.version} is already being downloaded.")
            self._open[name] = None
        try:
            partial = PartialDownload(self.folder / name, sealed, manifest, check, self._reader.put)
        except BaseException:
            self._forget_unbegun(self.folder / name)
            del self._open[name]
            raise
        self._open[name] = partial
        self._reader.add(partial)
        return partial

    def _forget_unbegun(self, folder: Path) -> None:
        """Deletes what is left of one that there was no room for: nothing has arrived of it."""
        if not (folder / MANIFEST).exists():
            with suppress(OSError):
                recovery.delete(folder)

    def close(self, partial: PartialDownload) -> None:
        """Stops one; again is fine."""
        partial.close()
        self._reader.drop(partial)
        if self._open.get(partial.folder.name) is partial:
            del self._open[partial.folder.name]

    def all(self) -> dict[bytes, tuple[bytes, Manifest]]:
        """Returns those that can be continued: id to (sealed manifest, manifest)."""
        folders = sorted(self.folder.iterdir())
        return {bytes.fromhex(folder.name): found for folder in folders if (found := recovery.sealed_manifest(folder))}

    def one(self, identity: bytes) -> tuple[bytes, Manifest] | None:
        """Returns the sealed manifest and the manifest of one that can be continued."""
        return recovery.sealed_manifest(self.folder / identity.hex())

    def discard(self, identity: bytes) -> bool:
        """Deletes one unless it is open; it need not exist.

        Raises:
            UserError: The disk does not let it go.
        """
        with self._lock:
            if self.is_open(identity):
                return False
            try:
                recovery.delete(self.folder / identity.hex())
            except OSError as error:
                raise files.as_user_error(error, f"Deleting a download in {self.folder}") from error
            return True

    def discard_matching(self, spec: Spec) -> int:
        """Deletes those that match and are not open; returns how many."""
        doomed = [
            identity
            for identity, (_, manifest) in self.all().items()
            if manifest.name == spec.name and spec.matching([manifest.version])
        ]
        return sum(self.discard(identity) for identity in doomed)
