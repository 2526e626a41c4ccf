"""What the store does at start about what a kill left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from atmo.errors import WireError
from atmo.storage.database import Database
from atmo.storage.partial import DATA, MANIFEST
from atmo.storage.registry import VIEW
from atmo.transfer.manifest import Manifest, manifest_id, open_manifest_untrusted

Warn = Callable[[str], None]


def recover(root: Path, database: Database, warn: Warn) -> None:
    """Repairs the store: afterwards tables and files agree, and downloads can be continued.

    Raises:
        OSError: The disk fails.
        UserError: The database fails.
    """
    models, partial = root / "models", root / "partial"
    for left in (*(root / "incoming").iterdir(), *models.glob(f".{VIEW}.*.tmp")):
        delete(left)
    settle_pending(models, partial, database, warn)
    _drop_rows_without_manifests(database, warn)
    _drop_rows_without_files(models, database, warn)
    for folder in partial.iterdir():
        if sealed_manifest(folder) is None:
            warn(f"{folder} is no download that could be continued; it is deleted")
            delete(folder)
    for wrong, tidy in _LEFT_BEHIND:
        if database.query(wrong):  # a full disk takes no writing, and must still open
            with database.transaction() as run:
                run.execute(tidy)
    _report_strangers(models, database, warn)


_LEFT_BEHIND = (
    (
        "SELECT 1 FROM manifests WHERE id NOT IN (SELECT manifest FROM models) LIMIT 1",
        "DELETE FROM manifests WHERE id NOT IN (SELECT manifest FROM models)",
    ),
    ("SELECT 1 FROM models WHERE loaded_at IS NOT NULL LIMIT 1", "UPDATE models SET loaded_at = NULL"),
)
"""What to ask, and what to do where there is an answer."""


def delete(path: Path) -> None:
    """Deletes a file or a folder; it need not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def settle_pending(models: Path, partial: Path, database: Database, warn: Warn) -> None:
    """A file that was renamed but not registered goes back to its download, or away; so does one half removed."""
    for place, origin in database.query("SELECT place, partial FROM pending"):
        path = models / place
        if not is_registered(database, place) and path.exists():
            found = sealed_manifest(partial / origin) if origin else None
            if found is None:
                delete(path)
            else:
                _, manifest = found
                warn(f"the download of {manifest.name} {manifest.version} was cut at its last step; pull it to finish")
                _put_back(path, partial / origin / DATA, manifest)
        with database.transaction() as run:
            run.execute("DELETE FROM pending WHERE place = ?", (place,))


def _put_back(path: Path, data: Path, manifest: Manifest) -> None:
    target = data / manifest.file if len(manifest.files) == 1 else data
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def is_registered(database: Database, place: str) -> bool:
    """Says whether a file or folder under `models/` is a model's."""
    rows = database.query("SELECT place FROM files")
    return any(str(taken).split("/")[0] == place for (taken,) in rows)


def _drop_rows_without_manifests(database: Database, warn: Warn) -> None:
    rows = database.query(
        "SELECT models.id, name, version, sealed FROM models JOIN manifests ON manifests.id = models.manifest"
    )
    for model, name, version, sealed in rows:
        try:
            open_manifest_untrusted(bytes(sealed))
        except WireError as error:
            warn(f"{name} {version} is forgotten: its manifest is damaged: {error}")
            _forget(database, model)


def _forget(database: Database, model: int) -> None:
    with database.transaction() as run:
        run.execute("DELETE FROM models WHERE id = ?", (model,))


def _drop_rows_without_files(models: Path, database: Database, warn: Warn) -> None:
    rows = database.query(
        "SELECT models.id, name, version, place, size_bytes FROM files JOIN models ON models.id = files.model"
    )
    broken: set[int] = set()
    for model, name, version, place, size in rows:
        path = models / place
        if not path.is_file():
            warn(f"{name} {version} is forgotten: its file {path} is gone")
        elif path.stat().st_size != size:
            warn(f"{name} {version} is forgotten: its file {path} has {path.stat().st_size} bytes instead of {size}")
        else:
            continue
        _forget(database, model)
        broken.add(model)
    kept = [(place, size) for model, _, _, place, size in rows if model in broken and _has(models / place, size)]
    if kept:  # what is left of a model that is not whole: garbage, and known to be ours
        with database.transaction() as run:
            run.executemany("INSERT OR REPLACE INTO orphans VALUES (?, ?)", kept)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def sealed_manifest(folder: Path) -> tuple[bytes, Manifest] | None:
    """Returns the manifest of a download's folder, sealed and opened, None where it is none or another's."""
    try:
        sealed = (folder / MANIFEST).read_bytes()
        manifest, _ = open_manifest_untrusted(sealed)
    except (OSError, WireError):
        return None
    return (sealed, manifest) if folder.name == manifest_id(sealed).hex() else None


def _report_strangers(models: Path, database: Database, warn: Warn) -> None:
    known = {str(place).split("/")[0] for (place,) in database.query("SELECT place FROM files")}
    for path in sorted(models.iterdir()):
        if path.name not in known and not path.name.startswith((VIEW, ".")):
            warn(f"{path} belongs to no model; `atmo model import` it, or delete it")
