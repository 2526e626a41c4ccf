"""What models there are, here and in the mesh, as rows for people and as choices for downloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version as Number

from atmo.errors import UserError
from atmo.gossip.records import ModelOffer, ModelRecord
from atmo.identity import NodeId
from atmo.peer import Advice
from atmo.storage.bridge import BridgedModel
from atmo.storage.registry import LocalModel
from atmo.transfer.names import Spec, check_name, check_version, newest_first, parse_spec, version_key
from atmo.wire.versions import parse_range

ADVICE_MOST = 128
"""Ranges of one model that one node advises against. Source: what a node of this version says of all together."""

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
        source: The other program whose it is there (`huggingface`, `ollama`, `llamafarm`, `folder`); empty for what is
            the store's, or on other machines only.
        publisher: Node id of who signed the manifest, None where no holder says.
        deprecated: Somebody whose word counts advises against it.
        private: It is on this machine, and others do not hear of it.
        readers: Roles whose members may get it; empty means everybody.
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
    source: str = ""
    publisher: str | None = None
    deprecated: bool = False
    private: bool = False
    readers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        return {**asdict(self), "capabilities": list(self.capabilities), "readers": list(self.readers)}


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Why a version should not be used any more.

    Attributes:
        by: Name of the node that says so.
        reason: For people; may be empty.
        replacement: What to use instead, `NAME[@RANGE]`; may be empty.
        since_s: Unix seconds.
    """

    by: str
    reason: str
    replacement: str
    since_s: int


@dataclass(slots=True)
class Version:
    """One manifest that claims a version of a model, wherever it is.

    Its content and what is to be made of it, such as the names of classes, are both in the manifest: two nodes that
    imported the same file have published two manifests.

    Attributes:
        record: What its holders say of it; where they differ in details, what the first says.
        local: The same on this machine.
        holders: Other nodes that have it: id to (name, record).
        deprecation: Why it should not be used any more; see `mark_deprecated`.
        private: It is on this machine, and others do not hear of it.
    """

    record: ModelRecord
    local: LocalModel | None = None
    holders: dict[NodeId, tuple[str, ModelRecord]] = field(default_factory=dict)
    deprecation: Deprecation | None = None
    private: bool = False

    @property
    def publisher(self) -> NodeId | None:
        """Who signed the manifest: known of what is here, else what its holders say."""
        return self.local.publisher if self.local is not None else self.record.publisher

    @property
    def key(self) -> Key:
        """Tells manifests apart; the first two tell versions apart."""
        return _key(self.record)

    @property
    def content(self) -> tuple[str, str, bytes]:
        """The same for manifests of one version that promise the same main file."""
        return (*self.key[:2], self.record.sha256)

    def has(self, capabilities: Iterable[str]) -> bool:
        """Says whether it is a model with all of these capabilities."""
        return all(capability in self.record.capabilities for capability in capabilities)

    def claim(self, own_name: str) -> dict[str, Any]:
        """Returns what tells it from other manifests of the same version."""
        row = self.row(own_name)
        return {
            "manifest": self.record.manifest.hex(),
            "sha256": row.sha256,
            "publisher": row.publisher,
            "nodes": row.nodes,
            "local": row.local,
        }

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
            self.local.source if isinstance(self.local, BridgedModel) else "",
            str(self.publisher) if self.publisher is not None else None,
            self.deprecation is not None,
            self.private,
            record.read,
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
        publisher=model.publisher,
        read=manifest.access.read,
    )


def gather(models: Iterable[LocalModel], offers: Iterable[ModelOffer]) -> list[Version]:
    """Joins what is here with what others offer: by name, the newest version first, of one version ours first.

    Offers that break the rules of names and versions are left out: nothing could be done with them. So is all but the
    first of several manifests that one node claims to have of one version: no store takes two, and who claims a
    thousand has every pull try them before the right one.
    """
    found: dict[Key, Version] = {}
    claimed: dict[tuple[NodeId, str, str], bytes] = {}
    for model in models:
        record = record_of(model)
        found.setdefault(_key(record), Version(record)).local = model
    for offer in sorted(offers, key=lambda offer: offer.node):
        if not offer.local and _is_sound(offer.record):
            key = _key(offer.record)
            if claimed.setdefault((offer.node, *key[:2]), key[2]) == key[2]:
                version = found.setdefault(key, Version(offer.record))
                version.holders[offer.node] = (offer.node_name, offer.record)
    by_name: dict[str, list[Version]] = {}
    for version in found.values():
        by_name.setdefault(version.record.name, []).append(version)
    ordered: list[Version] = []
    for name in sorted(by_name):
        by_number: dict[str, list[Version]] = {}
        for version in sorted(by_name[name], key=_preference):
            by_number.setdefault(version.record.version, []).append(version)
        for text in newest_first(by_number):
            ordered += by_number[text]
    return ordered


def mark_deprecated(versions: Iterable[Version], advice: Iterable[Advice]) -> None:
    """Notes which versions somebody advises against whose word counts: the publisher, or an admin of the mesh.

    Of one author's words on one name the first `ADVICE_MOST` count.
    """
    said: dict[str, list[tuple[SpecifierSet, Advice]]] = {}
    words = Counter[tuple[NodeId, str]]()
    for row in advice:
        words[row.author, row.name] += 1
        if words[row.author, row.name] <= ADVICE_MOST:
            said.setdefault(row.name, []).append((parse_range(row.versions), row))
    for version in versions if said else ():
        rows, number = said.get(version.record.name, ()), None
        for wanted, row in rows:
            if not row.admin and row.author != version.publisher:
                continue
            number = number or Number(version.record.version)
            if wanted.contains(number, prereleases=True):
                version.deprecation = Deprecation(row.author_name, row.reason, row.replacement, row.issued_s)
                break


def registry_view(versions: Iterable[Version], own_name: str, first_seen: Mapping[bytes, float]) -> dict[str, Any]:
    """Returns what the mesh holds as one document: `{name: {"versions": {version: {...}}}}`, the newest version first.

    Args:
        versions: As `gather` returns them.
        own_name: Of this node.
        first_seen: Unix seconds, by manifest.
    """
    models: dict[str, Any] = {}
    for version in versions:
        entries = models.setdefault(version.record.name, {"versions": {}})["versions"]
        row = version.row(own_name)
        entry = entries.setdefault(row.version, {"nodes": [], "first_seen": None, "deprecated": False, "manifests": []})
        entry["nodes"] += [name for name in row.nodes if name not in entry["nodes"]]
        seen = moment(first_seen.get(version.record.manifest))
        entry["first_seen"] = min((text for text in (entry["first_seen"], seen) if text is not None), default=None)
        entry["manifests"].append(version.record.manifest.hex())
        if version.deprecation is not None:
            entry |= {"deprecated": True, "deprecation": asdict(version.deprecation)}
    return models


def moment(seconds: float | None) -> str | None:
    """Returns a time for people and programs: ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


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
    usable = [version for version in named if version.deprecation is None]
    best = spec.best(version.record.version for version in usable)
    if best is None:
        best = spec.best(version.record.version for version in named)
    if best is not None:
        return next(version for version in named if version.record.version == best)
    if named:
        there = ", ".join(dict.fromkeys(version.record.version for version in named))
        raise UserError(f"No version of {spec.name} is in the range {spec.text}.", f"There are: {there}.")
    raise UserError(f"No node has a model named {spec.name}.", "See `atmo model list --mesh`.")


def best_of_each_name(versions: Iterable[Version]) -> list[Version]:
    """Returns the version of each name that a pull would take, what most nodes have first, then the smallest."""
    by_name: dict[str, list[Version]] = {}
    for version in versions:
        by_name.setdefault(version.record.name, []).append(version)
    best = []
    for name, same in by_name.items():
        usable = [version for version in same if version.deprecation is None]
        newest = parse_spec(name).best(version.record.version for version in usable)
        best += [version for version in usable if version.record.version == newest][:1]
    return sorted(
        best,
        key=lambda version: (
            version.local is None,
            -len(version.holders),
            version.record.size_bytes,
            version.record.name,
        ),
    )


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
