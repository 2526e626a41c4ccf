"""What a peer does with rights: put members out, hand a founder's rights over, and share join codes among admins.

All of it is written as signed records that everybody hears. `Invitations` holds what the records of join codes say, so
that any admin can redeem a code of another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from atmo.clock import Now
from atmo.errors import WireError
from atmo.gossip.entry import open_record_untrusted
from atmo.gossip.records import REVOCATION_LIFETIME_S, Record, RevocationBody
from atmo.gossip.sync import RecordChanged, RecordSync, Verdict
from atmo.identity import NodeId
from atmo.trust.certificate import ADMIN
from atmo.trust.mesh import MeshTrust
from atmo.trust.records import (
    INVITE,
    INVITE_MOST_S,
    INVITES_MOST,
    REDEMPTION,
    REDEMPTIONS_MOST,
    REVOCATION,
    SUCCESSION,
    InviteBody,
    RedemptionBody,
    SuccessionBody,
)
from atmo.wire import limits
from atmo.wire.schema import Most, pack, unpack_untrusted

T = TypeVar("T")

REASON_CHARS = 200
SUCCESSIONS_MOST = 16
_SUCCESSIONS_BYTES = 56 * 1024


@dataclass(frozen=True, slots=True)
class Successions:
    """What the sender knows of hand-overs, before its Hello: only with it can its certificate be judged by a node that
    was away meanwhile.

    Attributes:
        envelopes: Sealed `succession` records, each after the one that it builds on.
    """

    envelopes: Annotated[
        tuple[Annotated[bytes, Most(limits.MESSAGE_BYTES)], ...],
        Most(SUCCESSIONS_MOST),
    ]


MESSAGES: Final[dict[str, type]] = {"successions": Successions}


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A founder handed over."""

    founder: NodeId
    successor: NodeId


@dataclass(frozen=True, slots=True)
class RedeemedTwice:
    """A join code let in two nodes, as its admins did not hear of each other in time; one of them may be no guest.

    Attributes:
        key: Of the records: the hash of the secret.
        nodes: Who got in with it.
    """

    key: str
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class CodeState:
    """What the records say of a join code.

    Attributes:
        role: What it grants now, None where it grants nothing.
        expires_s: Unix seconds, 0 where nothing is known.
        reason: Why not: `unknown`, `expired`, `used`.
    """

    role: str | None
    expires_s: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Invite:
    issued_s: int
    body: InviteBody


class Invitations:
    """The join codes that records tell of, kept in step by `changed`; the table of records bounds them.

    Args:
        trust: Whose words count.
    """

    def __init__(self, trust: MeshTrust) -> None:
        self._trust = trust
        self._invites: dict[str, dict[NodeId, _Invite]] = {}
        self._redemptions: dict[str, dict[NodeId, NodeId]] = {}

    def changed(self, change: RecordChanged) -> RedeemedTwice | None:
        """Takes over what an `invite` or `redemption` says, whose body was checked when it was accepted.

        Returns:
            What people should know.
        """
        record = change.record
        if change.kind == INVITE:
            invite = _Invite(record.issued_s, unpack_untrusted(InviteBody, record.body)) if record else None
            _set(self._invites, change.key, change.author, invite)
            return None
        node = unpack_untrusted(RedemptionBody, record.body).node if record else None
        _set(self._redemptions, change.key, change.author, node)
        nodes = self.used_by(change.key)
        return RedeemedTwice(change.key, nodes) if node in nodes and len(nodes) > 1 else None

    def used_by(self, key: str) -> tuple[NodeId, ...]:
        """Returns who got in with a code, as far as it was heard; what a revoked admin says of codes is void."""
        held = self._redemptions.get(key, {})
        return tuple(dict.fromkeys(node for by, node in held.items() if not self._trust.is_revoked(by)))

    def state(self, wall: float, key: str, joiner: NodeId) -> CodeState:
        """Returns what a code is worth to `joiner`; who used it may use it again, in case the answer was lost."""
        latest = CodeState(None, reason="unknown")
        for author, invite in self._invites.get(key, {}).items():
            if not self._counts(wall, author, invite):
                continue
            users = self.used_by(key)
            if wall >= invite.body.expires_s:
                latest = CodeState(None, invite.body.expires_s, "expired")
            elif users and joiner not in users:
                return CodeState(None, invite.body.expires_s, "used")
            else:
                return CodeState(invite.body.role, invite.body.expires_s)
        return latest

    def _counts(self, wall: float, author: NodeId, invite: _Invite) -> bool:
        if invite.body.role == ADMIN and not self._trust.is_founder(author):
            return False
        try:
            self._trust.check_admin_untrusted(wall, invite.issued_s, author, invite.body.certificate)
        except WireError:
            return False
        return True


def _set(table: dict[str, dict[NodeId, T]], key: str, author: NodeId, value: T | None) -> None:
    row = table.setdefault(key, {})
    row.pop(author, None)
    if value is not None:
        row[author] = value
    if not row:
        del table[key]


class Rights(ABC):
    """The commands of a peer that need an admin's or a founder's rights.

    Attributes:
        node_id: This node.
        trust: The mesh's rules.
        sync: Where records are written.
        invitations: What records say of join codes.
    """

    node_id: NodeId
    trust: MeshTrust
    sync: RecordSync
    invitations: Invitations

    @abstractmethod
    def _settle(self, now: Now) -> bool:
        """Moves effects outwards until the inner engines are silent."""

    def revoke(self, now: Now, node: NodeId, reason: str = "") -> None:
        """Puts a member out of the mesh, for good; every node that hears of it cuts its links. Once is enough.

        Raises:
            WireError: This node is no admin, the other is a founder or vouches for this node, or this node revoked too
                many.
        """
        if not self.trust.is_admin(now.wall, self.node_id):
            raise WireError("only a founder or an admin can revoke a member")
        if self.trust.is_founder(node):
            raise WireError("a founder cannot be revoked")
        if self.sync.record(self.node_id, REVOCATION, str(node)):
            return
        own = self.trust.member(self.node_id)
        if own is not None and node in (own.founder, own.certificate.issuer):
            raise WireError("this machine's own certificate goes back to it, and is renewed soon after a hand-over")
        body = pack(RevocationBody(node, reason[:REASON_CHARS], self._proof()))
        self.sync.publish(now, REVOCATION, str(node), body, REVOCATION_LIFETIME_S)
        self._settle(now)

    def hand_over(self, now: Now, node: NodeId) -> None:
        """Gives this founder's rights to another member, for good; this node is an ordinary member from then on.

        Raises:
            WireError: This node is no founder, or the other is no member or a founder already.
        """
        if not self.trust.is_founder(self.node_id):
            raise WireError("only a founder can hand over")
        if self.trust.is_founder(node):
            raise WireError("it is a founder already")
        if not self.trust.is_member(now.wall, node):
            raise WireError("it is no member now")
        if self.trust.retired(node):
            raise WireError("it has handed over itself")
        slots = self.sync.table.slots_of(self.node_id)
        revoked = tuple(NodeId.parse(key) for _, kind, key in slots if kind == REVOCATION)
        self.sync.publish(now, SUCCESSION, "", pack(SuccessionBody(node, revoked)), REVOCATION_LIFETIME_S)
        self._settle(now)

    def publish_invite(self, now: Now, secret_hash: bytes, role: str, expires_s: int) -> bool:
        """Tells the other admins of a join code, so that it works at each of them.

        Returns:
            Whether they learn of it: a node tells of `INVITES_MOST` codes at once.
        """
        body = pack(InviteBody(role, expires_s, self._proof()))
        return self._publish_code(now, INVITE, secret_hash, body, expires_s, INVITES_MOST)

    def publish_redemption(self, now: Now, secret_hash: bytes, node: NodeId, expires_s: int) -> bool:
        """Tells the other admins that a join code let `node` in, so that it works at none of them any more.

        Returns:
            Whether they learn of it: a node tells of `REDEMPTIONS_MOST` at once.
        """
        body = pack(RedemptionBody(node, self._proof()))
        return self._publish_code(now, REDEMPTION, secret_hash, body, expires_s, REDEMPTIONS_MOST)

    def may_redeem(self) -> bool:
        """Says whether this node has room to tell of one more redemption."""
        return self._told(REDEMPTION) < REDEMPTIONS_MOST

    def _publish_code(self, now: Now, kind: str, secret_hash: bytes, body: bytes, expires_s: int, most: int) -> bool:
        key, lifetime_s = secret_hash.hex(), int(expires_s - now.wall) + 1
        if self.sync.record(self.node_id, kind, key):
            return True
        if not 0 < lifetime_s <= INVITE_MOST_S or self._told(kind) >= most:
            return False
        try:
            self.sync.publish(now, kind, key, body, lifetime_s)
        except WireError:  # what else this node tells leaves no room
            return False
        self._settle(now)
        return True

    def _told(self, kind: str) -> int:
        return sum(slot[1] == kind for slot in self.sync.table.slots_of(self.node_id))

    def _proof(self) -> bytes | None:
        """Returns what shows others that this node is an admin, nothing where it is a founder."""
        member = self.trust.member(self.node_id)
        assert member is not None, "who is no member has no peer"
        return None if self.trust.is_founder(self.node_id) else member.sealed

    def successions(self) -> tuple[bytes, ...]:
        """Returns the sealed records of all hand-overs, each after the one that it builds on, as far as they fit."""
        envelopes: list[bytes] = []
        for founder in self.trust.handed_over[:SUCCESSIONS_MOST]:
            entry = self.sync.table.get((founder, SUCCESSION, ""))
            if entry is None or sum(map(len, envelopes)) + len(entry.envelope) > _SUCCESSIONS_BYTES:
                break
            envelopes.append(entry.envelope)
        return tuple(envelopes)


def succeeded(trust: MeshTrust, change: RecordChanged) -> Succeeded | None:
    """Applies what a `succession` record that was accepted or written says; returns the event to tell."""
    if change.record is None:
        return None
    body = apply_succession(trust, change.author, change.record)
    return Succeeded(change.author, body.successor)


def apply_succession(trust: MeshTrust, author: NodeId, record: Record) -> SuccessionBody:
    """Gives the author's rights to whom its record names; the record is sound and its author may write it."""
    body = unpack_untrusted(SuccessionBody, record.body)
    trust.succeed(author, body.successor, record.issued_s, body.revoked)
    return body


def hear_successions_untrusted(sync: RecordSync, mesh: bytes, now: Now, source: NodeId, message: Successions) -> bool:
    """Takes hand-overs from a node whose membership is not known yet: they prove themselves.

    Returns:
        False where it sent something else.
    """
    for envelope in message.envelopes:
        try:
            sound = open_record_untrusted(envelope, mesh).record.kind == SUCCESSION
        except WireError:
            sound = False
        if not sound or sync.accept_untrusted(now, source, envelope) in (Verdict.BROKEN, Verdict.UNENTITLED):
            return False
    return True
