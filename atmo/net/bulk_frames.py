"""The bytes of a bulk connection: its ticket, its keys and its sealed messages (docs/PROTOCOL.md, section 16). No I/O.

The asker sends the id of a ticket and then requests, each sealed; the holder sends one answer for each, sealed but for
a chunk in clear. Both keys come from a secret that the holder gave the asker over their authenticated connection.

Both messages begin with a kind and a length, so that new ones fit in: a request with more in its body, an answer with
something else than the whole chunk. `Want.CHUNK` and `Kind.CHUNK` are always right.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.ports import Buffer
from atmo.wire import codec, limits
from atmo.wire.schema import Most, from_wire_untrusted

BULK: Final = "atmo/bulk/1"

TICKET_BYTES: Final = 16
SECRET_BYTES: Final = 32
NAME_BYTES: Final = 32
KEY_BYTES: Final = 16
TAG_BYTES: Final = 16
REASON_BYTES: Final = 16
"""Of a refusal, such as `missing`."""

MESSAGES_MOST: Final = 65_536
"""In one direction of a connection; then another one is opened. Source: with chunks of at most 4 MiB these are 2^34
blocks under one key, at which AES-GCM with counted nonces still hides everything but for a chance of 2^-61."""

_HEAD = struct.Struct(">BI")
HEAD_BYTES: Final = _HEAD.size
_REQUEST_HEAD = struct.Struct(">BB")
REQUEST_HEAD_BYTES: Final = _REQUEST_HEAD.size
_SIZE = struct.Struct(">I")
_BODY_BYTES: Final = NAME_BYTES + _SIZE.size
REQUEST_BYTES: Final = REQUEST_HEAD_BYTES + _BODY_BYTES + TAG_BYTES
_NONCE = struct.Struct(">4xQ")
_TO_HOLDER, _TO_ASKER = b"\x01", b"\x02"


class Want(IntEnum):
    """What a request asks for; the body of both is the name of a chunk and its size."""

    CHUNK = 0
    CLEAR = 1
    """The chunk may come in clear."""


class Kind(IntEnum):
    """What an answer is."""

    CHUNK = 0
    REFUSAL = 1
    CLEAR = 2
    """The chunk as it is, without a tag; its name proves it."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The answer to `atmo/bulk/1`: the right to one connection, once.

    Attributes:
        ticket: What the connection begins with; random.
        secret: Of which both keys are made; random.
    """

    ticket: Annotated[bytes, Most(TICKET_BYTES)]
    secret: Annotated[bytes, Most(SECRET_BYTES)]


def read_ticket_untrusted(frame: bytes) -> Ticket:
    """Reads a holder's answer.

    Raises:
        RemoteError: It gives none, and says why.
        WireError: It is no answer.
    """
    value = codec.decode_untrusted(frame, limits.MESSAGE_BYTES)
    if isinstance(value, dict) and isinstance(reason := value.get("error"), str):
        raise RemoteError(f"no ticket: {reason[:100]}")
    ticket = from_wire_untrusted(Ticket, value)
    if (len(ticket.ticket), len(ticket.secret)) != (TICKET_BYTES, SECRET_BYTES):
        raise WireError("a ticket of another length")
    return ticket


class Buffers:
    """Buffers that are used again and again, by any thread: the system has to find and clear the pages of new ones.

    Args:
        most: How many unused ones are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """Returns one of at least this size; what is in it is old."""
        buffer = bytearray()
        while len(buffer) < size:
            try:
                buffer = self._free.pop()
            except IndexError:
                return bytearray(size)
        return buffer

    def give(self, buffer: bytearray) -> None:
        """Takes one back that nobody looks into any more."""
        if len(self._free) < self._most:
            self._free.append(buffer)


class Direction:
    """One direction of a connection: its key, and how many messages it has carried.

    Args:
        key: For this direction of this connection alone.
    """

    def __init__(self, key: bytes) -> None:
        self.count = 0
        self._aead = AESGCM(key)

    def seal(self, data: Buffer, associated: bytes, room: memoryview) -> None:
        """Seals the next message into `room`, which is larger by the tag; other threads run meanwhile."""
        self._aead.encrypt_into(self._nonce(), data, associated, room)

    def open_untrusted(self, sealed: Buffer, associated: bytes, room: memoryview) -> None:
        """Opens the next message into `room`, which is smaller by the tag, and may be where the message begins.

        Raises:
            WireError: It is not what the other end sealed as the next one; what is in `room` then is worth nothing.
        """
        try:
            self._aead.decrypt_into(self._nonce(), sealed, associated, room)
        except InvalidTag:
            raise WireError("a message that the other end did not seal") from None

    def _nonce(self) -> bytes:
        assert self.count < MESSAGES_MOST, "who uses a connection counts its messages"
        self.count += 1
        return _NONCE.pack(self.count - 1)


def directions(ticket: Ticket, asker: NodeId, holder: NodeId) -> tuple[Direction, Direction]:
    """Returns what goes to the holder, and what goes to the asker."""

    def key(direction: bytes) -> bytes:
        context = BULK.encode() + b"\x00" + direction + bytes(asker) + bytes(holder) + ticket.ticket
        return blake3(context, key=ticket.secret).digest(length=KEY_BYTES)

    return Direction(key(_TO_HOLDER)), Direction(key(_TO_ASKER))


def seal_request(outward: Direction, want: Want, name: bytes, size: int) -> bytearray:
    """Returns the next request of a connection."""
    request = bytearray(REQUEST_BYTES)
    request[:REQUEST_HEAD_BYTES] = head = _REQUEST_HEAD.pack(want, _BODY_BYTES + TAG_BYTES)
    outward.seal(name + _SIZE.pack(size), head, memoryview(request)[REQUEST_HEAD_BYTES:])
    return request


def open_request_untrusted(inward: Direction, request: Buffer) -> tuple[Want, bytes, int]:
    """Returns what the next request asks for: how, which chunk, and how large it should be.

    Raises:
        WireError: The other end did not seal it as the next one, or it is of no kind that is known.
    """
    head = bytes(request[:REQUEST_HEAD_BYTES])
    number, size = _REQUEST_HEAD.unpack(head)
    if number not in (Want.CHUNK, Want.CLEAR) or size != _BODY_BYTES + TAG_BYTES:
        raise WireError(f"a request of kind {number} and {size} bytes")
    body = bytearray(_BODY_BYTES)
    inward.open_untrusted(request[REQUEST_HEAD_BYTES:], head, memoryview(body))
    (chunk_bytes,) = _SIZE.unpack_from(body, NAME_BYTES)
    if chunk_bytes > limits.CHUNK_BYTES:
        raise WireError(f"a request for a chunk of {chunk_bytes} bytes")
    return Want(number), bytes(body[:NAME_BYTES]), chunk_bytes


def answer_head(kind: Kind, body_bytes: int) -> bytes:
    """Returns what goes before an answer."""
    return _HEAD.pack(kind, body_bytes + (0 if kind is Kind.CLEAR else TAG_BYTES))


def read_head_untrusted(head: Buffer, chunk_bytes: int, want: Want = Want.CHUNK) -> tuple[Kind, int]:
    """Returns the kind of an answer and how many bytes follow; never more than were expected.

    Raises:
        WireError: It cannot be the answer to such a request for a chunk of `chunk_bytes`.
    """
    number, size = _HEAD.unpack(head)
    if number == Kind.CLEAR and want is Want.CLEAR and size == chunk_bytes:
        return Kind.CLEAR, size
    if number == Kind.CHUNK and size == chunk_bytes + TAG_BYTES:
        return Kind.CHUNK, size
    if number == Kind.REFUSAL and TAG_BYTES < size <= TAG_BYTES + REASON_BYTES:
        return Kind.REFUSAL, size
    raise WireError(f"an answer of kind {number} and {size} bytes for a chunk of {chunk_bytes}")


def read_reason_untrusted(body: bytes | bytearray) -> str:
    """Returns why a request was refused.

    Raises:
        WireError: It is no text.
    """
    try:
        return body.decode("ascii")
    except UnicodeDecodeError as error:
        raise WireError("a refusal that is no text") from error
