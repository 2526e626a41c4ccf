"""The messages between neighbours. Each is a frozen dataclass; `MESSAGES` gives them their names on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.wire import codec, limits
from atmo.wire.schema import Most, from_wire_untrusted, to_wire

SUMMARY_ENTRIES = 400
"""Entries in one summary: they stay under the message limit with the longest keys."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of each side on a new link; nothing else counts before it.

    Attributes:
        mesh: The mesh id; another mesh's node is hung up on.
        certificate: The sender's sealed certificate.
        issuer_certificate: The issuer's, where the issuer is not a founder.
        version: Of the software, for people.
    """

    mesh: Annotated[bytes, Most(32)]
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]
    issuer_certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None
    version: Annotated[str, Most(32)] = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong: measures the round trip and proves life."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping.

    Attributes:
        nonce: The Ping's.
        load: Requests the sender is running now.
    """

    nonce: int
    load: Annotated[int, Most(1_000_000)] = 0


@dataclass(frozen=True, slots=True)
class Flood:
    """One signed record on its way to everyone."""

    envelope: Annotated[bytes, Most(limits.MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True)
class SummaryEntry:
    """The newest record the sender holds in one slot."""

    author: NodeId
    kind: Annotated[str, Most(32)]
    key: Annotated[str, Most(limits.NAME_CHARS)]
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What the sender holds in the slots after `after` up to `until`; the receiver sends what is newer or missing
    there.

    Attributes:
        entries: Sorted by slot.
        after: Sort key of the slot before this page, empty for the first page.
        until: Sort key of the page's last slot, empty for the last page.
    """

    entries: Annotated[tuple[SummaryEntry, ...], Most(SUMMARY_ENTRIES)]
    after: Annotated[bytes, Most(256)] = b""
    until: Annotated[bytes, Most(256)] = b""


@dataclass(frozen=True, slots=True)
class Records:
    """Records that the receiver lacks."""

    envelopes: Annotated[tuple[Annotated[bytes, Most(limits.MESSAGE_BYTES)], ...], Most(64)]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender leaves on purpose: nobody needs to suspect it first."""

    reason: Annotated[str, Most(200)] = ""


MESSAGES: Final[dict[str, type]] = {
    "hello": Hello,
    "ping": Ping,
    "pong": Pong,
    "flood": Flood,
    "summary": Summary,
    "records": Records,
    "goodbye": Goodbye,
}
_NAMES = {cls: name for name, cls in MESSAGES.items()}

MESSAGE_ITEMS = 64
"""Elements over all arrays and maps of one message: the largest Hello has 10, the rest is for newer peers."""

_ITEMS = {"summary": 6_144, "records": 128}
"""The same of messages with lists: a full summary has 4,408, full records have 68."""

_HEADS = {codec.encode([name, 0])[:-1]: name for name in MESSAGES}
"""How the bytes of each message begin, as one value has one encoding: its limits are known before it is decoded."""


def encode_message(message: Any) -> bytes:
    """Returns the wire form of a neighbour message: the CBOR array [name, fields]."""
    return codec.encode([_NAMES[type(message)], to_wire(message)])


def decode_message_untrusted(data: bytes) -> Any:
    """Reads a neighbour message.

    Raises:
        WireError: It is none of `MESSAGES`.
    """
    for head, name in _HEADS.items():
        if data.startswith(head):
            items = _ITEMS.get(name, MESSAGE_ITEMS)
            _, fields = codec.decode_untrusted(data, limits.MESSAGE_BYTES + 1_024, max_items=items)
            return from_wire_untrusted(MESSAGES[name], fields)
    raise WireError("a message of no known name")
