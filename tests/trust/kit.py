"""A small mesh of keys for tests: a founder, an admin, members, and certificates made in one line."""

from __future__ import annotations

from atmo.identity import NodeId, Signer
from atmo.trust.certificate import Certificate, issue
from atmo.trust.genesis import found, mesh_id
from atmo.trust.mesh import MeshTrust

START_S = 1_750_000_000
YEAR_S = 365 * 86_400


def signer(name: str) -> Signer:
    """Returns the key that belongs to a name."""
    return Signer(name.encode().ljust(32, b"."))


FOUNDER, ADMIN, ANNA, BERT, EVE = (signer(name) for name in ("founder", "admin", "anna", "bert", "eve"))
GENESIS = found(FOUNDER, "home", START_S, b"nonce".ljust(16))
MESH = mesh_id(GENESIS)


def certificate(
    subject: NodeId,
    issuer: Signer = FOUNDER,
    *,
    roles: tuple[str, ...] = ("edge",),
    name: str = "x",
    issued_s: int = START_S,
    lasts_s: int = YEAR_S,
    mesh: bytes = MESH,
) -> bytes:
    """Returns a sealed certificate."""
    claims = Certificate(subject, issuer.node_id, roles, name, issued_s, issued_s + lasts_s, b"s" * 16)
    return issue(issuer, mesh, claims)


def admin_certificate(*, issued_s: int = START_S, lasts_s: int = YEAR_S) -> bytes:
    """Returns the certificate by which the founder made `ADMIN` an admin."""
    return certificate(ADMIN.node_id, roles=("admin",), issued_s=issued_s, lasts_s=lasts_s)


def trust(members_most: int = 1_000) -> MeshTrust:
    """Returns the rules of the mesh as a stranger begins with them."""
    return MeshTrust(GENESIS, members_most)
