"""Which models this machine holds: rows of the database, and the readable view `models/registry.yaml`.

The database is the truth; the view is written after each change and again at start, whole; docs/manifest.md
describes its fields.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from textwrap import indent
from typing import Any

import yaml

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.storage.database import Database, damaged
from atmo.storage.files import write_atomically
from atmo.transfer.manifest import Manifest, open_manifest_untrusted
from atmo.transfer.names import newest_first, version_key

VIEW = "registry.yaml"

SUFFIX_BYTES = 32
"""A longer one is left out of the name that a model's file gets: file systems take 255 bytes for name, version and
suffix together. Source: guess; `.safetensors` has 12."""

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
        used_at: Unix seconds when it was last loaded or served, to a minute; 0 where it never was.
        pulled: Whether it came from the mesh; else it was imported here.
    """

    manifest: Manifest
    manifest_id: bytes
    publisher: NodeId
    path: Path
    source_node: str
    added_at: float
    loaded_at: float | None
    used_at: float = field(default=0.0, compare=False)
    pulled: bool = False

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
        self._read: list[LocalModel] = []
        self._read_at: tuple[int, int] | None = None
        self._texts: dict[str, tuple[dict[str, Any], str]] = {}
        """What the view last said of each name: the values, and as text. Writing YAML of 1,000 models takes 0.8 s."""

    def models(self) -> list[LocalModel]:
        """Returns all models by name, the newest version of each first; what was read last while nothing has changed.

        Raises:
            UserError: The database is damaged.
        """
        with self._database.still():
            state = self._database.state()
            if state is None or state != self._read_at:
                self._read_at, self._read = state, self._read_models()
            return list(self._read)

    def _read_models(self) -> list[LocalModel]:
        places: dict[int, dict[str, str]] = {}
        with self._database.still():
            rows = self._database.query(
                "SELECT models.id, manifest, sealed, source_node, added_at, loaded_at, used_at, pulled FROM models"
                " JOIN manifests ON manifests.id = models.manifest"
            )
            for model, path, place in self._database.query("SELECT model, path, place FROM files"):
                places.setdefault(model, {})[path] = place
        found: dict[str, dict[str, LocalModel]] = {}
        known, self._opened = self._opened, {}
        for row, identity, sealed, source_node, added_at, loaded_at, used_at, pulled in rows:
            opened = known.get(identity) or self._open(bytes(sealed))
            self._opened[identity] = opened
            manifest, publisher = opened
            main = self._folder / places[row][manifest.file]
            local = LocalModel(
                manifest, bytes(identity), publisher, main, source_node, added_at, loaded_at, used_at, bool(pulled)
            )
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

    def paths_of(self, name: str, version: str) -> dict[str, Path]:
        """Returns the files of a model: path in the manifest to path on the disk; none when there is no such model."""
        rows = self._database.query(
            "SELECT path, place FROM models JOIN files ON files.model = models.id WHERE name = ? AND version_key = ?",
            name,
            version_key(version),
        )
        return {path: self._folder / place for path, place in rows}

    def find(self, name: bytes) -> list[tuple[Path, int, int]]:
        """Returns where the chunk of that BLAKE3 hash lies: file, offset, size."""
        rows = self._database.query(
            "SELECT place, offset, size FROM chunks JOIN files ON files.id = chunks.file WHERE hash = ?", name
        )
        return [(self._folder / place, offset, size) for place, offset, size in rows]

    def references(self, name: bytes) -> int:
        """Returns how many manifests count on the chunk of that hash."""
        rows = self._database.query(
            "SELECT COUNT(DISTINCT manifest) FROM chunks JOIN files ON files.id = chunks.file"
            " JOIN models ON models.id = files.model WHERE hash = ?",
            name,
        )
        return int(rows[0][0])

    def own_bytes(self, name: str, version: str) -> int:
        """Returns the bytes of the chunks that no other model here has: what its removal frees at least."""
        rows = self._database.query(
            "SELECT COALESCE(SUM(size), 0) FROM chunks JOIN files ON files.id = chunks.file"
            " JOIN models ON models.id = files.model WHERE name = ?1 AND version_key = ?2 AND NOT EXISTS"
            " (SELECT 1 FROM chunks AS other JOIN files AS place ON place.id = other.file"
            " WHERE other.hash = chunks.hash AND place.model != models.id)",
            name,
            version_key(version),
        )
        return int(rows[0][0])

    def touch(self, place: str, now: float) -> None:
        """Notes that the model with a file at `place`, relative to the folder, was used."""
        with self._database.transaction() as run:
            run.execute(
                "UPDATE models SET used_at = ? WHERE id = (SELECT model FROM files WHERE place = ?)", (now, place)
            )

    def free_place(self, manifest: Manifest) -> str:
        """Chooses where a model's file goes, or the folder of its files: free on disk and in the table."""
        base = re.sub(r"[/:]", "-", manifest.name) + "-" + manifest.version
        suffix = "" if len(manifest.files) > 1 else PurePosixPath(manifest.file).suffix
        if len(suffix.encode()) > SUFFIX_BYTES:
            suffix = ""
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
        pulled: bool,
    ) -> None:
        """Adds a model whose files are in place, within a transaction."""
        run.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?)", (manifest_id, sealed))
        model = run.execute(
            "INSERT INTO models (name, version, version_key, manifest, source_node, added_at, pulled)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (manifest.name, manifest.version, version_key(manifest.version), manifest_id, source_node, now, pulled),
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

    def set_loaded(self, run: sqlite3.Connection, name: str, version: str, loaded_at: float | None) -> None:
        """Notes that a model was loaded or, with None, unloaded, within a transaction."""
        run.execute(
            "UPDATE models SET loaded_at = ?1, used_at = COALESCE(?1, used_at) WHERE name = ?2 AND version_key = ?3",
            (loaded_at, name, version_key(version)),
        )

    def write_view(self) -> None:
        """Writes `registry.yaml`, unless it says the same already."""
        view, known = self.view(), self._texts
        self._texts = {name: _text_of(name, entry, known.get(name)) for name, entry in view.items()}
        body = "".join(text for _, text in self._texts.values())
        path, data = self._folder / VIEW, (f"{_HEAD}models:\n{body}" if body else f"{_HEAD}models: {{}}\n").encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)

    def view(self) -> dict[str, Any]:
        """Returns the content of `registry.yaml`: by name the newest version, and the others under `versions`."""
        entries: dict[str, Any] = {}
        try:
            own = f"{Path.home()}/"
        except RuntimeError:  # whoever runs this has no home
            own = ""
        for model in self.models():
            entry = _entry(model, own)
            if model.name in entries:
                entries[model.name].setdefault("versions", {})[model.version] = entry
            else:
                entries[model.name] = {"version": model.version, **entry}
        return entries


def _entry(model: LocalModel, own: str) -> dict[str, Any]:
    """Returns what the view says of a model; a path that begins with `own` is written with a tilde."""
    path = str(model.path)
    path = f"~/{path[len(own) :]}" if own and path.startswith(own) else path
    entry: dict[str, Any] = {"path": path, "loaded": model.loaded_at is not None}
    if model.loaded_at is not None:
        moment = datetime.fromtimestamp(int(model.loaded_at), UTC)
        entry["loaded_at"] = moment.isoformat().replace("+00:00", "Z")
    return entry | {"source_node": model.source_node, "checksum": f"sha256:{model.manifest.checksum_sha256.hex()}"}


def _text_of(name: str, entry: dict[str, Any], known: tuple[dict[str, Any], str] | None) -> tuple[dict[str, Any], str]:
    """Returns the values of one name and their lines in the view, the known ones where nothing has changed."""
    if known is not None and known[0] == entry:
        return known
    text = yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True)
    return entry, indent(text, "  ")


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
