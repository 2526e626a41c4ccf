"""Keys for clients of the HTTP endpoint.

A key is `sk-atmo-`, as programs that look for leaked keys expect it, and base32 of 32 random bytes and four bytes of
their BLAKE3 hash against typing errors. A node keeps hashes only. A fast hash is right there: slow ones are for
passwords, which can be guessed; 256 random bits cannot, however fast each guess is. And a key is looked up by its hash,
so what an attacker could time is how much of a hash agrees, which it can neither choose nor use.
"""

from __future__ import annotations

import base64
import binascii

from blake3 import blake3

from atmo.errors import WireError

PREFIX = "sk-atmo-"
SECRET_BYTES = 32

_CHECK_BYTES = 4
_CHARS = len(PREFIX) + -(-(SECRET_BYTES + _CHECK_BYTES) * 8 // 5)
_ID_BYTES = 4


def key_text(secret: bytes) -> str:
    """Returns the key that a client sends.

    Args:
        secret: 32 random bytes.
    """
    data = secret + blake3(secret).digest(_CHECK_BYTES)
    return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()


def looks_like_key(text: str) -> bool:
    """Says whether somebody meant this to be a key of ours."""
    return text.startswith(PREFIX)


def read_key_untrusted(text: str) -> bytes:
    """Returns the hash by which a node knows a key.

    Raises:
        WireError: It is no key of ours, or characters are missing or wrong; the text is not in the error.
    """
    if not looks_like_key(text):
        raise WireError(f"a key begins with {PREFIX}")
    if len(text) != _CHARS:
        raise WireError(f"a key has {_CHARS} characters, this one {len(text)}")
    digits = text[len(PREFIX) :].upper()
    try:
        data = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except (binascii.Error, ValueError):
        raise WireError("the key has characters that are wrong") from None
    secret = data[:SECRET_BYTES]
    if key_text(secret) != text:
        raise WireError("the key has characters that are wrong")
    return key_hash(secret)


def key_hash(secret: bytes) -> bytes:
    """Returns what a node keeps of a key: enough to recognise it, not enough to use it."""
    return blake3(secret, derive_key_context="atmosphere api key 1").digest()


def key_id(hashed: bytes) -> str:
    """Returns by what people name a key; it tells nothing of its secret."""
    return hashed[:_ID_BYTES].hex()
