"""Which models this machine holds: rows of the database, and the readable view `models/registry.yaml`.

The database is the truth; the view is written after each change and again at start, whole; docs/manifest.md
describes its fields.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.storage.database import Database, damaged
from atmo.storage.files import write_atomically
from atmo.transfer.manifest import Manifest, open_manifest_untrusted
from atmo.transfer.names import newest_first, version_key

VIEW = "registry.yaml"

_HEAD = """\
# The models of this machine, for reading. Atmosphere writes this file and never reads it: use `atmo model`.
"""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that is whole on this machine.

    Attributes:
        manifest: What it is.
        manifest_id: BLAKE3 of the sealed manifest, 32 bytes.
        publisher: Who signed the manifest.
        path: The main file: one plain file that can be mapped into memory.
        source_node: Name of the node it came from.
        added_at: Unix seconds.
        loaded_at: Unix seconds since when it is loaded, None when it is not.
    """

    manifest: Manifest
    manifest_id: bytes
    publisher: NodeId
    path: Path
    source_node: str
    added_at: float
    loaded_at: float | None

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def type(self) -> str:
        return self.manifest.type

    @property
    def format(self) -> str:
        return self.manifest.format

    @property
    def description(self) -> str:
        return self.manifest.description

    @property
    def capabilities(self) -> tuple[str, ...]:
        return self.manifest.capabilities

    @property
    def config(self) -> Mapping[str, Any]:
        return self.manifest.config


class Registry:
    """The tables of models.

    Args:
        database: Where they are.
        folder: Of the models' files and the view.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._opened: dict[bytes, tuple[Manifest, NodeId]] = {}

    def models(self) -> list[LocalModel]:
        """Returns all models by name, the newest version of each first.

        Raises:
            UserError: The database is damaged.
        """
        rows = self._database.query(
            "SELECT models.id, manifest, sealed, source_node, added_at, loaded_at FROM models"
            " JOIN manifests ON manifests.id = models.manifest"
        )
        places: dict[int, dict[str, str]] = {}
        for model, path, place in self._database.query("SELECT model, path, place FROM files"):
            places.setdefault(model, {})[path] = place
        found: dict[str, dict[str, LocalModel]] = {}
        known, self._opened = self._opened, {}
        for row, identity, sealed, source_node, added_at, loaded_at in rows:
            opened = known.get(identity) or self._open(bytes(sealed))
            self._opened[identity] = opened
            manifest, publisher = opened
            path = self._folder / places[row][manifest.file]
            local = LocalModel(manifest, bytes(identity), publisher, path, source_node, added_at, loaded_at)
            found.setdefault(manifest.name, {})[manifest.version] = local
        return [found[name][version] for name in sorted(found) for version in newest_first(found[name])]

    def _open(self, sealed: bytes) -> tuple[Manifest, NodeId]:
        try:
            return open_manifest_untrusted(sealed)
        except WireError as error:
            raise damaged(self._database.path, f"a manifest in it is not sound: {error}") from error

    def sealed(self, manifest_id: bytes) -> bytes | None:
        """Returns the sealed manifest of that name."""
        rows = self._database.query("SELECT sealed FROM manifests WHERE id = ?", manifest_id)
        return bytes(rows[0][0]) if rows else None

    def places_of(self, name: str, version: str) -> list[str] | None:
        """Returns the places of a model's files under the folder, None when there is no such model."""
        rows = self._database.query(
            "SELECT place FROM models LEFT JOIN files ON files.model = models.id WHERE name = ? AND version_key = ?",
            name,
            version_key(version),
        )
        return [str(place) for (place,) in rows] if rows else None

    def free_place(self, manifest: Manifest) -> str:
        """Chooses where a model's file goes, or the folder of its files: free on disk and in the table."""
        base = re.sub(r"[/:]", "-", manifest.name) + "-" + manifest.version
        suffix = "" if len(manifest.files) > 1 else PurePosixPath(manifest.file).suffix
        for number in range(1_000):
            salt = f"-{manifest.checksum_sha256.hex()[:8]}" if number else ""
            place = f"{base}{salt}{f'-{number}' if number > 1 else ''}{suffix}"
            taken = self._database.query(
                "SELECT 1 FROM files WHERE place = ? OR place LIKE ? ESCAPE '!'", place, _escaped(place) + "/%"
            )
            if not taken and not (self._folder / place).exists():
                return place
        raise AssertionError("a thousand files have one name and one hash")

    def insert(
        self,
        run: sqlite3.Connection,
        manifest_id: bytes,
        sealed: bytes,
        manifest: Manifest,
        place: str,
        source_node: str,
        now: float,
    ) -> None:
        """Adds a model whose files are in place, within a transaction."""
        run.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?)", (manifest_id, sealed))
        model = run.execute(
            "INSERT INTO models (name, version, version_key, manifest, source_node, added_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (manifest.name, manifest.version, version_key(manifest.version), manifest_id, source_node, now),
        ).lastrowid
        single = len(manifest.files) == 1
        files = [
            run.execute(
                "INSERT INTO files (model, path, place, size_bytes) VALUES (?, ?, ?, ?)",
                (model, file.path, place if single else f"{place}/{file.path}", file.size_bytes),
            ).lastrowid
            for file in manifest.files
        ]
        run.executemany(
            "INSERT INTO chunks (hash, file, offset, size) VALUES (?, ?, ?, ?)",
            ((chunk.hash, files[chunk.file], chunk.offset, chunk.size) for chunk in manifest.chunk_places()),
        )

    def delete(self, run: sqlite3.Connection, name: str, version: str) -> None:
        """Takes a model out, within a transaction; its files are the caller's."""
        run.execute("DELETE FROM models WHERE name = ? AND version_key = ?", (name, version_key(version)))
        run.execute("DELETE FROM manifests WHERE id NOT IN (SELECT manifest FROM models)")

    def set_loaded(self, name: str, version: str, loaded_at: float | None) -> None:
        """Notes that a model was loaded or, with None, unloaded."""
        with self._database.transaction() as run:
            run.execute(
                "UPDATE models SET loaded_at = ? WHERE name = ? AND version_key = ?",
                (loaded_at, name, version_key(version)),
            )
        self.write_view()

    def write_view(self) -> None:
        """Writes `registry.yaml`, unless it says the same already."""
        text = _HEAD + yaml.safe_dump({"models": self.view()}, sort_keys=False, allow_unicode=True)
        path, data = self._folder / VIEW, text.encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)

    def view(self) -> dict[str, Any]:
        """Returns the content of `registry.yaml`: by name the newest version, and the others under `versions`."""
        entries: dict[str, Any] = {}
        for model in self.models():
            entry = _entry(model)
            if model.name in entries:
                entries[model.name].setdefault("versions", {})[model.version] = entry
            else:
                entries[model.name] = {"version": model.version, **entry}
        return entries


def _entry(model: LocalModel) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": _for_people(model.path), "loaded": model.loaded_at is not None}
    if model.loaded_at is not None:
        moment = datetime.fromtimestamp(int(model.loaded_at), UTC)
        entry["loaded_at"] = moment.isoformat().replace("+00:00", "Z")
    return entry | {"source_node": model.source_node, "checksum": f"sha256:{model.manifest.checksum_sha256.hex()}"}


def _for_people(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
