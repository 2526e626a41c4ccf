"""The join exchange, `atmo/join/1`: a one-time secret for a certificate.

The joiner connects to the inviter by node id, so nobody else learns the secret. It sends one `JoinRequest`; the answer
is one `JoinGrant` or one `JoinRefusal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from atmo.errors import WireError
from atmo.trust.joincode import SECRET_BYTES
from atmo.wire import codec, limits
from atmo.wire.schema import Most, from_wire_untrusted, to_wire

PROTOCOL = "atmo/join/1"
REFUSALS = {
    "unknown": "the code is not one of this node's: it may have been made for another mesh or on another machine",
    "expired": "the code has expired",
    "used": "the code was used already: a code lets one machine in",
    "not admin": "the node that made this code may no longer let anyone in",
    "name": "this machine's name has characters that no name may have",
    "revoked": "this machine was put out of the mesh",
}


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What the joiner sends; its node id is the connection's.

    Attributes:
        mesh: The mesh id of the code.
        secret: Of the code.
        name: What the machine is called.
    """

    mesh: Annotated[bytes, Most(32)]
    secret: Annotated[bytes, Most(SECRET_BYTES)]
    name: Annotated[str, Most(limits.NAME_CHARS)]


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """Membership, and who else is there.

    Attributes:
        genesis: Sealed.
        certificate: The joiner's, sealed.
        issuer_certificate: The inviter's own, where it is not a founder.
        records: Sealed node records of members to connect to.
    """

    genesis: Annotated[bytes, Most(limits.MESSAGE_BYTES)]
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]
    issuer_certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None
    records: Annotated[tuple[Annotated[bytes, Most(limits.MESSAGE_BYTES)], ...], Most(64)] = ()


@dataclass(frozen=True, slots=True)
class JoinRefusal:
    """Why not: a key of `REFUSALS`."""

    reason: Annotated[str, Most(64)]


def pack_answer(answer: JoinGrant | JoinRefusal) -> bytes:
    """Returns the frame's body."""
    return codec.encode(["grant" if isinstance(answer, JoinGrant) else "refusal", to_wire(answer)])


def unpack_answer_untrusted(data: bytes) -> JoinGrant | JoinRefusal:
    """Reads the inviter's answer.

    Raises:
        WireError: It is neither a grant nor a refusal.
    """
    match codec.decode_untrusted(data, limits.FRAME_BYTES):
        case ["grant", fields]:
            return from_wire_untrusted(JoinGrant, fields)
        case ["refusal", fields]:
            return from_wire_untrusted(JoinRefusal, fields)
        case _:
            raise WireError("an answer to a join request that is neither grant nor refusal")
