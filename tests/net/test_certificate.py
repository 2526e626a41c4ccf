"""The certificate's key is the node id."""

from __future__ import annotations

from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from atmo.errors import WireError
from atmo.net.certificate import make_credentials, node_of_certificate_untrusted
from tests.net.pair import ALICE


def test_the_key_of_a_certificate_is_the_node_id() -> None:
    certificate = make_credentials(ALICE).certificate
    assert node_of_certificate_untrusted(certificate) == ALICE.node_id
    certificate.verify_directly_issued_by(certificate)


def test_another_kind_of_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2020, 1, 1), datetime(2090, 1, 1))
    with pytest.raises(WireError, match="not Ed25519"):
        node_of_certificate_untrusted(builder.sign(key, hashes.SHA256()))
