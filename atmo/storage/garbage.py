"""What a store holds that nobody needs any more, and taking it away.

Only what the store itself has made is taken: downloads that were stopped long ago, what was left in `incoming`, files
that the table `pending` or `orphans` names, and manifests of no model. A file that nobody here noted stays where it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atmo.storage import recovery
from atmo.storage.database import Database
from atmo.storage.partial import JOURNAL, MANIFEST
from atmo.storage.transfers import GOING

if TYPE_CHECKING:
    from atmo.storage.chunks import ModelStorage

_KEPT_STATES = (*GOING, "paused")
"""Downloads in these states are wanted, however long they rest."""


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What was taken away, or would be.

    Attributes:
        downloads: Stopped ones, as `NAME VERSION`.
        files: Paths below the home.
        manifests: How many.
        bytes: Of downloads and files, as the disk counts them.
        dry_run: Nothing was taken away.
    """

    downloads: tuple[str, ...]
    files: tuple[str, ...]
    manifests: int
    bytes: int
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """Returns it for programs."""
        return {
            "downloads": list(self.downloads),
            "files": list(self.files),
            "manifests": self.manifests,
            "bytes": self.bytes,
            "dry_run": self.dry_run,
        }


def collect(storage: ModelStorage, database: Database, now: float, dry_run: bool) -> GarbageReport:
    """Takes away what nobody needs; what could not be deleted is warned of and left for the next time.

    Args:
        storage: The store; its lock is held meanwhile.
        database: Of the same home.
        now: Unix seconds.
        dry_run: Only say what would be taken.

    Raises:
        UserError: The database fails.
    """
    freed, downloads, taken = 0, [], []
    with storage.lock:
        for folder, label in _stopped(storage, database, now):
            freed += _size(folder)
            if dry_run or _delete(storage, folder):
                downloads.append(label)
        for path in (*_leftovers(storage), *_pending(storage, database), *_orphans(storage, database)):
            freed += _size(path)
            if dry_run or _delete(storage, path):
                taken.append(path.relative_to(storage.root).as_posix())
        manifests = _manifests(storage, database)
        if not dry_run:
            recovery.settle_pending(storage.models_folder, storage.root / "partial", database, storage.warn)
            _forget(storage, database, manifests)
    return GarbageReport(tuple(downloads), tuple(taken), len(manifests), freed, dry_run)


def _stopped(storage: ModelStorage, database: Database, now: float) -> Iterator[tuple[Path, str]]:
    """Yields downloads that nobody has continued for long: folder, and what it was."""
    marks = ", ".join("?" * len(_KEPT_STATES))
    wanted = database.query(f"SELECT manifest FROM transfers WHERE state IN ({marks})", *_KEPT_STATES)
    kept = {bytes(manifest) for (manifest,) in wanted}
    for identity, (_, manifest) in storage.partials().items():
        folder = storage.root / "partial" / identity.hex()
        if identity in kept or storage.downloads.is_open(identity) or storage.pins.users(identity):
            continue
        if now - _last_change(folder) > storage.limits.keep_downloads_s:
            yield folder, f"{manifest.name} {manifest.version}"


def _last_change(folder: Path) -> float:
    moments = [0.0]
    for path in (folder, folder / MANIFEST, folder / JOURNAL):
        with suppress(OSError):
            moments.append(path.lstat().st_mtime)
    return max(moments)


def _leftovers(storage: ModelStorage) -> list[Path]:
    return sorted(path for path in (storage.root / "incoming").iterdir() if path not in storage.arriving)


def _pending(storage: ModelStorage, database: Database) -> Iterator[Path]:
    """Yields files whose removal or arrival was noted and did not end; none is under way while the lock is held."""
    for place, origin in database.query("SELECT place, partial FROM pending ORDER BY place"):
        path = storage.models_folder / place
        back = origin and (storage.root / "partial" / origin).exists()
        if not back and path.exists() and not recovery.is_registered(database, place):
            yield path


def _orphans(storage: ModelStorage, database: Database) -> Iterator[Path]:
    """Yields what is left of models that were not whole any more, unless it has changed since."""
    rows = database.query(
        "SELECT place, orphans.size_bytes FROM orphans WHERE NOT EXISTS"
        " (SELECT 1 FROM files WHERE files.place = orphans.place) ORDER BY place"
    )
    for place, size in rows:
        path = storage.models_folder / place
        if path.is_file() and not path.is_symlink() and path.stat().st_size == size:
            yield path


def _manifests(storage: ModelStorage, database: Database) -> list[bytes]:
    rows = database.query("SELECT id FROM manifests WHERE id NOT IN (SELECT manifest FROM models)")
    return [bytes(identity) for (identity,) in rows if not storage.pins.users(bytes(identity))]


def _forget(storage: ModelStorage, database: Database, manifests: list[bytes]) -> None:
    """Deletes the rows, and the folders that orphans left empty."""
    places = [Path(place) for (place,) in database.query("SELECT place FROM orphans")]
    with database.transaction() as run:
        run.executemany("DELETE FROM manifests WHERE id = ?", [(identity,) for identity in manifests])
        run.execute("DELETE FROM orphans")
    for place in places:
        for parent in list(place.parents)[:-1]:
            with suppress(OSError):  # another file is in it
                (storage.models_folder / parent).rmdir()


def _delete(storage: ModelStorage, path: Path) -> bool:
    try:
        recovery.delete(path)
    except OSError as error:
        storage.warn(f"{path} could not be deleted: {error.strerror}")
        return False
    return True


def _size(path: Path) -> int:
    """Returns how much room a file or a folder takes."""
    paths = [path]
    if path.is_dir() and not path.is_symlink():
        paths += [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    total = 0
    for each in paths:
        with suppress(OSError):
            total += each.lstat().st_blocks * 512
    return total
