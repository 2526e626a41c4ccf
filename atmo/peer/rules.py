"""Who may write what, the trust rules applied to records; and which of two links to keep."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.clock import Now
from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.records import NodeRecord, Record, RevocationBody
from atmo.gossip.sync import Refusal
from atmo.identity import NodeId
from atmo.peer.directory import check_body_untrusted
from atmo.trust.certificate import valid_name
from atmo.trust.mesh import MeshTrust, NotCounting, NotEntitled
from atmo.wire.schema import unpack_untrusted


def judge_untrusted(
    trust: MeshTrust, now: Now, author: NodeId, record: Record, kept: bool, lifetime_most_s: float
) -> Refusal | None:
    """Says why `author` may not write `record`; see `gossip.sync.Authorise`.

    A node record introduces its author: its certificate is checked and remembered.
    """
    try:
        if record.kind == kinds.REVOCATION:
            _check_revocation_untrusted(trust, None if kept else now.wall, author, record)
            return None
        if record.kind == kinds.NODE:
            _introduce_untrusted(trust, now, author, record)
        elif not trust.is_member(now.wall, author):
            return Refusal("its author is no member", unknown=trust.member(author) is None)
        elif record.body:
            check_body_untrusted(record)
    except NotCounting as error:
        return Refusal(str(error))
    except NotEntitled as error:
        return Refusal(str(error), fault=True, sound=True)
    except WireError as error:
        return Refusal(str(error), fault=True)
    return Refusal("its lifetime is too long") if record.lifetime_s > lifetime_most_s else None


def _introduce_untrusted(trust: MeshTrust, now: Now, author: NodeId, record: Record) -> None:
    node = unpack_untrusted(NodeRecord, record.body)
    if record.key or not valid_name(node.name):
        raise WireError("a node record has a key or an unprintable name")
    trust.admit_untrusted(now.wall, author, node.certificate, node.issuer_certificate)


def _check_revocation_untrusted(trust: MeshTrust, wall: float | None, author: NodeId, record: Record) -> None:
    body = unpack_untrusted(RevocationBody, record.body)
    if record.key != str(body.node):
        raise WireError("a revocation's key is not the node it puts out")
    if record.lifetime_s < kinds.REVOCATION_LIFETIME_S:
        raise WireError("a revocation is for good, and this one is not")
    if body.node in trust.genesis.founders:
        raise NotEntitled("a founder cannot be revoked")
    trust.check_revoker_untrusted(wall, record.issued_s, author, body.certificate)


@dataclass(frozen=True, slots=True)
class LinkAge:
    """A link that stands, as the shell knows it.

    Attributes:
        outbound: This node dialled it.
        since: Monotonic seconds.
    """

    outbound: bool
    since: float


def keeps(now: Now, own: NodeId, other: NodeId, old: LinkAge, outbound: bool, simultaneous_s: float) -> bool:
    """Says whether the link to `other` stays when there is another one; both ends must come to the same answer.

    Of two that came up at about the same time, because both nodes dialled, the one dialled by the smaller node id
    stays. A link that has stood for longer is given up: the other end would not dial if it still had it.

    Args:
        now: The clocks.
        own: This node.
        other: The node at the other end of both.
        old: The link that stands.
        outbound: This node dialled the new one.
        simultaneous_s: Links further apart than this are not two dials at once.
    """
    if now.mono - old.since > simultaneous_s or outbound == old.outbound:
        return False
    return (own if old.outbound else other) == min(own, other)
