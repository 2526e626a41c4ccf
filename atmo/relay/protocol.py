"""What travels between a relay and its clients: one message of a binary WebSocket each. No I/O.

The first byte of a message is its kind. Before anything else both ends prove their keys:

    relay  -> client   CHALLENGE  {version, relay: its node id, nonce: 32 random bytes}
    client -> relay    ANSWER     {relay, nonce: the relay's, fresh: 32 random bytes}, sealed by the client
    relay  -> client   WELCOME    {client, nonce: the client's `fresh`}, sealed by the relay

Seals are those of `wire.envelope`, with domains of their own and no mesh. Then

    both ways          DATAGRAMS  node id (32), then one or more of: length (4, big-endian), datagram
    relay  -> client   ABSENT     node id (32): what was sent to it was dropped, it is not here
    relay  -> client   DRAINING   the relay ends soon: move

The node id is the target's towards the relay and the source's towards a client. Several datagrams to one node share a
message, because a message costs about 65 µs here, whatever is in it, and a datagram in it less than one.

What a man in the middle can and cannot do. Datagrams are QUIC packets, so nobody between two nodes reads or forges
what they say, and nobody without a node's key gets its answer accepted: an answer names one relay and one nonce of it,
which counts once, so neither a recording nor an answer given to another relay is worth anything. But the proof is of
the beginning only: without TLS, who sits on the wire can wait for it and then drop, add and redirect messages, and
sees who talks with whom, when and how much. With TLS and a relay whose id is not pinned, a relay can show the challenge
of another one and so get into that other one as its client; with TLS and the id pinned, it cannot. The worst of it is
lost datagrams and knowledge of traffic, which is also what any relay has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.identity.keys import KEY_BYTES
from atmo.wire.envelope import NO_MESH, open_untrusted, seal
from atmo.wire.schema import Most, pack, unpack_untrusted

VERSION: Final = 1

CHALLENGE, ANSWER, WELCOME, DATAGRAMS, ABSENT, DRAINING = 1, 2, 3, 16, 17, 18

ANSWER_DOMAIN: Final = "atmo/relay-answer/1"
WELCOME_DOMAIN: Final = "atmo/relay-welcome/1"

NONCE_BYTES: Final = 32
HANDSHAKE_BYTES: Final = 1_024
"""A message of the handshake; the longest of ours has about 300."""

DATAGRAM_BYTES: Final = 65_536
"""The largest datagram, as the relay's specification has it; QUIC's here have 1,200 to 1,472."""

LENGTH_BYTES: Final = 4
HEAD_BYTES: Final = 1 + KEY_BYTES
MESSAGE_BYTES: Final = HEAD_BYTES + LENGTH_BYTES + DATAGRAM_BYTES
"""The largest message: what holds the largest datagram. Several smaller ones share as much."""

DRAINING_MESSAGE: Final = bytes([DRAINING])

CLOSE_LEAVING, CLOSE_REFUSED, CLOSE_REPLACED, CLOSE_FULL = 1001, 1008, 4001, 4002
"""WebSocket close codes: RFC 6455 section 7.4.1, and two of the range for private use."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The relay's first word."""

    version: Annotated[int, Most(255)]
    relay: NodeId
    nonce: Annotated[bytes, Most(NONCE_BYTES)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client signs: for which relay, to which challenge, and what the relay is to sign in return."""

    relay: NodeId
    nonce: Annotated[bytes, Most(NONCE_BYTES)]
    fresh: Annotated[bytes, Most(NONCE_BYTES)]


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the relay signs."""

    client: NodeId
    nonce: Annotated[bytes, Most(NONCE_BYTES)]


class RelayHandshake:
    """The relay's side of one handshake.

    Args:
        signer: The relay's key.
        nonce: 32 bytes that nobody could foresee, for this connection only.
    """

    def __init__(self, signer: Signer, nonce: bytes) -> None:
        self._signer = signer
        self._nonce = nonce
        self._open = True

    def challenge(self) -> bytes:
        """Returns the first message to the client."""
        return bytes([CHALLENGE]) + pack(Challenge(VERSION, self._signer.node_id, self._nonce))

    def accept_untrusted(self, message: str | bytes) -> tuple[NodeId, bytes]:
        """Returns who the client is, and the message that welcomes it.

        Raises:
            WireError: It is no answer, not to this challenge or not the first one, or the signature is wrong.
        """
        if not self._open:
            raise WireError("a second answer")
        self._open = False
        opened = open_untrusted(_handshake_body_untrusted(message, ANSWER), ANSWER_DOMAIN, NO_MESH, HANDSHAKE_BYTES)
        answer = unpack_untrusted(Answer, opened.payload, HANDSHAKE_BYTES)
        if answer.relay != self._signer.node_id or answer.nonce != self._nonce:
            raise WireError("an answer to another challenge")
        if len(answer.fresh) != NONCE_BYTES:
            raise WireError(f"a nonce has {NONCE_BYTES} bytes")
        welcome = seal(self._signer, WELCOME_DOMAIN, NO_MESH, pack(Welcome(opened.author, answer.fresh)))
        return opened.author, bytes([WELCOME]) + welcome


class ClientHandshake:
    """The client's side of one handshake.

    Args:
        signer: The node's key.
        fresh: 32 bytes that nobody could foresee, for this connection only.
        pinned: The only relay to talk to; None takes any.
    """

    def __init__(self, signer: Signer, fresh: bytes, pinned: NodeId | None = None) -> None:
        self._signer = signer
        self._fresh = fresh
        self._pinned = pinned
        self._relay: NodeId | None = None

    def answer_untrusted(self, message: str | bytes) -> bytes:
        """Returns the answer to the relay's challenge.

        Raises:
            WireError: It is no challenge, of another version, or of another relay than the pinned one.
        """
        challenge = unpack_untrusted(Challenge, _handshake_body_untrusted(message, CHALLENGE), HANDSHAKE_BYTES)
        if challenge.version != VERSION:
            raise WireError(f"the relay speaks version {challenge.version}, this is {VERSION}")
        if len(challenge.nonce) != NONCE_BYTES:
            raise WireError(f"a nonce has {NONCE_BYTES} bytes")
        if self._pinned is not None and challenge.relay != self._pinned:
            raise WireError(f"this relay is {challenge.relay.short}, not the expected {self._pinned.short}")
        self._relay = challenge.relay
        answer = Answer(challenge.relay, challenge.nonce, self._fresh)
        return bytes([ANSWER]) + seal(self._signer, ANSWER_DOMAIN, NO_MESH, pack(answer))

    def finish_untrusted(self, message: str | bytes) -> NodeId:
        """Returns who the relay has proved to be.

        Raises:
            WireError: It is no welcome, not to this client's answer, or the signature is not the relay's.
        """
        opened = open_untrusted(_handshake_body_untrusted(message, WELCOME), WELCOME_DOMAIN, NO_MESH, HANDSHAKE_BYTES)
        welcome = unpack_untrusted(Welcome, opened.payload, HANDSHAKE_BYTES)
        if opened.author != self._relay:
            raise WireError("the welcome is not signed by the relay that asked")
        if welcome.client != self._signer.node_id or welcome.nonce != self._fresh:
            raise WireError("a welcome to another answer")
        return opened.author


def _handshake_body_untrusted(message: str | bytes, kind: int) -> bytes:
    return checked_untrusted(message, kind, HANDSHAKE_BYTES)[1:]


B = TypeVar("B", bound=bytes)


def checked_untrusted(message: str | B, kind: int, most: int) -> B:
    """Returns a message that is binary, of one kind and not too long.

    Raises:
        WireError: It is not.
    """
    if isinstance(message, str):
        raise WireError("a text, where messages are binary")
    if not 0 < len(message) <= most:
        raise WireError(f"a message of {len(message)} bytes")
    if message[0] != kind:
        raise WireError(f"a message of kind {message[0]} where {kind} is due")
    return message


def framed(datagram: bytes) -> bytes:
    """Returns a datagram as it stands in a message: with its length in front.

    Raises:
        WireError: It is empty or over the limit.
    """
    if not 0 < len(datagram) <= DATAGRAM_BYTES:
        raise WireError(f"a datagram of {len(datagram)} bytes")
    return len(datagram).to_bytes(LENGTH_BYTES, "big") + datagram


def datagrams_message(node: bytes, bodies: Sequence[bytes]) -> bytes:
    """Returns a message of framed datagrams, or of bodies of other messages, to or from one node."""
    return b"".join((b"\x10", node, *bodies))


def absent_message(node: bytes) -> bytes:
    """Returns the message that says that a node is not here."""
    return bytes([ABSENT]) + node


def datagram_ends_untrusted(message: str | bytes) -> list[int]:
    """Returns where each datagram of a message ends, without taking any out.

    Raises:
        WireError: It is no message of datagrams, holds none, or its lengths do not add up.
    """
    data = checked_untrusted(message, DATAGRAMS, MESSAGE_BYTES)
    position, end = HEAD_BYTES, len(data)
    ends = []
    while position < end:
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "big")
        if not start < position <= end:
            raise WireError("the lengths of the datagrams do not add up")
        ends.append(position)
    if not ends:
        raise WireError("a message without a datagram")
    return ends


@dataclass(frozen=True, slots=True)
class Datagrams:
    """Datagrams that a node sent."""

    source: NodeId
    datagrams: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """A node to which something was sent is not at this relay."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Draining:
    """The relay will end."""


Told = Datagrams | Absent | Draining


def read_told_untrusted(message: str | bytes) -> Told:
    """Reads what a relay tells a client once both are authenticated.

    Raises:
        WireError: It is none of the three, or malformed.
    """
    if isinstance(message, str) or not message:
        raise WireError("an empty message, or a text")
    kind = message[0]
    if kind == DATAGRAMS:
        starts = HEAD_BYTES
        taken = []
        for end in datagram_ends_untrusted(message):
            taken.append(message[starts + LENGTH_BYTES : end])
            starts = end
        return Datagrams(NodeId(message[1:HEAD_BYTES]), tuple(taken))
    if kind == ABSENT and len(message) == HEAD_BYTES:
        return Absent(NodeId(message[1:]))
    if message == DRAINING_MESSAGE:
        return Draining()
    raise WireError(f"a message of kind {kind} and {len(message)} bytes")
