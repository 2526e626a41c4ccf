"""The rules of one mesh: whose certificates count, and who has been put out.

Revocations are a set that only grows, and what follows from that set does not depend on the order in which it was
learnt: a founder's word always counts; an admin's word counts unless a founder put that admin out, which undoes what it
did. Whether an admin's word gets into the set does depend on time: it has to be heard while its author is an admin, as
an author can write any date.
"""

from __future__ import annotations

from dataclasses import dataclass

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust.certificate import ADMIN, Certificate, open_certificate_untrusted
from atmo.trust.genesis import mesh_id, open_genesis_untrusted
from atmo.wire import limits

SKEW_S = 60.0
"""Clocks of members may differ by this much. Source: docs/PROTOCOL.md section 5."""

_REVOKERS = 64  # admins whose word against one node is kept

REVOKER_GRACE_S = 300.0
"""A new revocation by an admin whose certificate has expired still counts for so long, as it may be under way.

Source: the lifetime of a record, docs/PROTOCOL.md section 8.
"""


class NotEntitled(WireError):
    """Somebody signed what only a founder or an admin may sign."""


class NotCounting(WireError):
    """A sound certificate that does not count here and now: expired, from the future, revoked, no room.

    Another member may see it otherwise, so nobody is to blame for passing it on.
    """


@dataclass(frozen=True, slots=True)
class Member:
    """A node whose certificate was checked, with the bytes to show others.

    Attributes:
        certificate: What it says.
        sealed: The certificate as signed.
        issuer_sealed: The issuing admin's own certificate; None when a founder issued.
        expires_s: Unix seconds: the end of its certificate or its issuer's, whichever is first.
    """

    certificate: Certificate
    sealed: bytes
    issuer_sealed: bytes | None
    expires_s: int


class MeshTrust:
    """Decides who is a member.

    Args:
        genesis: The sealed genesis.
        members_most: Bound of the table; expired members make room.

    Raises:
        WireError: The genesis is not one.
    """

    def __init__(self, genesis: bytes, members_most: int = limits.AUTHORS) -> None:
        self.genesis_sealed = genesis
        self.genesis = open_genesis_untrusted(genesis)
        self.mesh_id = mesh_id(genesis)
        self._members_most = members_most
        self._members: dict[NodeId, Member] = {}
        self._revokers: dict[NodeId, dict[NodeId, None]] = {}

    # --- members --------------------------------------------------------------------------------------------------

    def admit_untrusted(self, wall: float, node: NodeId, sealed: bytes, issuer_sealed: bytes | None) -> Member:
        """Checks a node's certificate and remembers the node as a member.

        Of two certificates of one node the later issued one counts.

        Args:
            wall: Unix seconds now.
            node: Who shows it, as the transport or a signature proved.
            sealed: Its certificate.
            issuer_sealed: The issuer's certificate, where the issuer is not a founder.

        Raises:
            NotCounting: It is sound, but expired, from the future, revoked or one too many.
            WireError: It is no certificate of this node in this mesh.
        """
        known = self._members.get(node)
        if known and known.sealed == sealed and known.issuer_sealed == issuer_sealed and self.is_member(wall, node):
            return known
        member = self._check_untrusted(node, sealed, issuer_sealed)
        _check_dates(wall, member.certificate.issued_s, member.expires_s)
        if self.is_revoked(node) or self.is_revoked(member.certificate.issuer):
            raise NotCounting("the node was revoked" if self.is_revoked(node) else "the node's issuer was revoked")
        if known and self.is_member(wall, node) and _age(known) > _age(member):
            return known
        if known is None:
            self._make_room(wall)
        self._members[node] = member
        return member

    def _check_untrusted(self, node: NodeId, sealed: bytes, issuer_sealed: bytes | None) -> Member:
        certificate = open_certificate_untrusted(sealed, self.mesh_id)
        if certificate.subject != node:
            raise WireError("the certificate is another node's")
        if certificate.issuer in self.genesis.founders:
            return Member(certificate, sealed, None, certificate.expires_s)
        if issuer_sealed is None:
            raise NotEntitled("the certificate's issuer is no founder and shows no certificate of its own")
        issuer = self._admin_untrusted(certificate.issuer, issuer_sealed)
        return Member(certificate, sealed, issuer_sealed, min(certificate.expires_s, issuer.expires_s))

    def _admin_untrusted(self, node: NodeId, sealed: bytes) -> Certificate:
        certificate = open_certificate_untrusted(sealed, self.mesh_id)
        if certificate.subject != node or certificate.issuer not in self.genesis.founders:
            raise NotEntitled("an admin's certificate is not a founder's word for it")
        if ADMIN not in certificate.roles:
            raise NotEntitled(f"the certificate of {node.short} does not make it an admin")
        return certificate

    def _make_room(self, wall: float) -> None:
        if len(self._members) < self._members_most:
            return
        for node in [node for node, member in self._members.items() if wall > member.expires_s + SKEW_S]:
            del self._members[node]
        if len(self._members) >= self._members_most:
            raise NotCounting(f"the table of {self._members_most} members is full")

    def is_member(self, wall: float, node: NodeId) -> bool:
        """Says whether what `node` signs or asks may be acted on now."""
        member = self._members.get(node)
        if member is None or self.is_revoked(node) or self.is_revoked(member.certificate.issuer):
            return False
        return wall <= member.expires_s + SKEW_S

    def is_admin(self, wall: float, node: NodeId) -> bool:
        """Says whether `node` may invite and revoke: a founder, or whom a founder made an admin."""
        member = self._members.get(node)
        if member is None or not self.is_member(wall, node):
            return False
        certificate = member.certificate
        return node in self.genesis.founders or (
            ADMIN in certificate.roles and certificate.issuer in self.genesis.founders
        )

    def roles(self, node: NodeId) -> tuple[str, ...]:
        """Returns the roles of a member, nothing for a stranger."""
        member = self._members.get(node)
        return member.certificate.roles if member else ()

    def member(self, node: NodeId) -> Member | None:
        """Returns what was admitted for `node`, whether or not it has expired since."""
        return self._members.get(node)

    # --- revocation -----------------------------------------------------------------------------------------------

    def check_revoker_untrusted(self, wall: float | None, issued_s: float, node: NodeId, sealed: bytes | None) -> None:
        """Checks that `node` is a founder, or was an admin when it revoked someone and still is.

        Whom a founder put out may pass: what it says has no effect, so the order of the two does not matter.

        Args:
            wall: Unix seconds now; None for a revocation that was accepted in an earlier run, when its author still was
                one.
            issued_s: When it revoked someone, as it says itself.
            node: Who signed the revocation.
            sealed: Its certificate, where it is not a founder.

        Raises:
            NotCounting: It was an admin, but is none any more.
            NotEntitled: It was no admin at that time.
            WireError: What it shows is no certificate of this mesh.
        """
        if node in self.genesis.founders:
            return
        if sealed is None:
            raise NotEntitled("only founders and admins revoke, and this one shows no certificate")
        certificate = self._admin_untrusted(node, sealed)
        try:
            _check_dates(issued_s, certificate.issued_s, certificate.expires_s)
        except NotCounting as error:
            raise NotEntitled(f"{error}, as of the revocation") from error
        if wall is None:
            return
        if wall > certificate.expires_s + SKEW_S + REVOKER_GRACE_S:
            raise NotCounting("the admin's certificate has expired since")
        if self.is_revoked(node) and not self._put_out_by_founder(node):
            raise NotCounting("the admin was put out")

    def revoke(self, node: NodeId, by: NodeId | None = None) -> bool:
        """Puts a node out, with all whom it issued certificates to; founders stay.

        Args:
            node: Who is out.
            by: The founder or admin who said so; None for the first founder.

        Returns:
            Whether this was news.
        """
        by = by or self.genesis.founders[0]
        if node in self.genesis.founders:
            return False
        if node not in self._revokers and len(self._revokers) >= limits.AUTHORS:
            return False
        revokers = self._revokers.setdefault(node, {})
        if by in revokers or (len(revokers) >= _REVOKERS and by not in self.genesis.founders):
            return False
        revokers[by] = None
        return True

    def is_revoked(self, node: NodeId) -> bool:
        """Says whether a founder, or an admin whom no founder put out, put this node out."""
        revokers = self._revokers.get(node)
        return revokers is not None and any(not self._put_out_by_founder(by) for by in revokers)

    def _put_out_by_founder(self, node: NodeId) -> bool:
        return any(by in self.genesis.founders for by in self._revokers.get(node, ()))


def _age(member: Member) -> tuple[int, int]:
    return (member.certificate.issued_s, member.expires_s)


def _check_dates(wall: float, issued_s: int, expires_s: int) -> None:
    if wall > expires_s + SKEW_S:
        raise NotCounting("a certificate has expired")
    if wall < issued_s - SKEW_S:
        raise NotCounting("a certificate is from the future: check this machine's clock")
