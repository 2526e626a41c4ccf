"""One record as the table holds it. All that is in an entry follows from its envelope, so many tables may share one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from atmo.gossip.messages import NAME_BYTES
from atmo.gossip.records import DOMAIN, NODE, RECORD_ITEMS, Record, check_record_untrusted
from atmo.identity import NodeId
from atmo.trust.records import REVOCATION, SUCCESSION
from atmo.wire.envelope import open_untrusted
from atmo.wire.schema import unpack_untrusted

Slot = tuple[NodeId, str, str]
"""Author, kind, key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one slot holds.

    Attributes:
        slot: Whose record it is, and which.
        record: Decoded.
        envelope: As signed.
        expires_s: Unix seconds by the author's clock at which its lifetime has passed.
        name: Of the slot, as anti-entropy calls it.
    """

    slot: Slot
    record: Record
    envelope: bytes
    expires_s: int
    name: bytes


_SIGNER = slice(10, 42)
"""Where it stands in each envelope, as one value has one encoding: tag, array, and the protected header around it."""

OpenRecord = Callable[[bytes, bytes], Entry]
"""Opens a sealed record of a mesh as `open_record_untrusted` does; pure, so its results may be kept and shared."""


def entry_of(author: NodeId, record: Record, envelope: bytes) -> Entry:
    """Returns the entry of a record whose signature needs no check."""
    slot = (author, record.kind, record.key)
    return Entry(slot, record, envelope, record.issued_s + record.lifetime_s, name_of(slot))


def open_record_untrusted(envelope: bytes, mesh: bytes) -> Entry:
    """Checks the signature of a record and decodes it.

    Raises:
        WireError: It is no record of this mesh, or one that no honest author writes.
    """
    opened = open_untrusted(envelope, DOMAIN, mesh)
    record = unpack_untrusted(Record, opened.payload, max_items=RECORD_ITEMS)
    check_record_untrusted(record)
    return entry_of(opened.author, record, envelope)


def signer_of(envelope: bytes) -> bytes:
    """Returns the node id that a sealed record names as its author; it proves nothing. Other bytes have one as well."""
    return envelope[_SIGNER]


def slot_bytes(slot: Slot) -> bytes:
    """Returns a slot as bytes; no two slots share them, as kinds and keys are plain names."""
    return b"%b%b\0%b" % (slot[0], slot[1].encode(), slot[2].encode())


def name_of(slot: Slot) -> bytes:
    """Returns the short name of a slot: the first byte of its author's id and 8 bytes of a hash of the slot."""
    return slot[0][:1] + blake3(slot_bytes(slot)).digest(NAME_BYTES - 1)


def rank(record: Record) -> int:
    """Orders records for whoever knows nothing: who was put out, then who the authors are, then what they say."""
    return {SUCCESSION: 0, REVOCATION: 1, NODE: 2}.get(record.kind, 3)
