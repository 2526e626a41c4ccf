"""Join codes: one line of text that brings a new machine into a mesh, once, before it expires.

A code is `atmo1` followed by base32 of a CBOR map and four bytes of its BLAKE3 hash against typing errors. The secret
in it is sent to the inviter, or to another admin that the code names, over a connection authenticated as that node.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated

from blake3 import blake3

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust.genesis import MESH_ID_BYTES
from atmo.wire import limits
from atmo.wire.address import Address, Contact
from atmo.wire.schema import Most, pack, unpack_untrusted

PREFIX = "atmo1"
SECRET_BYTES = 16
OTHERS_MOST = 3
"""Further admins in one code: each makes it about 120 characters longer. Source: choice."""

_CHECK_BYTES = 4
_MOST_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class JoinCode:
    """What a code says.

    Attributes:
        mesh: The 32-byte mesh id.
        inviter: The admin who made it.
        secret: 16 random bytes.
        addresses: Where the inviter can be reached.
        expires_s: Unix seconds after which it is refused.
        others: Further admins who redeem it, should the inviter not answer.
        relay: URL of the relay at which the inviter is found, too; see `atmo.relay.address`.
    """

    mesh: Annotated[bytes, Most(32)]
    inviter: NodeId
    secret: Annotated[bytes, Most(SECRET_BYTES)]
    addresses: Annotated[tuple[Address, ...], Most(limits.ADDRESSES)]
    expires_s: int
    others: Annotated[tuple[Contact, ...], Most(OTHERS_MOST)] = ()
    relay: Annotated[str, Most(512)] | None = None

    def text(self) -> str:
        """Returns the code as a person copies it."""
        body = pack(self)
        return _text(body + blake3(body).digest(_CHECK_BYTES))


def parse_join_code(text: str) -> JoinCode:
    """Reads a code; white space and line breaks that crept in while copying are forgiven.

    Raises:
        WireError: It is not a join code, or characters are missing or wrong.
    """
    code = "".join(text.split()).lower()
    if not code.startswith(PREFIX):
        raise WireError(f"a join code begins with {PREFIX}")
    if len(code) > _MOST_CHARS:
        raise WireError(f"a join code has at most {_MOST_CHARS} characters")
    digits = code[len(PREFIX) :].upper()
    try:
        data = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except (binascii.Error, ValueError) as error:
        raise WireError("the join code has characters missing or wrong: copy it again, whole") from error
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if blake3(body).digest(_CHECK_BYTES) != check or _text(data) != code:
        raise WireError("the join code has characters missing or wrong: copy it again, whole")
    parsed = unpack_untrusted(JoinCode, body)
    if len(parsed.mesh) != MESH_ID_BYTES or len(parsed.secret) != SECRET_BYTES:
        raise WireError("the join code has a mesh id or a secret of the wrong length")
    return parsed


def _text(data: bytes) -> str:
    return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()


def secret_hash(secret: bytes) -> bytes:
    """Returns what an inviter keeps of a code: enough to recognise it, not enough to use it."""
    return blake3(secret, derive_key_context="atmosphere join code secret 1").digest()
