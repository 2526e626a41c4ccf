"""The rules of one mesh: whose certificates count, and who has been put out.

Revocations and hand-overs are sets that only grow, and what follows from them does not depend on the order in which
they were learnt: a founder's word always counts; an admin's word counts unless a founder put that admin out, which
undoes what it did. Of a founder that handed over, those revocations count that its hand-over names. Whether an admin's
word gets into the set does depend on time: it has to be heard while its author is an admin, as an author can write any
date.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust.certificate import ADMIN, Certificate, open_certificate_untrusted
from atmo.trust.founders import Founders, Succession
from atmo.trust.genesis import mesh_id, open_genesis_untrusted
from atmo.wire import limits

SKEW_S = 60.0
"""Clocks of members may differ by this much. Source: docs/PROTOCOL.md section 5."""

OpenCertificate = Callable[[bytes, bytes], Certificate]
"""Opens a sealed certificate of a mesh, as `open_certificate_untrusted` does."""

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


class NotKnown(NotCounting):
    """Signed by a node of which it is not known here that it has a founder's rights: it may have been given them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node whose certificate was checked, with the bytes to show others.

    Attributes:
        certificate: What it says.
        sealed: The certificate as signed.
        issuer_sealed: The issuing admin's own certificate; None when a founder issued.
        expires_s: Unix seconds: the end of its certificate or its issuer's, whichever is first.
        founder: The founder who signed the one or the other.
        founder_signed_s: When that was, as the founder says: Unix seconds.
    """

    certificate: Certificate
    sealed: bytes
    issuer_sealed: bytes | None
    expires_s: int
    founder: NodeId
    founder_signed_s: int


class MeshTrust:
    """Decides who is a member.

    Args:
        genesis: The sealed genesis.
        members_most: Bound of the table; expired members make room.
        open_certificate: Opens sealed certificates; pure, so its results may be kept and shared.

    Raises:
        WireError: The genesis is not one.
    """

    def __init__(
        self,
        genesis: bytes,
        members_most: int = limits.AUTHORS,
        open_certificate: OpenCertificate = open_certificate_untrusted,
    ) -> None:
        self.genesis_sealed = genesis
        self.genesis = open_genesis_untrusted(genesis)
        self.mesh_id = mesh_id(genesis)
        self._founders = Founders(self.genesis.founders)
        self._members_most = members_most
        self._open_certificate = open_certificate
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
        member = self.check_untrusted(wall, node, sealed, issuer_sealed)
        if known and self.is_member(wall, node) and _age(known) > _age(member):
            return known
        if known is None:
            self._make_room(wall)
        self._members[node] = member
        return member

    def check_untrusted(self, wall: float, node: NodeId, sealed: bytes, issuer_sealed: bytes | None) -> Member:
        """Checks a node's certificate without remembering anything; see `admit_untrusted`."""
        certificate = self._open_certificate(sealed, self.mesh_id)
        if certificate.subject != node:
            raise WireError("the certificate is another node's")
        if self._founders.was_ever(certificate.issuer):
            member = self._member(certificate, sealed, None, certificate)
        elif issuer_sealed is None:
            raise NotKnown("the certificate's issuer is no founder and shows no certificate of its own")
        else:
            issuer = self._admin_untrusted(certificate.issuer, issuer_sealed)
            member = self._member(certificate, sealed, issuer_sealed, issuer)
        _check_dates(wall, certificate.issued_s, member.expires_s)
        if flaw := self._flaw(member):
            raise NotCounting(flaw)
        return member

    def _member(self, own: Certificate, sealed: bytes, issuer_sealed: bytes | None, top: Certificate) -> Member:
        """Returns a member; `top` is the certificate of the two, or the one, that a founder signed."""
        expires_s = int(min(own.expires_s, top.expires_s, self._founders.word_ends_s(top.issuer)))
        return Member(own, sealed, issuer_sealed, expires_s, top.issuer, top.issued_s)

    def _flaw(self, member: Member) -> str:
        """Returns why a certificate within its dates does not count, nothing where it does."""
        if self.is_revoked(member.certificate.subject):
            return "the node was revoked"
        if self.is_revoked(member.certificate.issuer) or self.is_revoked(member.founder):
            return "the node's issuer was revoked"
        if not self._founders.word_counts(member.founder, member.founder_signed_s):
            return "the founder behind the certificate had handed over before"
        return ""

    def _admin_untrusted(self, node: NodeId, sealed: bytes) -> Certificate:
        certificate = self._open_certificate(sealed, self.mesh_id)
        if certificate.subject != node:
            raise NotEntitled("an admin's certificate is another node's")
        if ADMIN not in certificate.roles:
            raise NotEntitled(f"the certificate of {node.short} does not make it an admin")
        if not self._founders.was_ever(certificate.issuer):
            raise NotKnown("an admin's certificate is not a founder's word for it")
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
        if member is None or wall > member.expires_s + SKEW_S:
            return False
        if not self._revokers and not self._founders.handed_over:
            return True
        return not self._flaw(member) and wall <= self._founders.word_ends_s(member.founder) + SKEW_S

    def is_admin(self, wall: float, node: NodeId) -> bool:
        """Says whether `node` may invite and revoke: a founder, or whom a founder made an admin."""
        member = self._members.get(node)
        if member is None or not self.is_member(wall, node):
            return False
        if self._founders.was_ever(node):
            return self._founders.is_now(node)  # a key that handed over has nothing left but its membership
        return ADMIN in member.certificate.roles and member.issuer_sealed is None

    def roles(self, node: NodeId) -> tuple[str, ...]:
        """Returns the roles of a member, nothing for a stranger."""
        member = self._members.get(node)
        return member.certificate.roles if member else ()

    def member(self, node: NodeId) -> Member | None:
        """Returns what was admitted for `node`, whether or not it has expired since."""
        return self._members.get(node)

    # --- founders and admins --------------------------------------------------------------------------------------

    @property
    def founders(self) -> tuple[NodeId, ...]:
        """Who has a founder's rights now."""
        return self._founders.now()

    def is_founder(self, node: NodeId) -> bool:
        """Says whether `node` has a founder's rights now."""
        return self._founders.is_now(node)

    def retired(self, node: NodeId) -> Succession | None:
        """Returns by what `node` gave up a founder's rights, None where it has them or never had any."""
        return self._founders.retired(node)

    @property
    def handed_over(self) -> tuple[NodeId, ...]:
        """Who handed a founder's rights over, each after whom it has them from."""
        return self._founders.handed_over

    def check_founder_untrusted(self, node: NodeId) -> None:
        """Checks that `node` is a founder or was one: it may have handed over.

        Raises:
            NotKnown: Nothing is known of that.
        """
        if not self._founders.was_ever(node):
            raise NotKnown("only a founder hands over")

    def succeed(self, node: NodeId, successor: NodeId, at_s: int, revoked: Sequence[NodeId] = ()) -> bool:
        """Gives a founder's rights to another node, for good; what came first counts.

        Args:
            node: The founder, as its signature proved.
            successor: Who has its rights from now on.
            at_s: Unix seconds by the founder's clock.
            revoked: Whom it has put out.

        Returns:
            Whether this was news.
        """
        return self._founders.succeed(node, Succession(successor, at_s, dict.fromkeys(revoked)))

    def check_admin_untrusted(self, wall: float | None, issued_s: float, node: NodeId, sealed: bytes | None) -> None:
        """Checks that `node` may invite: a founder, or an admin at `issued_s` and now.

        Arguments and errors are those of `check_revoker_untrusted`.
        """
        if self._founders.is_now(node):
            return
        if self._founders.was_ever(node):
            raise NotCounting("its author has handed over a founder's rights")
        self._check_admin_untrusted(wall, issued_s, node, sealed)
        if wall is not None and self.is_revoked(node):
            raise NotCounting("the admin was put out")

    def _check_admin_untrusted(self, wall: float | None, issued_s: float, node: NodeId, sealed: bytes | None) -> None:
        if sealed is None:
            raise NotKnown("only founders and admins may do this, and this one shows no certificate")
        certificate = self._admin_untrusted(node, sealed)
        try:
            _check_dates(issued_s, certificate.issued_s, certificate.expires_s)
        except NotCounting as error:
            raise NotEntitled(f"{error}, as of its deed") from error
        if not self._founders.word_counts(certificate.issuer, certificate.issued_s):
            raise NotCounting("the founder behind the admin had handed over before")
        if wall is not None and wall > certificate.expires_s + SKEW_S + REVOKER_GRACE_S:
            raise NotCounting("the admin's certificate has expired since")

    # --- revocation -----------------------------------------------------------------------------------------------

    def check_revoker_untrusted(
        self, wall: float | None, issued_s: float, node: NodeId, sealed: bytes | None, target: NodeId | None = None
    ) -> None:
        """Checks that `node` is a founder, or was an admin when it revoked someone and still is.

        Whom a founder put out may pass: what it says has no effect, so the order of the two does not matter. So may a
        founder that handed over, with what it had done before.

        Args:
            wall: Unix seconds now; None for a revocation that was accepted in an earlier run, when its author still was
                one.
            issued_s: When it revoked someone, as it says itself.
            node: Who signed the revocation.
            sealed: Its certificate, where it is not a founder.
            target: Whom it revoked.

        Raises:
            NotCounting: It was an admin or a founder, but is none any more.
            NotKnown: It shows nothing and is not known as a founder.
            NotEntitled: It was no admin at that time.
            WireError: What it shows is no certificate of this mesh.
        """
        if self._founders.is_now(node):
            return
        if succession := self._founders.retired(node):
            if target not in succession.revoked:
                raise NotCounting("its author has handed over a founder's rights")
            return
        self._check_admin_untrusted(wall, issued_s, node, sealed)
        if wall is not None and self.is_revoked(node) and not self._put_out_by_founder(node):
            raise NotCounting("the admin was put out")

    def revoke(self, node: NodeId, by: NodeId | None = None) -> bool:
        """Puts a node out, with all whom it issued certificates to; founders stay.

        Args:
            node: Who is out.
            by: The founder or admin who said so; None for the first founder there is now.

        Returns:
            Whether this was news.
        """
        by = by or self._founders.now()[0]
        if self._founders.is_now(node):
            return False
        if node not in self._revokers and len(self._revokers) >= limits.AUTHORS:
            return False
        revokers = self._revokers.setdefault(node, {})
        if by in revokers or (len(revokers) >= _REVOKERS and not self._founders.was_ever(by)):
            return False
        revokers[by] = None
        return True

    def is_revoked(self, node: NodeId) -> bool:
        """Says whether a founder, or an admin whom no founder put out, put this node out."""
        revokers = self._revokers.get(node)
        if revokers is None or self._founders.is_now(node):
            return False
        return any(self._is_founders_word(by, node) or self._is_admins_word(by) for by in revokers)

    def _is_admins_word(self, by: NodeId) -> bool:
        return not self._founders.was_ever(by) and not self._put_out_by_founder(by)

    def _is_founders_word(self, by: NodeId, node: NodeId) -> bool:
        if succession := self._founders.retired(by):
            return node in succession.revoked
        return self._founders.is_now(by)

    def _put_out_by_founder(self, node: NodeId) -> bool:
        revokers = () if self._founders.is_now(node) else self._revokers.get(node, ())
        return any(self._is_founders_word(by, node) for by in revokers)


def _age(member: Member) -> tuple[int, int]:
    return (member.certificate.issued_s, member.expires_s)


def _check_dates(wall: float, issued_s: int, expires_s: int) -> None:
    if wall > expires_s + SKEW_S:
        raise NotCounting("a certificate has expired")
    if wall < issued_s - SKEW_S:
        raise NotCounting("a certificate is from the future: check this machine's clock")
