"""The bridge: models that belong to other programs, offered from where they lie.

What a file is was found out once, by reading it whole (`bridge_learn`), and is kept in the tables under device, inode,
size and time of the last change: a look costs only `stat`. A file that has changed is another one: its offer ends and
it is read anew. Nothing here is trusted later: every chunk is verified as it leaves.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from atmo.errors import WireError
from atmo.identity import Signer
from atmo.storage.bridge_find import BridgePlaces, Finder, Found, distinct
from atmo.storage.bridge_learn import Learnt, learn
from atmo.storage.bridge_read import Changed, holds_chunk, mtime_of, plain_key
from atmo.storage.database import Database, damaged
from atmo.storage.files import Check, nothing
from atmo.storage.idle import idle_reads
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import ChunkPlace, Manifest, ModelFile, manifest_id, open_manifest_untrusted, seal_manifest
from atmo.transfer.names import version_key
from atmo.wire import limits, schema

OFFERS_MOST = 512
"""Models of the bridge that the mesh is told of. Source: guess, half of what a node can tell of one by one."""

KEPT_S = 30 * 86_400.0
"""What is known of a file that is not there is kept so long: disks come back. Source: guess."""

GONE_MOST = 256
"""Files that are not there of which something is known. Source: guess."""

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class BridgedModel(LocalModel):
    """A model of another program on this machine; `path` is its file.

    Attributes:
        source: Which program: see `bridge_find`.
        reference: What it is called there.
        revision: Of the repository, empty where there is none.
        key: What the file was when it was hashed; `added_at` is when it was last written.
    """

    source: str = ""
    reference: str = ""
    revision: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not offered to other nodes.

    Attributes:
        source, reference, size_bytes: As of `Found`.
        path: Of the file.
        reason: For people.
    """

    source: str
    reference: str
    path: Path
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A row of the table: what reading a file told. `row` is 0 where that was of the moment: it is read again."""

    row: int
    reason: str
    sha256: bytes


class Bridge:
    """What is offered of other programs' models. Methods block: call them from worker threads.

    Args:
        database: Where what is known is kept.
        signer: Signs the manifests.
        node_name: Of this node.
        places: Where to look.
        travelling: The formats that may be offered.

    Attributes:
        on_stale: Called, in any thread, when a file turns out to have changed between two looks.
    """

    def __init__(
        self, database: Database, signer: Signer, node_name: str, places: BridgePlaces, travelling: Sequence[str]
    ) -> None:
        self.on_stale: Callable[[], None] = lambda: None
        self._database = database
        self._signer = signer
        self._node_name = node_name
        self._finder = Finder(places)
        self._travelling = travelling
        self._lock = threading.RLock()
        self._now = 0.0
        self._found: tuple[Found, ...] = ()
        self._known: dict[str, _Known] | None = None
        self._made: dict[tuple[int, str, str], BridgedModel | None] = {}
        self._offers: tuple[BridgedModel, ...] = ()
        self._left_out: tuple[LeftOut, ...] = ()
        self._files: dict[int, tuple[Path, str]] = {}

    # --- what there is --------------------------------------------------------------------------------------------

    def models(self) -> tuple[BridgedModel, ...]:
        """Returns what is offered, by name and version. Does not block."""
        return self._offers

    def left_out(self) -> tuple[LeftOut, ...]:
        """Returns the files that look like models and are not offered. Does not block."""
        return self._left_out

    @property
    def cut(self) -> str:
        """What a limit cut off in the last look, for people."""
        return self._finder.cut

    @property
    def waiting(self) -> int:
        """How many files are still to be read. Does not block."""
        known = self._known or {}
        return len({found.key for found in self._found if found.key not in known})

    def find(self, name: bytes) -> Iterator[tuple[Path, int, int]]:
        """Yields where the chunk of that BLAKE3 hash lies: file, offset, size. See `ModelStorage.add_source`.

        Who asks for the next place may have found other bytes at the last one, so that one is looked at here, too.
        """
        for row, offset, size in self._database.query(
            "SELECT file, offset, size FROM bridge_chunks WHERE hash = ?", name
        ):
            path, key = self._files.get(row, (None, ""))
            if path is None:
                continue
            if plain_key(path) != key:
                self.on_stale()
                continue
            yield path, offset, size
            if not holds_chunk(path, ChunkPlace(0, offset, size, name), key):
                self.distrust(path)

    def sealed(self, identity: bytes) -> bytes | None:
        """Returns the sealed manifest of that name, if its model is offered."""
        if not any(model.manifest_id == identity for model in self._offers):
            return None
        rows = self._database.query("SELECT sealed FROM bridge_manifests WHERE id = ?", identity)
        return bytes(rows[0][0]) if rows else None

    def distrust(self, path: Path) -> None:
        """Ends the offers of a file whose bytes turned out to be others than they were, and has it read anew."""
        with self._lock:
            keys = {model.key for model in self._offers if model.path == path}
            rows = [known.row for key, known in (self._known or {}).items() if key in keys]
            self._known = {key: known for key, known in (self._known or {}).items() if key not in keys}
            self._settle()
        with self._database.transaction() as run:
            run.executemany("DELETE FROM bridge_files WHERE id = ?", [(row,) for row in rows])
        self.on_stale()

    # --- looking --------------------------------------------------------------------------------------------------

    def scan(self, now: float) -> bool:
        """Looks what files there are, without reading one; returns whether the offers are others than before.

        Args:
            now: Unix seconds.
        """
        found = tuple(self._finder.look())
        with self._lock:
            self._now = now
            if self._known is None:
                self._known = self._load(found, now)
            self._known = {key: known for key, known in self._known.items() if known.row}  # the others get a new try
            self._forget({one.key for one in found})
            self._found = found
            return self._settle()

    def work(self, check: Check = nothing) -> bool | None:
        """Reads the next file that is not known yet; returns whether the offers changed, None where nothing waits.

        Args:
            check: Told of the bytes done, may raise to stop.
        """
        with self._lock:
            known = self._known if self._known is not None else {}
            found = next((found for found in self._found if found.key not in known), None)
        if found is None:
            return None
        try:
            with idle_reads():
                learnt = self._keep(found, learn(found, self._travelling, check))
        except Changed as error:
            learnt = _Known(0, str(error), b"")
        with self._lock:
            assert self._known is not None
            self._known[found.key] = learnt
            return self._settle()

    def _load(self, found: Sequence[Found], now: float) -> dict[str, _Known]:
        """Reads the table, notes what has been seen, and forgets what has not been seen for long."""
        seen = {one.key for one in found}
        rows = self._database.query("SELECT id, key, seen_at FROM bridge_files")
        stale = [(now, row) for row, key, seen_at in rows if key in seen and not 0 <= now - seen_at < _DAY_S]
        with self._database.transaction() as run:
            run.executemany("UPDATE bridge_files SET seen_at = ? WHERE id = ?", stale)
            run.execute("DELETE FROM bridge_files WHERE seen_at < ?", (now - KEPT_S,))
        rows = self._database.query("SELECT id, key, reason, sha256 FROM bridge_files")
        return {key: _Known(row, reason, bytes(sha256)) for row, key, reason, sha256 in rows}

    def _forget(self, seen: set[str]) -> None:
        """Forgets the oldest of the many files that are not there any more, such as a training's states."""
        assert self._known is not None
        gone = sorted((known.row, key) for key, known in self._known.items() if key not in seen)[:-GONE_MOST]
        if gone:
            with self._database.transaction() as run:
                run.executemany("DELETE FROM bridge_files WHERE id = ?", [(row,) for row, _ in gone])
            for _, key in gone:
                del self._known[key]

    def _keep(self, found: Found, learnt: Learnt) -> _Known:
        about, packed, sha256 = "", b"", b""
        if learnt.file is not None:
            about, packed, sha256 = json.dumps(learnt.about), schema.pack(learnt.file), learnt.file.sha256
        with self._database.transaction() as run:
            run.execute("DELETE FROM bridge_files WHERE key = ?", (found.key,))
            row = run.execute(
                "INSERT INTO bridge_files (key, seen_at, reason, about, sha256, file) VALUES (?, ?, ?, ?, ?, ?)",
                (found.key, self._now, learnt.reason, about, sha256, packed),
            ).lastrowid
            assert row is not None
            chunks = _chunks(row, learnt.file) if learnt.file is not None else ()
            run.executemany("INSERT INTO bridge_chunks (hash, file, offset, size) VALUES (?, ?, ?, ?)", chunks)
        return _Known(row, learnt.reason, sha256)

    # --- offering -------------------------------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Makes offers of what is there and known; returns whether they are others than before."""
        known = self._known or {}
        offers: dict[tuple[str, str], BridgedModel] = {}
        left_out: list[LeftOut] = []
        made: dict[tuple[int, str, str], BridgedModel | None] = {}
        for found in self._found:
            about = known.get(found.key)
            if about is None:
                continue
            reason = about.reason
            if about.sha256:
                reason = _broken_promise(found, about) or self._offer(found, about, offers, made)
            if reason:
                left_out.append(LeftOut(found.source, found.reference, found.path, found.size_bytes, reason))
        before, self._made = self._offers, made
        self._offers = tuple(offers[key] for key in sorted(offers))
        self._left_out = tuple(left_out)
        self._files = {known[model.key].row: (model.path, model.key) for model in self._offers}
        return [model.manifest_id for model in before] != [model.manifest_id for model in self._offers]

    def _offer(
        self,
        found: Found,
        about: _Known,
        offers: dict[tuple[str, str], BridgedModel],
        made: dict[tuple[int, str, str], BridgedModel | None],
    ) -> str:
        """Adds the offer of one file, or returns why not; a file whose name another one has gets a longer one."""
        version = f"0+g{found.revision[:8]}" if found.revision else f"0+s{about.sha256.hex()[:8]}"
        name = found.name
        taken = offers.get((name, version_key(version)))
        if taken is not None and taken.manifest.checksum_sha256 != about.sha256:
            name = distinct(name[: limits.NAME_CHARS - 9], found.reference)
            taken = offers.get((name, version_key(version)))
        if taken is not None:
            return ""
        if len(offers) >= OFFERS_MOST:
            return f"{OFFERS_MOST} models of the bridge are offered, which is the most"
        key = (about.row, name, version)
        model = self._made[key] if key in self._made else self._model(found, about, name, version)
        if model is not None and model.path != found.path:
            model = replace(model, path=found.path)
        made[key] = model
        if model is None:
            return "what it says of itself does not fit into a manifest"
        offers[name, version_key(version)] = model
        return ""

    def _model(self, found: Found, about: _Known, name: str, version: str) -> BridgedModel | None:
        """Returns the model of a file with its manifest of an earlier run or a new one; None where none can be made."""
        rows = self._database.query(
            "SELECT sealed FROM bridge_manifests WHERE file = ? AND name = ? AND version = ?", about.row, name, version
        )
        sealed = bytes(rows[0][0]) if rows else self._seal(found, about, name, version)
        if sealed is None:
            return None
        try:
            manifest, publisher = open_manifest_untrusted(sealed)
        except WireError as error:
            raise damaged(self._database.path, f"a manifest in it is not sound: {error}") from error
        return BridgedModel(
            manifest,
            manifest_id(sealed),
            publisher,
            found.path,
            self._node_name,
            added_at=mtime_of(found.key),
            loaded_at=None,
            source=found.source,
            reference=found.reference,
            revision=found.revision,
            key=found.key,
        )

    def _seal(self, found: Found, about: _Known, name: str, version: str) -> bytes | None:
        ((text, packed),) = self._database.query("SELECT about, file FROM bridge_files WHERE id = ?", about.row)
        told = json.loads(text)
        file = schema.unpack_untrusted(ModelFile, bytes(packed), limits.MANIFEST_BYTES, max_items=limits.MANIFEST_ITEMS)
        where = {"source": found.source, "reference": found.reference, "revision": found.revision}
        try:
            manifest = Manifest(
                name=name,
                version=version,
                type=told["type"],
                file=found.file_name,
                format=told["format"],
                size_bytes=file.size_bytes,
                checksum_sha256=file.sha256,
                files=(replace(file, path=found.file_name),),
                capabilities=tuple(told["capabilities"]),
                config={**told["config"], "bridge": where},
            )
            sealed = seal_manifest(self._signer, manifest)
        except ValueError:
            return None
        with self._database.transaction() as run:  # it may be that of a file that was here before, with the same bytes
            run.execute(
                "INSERT OR REPLACE INTO bridge_manifests (id, file, name, version, sealed) VALUES (?, ?, ?, ?, ?)",
                (manifest_id(sealed), about.row, name, version, sealed),
            )
        return sealed


def _chunks(row: int, file: ModelFile) -> Iterator[tuple[bytes, int, int, int]]:
    offset = 0
    for name, size in zip(file.chunks, file.chunk_sizes, strict=True):
        yield name, row, offset, size
        offset += size


def _broken_promise(found: Found, about: _Known) -> str:
    """Returns why a file is not what its place says; empty where it is."""
    if not found.expected or found.expected == about.sha256:
        return ""
    return (
        f"its name promises the SHA-256 {found.expected.hex()[:16]}... and its bytes have {about.sha256.hex()[:16]}...:"
        " delete it and download it again"
    )
