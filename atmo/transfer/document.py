"""Manifests as YAML documents (docs/manifest.md): plain maps here, files and YAML elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.transfer import names
from atmo.transfer.manifest import Deployment, Manifest, NodeRequirements
from atmo.transfer.terms import Access, Base
from atmo.wire import schema


def to_document(manifest: Manifest, publisher: NodeId | None = None) -> dict[str, Any]:
    """Returns the manifest with the names and the order of docs/manifest.md; chunk lists are told by their number."""
    document: dict[str, Any] = {"name": manifest.name, "version": manifest.version, "type": manifest.type}
    document |= {
        "description": manifest.description,
        "trained_on": manifest.trained_on,
        "training_data_domain": manifest.training_data_domain,
        "training_node": manifest.training_node,
        "file": manifest.file,
        "format": manifest.format,
        "size_bytes": manifest.size_bytes,
        "checksum_sha256": manifest.checksum_sha256.hex(),
        "requirements": list(manifest.requirements),
        "capabilities": list(manifest.capabilities),
        "config": dict(manifest.config),
        "node_requirements": schema.to_wire(manifest.node_requirements),
        "deployment": schema.to_wire(manifest.deployment),
        "access": schema.to_wire(manifest.access),
        "base": _base_document(manifest.base),
        "files": [
            {
                "path": file.path,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256.hex(),
                "chunk_bytes": file.chunk_bytes,
                "chunks": len(file.hashes) // 32,
            }
            for file in manifest.files
        ],
    }
    if publisher is not None:
        document["publisher"] = str(publisher)
    return document


def _base_document(base: Base | None) -> dict[str, Any] | None:
    if base is None:
        return None
    known = {"manifest": base.manifest.hex()} if base.manifest is not None else {}
    return {"name": base.name, "version": base.version, **known}


def fields_from_document_untrusted(document: Any) -> dict[str, Any]:
    """Reads what a `model-manifest.yaml` says into arguments of `Manifest`; everything may be absent.

    Unknown names are ignored, and so is `files`: the files themselves are read instead. `size_bytes` and
    `checksum_sha256` come back as claims to be checked against the file, and `publish` says whether others hear of it.

    Raises:
        WireError: A field has the wrong type; the message names it.
    """
    if not isinstance(document, Mapping):
        raise WireError("a model manifest is a map of names to values")
    return {name: reader(document[name], name) for name, reader in _READERS.items() if document.get(name) is not None}


def _text(value: Any, name: str) -> str:
    if type(value) is not str:
        raise WireError(f"{name} is not text")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if type(value) is not list:
        raise WireError(f"{name} is not a list")
    return tuple(_text(item, name) for item in value)


def _map(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise WireError(f"{name} is not a map")
    return dict(value)


def _flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise WireError(f"{name} is neither true nor false")
    return value


def _version(value: Any, name: str) -> str:
    """YAML reads `version: 1.0` as a number; its text is what was meant."""
    if type(value) not in (str, int, float):
        raise WireError(f"{name} is not text")
    try:
        return names.check_version(str(value))
    except ValueError as error:
        raise WireError(str(error)) from error


def _time(value: Any, name: str) -> str:
    """YAML reads ISO times as times; one without a zone is meant in UTC."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return _text(value, name)


def _size(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise WireError(f"{name} is not a number of bytes")
    return value


def _checksum(value: Any, name: str) -> bytes:
    return _hash(_text(value, name).removeprefix("sha256:"), name)


def _hash(value: Any, name: str) -> bytes:
    text = _text(value, name)
    try:
        checksum = bytes.fromhex(text)
    except ValueError:
        checksum = b""
    if len(checksum) != 32:
        raise WireError(f"{name} is not 64 hexadecimal digits")
    return checksum


def _needs(value: Any, name: str) -> NodeRequirements:
    return schema.from_wire_untrusted(NodeRequirements, _map(value, name), name)


def _deployment(value: Any, name: str) -> Deployment:
    return schema.from_wire_untrusted(Deployment, _map(value, name), name)


def _access(value: Any, name: str) -> Access:
    return schema.from_wire_untrusted(Access, _map(value, name), name)


def _base(value: Any, name: str) -> Base:
    said = _map(value, name)
    if said.get("version") is not None:
        said["version"] = _version(said["version"], f"{name}.version")
    if said.get("manifest") is not None:
        said["manifest"] = _hash(said["manifest"], f"{name}.manifest")
    return schema.from_wire_untrusted(Base, said, name)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "name": _text,
    "version": _version,
    "type": _text,
    "description": _text,
    "trained_on": _time,
    "training_data_domain": _text,
    "training_node": _text,
    "file": _text,
    "format": _text,
    "size_bytes": _size,
    "checksum_sha256": _checksum,
    "requirements": _texts,
    "capabilities": _texts,
    "config": _map,
    "node_requirements": _needs,
    "deployment": _deployment,
    "access": _access,
    "base": _base,
    "publish": _flag,
}
