"""The TLS certificate of a node: self-signed Ed25519, whose key is the node id. Nothing else in it means anything.

TLS proves that the other end holds the key (CertificateVerify); names, dates and the certificate's own signature are
not looked at, so the dates are constants and need no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from atmo.errors import WireError
from atmo.identity import NodeId, Signer

_VALID_FROM = datetime(2020, 1, 1)
_VALID_UNTIL = datetime(9999, 12, 31, 23, 59, 59)  # "no well-defined expiration date", RFC 5280 section 4.1.2.5


@dataclass(frozen=True, slots=True)
class Credentials:
    """What our end of a TLS handshake shows and signs with."""

    certificate: x509.Certificate
    private_key: Ed25519PrivateKey


def make_credentials(signer: Signer) -> Credentials:
    """Makes the certificate of `signer`'s node; the same signer gives the same key, with a fresh serial number."""
    key = Ed25519PrivateKey.from_private_bytes(signer.seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(signer.node_id))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .sign(key, None)
    )
    return Credentials(certificate, key)


def node_of_certificate_untrusted(certificate: x509.Certificate) -> NodeId:
    """Returns the node id that a certificate stands for.

    Raises:
        WireError: Its key is not an Ed25519 key.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise WireError("the certificate's key cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise WireError("the certificate's key is not Ed25519")
    return NodeId(key.public_bytes_raw())
