"""Files of other programs that may be models: names and sizes only, nothing of a model is read here.

Layouts. HuggingFace: `models--ORG--NAME/snapshots/REVISION/FILE`, links to `blobs/` whose names are SHA-256 for what
git LFS keeps and git's SHA-1 for the rest. Sources: huggingface_hub's documentation, "Understand caching". Ollama:
`manifests/REGISTRY/NAMESPACE/NAME/TAG`, JSON whose layers are `blobs/sha256-...`. Source: ollama, docs and `server`.
Anybody may have written there, so everything is bounded and a link counts only where it ends in the same place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atmo.storage.bridge_read import Changed, key_of, open_plain
from atmo.transfer.names import check_path, name_from
from atmo.wire import limits

HUGGINGFACE, OLLAMA, LLAMAFARM, FOLDER = "huggingface", "ollama", "llamafarm", "folder"

DEPTH_MOST = 8
"""Folders below the first one. Source: guess; snapshots are two or three deep."""

ENTRIES_MOST = 200_000
"""Names looked at in one scan, over all places. Source: guess, a second or two of work."""

FILES_MOST = 4_096
"""Files in one scan that may be models. Source: guess."""

MANIFEST_MOST_BYTES = 256 * 1024
"""Of one manifest of Ollama's. Source: guess, a hundred times what they have."""

LAYERS_MOST = 256
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_REVISION = re.compile(r"[0-9a-f]{40}")
_NO_MODELS = (
    *(".json", ".jsonl", ".txt", ".md", ".rst", ".py", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".csv", ".tsv"),
    *(".html", ".jinja", ".vocab", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf"),
    *(".lock", ".log", ".part", ".incomplete", ".tmp"),
)
"""What lies beside models. Source: guess, from caches of ours."""


@dataclass(frozen=True, slots=True)
class BridgePlaces:
    """Where models of other programs are.

    Attributes:
        llamafarm: LlamaFarm's folder of models, None to leave it alone.
        huggingface: The `hub` folder of HuggingFace's cache, likewise.
        ollama: Ollama's store, likewise.
        folders: Others of the user's.
    """

    llamafarm: Path | None = None
    huggingface: Path | None = None
    ollama: Path | None = None
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A plain file that may be a model.

    Attributes:
        source: Which program it belongs to: `huggingface`, `ollama`, `llamafarm`, `folder`.
        reference: What it is called there, for people: printable.
        name: What the model is called here.
        file_name: Of the file in its manifest.
        path: The file itself, no link.
        key: Device, inode, size and time of the last change.
        size_bytes: Of the file.
        expected: The SHA-256 that its place promises, empty where it promises none.
        revision: 40 digits, empty where there is none.
    """

    source: str
    reference: str
    name: str
    file_name: str
    path: Path
    key: str
    size_bytes: int
    expected: bytes = b""
    revision: str = ""


class Finder:
    """Looks through places; remembers what it read of manifests, so that a second look costs only `stat`.

    Args:
        places: Where to look.

    Attributes:
        cut: What a limit cut off in the last look, for people; empty where nothing was.
    """

    def __init__(self, places: BridgePlaces) -> None:
        self._places = places
        self._read: dict[Path, tuple[str, bytes]] = {}
        self._entries = 0
        self.cut = ""

    def look(self) -> list[Found]:
        """Returns what is there now, in the same order for the same files."""
        self.cut, self._entries = "", 0
        places = self._places
        found: list[Found] = []
        if places.llamafarm is not None:
            found += self._folder(places.llamafarm, LLAMAFARM)
        if places.huggingface is not None:
            found += self._huggingface(places.huggingface)
        if places.ollama is not None:
            found += self._ollama(places.ollama)
        for folder in places.folders:
            found += self._folder(folder, FOLDER)
        if len(found) > FILES_MOST:
            self.cut = f"There are {len(found)} files that may be models; the first {FILES_MOST} are looked at."
        return found[:FILES_MOST]

    def _folder(self, folder: Path, source: str) -> Iterator[Found]:
        root = Path(os.path.realpath(folder))
        for parts, path in self._walk(root):
            owner = "-".join(parts[:-1])
            reference = "/".join(parts)
            name = _model_name(owner, parts[-1], "", reference)
            yield from _found(root, path, source, reference, name)

    def _huggingface(self, hub: Path) -> Iterator[Found]:
        root = Path(os.path.realpath(hub))
        for folder in self._names(root):
            _, *words = folder.split("--")
            if not folder.startswith("models--") or not any(words):
                continue
            owner, name = ("", words[0]) if len(words) == 1 else (words[0], "-".join(words[1:]))
            snapshots = root / folder / "snapshots"
            for revision in self._names(snapshots) if _is_folder(snapshots) else ():
                for parts, path in self._walk(snapshots / revision):
                    inside = "/".join(parts)
                    reference = f"{'/'.join(words)}/{inside}"
                    known = revision if _REVISION.fullmatch(revision) else ""
                    title = _model_name(owner, name, inside, reference)
                    for found in _found(root, path, HUGGINGFACE, reference, title):
                        yield replace(found, revision=known, expected=_promised(found.path.name))

    def _ollama(self, store: Path) -> Iterator[Found]:
        root = Path(os.path.realpath(store))
        for parts, path in self._walk(root / "manifests"):
            if len(parts) != 4 or path.is_symlink():
                continue
            _, namespace, name, tag = parts
            digest = self._layer(path)
            if not digest:
                continue
            owner = "" if namespace == "library" else namespace
            reference = f"{owner}/{name}:{tag}" if owner else f"{name}:{tag}"
            title = _model_name(owner, name, tag, reference)
            blob = root / "blobs" / f"sha256-{digest.hex()}"
            for found in _found(root, blob, OLLAMA, reference, title, f"{name}-{tag}.gguf"):
                yield replace(found, expected=digest)

    def _layer(self, path: Path) -> bytes:
        """Returns the SHA-256 of the model in a manifest of Ollama's, empty where it has none."""
        try:
            key = key_of(path.lstat())
            if (kept := self._read.get(path)) is not None and kept[0] == key:
                return kept[1]
            digest = _layer_untrusted(path)
        except (OSError, Changed):
            return b""
        if len(self._read) >= FILES_MOST:
            self._read.clear()
        self._read[path] = (key, digest)
        return digest

    def _walk(self, root: Path, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Path]]:
        """Yields files and links below a folder with the names that lead there; links to folders are not entered."""
        for name in self._names(root):
            path = root / name
            if _is_folder(path):
                if len(parts) < DEPTH_MOST:
                    yield from self._walk(path, (*parts, name))
            elif not name.startswith(".") and path.suffix.lower() not in _NO_MODELS:
                yield (*parts, name), path

    def _names(self, folder: Path) -> list[str]:
        left = ENTRIES_MOST - self._entries
        names: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if len(names) >= left:
                        self.cut = f"There are more than {ENTRIES_MOST} names; those from {printable(folder)} on wait."
                        break
                    names.append(entry.name)
        except OSError:  # gone meanwhile, no folder, or not ours to read: there is nothing to offer
            return []
        self._entries += len(names)
        return sorted(names)


def printable(text: str | Path) -> str:
    """Returns a name of the disk as one line that a terminal shows as it is."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def _found(
    root: Path, path: Path, source: str, reference: str, name: str, file_name: str | None = None
) -> Iterator[Found]:
    """Yields the plain file that a path leads to, if it lies below `root` and is not empty."""
    real = Path(os.path.realpath(path))
    if root not in real.parents:
        return
    try:
        status = real.lstat()
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_size:
        shown = printable(reference)
        wanted = _file_name(file_name or path.name)
        yield Found(source, shown, name, wanted, real, key_of(status), status.st_size)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _promised(blob: str) -> bytes:
    return bytes.fromhex(blob) if re.fullmatch("[0-9a-f]{64}", blob) else b""


def _layer_untrusted(path: Path) -> bytes:
    descriptor = open_plain(path)
    try:
        raw = os.pread(descriptor, MANIFEST_MOST_BYTES + 1, 0)
    finally:
        os.close(descriptor)
    if len(raw) > MANIFEST_MOST_BYTES:
        return b""
    try:
        document: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return b""
    layers = document.get("layers") if isinstance(document, dict) else None
    for layer in layers[:LAYERS_MOST] if isinstance(layers, list) else ():
        match layer:
            case {"mediaType": str() as kind, "digest": str() as digest} if kind == _MODEL_LAYER:
                sound = _DIGEST.fullmatch(digest)
                return bytes.fromhex(sound[1]) if sound else b""
    return b""


def _file_name(text: str) -> str:
    """Returns `text` where it may stand in a manifest, else what is left of it."""
    try:
        if text.isascii() and text.isprintable() and "/" not in text:
            return check_path(text)
    except ValueError:
        pass
    stem, dot, suffix = text.rpartition(".")
    return f"model-{name_from(stem)[:80]}.{name_from(suffix)[:16]}" if dot else f"model-{name_from(text)[:80]}"


def _model_name(owner: str, name: str, tag: str, reference: str) -> str:
    """Makes `[owner/]name[:tag]` of names on the disk; one that is too long is cut and gets a number of its own."""
    head = f"{name_from(owner)}/{name_from(name)}" if owner else name_from(name)
    whole = f"{head}:{name_from(tag.replace('/', '-'))}" if tag else head
    if len(whole) <= limits.NAME_CHARS - 9 and len(owner) + len(name) + len(tag) < limits.NAME_CHARS:
        return whole
    parts = [name_from(owner)[:30] + "/" if owner else "", name_from(name)[:40]]
    return distinct("".join(parts) + (f":{name_from(tag.replace('/', '-'))[:40]}" if tag else ""), reference)


def distinct(name: str, reference: str) -> str:
    """Returns a name that only this reference has: eight digits are added."""
    return f"{name}-{hashlib.sha256(reference.encode(errors='surrogateescape')).hexdigest()[:8]}"
