"""The state that a mesh shares: signed records, one slot for each (author, kind, key), the newest wins.

Newest means the larger (epoch, sequence) of the same author. The epoch grows at each start of the author's node, so a
restarted author always wins over its past. Records carry a lifetime; wall clocks only ever decide whether one has
expired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from blake3 import blake3

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust.records import LASTING
from atmo.wire import limits
from atmo.wire.address import Address
from atmo.wire.schema import Most

DOMAIN = "atmo/record/1"

NODE, MODELS, CAPABILITIES = "node", "models", "capabilities"
CATALOG, PROFILE, DEPRECATION = "catalog", "profile", "deprecation"

MOST_LIFETIME_S = 20 * 365 * 86_400
"""Only revocations live long; the bound keeps arithmetic sane."""

REVOCATION_LIFETIME_S = 10 * 365 * 86_400
"""A revocation lives at least this long: longer than any key it puts out is likely to be of use. Source: choice."""

DEPRECATION_LIFETIME_S = 365 * 86_400
"""Of a deprecation, and of its being taken back: it outlives its author's presence. Source: choice, a membership."""

ROLES = 16
"""Roles that one list of a model's access names."""

RECORD_ITEMS = 64
"""Elements over all arrays and maps of a record, its body left aside: it has 16, the rest is for newer peers."""

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")

Name = Annotated[str, Most(limits.NAME_CHARS)]
Role = Annotated[str, Most(32)]
Certificate = Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]


@dataclass(frozen=True, slots=True)
class Record:
    """What an author signs.

    Attributes:
        kind: `node`, `models`, `catalog`, `capabilities`, `profile`, `deprecation`, `revocation`; unknown kinds are
            kept and passed on.
        key: Tells records of one kind and author apart: a page number, a node id.
        epoch: Of the author's node, grows with each start.
        sequence: Grows with each record of the author in this epoch.
        issued_s: Unix seconds by the author's clock.
        lifetime_s: Seconds after which it counts no more.
        body: CBOR of the kind's dataclass; empty bytes take the slot's content back.
        near: Only for the author's neighbours: neither broadcast nor reconciled, as in a mesh too large to tell
            everyone everything.
    """

    kind: Annotated[str, Most(32)]
    key: Name
    epoch: Annotated[int, Most(2**53)]
    sequence: Annotated[int, Most(2**53)]
    issued_s: Annotated[int, Most(2**40)]
    lifetime_s: Annotated[int, Most(MOST_LIFETIME_S)]
    body: Annotated[bytes, Most(limits.MESSAGE_BYTES)]
    near: bool = False

    @property
    def version(self) -> tuple[int, int]:
        """What orders the records of one slot."""
        return (self.epoch, self.sequence)


def check_record_untrusted(record: Record) -> None:
    """Checks what holds for records of every kind, known or not.

    Raises:
        WireError: A name is one that no honest author writes.
    """
    if not _KIND.fullmatch(record.kind) or not (record.key.isascii() and record.key.isprintable()):
        raise WireError("a record's kind or key is no plain name")
    if record.near and record.kind in LASTING:
        raise WireError("a revocation is for everyone")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine has; docs/manifest.md describes the fields."""

    memory_mb: Annotated[int, Most(2**40)] = 0
    cpu_cores: Annotated[int, Most(2**20)] = 0
    architecture: Annotated[str, Most(32)] = ""
    gpu: Annotated[str, Most(128)] | None = None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """Who a node is and where it can be reached. Carries the certificate, so that it can be checked by itself.

    Attributes:
        name: For people.
        addresses: Where it listens.
        certificate: Sealed.
        issuer_certificate: Sealed, where the issuer is not a founder.
        version: Of the software.
        hardware: Of the machine.
        leaving: It is not there any more, on purpose: this record says only where it was.
        relay: URL of the relay at which it is found, too; see `atmo.relay.address`.
    """

    name: Name
    addresses: Annotated[tuple[Address, ...], Most(limits.ADDRESSES)]
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]
    issuer_certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None
    version: Annotated[str, Most(32)] = ""
    hardware: Hardware = field(default_factory=Hardware)
    leaving: bool = False
    relay: Annotated[str, Most(512)] | None = None


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model that a node holds whole.

    Attributes:
        name, version, type, format: As in the manifest.
        size_bytes: Of all files together.
        sha256: 32 bytes, of the model's main file.
        manifest: 32 bytes, BLAKE3 of the sealed manifest.
        capabilities: Such as `anomaly_detection`.
        publisher: Who signed the manifest, as the holder says; the manifest itself proves it.
        read: Roles whose members its holders give it to; nothing means everybody.
    """

    name: Name
    version: Annotated[str, Most(64)]
    type: Annotated[str, Most(64)]
    format: Annotated[str, Most(32)]
    size_bytes: Annotated[int, Most(2**53)]
    sha256: Annotated[bytes, Most(32)]
    manifest: Annotated[bytes, Most(32)]
    capabilities: Annotated[tuple[Name, ...], Most(16)] = ()
    publisher: NodeId | None = None
    read: Annotated[tuple[Role, ...], Most(ROLES)] = ()


@dataclass(frozen=True, slots=True)
class ModelsBody:
    """The body of a `models` record: one page of a node's models."""

    models: Annotated[tuple[ModelRecord, ...], Most(512)]


@dataclass(frozen=True, slots=True)
class ProfileBody:
    """The body of a `profile` record: what a node has beside its hardware, and what it is for.

    Attributes:
        system: `linux`, `darwin`, `windows`.
        python_version: Such as `3.11.2`.
        packages: Installed Python packages that models ask for, each as `name==version`.
        interests: Capabilities of models that its owner wants to have here.
        max_model_size_mb: Larger models (MiB) are not wanted; 0 means no limit.
        max_models: Nor more than so many; 0 means no limit.
    """

    system: Annotated[str, Most(32)] = ""
    python_version: Annotated[str, Most(32)] = ""
    packages: Annotated[tuple[Name, ...], Most(64)] = ()
    interests: Annotated[tuple[Name, ...], Most(32)] = ()
    max_model_size_mb: Annotated[int, Most(2**40)] = 0
    max_models: Annotated[int, Most(2**31)] = 0


@dataclass(frozen=True, slots=True)
class DeprecationBody:
    """The body of a `deprecation` record: its author advises against versions of a model.

    Attributes:
        name: Of the model.
        versions: A range of PEP 440; empty means all.
        reason: For people.
        replacement: What to use instead, `NAME[@RANGE]`; empty where there is nothing.
        certificate: The author's own, sealed, so that the record proves itself where its author is not known.
        issuer_certificate: Sealed, where the issuer is not a founder.
    """

    name: Name
    versions: Annotated[str, Most(64)]
    reason: Annotated[str, Most(200)] = ""
    replacement: Annotated[str, Most(200)] = ""
    certificate: Certificate | None = None
    issuer_certificate: Certificate | None = None


def deprecation_key(name: str, versions: str) -> str:
    """Returns the key of the record: one statement of an author on one range."""
    return blake3(f"{name}\0{versions}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RevocationBody:
    """The body of a `revocation` record, whose author is a founder or an admin.

    Attributes:
        node: Who is out; the record's key is its text form.
        reason: For people.
        certificate: The author's own, sealed, where it is not a founder: so a revocation proves itself to whoever joins
            long after its author has left.
    """

    node: NodeId
    reason: Annotated[str, Most(200)] = ""
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model and one live node that has it, as `Peer.models` tells.

    Attributes:
        node: The holder.
        node_name: For people.
        record: What it says it holds.
        local: It is this machine.
    """

    node: NodeId
    node_name: str
    record: ModelRecord
    local: bool
