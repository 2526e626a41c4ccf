"""Reading a store again, byte by byte, and repairing what is damaged.

A damaged file is not changed in place: a whole new one is made beside it, from what is right in it, from other places
here and from what the caller fetches, and renamed over it. Who has the old one open or mapped keeps it, and a kill at
any instant leaves the old one or the new one. A file that cannot be made whole stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atmo.errors import UserError
from atmo.storage import files, hashing
from atmo.storage.audit import Event
from atmo.storage.files import Check
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import ChunkPlace, ModelFile, chunk_hash
from atmo.transfer.names import Spec

if TYPE_CHECKING:
    from atmo.storage.chunks import ModelStorage

Repair = Callable[[bytes, int], bytes | None]
"""Fetches a chunk from elsewhere: BLAKE3 hash, size in bytes; None where nobody has it. Called in the worker thread."""

Kind = Literal["missing file", "wrong size", "wrong bytes", "unreadable", "wrong SHA-256"]

DAMAGES_MOST = 10_000
"""Places that a report lists; further ones are counted. Source: guess, 10 GB of damage."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place that is not what it should be.

    Attributes:
        name, version: Of the model.
        file: Path in the manifest.
        path: On the disk.
        kind: What is wrong.
        offset, size: Where, in bytes; the whole file where it is about that.
        repaired: Whether it is right again.
    """

    name: str
    version: str
    file: str
    path: str
    kind: Kind
    offset: int
    size: int
    repaired: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        models, files, bytes: How much was read.
        damages: Places that were not what they should be, `DAMAGES_MOST` at most.
        damaged: How many there were.
        repaired: How many of them are right again.
    """

    models: int
    files: int
    bytes: int
    damages: tuple[Damage, ...]
    damaged: int
    repaired: int

    @property
    def clean(self) -> bool:
        """Says that everything is right now."""
        return self.damaged == self.repaired

    def to_json(self) -> dict[str, Any]:
        """Returns it for programs."""
        return asdict(self) | {"damages": [asdict(damage) for damage in self.damages], "clean": self.clean}


def verify(storage: ModelStorage, spec: Spec | None, check: Check, repair: Repair | None, who: str) -> VerifyReport:
    """Reads models again: every chunk by BLAKE3, every file by SHA-256.

    Args:
        storage: Whose models; those under verification are pinned.
        spec: Which, None for all.
        check: Called with the bytes read so far; it may raise to stop.
        repair: Where chunks come from that are right nowhere here; None to repair nothing.
        who: At whose wish, for the audit log.

    Raises:
        UserError: There is no such model, or there is no room for a repair.
    """
    models = storage.models()
    if spec is not None:
        of_name = [model for model in models if model.name == spec.name]
        versions = spec.matching([model.version for model in of_name])
        if spec.text == "latest":
            versions = [model.version for model in of_name[:1]]
        models = [model for model in of_name if model.version in versions]
        if not models:
            raise UserError(f"There is no model {spec.name} of that version here.", "See `atmo model list`.")
    run = _Verification(storage, check, repair, who)
    for model in models:
        with storage.pin(model.manifest_id, "a verification"):
            run.model(model)
    return run.report()


class _Verification:
    """One run over models."""

    def __init__(self, storage: ModelStorage, check: Check, repair: Repair | None, who: str) -> None:
        self._storage = storage
        self._check = check
        self._repair = repair
        self._who = who
        self._models = self._files = self._bytes = self._damaged = self._repaired = 0
        self._damages: list[Damage] = []

    def report(self) -> VerifyReport:
        return VerifyReport(self._models, self._files, self._bytes, tuple(self._damages), self._damaged, self._repaired)

    def model(self, model: LocalModel) -> None:
        paths = self._storage.registry.paths_of(model.name, model.version)
        if not paths:
            return  # removed since
        self._models += 1
        places: list[list[ChunkPlace]] = [[] for _ in model.manifest.files]
        for place in model.manifest.chunk_places():
            places[place.file].append(place)
        for file, own in zip(model.manifest.files, places, strict=True):
            self._file(model, file, paths[file.path], own)

    def _file(self, model: LocalModel, file: ModelFile, path: Path, places: list[ChunkPlace]) -> None:
        found = self._examine(file, path, places)
        self._files += 1
        repaired = False
        if found and self._repair is not None and found[0][0] != "wrong SHA-256":
            repaired = self._rebuild(model, file, path, places, self._repair)
        for kind, offset, size in found:
            self._damaged += 1
            self._repaired += repaired
            if len(self._damages) < DAMAGES_MOST:
                self._damages.append(
                    Damage(model.name, model.version, file.path, str(path), kind, offset, size, repaired)
                )

    def _examine(self, file: ModelFile, path: Path, places: list[ChunkPlace]) -> list[tuple[Kind, int, int]]:
        """Returns what is wrong with a file: kind, offset, size."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return [("missing file", 0, file.size_bytes)]
        except OSError:
            return [("unreadable", 0, file.size_bytes)]
        found: list[tuple[Kind, int, int]] = []
        whole = hashlib.sha256()
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                return [("unreadable", 0, file.size_bytes)]
            if about.st_size != file.size_bytes:
                found.append(("wrong size", 0, about.st_size))
            for place in places:
                try:
                    data = os.pread(descriptor, place.size, place.offset)
                except OSError:
                    found.append(("unreadable", place.offset, place.size))
                else:
                    whole.update(data)
                    if chunk_hash(data) != place.hash:
                        found.append(("wrong bytes", place.offset, place.size))
                self._bytes += place.size
                self._check(self._bytes)
        finally:
            os.close(descriptor)
        if not found and whole.digest() != file.sha256:
            found.append(("wrong SHA-256", 0, file.size_bytes))
        return found

    def _rebuild(
        self, model: LocalModel, file: ModelFile, path: Path, places: list[ChunkPlace], repair: Repair
    ) -> bool:
        """Makes a whole new file and puts it in the place of the damaged one; says whether that worked."""
        storage = self._storage
        checksum, outcome = f"sha256:{file.sha256.hex()}", "chunks are missing"
        try:
            with storage.incoming(file.size_bytes) as target:
                if self._fill(target, file, places, repair):
                    with storage.lock:
                        if storage.registry.paths_of(model.name, model.version).get(file.path) == path:
                            path.parent.mkdir(parents=True, exist_ok=True)
                            target.replace(path)
                            files.sync_folder(path.parent)
                    outcome = "ok"
        except OSError as error:
            raise files.as_user_error(error, f"Repairing {path}") from error
        except UserError as error:
            damaged = f"{model.name} {model.version} is damaged and was not repaired"
            raise UserError(f"{damaged}: {error.message}", error.hint) from error
        storage.note(Event("repair", self._who, model.name, model.version, file.path, checksum, outcome))
        return outcome == "ok"

    def _fill(self, target: Path, file: ModelFile, places: list[ChunkPlace], repair: Repair) -> bool:
        """Writes a new file from all chunks, wherever they are; False where one cannot be had."""
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, file.size_bytes)
            for place in places:
                if self._storage.reader.put(place.hash, place.size, descriptor, place.offset) is None:
                    data = repair(place.hash, place.size)
                    if data is None or len(data) != place.size or chunk_hash(data) != place.hash:
                        return False
                    files.write_at(descriptor, memoryview(data), place.offset)
                self._check(self._bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return hashing.sha256_of(target) == file.sha256
