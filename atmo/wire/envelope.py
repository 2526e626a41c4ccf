"""COSE_Sign1 envelopes (RFC 9052 section 4.2) with EdDSA; `kid` is the author's node id.

The external data names the domain and the mesh, so a signature made for one purpose in one mesh is worth nothing
anywhere else. What is verified is always the bytes that arrived, never a re-encoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from atmo.errors import WireError
from atmo.identity import NodeId, Signer, verify
from atmo.wire import codec, limits

COSE_SIGN1_TAG = 18  # RFC 9052 section 2
_PROTECTED_HEAD = bytes.fromhex("a2 0127 045820")
"""The protected header up to the node id: {alg (1): EdDSA (-8), kid (4): 32 bytes}; RFC 9052 section 3.1."""

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
    protected = _PROTECTED_HEAD + signer.node_id
    signature = signer.sign(_to_be_signed(protected, domain, mesh, payload))
    return codec.encode_tagged(COSE_SIGN1_TAG, [protected, {}, payload, signature])


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
    if not protected.startswith(_PROTECTED_HEAD):
        raise WireError("the protected header is not exactly EdDSA and a node id")
    return NodeId(protected[len(_PROTECTED_HEAD) :])


def _to_be_signed(protected: bytes, domain: str, mesh: bytes, payload: bytes) -> bytes:
    external = codec.encode([domain, mesh])
    return codec.encode(["Signature1", protected, external, payload])
