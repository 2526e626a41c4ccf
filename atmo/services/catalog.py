"""What models there are, here and in the mesh, as rows for people and as choices for downloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from atmo.errors import UserError
from atmo.gossip.records import ModelOffer, ModelRecord
from atmo.identity import NodeId
from atmo.storage.registry import LocalModel
from atmo.transfer.names import Spec, check_name, check_version, newest_first, parse_spec, version_key

Key = tuple[str, str, bytes]
"""Name, version in the form in which equal ones are one text, and manifest id."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One version of one model, with who has it.

    Attributes:
        name, version, format, type, capabilities: As in the manifest.
        sha256: Hexadecimal, of the main file.
        size_bytes: Of all files.
        nodes: Names of the nodes that have it, this one first.
        local: It is on this machine.
    """

    name: str
    version: str
    sha256: str
    size_bytes: int
    format: str
    nodes: list[str]
    local: bool
    type: str
    capabilities: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        return {**asdict(self), "capabilities": list(self.capabilities)}


@dataclass(slots=True)
class Version:
    """One manifest that claims a version of a model, wherever it is.

    Its content and what is to be made of it, such as the names of classes, are both in the manifest: two nodes that
    imported the same file have published two manifests.

    Attributes:
        record: What its holders say of it; where they differ in details, what the first says.
        local: The same on this machine.
        holders: Other nodes that have it: id to (name, record).
    """

    record: ModelRecord
    local: LocalModel | None = None
    holders: dict[NodeId, tuple[str, ModelRecord]] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Tells manifests apart; the first two tell versions apart."""
        return _key(self.record)

    @property
    def content(self) -> tuple[str, str, bytes]:
        """The same for manifests of one version that promise the same main file."""
        return (*self.key[:2], self.record.sha256)

    def row(self, own_name: str) -> ModelRow:
        """Returns it for people."""
        names = ([own_name] if self.local else []) + sorted(name for name, _ in self.holders.values())
        record = self.record
        return ModelRow(
            record.name,
            record.version,
            record.sha256.hex(),
            record.size_bytes,
            record.format,
            names,
            self.local is not None,
            record.type,
            record.capabilities,
        )


def record_of(model: LocalModel) -> ModelRecord:
    """Returns what this node tells the mesh about one of its models."""
    manifest = model.manifest
    return ModelRecord(
        name=manifest.name,
        version=manifest.version,
        type=manifest.type,
        format=manifest.format,
        size_bytes=manifest.size_bytes,
        sha256=manifest.checksum_sha256,
        manifest=model.manifest_id,
        capabilities=manifest.capabilities,
    )


def gather(models: Iterable[LocalModel], offers: Iterable[ModelOffer]) -> list[Version]:
    """Joins what is here with what others offer: by name, the newest version first, of one version ours first.

    Offers that break the rules of names and versions are left out: nothing could be done with them.
    """
    found: dict[Key, Version] = {}
    for model in models:
        record = record_of(model)
        found.setdefault(_key(record), Version(record)).local = model
    for offer in sorted(offers, key=lambda offer: offer.node):
        if not offer.local and _is_sound(offer.record):
            version = found.setdefault(_key(offer.record), Version(offer.record))
            version.holders[offer.node] = (offer.node_name, offer.record)
    by_name: dict[str, list[Version]] = {}
    for version in found.values():
        by_name.setdefault(version.record.name, []).append(version)
    ordered: list[Version] = []
    for name in sorted(by_name):
        same = sorted(by_name[name], key=_preference)
        for text in newest_first({version.record.version for version in same}):
            ordered += [version for version in same if version.record.version == text]
    return ordered


def parse(spec: str) -> Spec:
    """Reads `NAME[@RANGE]`.

    Raises:
        UserError: It is none.
    """
    try:
        return parse_spec(spec)
    except ValueError as error:
        raise UserError(f"{error}.", "Write NAME, NAME@1.2.0 or 'NAME@>=1,<2'.") from error


def choose(spec: Spec, versions: Sequence[Version]) -> Version:
    """Picks the newest version in the range; of one version with several manifests, ours or what most nodes hold.

    Raises:
        UserError: Nobody has it; the message says what there is instead.
    """
    named = [version for version in versions if version.record.name == spec.name]
    usable = [version for version in named if not version.record.deprecated]
    best = spec.best(version.record.version for version in usable)
    if best is None:
        best = spec.best(version.record.version for version in named)
    if best is not None:
        return next(version for version in named if version.record.version == best)
    if named:
        there = ", ".join(dict.fromkeys(version.record.version for version in named))
        raise UserError(f"No version of {spec.name} is in the range {spec.text}.", f"There are: {there}.")
    raise UserError(f"No node has a model named {spec.name}.", "See `atmo model list --mesh`.")


def rivals(chosen: Version, versions: Sequence[Version]) -> list[Version]:
    """Returns all manifests that claim the version that was chosen, the preferred first."""
    same = [version for version in versions if version.key[:2] == chosen.key[:2]]
    return sorted(same, key=lambda version: (version.key != chosen.key, _preference(version)))


def _preference(version: Version) -> tuple[bool, int, bytes]:
    return (version.local is None, -len(version.holders), version.record.manifest)


def _key(record: ModelRecord) -> Key:
    return (record.name, version_key(record.version), record.manifest)


def _is_sound(record: ModelRecord) -> bool:
    try:
        check_name(record.name)
        normal = check_version(record.version) == record.version
    except ValueError:
        return False
    return normal and len(record.sha256) == 32 and len(record.manifest) == 32 and record.size_bytes >= 0
