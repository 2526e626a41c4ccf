"""The renewal of certificates: each member asks an admin for a new one in good time, and admins sign.

Engine without I/O. A member asks when about two thirds of its membership have passed: its issuer first, then other
admins, one after the other. Admins, who count for less time than whom they let in if they are late, ask founders a
little earlier; founders sign for themselves. After a founder handed over its rights, whoever's certificate goes back
to the old key asks within a day, so that the old key can then be put out without harm.

An admin renews with the same name and roles, and only for a member that counts now. Nobody becomes an admin by a
renewal who was none: that role is kept only where it had effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Final

from atmo.clock import Now
from atmo.engine import Ask, Contact, Effect, Emit, Misbehaved, Outbox, Send, Store
from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.trust.certificate import ADMIN, CERTIFICATE_S, MOST_ROLES, Certificate, issue
from atmo.trust.mesh import Member, MeshTrust, NotCounting
from atmo.wire import limits
from atmo.wire.schema import Most

CERTIFICATE_KEY = "mesh/certificate"
ISSUER_KEY = "mesh/issuer_certificate"

_Sealed = Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]


@dataclass(frozen=True, slots=True)
class Renew:
    """Asks an admin for a new certificate.

    Attributes:
        expires_s: Unix seconds: when the sender's membership ends. Should the admin know of a newer certificate, the
            sender has lost it.
    """

    expires_s: Annotated[int, Most(2**53)]


@dataclass(frozen=True, slots=True)
class Renewed:
    """A new certificate of the receiver.

    Attributes:
        certificate: Sealed.
        issuer_certificate: The issuer's, where it is no founder.
    """

    certificate: _Sealed
    issuer_certificate: _Sealed | None = None


@dataclass(frozen=True, slots=True)
class RenewalRefused:
    """The sender does not renew now: the receiver asks another admin, or later."""

    reason: Annotated[str, Most(64)] = ""


MESSAGES: Final[dict[str, type]] = {"renew": Renew, "renewed": Renewed, "renewal-refused": RenewalRefused}

RenewalMessage = Renew | Renewed | RenewalRefused


@dataclass(frozen=True, slots=True)
class CertificateRenewed:
    """This node has a new certificate, which `MeshTrust` knows already."""

    member: Member


@dataclass(frozen=True, slots=True)
class AdminSought:
    """No admin that is known of could renew: whoever can find others, the issuer first, should look."""

    issuer: NodeId


@dataclass(frozen=True, slots=True)
class RenewalConfig:
    """Times and bounds.

    Attributes:
        lifetime_s: Of certificates that this node signs.
        member_share: Of its membership that has passed when a member asks. Source: choice; four months are left of a
            year.
        admin_share: The same of an admin, so that it is renewed before those who count no longer than itself.
        jitter_share: Up to so much is added to both, so that a mesh founded in a day does not ask in a day.
        early_share: Who asks before so much has passed is refused. Source: guess; clocks and restarts are far less.
        gain_share: An admin does not renew for less than this share of `lifetime_s` more: it has to be renewed first.
        handed_over_s: After its founder handed over, a member asks within this time.
        settle_s: What is due at once waits up to so long, as a start brings much else.
        answer_s: An admin that has not answered by then is given up, its dial included. Source: guess.
        tries: Admins asked in one round.
        retry_s: After a round without success; doubled each time. Source: guess.
        retry_most_s: The most of that, and never more than an eighth of what is left of the membership.
        look_s: The longest wait between two looks at the wall clock, as it may be set or jump.
        again_s: Who asks again so soon gets the same answer again. Source: guess.
        signed: Answers kept for that.
    """

    lifetime_s: int = CERTIFICATE_S
    member_share: float = 2 / 3
    admin_share: float = 0.6
    jitter_share: float = 0.06
    early_share: float = 0.5
    gain_share: float = 1 / 16
    handed_over_s: float = 86_400.0
    settle_s: float = 10.0
    answer_s: float = 10.0
    tries: int = 6
    retry_s: float = 300.0
    retry_most_s: float = 21_600.0
    look_s: float = 3_600.0
    again_s: float = 600.0
    signed: int = 1_024


@dataclass(slots=True)
class RenewalStats:
    """Counters since start.

    Attributes:
        asked: Requests to admins.
        renewed: New certificates of this node.
        unfit: Answers that were no better membership than what this node has.
        rounds_failed: Rounds in which no admin renewed.
        signed: Certificates renewed for others.
        refused: Requests of others that were refused.
    """

    asked: int = 0
    renewed: int = 0
    unfit: int = 0
    rounds_failed: int = 0
    signed: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Round:
    """Admins still to be asked, those who were, and the one whose answer is awaited."""

    queue: list[Contact]
    asked: dict[NodeId, None]
    waiting: NodeId | None = None


class Renewal:
    """Keeps this node's certificate fresh and renews those of others.

    Args:
        config: Times and bounds.
        signer: This node's key.
        trust: The mesh's rules; this node is a member there. A new certificate is entered there.
        rng: Jitter, order of admins, serial numbers.
        contacts: Returns members that could be reached, in any order; the admins among them are asked.
    """

    def __init__(
        self,
        config: RenewalConfig,
        signer: Signer,
        trust: MeshTrust,
        rng: Random,
        contacts: Callable[[Now], Iterable[Contact]],
    ) -> None:
        self._config = config
        self._signer = signer
        self._own = signer.node_id
        self._trust = trust
        self._rng = rng
        self._contacts = contacts
        self._jitter = rng.random()
        self._round = _Round([], {})
        self._failures = 0
        self._not_before = -math.inf  # monotonic; after a renewal that did not get rid of an old founder
        self._started = False
        self._next = 0.0
        self._signed: dict[NodeId, tuple[float, Renewed]] = {}
        self.out = Outbox()
        self.stats = RenewalStats()

    # --- inputs ---------------------------------------------------------------------------------------------------

    def changed(self, now: Now) -> None:
        """A founder handed over, or this node got another certificate: look again."""
        if self._round.waiting is None:
            self._next = min(self._next, now.mono + self._config.settle_s * self._rng.random())

    def receive(self, now: Now, source: NodeId, message: RenewalMessage) -> None:
        """Takes a message of a member."""
        match message:
            case Renew(expires_s):
                self.out.put(Send(source, self._answer(now, source, expires_s)))
            case Renewed(sealed, issuer_sealed):
                if source in self._round.asked:
                    self._renewed_untrusted(now, source, sealed, issuer_sealed)
            case _:
                self.failed(now, source)

    def failed(self, now: Now, node: NodeId) -> None:
        """A node that was to be asked cannot be reached, or refused."""
        if node == self._round.waiting:
            self._ask_next(now)

    def handle_timer(self, now: Now) -> None:
        """Looks whether a renewal is due, or goes on with one."""
        if now.mono < self._next:
            return
        if self._round.waiting is not None:
            self._ask_next(now)
        elif not self._started:
            self._started = True
            self._next = now.mono + self._config.settle_s * self._rng.random()
        else:
            self._look(now)

    def next_timer(self) -> float:
        return self._next

    def drain(self) -> list[Effect]:
        return self.out.drain()

    # --- this node's own certificate ------------------------------------------------------------------------------

    def _look(self, now: Now) -> None:
        member = self._member()
        wait_s = max(self._due_s(now.wall, member) - now.wall, self._not_before - now.mono)
        if wait_s > 0:
            self._next = now.mono + min(wait_s, self._config.look_s)
        elif self._trust.is_founder(self._own):
            certificate = self._sealed(now, member, math.inf)
            self._adopt(now, self._trust.check_untrusted(now.wall, self._own, certificate, None))
        else:
            self._round = _Round(self._candidates(now, member), {})
            self._ask_next(now)

    def _member(self) -> Member:
        member = self._trust.member(self._own)
        assert member is not None, "who is no member has no peer"
        return member

    def _due_s(self, wall: float, member: Member) -> float:
        """Returns the Unix seconds at which this membership is to be renewed."""
        if self._trust.is_founder(self._own) and member.certificate.issuer != self._own:
            return wall
        config = self._config
        share = config.admin_share if self._trust.is_admin(wall, self._own) else config.member_share
        issued_s = member.certificate.issued_s
        due_s = issued_s + (member.expires_s - issued_s) * (share + config.jitter_share * self._jitter)
        if handed_over := self._trust.retired(member.founder):
            due_s = min(due_s, handed_over.at_s + config.handed_over_s * self._jitter)
        return due_s

    def _candidates(self, now: Now, member: Member) -> list[Contact]:
        may = self._trust.is_founder if self._trust.is_admin(now.wall, self._own) else self._is_admin_at(now.wall)
        contacts = [contact for contact in self._contacts(now) if contact.node != self._own and may(contact.node)]
        self._rng.shuffle(contacts)
        contacts.sort(key=lambda contact: contact.node != member.certificate.issuer)
        return contacts[: self._config.tries]

    def _is_admin_at(self, wall: float) -> Callable[[NodeId], bool]:
        return lambda node: self._trust.is_admin(wall, node)

    def _ask_next(self, now: Now) -> None:
        turn = self._round
        if not turn.queue:
            self._give_up(now)
            return
        contact = turn.queue.pop(0)
        turn.waiting = contact.node
        turn.asked[contact.node] = None
        self.stats.asked += 1
        self.out.put(Ask(contact, Renew(self._member().expires_s)))
        self._next = now.mono + self._config.answer_s

    def _give_up(self, now: Now) -> None:
        member, config = self._member(), self._config
        self._round.waiting = None  # a late answer still counts
        self.stats.rounds_failed += 1
        retry_s = min(config.retry_s * 2.0**self._failures, config.retry_most_s)
        left_s = member.expires_s - now.wall
        if left_s > 0:  # else this node is no member any more, unless a clock is wrong
            retry_s = max(config.answer_s, min(retry_s, left_s / 8))
        self._failures = min(self._failures + 1, 16)
        self._next = now.mono + retry_s * (1 + self._rng.random())
        self.out.put(Emit(AdminSought(member.certificate.issuer)))

    def _renewed_untrusted(self, now: Now, source: NodeId, sealed: bytes, issuer_sealed: bytes | None) -> None:
        try:
            member = self._trust.check_untrusted(now.wall, self._own, sealed, issuer_sealed)
        except NotCounting:
            member = None
        except WireError as error:
            self.out.put(Misbehaved(source, f"a renewed certificate: {error}"))
            member = None
        if member is not None and self._is_better(now.wall, member):
            self._adopt(now, member)
            return
        self.stats.unfit += 1
        self.failed(now, source)

    def _is_better(self, wall: float, new: Member) -> bool:
        old = self._member()
        if new.certificate.name != old.certificate.name or new.certificate.roles != self._roles(wall, old):
            return False
        if self._trust.retired(new.founder):
            return new.expires_s > old.expires_s
        return new.expires_s > old.expires_s or self._trust.retired(old.founder) is not None

    def _adopt(self, now: Now, member: Member) -> None:
        self.stats.renewed += 1
        self._round, self._failures = _Round([], {}), 0
        self._jitter = self._rng.random()
        if self._trust.retired(member.founder):
            self._not_before = now.mono + self._config.handed_over_s * self._jitter
        member = self._trust.admit_untrusted(now.wall, self._own, member.sealed, member.issuer_sealed)
        self.out.put(Store(CERTIFICATE_KEY, member.sealed))
        self.out.put(Store(ISSUER_KEY, member.issuer_sealed))
        self.out.put(Emit(CertificateRenewed(member)))
        self._next = now.mono + self._config.settle_s

    # --- for others -----------------------------------------------------------------------------------------------

    def _answer(self, now: Now, node: NodeId, expires_s: int) -> Renewed | RenewalRefused:
        kept = self._signed.get(node)
        if kept and now.mono - kept[0] < self._config.again_s:
            return kept[1]
        member = self._trust.member(node)
        reason = "no member"
        if member is not None and self._trust.is_member(now.wall, node):
            if member.expires_s > expires_s:
                return Renewed(member.sealed, member.issuer_sealed)
            reason = self._objection(now.wall, node, member)
            if not reason:
                return self._sign(now, node, member)
        self.stats.refused += 1
        return RenewalRefused(reason)

    def _objection(self, wall: float, node: NodeId, member: Member) -> str:
        """Returns why this node does not renew the certificate of a member, nothing where it does."""
        if not self._trust.is_admin(wall, self._own):
            return "not admin"
        if self._trust.is_admin(wall, node) and not self._trust.is_founder(self._own):
            return "ask a founder"
        own, config = self._member(), self._config
        if self._trust.retired(member.founder) and not self._goes_back_to_retired(own):
            return ""
        issued_s = member.certificate.issued_s
        if wall < issued_s + (member.expires_s - issued_s) * config.early_share:
            return "early"
        gain_s = min(wall + config.lifetime_s, self._until_s(own)) - member.expires_s
        return "late myself" if gain_s < config.gain_share * config.lifetime_s else ""

    def _goes_back_to_retired(self, own: Member) -> bool:
        return not self._trust.is_founder(self._own) and self._trust.retired(own.founder) is not None

    def _until_s(self, own: Member) -> float:
        """Returns when certificates of this issuer count no more, whatever they say."""
        return math.inf if self._trust.is_founder(self._own) else own.expires_s

    def _sign(self, now: Now, node: NodeId, member: Member) -> Renewed:
        own = self._member()
        proof = None if self._trust.is_founder(self._own) else own.sealed
        renewed = Renewed(self._sealed(now, member, self._until_s(own)), proof)
        self.stats.signed += 1
        self._signed.pop(node, None)
        while len(self._signed) >= self._config.signed:
            del self._signed[next(iter(self._signed))]
        self._signed[node] = (now.mono, renewed)
        return renewed

    def _sealed(self, now: Now, member: Member, until_s: float) -> bytes:
        old, wall_s = member.certificate, int(now.wall)
        expires_s = int(min(wall_s + self._config.lifetime_s, until_s))
        roles, serial = self._roles(now.wall, member), self._rng.randbytes(16)
        new = Certificate(old.subject, self._own, roles, old.name, wall_s, expires_s, serial)
        return issue(self._signer, self._trust.mesh_id, new)

    def _roles(self, wall: float, member: Member) -> tuple[str, ...]:
        """Returns the roles to renew with: an admin's only where it is one."""
        certificate = member.certificate
        roles = tuple(role for role in certificate.roles if role != ADMIN)
        return (*roles[: MOST_ROLES - 1], ADMIN) if self._trust.is_admin(wall, certificate.subject) else roles
