"""Who may write what, the trust rules applied to records; and which of two links to keep."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from atmo.clock import Now
from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.entry import open_record_untrusted
from atmo.gossip.records import (
    DEPRECATION,
    DEPRECATION_LIFETIME_S,
    DeprecationBody,
    NodeRecord,
    Record,
    RevocationBody,
    deprecation_key,
)
from atmo.gossip.sync import Refusal
from atmo.identity import NodeId
from atmo.peer.directory import check_body_untrusted, open_body_untrusted
from atmo.peer.rights import apply_succession
from atmo.transfer.names import check_name
from atmo.trust.certificate import valid_name, valid_role
from atmo.trust.mesh import MeshTrust, NotCounting, NotEntitled, NotKnown
from atmo.trust.records import (
    INVITE,
    INVITE_MOST_S,
    REDEMPTION,
    REVOCATION,
    SUCCESSION,
    InviteBody,
    RedemptionBody,
    SuccessionBody,
)
from atmo.wire.schema import unpack_untrusted
from atmo.wire.versions import parse_range

_HASH = re.compile(r"[0-9a-f]{64}")


def judge_untrusted(
    trust: MeshTrust, now: Now, author: NodeId, record: Record, kept: bool, lifetime_most_s: float
) -> Refusal | None:
    """Says why `author` may not write `record`; see `gossip.sync.Authorise`.

    A node record introduces its author: its certificate is checked and remembered.
    """
    try:
        if check := _RIGHTS.get(record.kind):
            check(trust, None if kept else now.wall, author, record)
            return None
        if record.kind == kinds.NODE:
            _introduce_untrusted(trust, now, author, record)
        elif record.kind == DEPRECATION:
            _check_deprecation_untrusted(trust, now, author, record)
            return None
        elif not trust.is_member(now.wall, author):
            return Refusal("its author is no member", unknown=trust.member(author) is None)
        elif record.body:
            check_body_untrusted(record)
    except NotCounting as error:
        return Refusal(str(error), unknown=isinstance(error, NotKnown))
    except NotEntitled as error:
        return Refusal(str(error), fault=True, sound=True)
    except WireError as error:
        return Refusal(str(error), fault=True)
    return Refusal("its lifetime is too long") if record.lifetime_s > lifetime_most_s else None


def _introduce_untrusted(trust: MeshTrust, now: Now, author: NodeId, record: Record) -> None:
    node = open_body_untrusted(NodeRecord, record.body)
    if record.key or not valid_name(node.name):
        raise WireError("a node record has a key or an unprintable name")
    trust.admit_untrusted(now.wall, author, node.certificate, node.issuer_certificate)


def _check_deprecation_untrusted(trust: MeshTrust, now: Now, author: NodeId, record: Record) -> None:
    """Checks a deprecation, which may travel where its author is not known; whom it counts for is not asked here."""
    if not _HASH.fullmatch(record.key) or record.near or record.lifetime_s > DEPRECATION_LIFETIME_S:
        raise WireError("a deprecation has a key that is no hash, is not for everyone, or lives too long")
    body = open_body_untrusted(DeprecationBody, record.body) if record.body else None
    if body is not None:
        try:
            check_name(body.name)
            parse_range(body.versions)
        except ValueError as error:
            raise WireError(f"a deprecation of nothing: {error}") from error
        if record.key != deprecation_key(body.name, body.versions):
            raise WireError("a deprecation has the key of another one")
    if not trust.is_member(now.wall, author):
        if body is None or body.certificate is None:
            raise NotKnown("its author is no member")
        trust.admit_untrusted(now.wall, author, body.certificate, body.issuer_certificate)


def _check_revocation_untrusted(trust: MeshTrust, wall: float | None, author: NodeId, record: Record) -> None:
    body = unpack_untrusted(RevocationBody, record.body)
    if record.key != str(body.node):
        raise WireError("a revocation's key is not the node it puts out")
    if record.lifetime_s < kinds.REVOCATION_LIFETIME_S:
        raise WireError("a revocation is for good, and this one is not")
    trust.check_revoker_untrusted(wall, record.issued_s, author, body.certificate, body.node)
    if trust.is_founder(body.node):
        raise NotCounting("a founder cannot be revoked")  # but it can where it has handed over


def _check_succession_untrusted(trust: MeshTrust, _: float | None, author: NodeId, record: Record) -> None:
    """Checks a hand-over and applies it, so that what follows in the same message can build on it."""
    unpack_untrusted(SuccessionBody, record.body)
    if record.key or record.near or record.lifetime_s < kinds.REVOCATION_LIFETIME_S:
        raise WireError("a hand-over has an empty key and is for everyone and for good, and this one is not")
    trust.check_founder_untrusted(author)
    apply_succession(trust, author, record)


def _check_invite_untrusted(trust: MeshTrust, wall: float | None, author: NodeId, record: Record) -> None:
    body = unpack_untrusted(InviteBody, record.body)
    _check_code_untrusted(record)
    if not valid_role(body.role):
        raise WireError("an invitation's role is none")
    trust.check_admin_untrusted(wall, record.issued_s, author, body.certificate)


def _check_redemption_untrusted(trust: MeshTrust, wall: float | None, author: NodeId, record: Record) -> None:
    body = unpack_untrusted(RedemptionBody, record.body)
    _check_code_untrusted(record)
    trust.check_admin_untrusted(wall, record.issued_s, author, body.certificate)


def _check_code_untrusted(record: Record) -> None:
    if not _HASH.fullmatch(record.key) or record.near or record.lifetime_s > INVITE_MOST_S:
        raise WireError("a record of a join code has a key that is no hash, is not for everyone, or lives too long")


_RIGHTS = {
    REVOCATION: _check_revocation_untrusted,
    SUCCESSION: _check_succession_untrusted,
    INVITE: _check_invite_untrusted,
    REDEMPTION: _check_redemption_untrusted,
}
"""Kinds whose authors need rights; their bodies are never empty."""


def apply_successions_untrusted(trust: MeshTrust, envelopes: Iterable[bytes]) -> list[bytes]:
    """Applies the hand-overs among sealed records, in whatever order they come: before anybody is admitted.

    Returns:
        Those that count, each after the one that it builds on.
    """
    entries = []
    for envelope in envelopes:
        try:
            entry = open_record_untrusted(envelope, trust.mesh_id)
        except WireError:
            continue
        if entry.record.kind == SUCCESSION:
            entries.append(entry)
    applied: list[bytes] = []
    for _ in range(len(entries)):
        for entry in entries:
            author, record = entry.slot[0], entry.record
            if author not in trust.handed_over and _is_sound(trust, author, record):
                applied.append(entry.envelope)
    return applied


def _is_sound(trust: MeshTrust, author: NodeId, record: Record) -> bool:
    try:
        _check_succession_untrusted(trust, None, author, record)
    except WireError:
        return False
    return author in trust.handed_over


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
