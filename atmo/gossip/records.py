"""The state that a mesh shares: signed records, one slot for each (author, kind, key), the newest wins.

Newest means the larger (epoch, sequence) of the same author. The epoch grows at each start of the author's node, so a
restarted author always wins over its past. Records carry a lifetime; wall clocks only ever decide whether one has
expired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust.records import LASTING
from atmo.wire import limits
from atmo.wire.address import Address
from atmo.wire.schema import Most

DOMAIN = "atmo/record/1"

NODE, MODELS, CAPABILITIES = "node", "models", "capabilities"

MOST_LIFETIME_S = 20 * 365 * 86_400
"""Only revocations live long; the bound keeps arithmetic sane."""

REVOCATION_LIFETIME_S = 10 * 365 * 86_400
"""A revocation lives at least this long: longer than any key it puts out is likely to be of use. Source: choice."""

RECORD_ITEMS = 64
"""Elements over all arrays and maps of a record, its body left aside: it has 16, the rest is for newer peers."""

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")

Name = Annotated[str, Most(limits.NAME_CHARS)]


@dataclass(frozen=True, slots=True)
class Record:
    """What an author signs.

    Attributes:
        kind: `node`, `models`, `capabilities`, `revocation`; unknown kinds are kept and passed on.
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
        deprecated: The publisher advises against it.
    """

    name: Name
    version: Annotated[str, Most(64)]
    type: Annotated[str, Most(64)]
    format: Annotated[str, Most(32)]
    size_bytes: Annotated[int, Most(2**53)]
    sha256: Annotated[bytes, Most(32)]
    manifest: Annotated[bytes, Most(32)]
    capabilities: Annotated[tuple[Name, ...], Most(16)] = ()
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class ModelsBody:
    """The body of a `models` record: one page of a node's models."""

    models: Annotated[tuple[ModelRecord, ...], Most(512)]


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
