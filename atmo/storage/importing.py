"""From a file of the user's to a model of the store.

What a manifest says comes, in this order, from what the caller says, from a sidecar (`<file>.yaml` or
`model-manifest.yaml` beside the file), and from the file itself. Files that run code when they are loaded are only
stored converted to ONNX; where there is no conversion they are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from atmo.errors import UserError, WireError
from atmo.identity import Signer
from atmo.storage import files, hashing
from atmo.storage.audit import USER
from atmo.storage.chunks import ModelStorage
from atmo.storage.files import Check, nothing
from atmo.storage.formats import Detected, detect
from atmo.storage.registry import LocalModel
from atmo.transfer.document import fields_from_document_untrusted
from atmo.transfer.manifest import CHUNK_BYTES, Manifest, ModelFile, seal_manifest
from atmo.transfer.names import check_version, name_from, next_version, parse_spec, version_key

SIDECAR = "model-manifest.yaml"
_SIDECAR_MOST_BYTES = 1024 * 1024
_CONVERTIBLE = "sklearn"
_CLAIMS = ("size_bytes", "checksum_sha256")
SOURCE_SHA256 = "source_sha256"
"""Under this key the config of a converted model tells the file that it was made from."""


class Converted(Protocol):
    """What a conversion to ONNX learnt about the model."""

    @property
    def type(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def capabilities(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that can become a model.

    Attributes:
        source: The user's file.
        detected: What it is.
        fields: What caller and sidecar say, as arguments of `Manifest`.
        claims: `size_bytes` and `checksum_sha256` of the sidecar, to be held against the file.
        publish: The sidecar lets the mesh hear of it.
    """

    source: Path
    detected: Detected
    fields: Mapping[str, Any] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    publish: bool = True

    @property
    def name(self) -> str:
        """The model's name: what was said, else made of the file's name."""
        return self.fields.get("name") or name_from(self.source.stem)


def look_at(source: Path, said: Mapping[str, Any]) -> Candidate:
    """Detects the format and reads the sidecar.

    Args:
        source: The user's file.
        said: What the caller says, as arguments of `Manifest`; None and empty values say nothing.

    Raises:
        UserError: The file is no whole model that is known here, it runs code and cannot be converted, or its sidecar
            is not sound.
    """
    detected = detect(source)
    if detected.runs_code and detected.format != _CONVERTIBLE:
        raise UserError(
            f"{source} is a PyTorch file, which can run code when it is loaded, and cannot be converted here.",
            "Export the model to ONNX (torch.onnx.export), or save its weights as safetensors, and import that.",
        )
    fields = _read_sidecar(source)
    claims: dict[str, Any] = {name: fields.pop(name) for name in _CLAIMS if name in fields}
    publish = fields.pop("publish", True)
    fields |= {name: value for name, value in said.items() if value}
    fields.pop("file", None)
    fields.pop("format", None)
    if "version" in fields:
        try:
            fields["version"] = check_version(fields["version"])
        except ValueError as error:
            raise UserError(f"{error}.", "Give one with --version.") from error
    candidate = Candidate(source, detected, fields, claims, publish)
    nothing_yet = ModelFile(f"model{detected.suffix}", 0, bytes(32), CHUNK_BYTES, b"")
    _describe(candidate, None, fields.get("version", "1.0.0"), nothing_yet)  # before a long copy, not after it
    return candidate


@dataclass(frozen=True, slots=True)
class Preview:
    """What a file would become, as far as can be told before it is imported.

    Attributes:
        name, version, type, capabilities, description: As the manifest would have them; what was said, else a guess.
        format: Of the file; `converted` where it would be stored as ONNX.
        size_bytes: Of the file.
        converted: It can run code, so that only its ONNX form would be stored.
        config: What the file tells of itself.
    """

    name: str
    version: str
    type: str
    format: str
    capabilities: tuple[str, ...]
    description: str
    size_bytes: int
    converted: bool
    config: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return {**asdict(self), "capabilities": list(self.capabilities), "config": dict(self.config)}


def preview(storage: ModelStorage, candidate: Candidate) -> Preview:
    """Returns what a file would become; a version that nobody named is the next free one."""
    fields, detected = candidate.fields, candidate.detected
    held = [model.version for model in storage.models() if model.name == candidate.name]
    return Preview(
        name=candidate.name,
        version=fields.get("version") or next_version(held),
        type=fields.get("type") or detected.type,
        format=detected.format,
        capabilities=tuple(fields.get("capabilities") or detected.capabilities),
        description=fields.get("description", ""),
        size_bytes=candidate.source.stat().st_size,
        converted=detected.runs_code,
        config=detected.config,
    )


def converted_before(storage: ModelStorage, candidate: Candidate, check: Check = nothing) -> LocalModel | None:
    """Returns the newest model of the same name that was made from this very file, unless another version is wanted.

    Raises:
        UserError: The file cannot be read.
    """
    wanted = candidate.fields.get("version")
    made = [model for model in storage.models() if model.name == candidate.name and SOURCE_SHA256 in model.config]
    if not made:
        return None
    try:
        sha256 = hashing.sha256_of(candidate.source, check).hex()
    except OSError as error:
        raise files.as_user_error(error, f"Reading {candidate.source}") from error
    same = (model for model in made if model.config[SOURCE_SHA256] == sha256)
    return next((model for model in same if wanted in (None, model.version)), None)


def check_claims(candidate: Candidate, size_bytes: int, sha256: bytes) -> None:
    """Holds the sidecar's size and checksum against the file's.

    Raises:
        UserError: One of them is another's.
    """
    claims = candidate.claims
    if claims.get("size_bytes", size_bytes) != size_bytes:
        raise UserError(
            f"The manifest beside {candidate.source} says {claims['size_bytes']} bytes and the file has {size_bytes}.",
            "Correct the manifest, or get the right file.",
        )
    if claims.get("checksum_sha256", sha256) != sha256:
        raise UserError(
            f"The manifest beside {candidate.source} has another SHA-256 than the file, which has {sha256.hex()}.",
            "Correct the manifest, or get the right file.",
        )


def store(
    storage: ModelStorage,
    signer: Signer,
    node_name: str,
    candidate: Candidate,
    converted: tuple[Path, Converted] | None = None,
    check: Check = nothing,
) -> LocalModel:
    """Copies the file (or what it was converted to) into the store, hashing it, and registers it.

    The very same content under the same name and version is not stored again. A version that nobody named is the next
    free one. Models are evicted where the limits of the store want it.

    Raises:
        UserError: The file runs code when it is loaded and is not converted, there is not enough room, the limits of
            the store forbid it, the disk fails, the sidecar lies, or the version is taken.
    """
    if candidate.detected.runs_code and not converted:
        raise unconverted(candidate.source)
    source = converted[0] if converted else candidate.source
    try:
        storage.limits.check_size(source.stat().st_size)
        if converted:
            original = hashing.sha256_of(candidate.source, check)
            check_claims(candidate, candidate.source.stat().st_size, original)
            candidate = replace(candidate, fields=_with_source(candidate.fields, original))
        with storage.incoming(source.stat().st_size) as target:
            suffix = ".onnx" if converted else candidate.detected.suffix
            file = hashing.copy_hashed(source, target, f"model{suffix}", check)
            if not converted:
                check_claims(candidate, file.size_bytes, file.sha256)
            storage.reader.merge(target, file, source)
            return _register(storage, signer, node_name, candidate, converted[1] if converted else None, file, target)
    except OSError as error:
        raise files.as_user_error(error, f"Importing {candidate.source}") from error


def _with_source(fields: Mapping[str, Any], sha256: bytes) -> dict[str, Any]:
    return {**fields, "config": {**(fields.get("config") or {}), SOURCE_SHA256: sha256.hex()}}


def _register(
    storage: ModelStorage,
    signer: Signer,
    node_name: str,
    candidate: Candidate,
    converted: Converted | None,
    file: ModelFile,
    target: Path,
) -> LocalModel:
    name, wanted = candidate.name, candidate.fields.get("version")
    with storage.lock:
        same = storage.find_same(name, file.sha256)
        if same is not None and wanted in (None, same.version):
            _renew(storage, same, target)
            return same
        held = [model.version for model in storage.models() if model.name == name]
        manifest = _describe(candidate, converted, wanted or next_version(held), file)
        try:
            sealed = seal_manifest(signer, manifest)
        except ValueError as error:
            raise _unfit(candidate, error) from error
        if version_key(manifest.version) not in map(version_key, held):  # else it is refused
            storage.make_room(file.size_bytes)
        return storage.register(target, sealed, node_name, who=USER, source=str(candidate.source))


def _renew(storage: ModelStorage, model: LocalModel, staged: Path) -> None:
    """Reads again what is here, and repairs it from the file that was imported once more."""
    offsets = {place.hash: place.offset for place in model.manifest.chunk_places()}
    with staged.open("rb", buffering=0) as file:

        def read(name: bytes, size: int) -> bytes | None:
            return os.pread(file.fileno(), size, offsets[name]) if name in offsets else None

        storage.verify(parse_spec(f"{model.name}@{model.version}"), nothing, read, USER)


def _describe(candidate: Candidate, converted: Converted | None, version: str, file: ModelFile) -> Manifest:
    """Puts together what caller, sidecar and file say.

    Raises:
        UserError: It breaks the rules of manifests.
    """
    fields = {name: value for name, value in candidate.fields.items() if name not in ("name", "version")}
    about: Detected | Converted = converted or candidate.detected
    try:
        return Manifest(
            name=candidate.name,
            version=version,
            type=fields.pop("type", about.type),
            file=file.path,
            format="onnx" if converted else candidate.detected.format,
            size_bytes=file.size_bytes,
            checksum_sha256=file.sha256,
            files=(file,),
            capabilities=tuple(fields.pop("capabilities", ()) or about.capabilities),
            config={**about.config, **fields.pop("config", {})},
            **fields,
        )
    except ValueError as error:
        raise _unfit(candidate, error) from error


def unconverted(source: Path) -> UserError:
    """Returns the error for a file that must be converted where nothing can do it."""
    return UserError(
        f"{source} runs code when it is loaded, and nothing here can convert it.", "Export it to ONNX first."
    )


def _unfit(candidate: Candidate, error: ValueError) -> UserError:
    return UserError(f"{candidate.source} cannot be imported: {error}.", "Correct what it is given.")


def _read_sidecar(source: Path) -> dict[str, Any]:
    own = source.with_name(source.name + ".yaml")
    shared = source.with_name(SIDECAR)
    if own.is_file():
        return _parse_sidecar(own)
    if shared.is_file() and shared != source:
        fields = _parse_sidecar(shared)
        if fields.get("file", source.name) == source.name:
            return fields
    return {}


def _parse_sidecar(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _SIDECAR_MOST_BYTES:
            raise UserError(f"The manifest {path} is larger than 1 MiB.", "Move it away, or correct it.")
        return fields_from_document_untrusted(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"Cannot read the manifest {path}: {error.strerror}.", "Check its permissions.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UserError(f"The manifest {path} is not YAML{line}.", "Correct it, or move it away.") from error
    except WireError as error:
        raise UserError(f"The manifest {path} is not sound: {error}.", "Correct it, or move it away.") from error
