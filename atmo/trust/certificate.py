"""Member certificates: CWT claims (RFC 8392 section 3) in a COSE_Sign1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.wire import codec, limits
from atmo.wire.envelope import open_untrusted, seal

DOMAIN = "atmo/certificate/1"
MOST_ROLES = 8

CERTIFICATE_S = 365 * 86_400
"""How long a membership lasts; it is renewed before. Source: choice."""

ADMIN = "admin"
"""May sign certificates, hand out join codes and revoke members."""

_ISS, _SUB, _EXP, _IAT, _CTI = 1, 2, 4, 6, 7  # RFC 8392 section 4
_ROLES, _NAME = -70_001, -70_002  # private use: below -65536 (RFC 8392 section 9.1)
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A statement that a node is a member of a mesh, in these roles, until then.

    Attributes:
        subject: The member.
        issuer: The founder or admin who signed.
        roles: Such as `edge`, `gateway`, `admin`.
        name: What the member is called, for people.
        issued_s: Unix seconds.
        expires_s: Unix seconds.
        serial: 16 random bytes.
    """

    subject: NodeId
    issuer: NodeId
    roles: tuple[str, ...]
    name: str
    issued_s: int
    expires_s: int
    serial: bytes


def valid_name(name: str) -> bool:
    """Says whether `name` may name a node or a mesh: printable, at most `limits.NAME_CHARS` characters."""
    return len(name) <= limits.NAME_CHARS and name.isprintable()


def valid_role(role: str) -> bool:
    """Says whether `role` is a word that may stand in a certificate: `[a-z][a-z0-9-]*`, at most 32 characters."""
    return _ROLE.fullmatch(role) is not None


def issue(signer: Signer, mesh: bytes, certificate: Certificate) -> bytes:
    """Returns the sealed certificate; `certificate.issuer` is the signer.

    Raises:
        WireError: A name or a role is one that every reader would refuse.
    """
    assert certificate.issuer == signer.node_id, "an issuer signs for itself"
    _check(certificate.name, certificate.roles)
    claims = {
        _ISS: str(certificate.issuer),
        _SUB: str(certificate.subject),
        _EXP: certificate.expires_s,
        _IAT: certificate.issued_s,
        _CTI: certificate.serial,
        _ROLES: list(certificate.roles),
        _NAME: certificate.name,
    }
    return seal(signer, DOMAIN, mesh, codec.encode(claims))


def open_certificate_untrusted(sealed: bytes, mesh: bytes) -> Certificate:
    """Reads a certificate and checks that its issuer signed it; whether the issuer may is for `MeshTrust`.

    Raises:
        WireError: It does not decode, is for another mesh, or the signature is wrong.
    """
    opened = open_untrusted(sealed, DOMAIN, mesh, limits.CERTIFICATE_BYTES)
    claims: Any = codec.decode_untrusted(opened.payload, limits.CERTIFICATE_BYTES)
    match claims:
        case {
            1: str() as issuer,
            2: str() as subject,
            4: int() as expires_s,
            6: int() as issued_s,
            7: bytes() as serial,
            -70_001: list() as roles,
            -70_002: str() as name,
        } if type(expires_s) is int and type(issued_s) is int:
            pass
        case _:
            raise WireError("a certificate lacks a claim or has one of the wrong kind")
    _check(name, roles)
    certificate = Certificate(
        NodeId.parse(subject), NodeId.parse(issuer), tuple(roles), name, issued_s, expires_s, serial
    )
    if certificate.issuer != opened.author:
        raise WireError("a certificate was not signed by the issuer it names")
    return certificate


def _check(name: str, roles: Sequence[Any]) -> None:
    if not valid_name(name):
        raise WireError(f"the name in a certificate is not at most {limits.NAME_CHARS} printable characters")
    if len(roles) > MOST_ROLES or not all(isinstance(role, str) and valid_role(role) for role in roles):
        raise WireError("a certificate has too many roles or one that is no role's name")
