"""Ed25519 keys and the node ids made of them.

A node id is the 32-byte public key itself, written as 52 letters and digits of lower-case base32 (RFC 4648 section 6)
without padding. There is no other name for a node that anything trusts.
"""

from __future__ import annotations

import base64
import binascii

from nacl.bindings import crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from atmo.errors import WireError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
TEXT_CHARS = 52


class NodeId(bytes):
    """An Ed25519 public key, 32 bytes; sorts and hashes as bytes, prints as base32."""

    __slots__ = ()

    def __new__(cls, value: bytes) -> NodeId:
        if len(value) != KEY_BYTES:
            raise WireError(f"a node id has {KEY_BYTES} bytes, this has {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> NodeId:
        """Reads the text form.

        Raises:
            WireError: It is not 52 characters of base32.
        """
        if len(text) != TEXT_CHARS:
            raise WireError(f"a node id has {TEXT_CHARS} characters, this has {len(text)}")
        try:
            value = base64.b32decode(text.upper() + "====")
        except (binascii.Error, ValueError) as error:
            raise WireError("a node id has only the letters a-z and the digits 2-7") from error
        node = cls(value)
        if str(node) != text.lower():
            raise WireError("this node id has stray bits in its last character")
        return node

    def __str__(self) -> str:
        return base64.b32encode(self).decode().rstrip("=").lower()

    def __repr__(self) -> str:
        return f"NodeId({self.short})"

    @property
    def short(self) -> str:
        """The first ten characters: for people, never for comparing."""
        return str(self)[:10]


class Signer:
    """Holds a private key and signs with it.

    Args:
        seed: 32 secret bytes. The same seed gives the same key on every machine.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._seed = bytes(seed)
        public, _ = crypto_sign_seed_keypair(self._seed)
        self.node_id = NodeId(public)

    @property
    def seed(self) -> bytes:
        """The secret seed; the transport needs it to make its certificate."""
        return self._seed

    def sign(self, data: bytes) -> bytes:
        """Returns the 64-byte Ed25519 signature of `data` (RFC 8032)."""
        return self._key.sign(data).signature

    def __repr__(self) -> str:
        return f"Signer({self.node_id.short})"


def verify(author: NodeId, data: bytes, signature: bytes) -> bool:
    """Says whether `signature` is `author`'s Ed25519 signature of `data`."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(bytes(author)).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True
