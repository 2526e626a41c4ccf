"""The rules of one mesh: whose certificates count, and who has been put out."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust.certificate import ADMIN, Certificate, open_certificate_untrusted
from atmo.trust.genesis import mesh_id, open_genesis_untrusted
from atmo.wire import limits

SKEW_S = 60.0
"""Clocks of members may differ by this much. Source: the protocol's design."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node whose certificate was checked, with the bytes to show others.

    Attributes:
        certificate: What it says.
        sealed: The certificate as signed.
        issuer_sealed: The issuing admin's own certificate; None when a founder issued.
    """

    certificate: Certificate
    sealed: bytes
    issuer_sealed: bytes | None


class MeshTrust:
    """Decides who is a member.

    Args:
        genesis: The sealed genesis.

    Raises:
        WireError: The genesis is not one.
    """

    def __init__(self, genesis: bytes) -> None:
        self.genesis_sealed = genesis
        self.genesis = open_genesis_untrusted(genesis)
        self.mesh_id = mesh_id(genesis)
        self._members: dict[NodeId, Member] = {}
        self._revoked: set[NodeId] = set()

    def admit_untrusted(self, wall: float, node: NodeId, sealed: bytes, issuer_sealed: bytes | None) -> Member:
        """Checks a node's certificate and remembers the node as a member.

        Args:
            wall: Unix seconds now.
            node: Who shows it, as the transport or a signature proved.
            sealed: Its certificate.
            issuer_sealed: The issuer's certificate, where the issuer is not a founder.

        Raises:
            WireError: Why this node is no member.
        """
        known = self._members.get(node)
        if known and known.sealed == sealed and self.is_member(wall, node):
            return known
        certificate = open_certificate_untrusted(sealed, self.mesh_id)
        if certificate.subject != node:
            raise WireError("the certificate is another node's")
        self._check_dates(wall, certificate)
        if node in self._revoked:
            raise WireError("the node was revoked")
        if certificate.issuer not in self.genesis.founders:
            self._check_issuer_untrusted(wall, certificate.issuer, issuer_sealed)
        if node not in self._members and len(self._members) >= limits.AUTHORS:
            raise WireError(f"the table of {limits.AUTHORS} members is full")
        member = Member(certificate, sealed, issuer_sealed)
        self._members[node] = member
        return member

    def _check_issuer_untrusted(self, wall: float, issuer: NodeId, issuer_sealed: bytes | None) -> None:
        if issuer_sealed is None:
            raise WireError("the certificate's issuer is no founder and shows no certificate of its own")
        delegated = open_certificate_untrusted(issuer_sealed, self.mesh_id)
        self._check_dates(wall, delegated)
        if delegated.subject != issuer or delegated.issuer not in self.genesis.founders:
            raise WireError("the issuer's certificate is not a founder's word for it")
        if ADMIN not in delegated.roles or issuer in self._revoked:
            raise WireError("the certificate's issuer is no admin")

    @staticmethod
    def _check_dates(wall: float, certificate: Certificate) -> None:
        if wall > certificate.expires_s + SKEW_S:
            raise WireError("a certificate has expired")
        if wall < certificate.issued_s - SKEW_S:
            raise WireError("a certificate is from the future: check this machine's clock")

    def is_member(self, wall: float, node: NodeId) -> bool:
        """Says whether what `node` signs or asks may be acted on now."""
        member = self._members.get(node)
        if member is None or node in self._revoked or member.certificate.issuer in self._revoked:
            return False
        return wall <= member.certificate.expires_s + SKEW_S

    def is_admin(self, wall: float, node: NodeId) -> bool:
        """Says whether `node` may invite and revoke."""
        return self.is_member(wall, node) and (node in self.genesis.founders or ADMIN in self.roles(node))

    def roles(self, node: NodeId) -> tuple[str, ...]:
        """Returns the roles of a member, nothing for a stranger."""
        member = self._members.get(node)
        return member.certificate.roles if member else ()

    def member(self, node: NodeId) -> Member | None:
        """Returns what was admitted for `node`, whether or not it has expired since."""
        return self._members.get(node)

    def members(self) -> list[NodeId]:
        """Returns everyone admitted and not revoked, in the order of admission."""
        return [node for node in self._members if node not in self._revoked]

    def revoke(self, node: NodeId) -> bool:
        """Puts a node out for good, with all whom it issued certificates to; founders stay.

        Returns:
            Whether this was news.
        """
        if node in self.genesis.founders or node in self._revoked or len(self._revoked) >= limits.AUTHORS:
            return False
        self._revoked.add(node)
        return True

    def is_revoked(self, node: NodeId) -> bool:
        """Says whether a founder or an admin put this node out."""
        return node in self._revoked
