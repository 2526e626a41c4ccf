"""COSE_Sign1 envelopes (RFC 9052 section 4.2) with EdDSA; `kid` is the author's node id.

The external data names the domain and the mesh, so a signature made for one purpose in one mesh is worth nothing
anywhere
else. What is verified is always the bytes that arrived, never a re-encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cbor2 import CBORTag

from atmo.errors import WireError
from atmo.identity import NodeId, Signer, verify
from atmo.wire import codec, limits

COSE_SIGN1_TAG = 18  # RFC 9052 section 2
_ALG, _KID, _EDDSA = 1, 4, -8  # RFC 9052 section 3.1, RFC 9053 section 2.2

NO_MESH = b""
"""The mesh of documents that exist before any mesh: a genesis."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope whose signature is right. Whether its author may say such things is for the caller to judge.

    Attributes:
        author: Who signed.
        payload: What was signed, as it arrived.
    """

    author: NodeId
    payload: bytes


def seal(signer: Signer, domain: str, mesh: bytes, payload: bytes) -> bytes:
    """Signs `payload` for one domain (such as `atmo/record/1`) of one mesh; returns the tagged COSE_Sign1."""
    protected = codec.encode({_ALG: _EDDSA, _KID: bytes(signer.node_id)})
    signature = signer.sign(_to_be_signed(protected, domain, mesh, payload))
    return codec.encode(CBORTag(COSE_SIGN1_TAG, [protected, {}, payload, signature]))


def open_untrusted(data: bytes, domain: str, mesh: bytes, max_bytes: int = limits.MESSAGE_BYTES) -> Opened:
    """Checks limits, shape and signature, in that order.

    Raises:
        WireError: The envelope is too long or malformed, or the signature is not right for this domain and mesh.
    """
    parts = codec.decode_untrusted(data, max_bytes, tag=COSE_SIGN1_TAG)
    match parts:
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature] if not unprotected:
            pass
        case _:
            raise WireError("not a COSE_Sign1 with an empty unprotected header")
    author = _author_untrusted(protected)
    if not verify(author, _to_be_signed(protected, domain, mesh, payload), signature):
        raise WireError("the signature is wrong for this author, domain and mesh")
    return Opened(author, payload)


def _author_untrusted(protected: bytes) -> NodeId:
    header: Any = codec.decode_untrusted(protected, 128)
    match header:
        case {1: -8, 4: bytes() as kid, **rest} if not rest:
            return NodeId(kid)
        case _:
            raise WireError("the protected header is not exactly EdDSA and a kid")


def _to_be_signed(protected: bytes, domain: str, mesh: bytes, payload: bytes) -> bytes:
    external = codec.encode([domain, mesh])
    return codec.encode(["Signature1", protected, external, payload])
