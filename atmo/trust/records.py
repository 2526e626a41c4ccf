"""What records say of rights: who may let others in, who was let in, and who has a founder's rights now.

These are the bodies alone; `atmo.gossip` seals and carries them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from atmo.identity import NodeId
from atmo.wire import limits
from atmo.wire.schema import Most

REVOCATION: Final = "revocation"
INVITE: Final = "invite"
REDEMPTION: Final = "redemption"
SUCCESSION: Final = "succession"

LASTING: Final = (REVOCATION, SUCCESSION, INVITE, REDEMPTION)
"""Kinds that are written once for their whole life: the first one in a slot is final, whatever its date."""

INVITE_MOST_S = 31 * 86_400
"""Lifetime of invitations and redemptions: the longest code, 30 days, and a day for clocks. Source: choice."""

INVITES_MOST = 96
"""Codes of one admin that others may redeem, used or not, until they expire; further ones work at their inviter alone.

Source: guess; with `REDEMPTIONS_MOST` it leaves more than half of a node's 512 records to everything else.
"""

REDEMPTIONS_MOST = 128
"""Codes of others that one admin redeems before the first of them expires. Source: guess."""

REVOKED_MOST = limits.RECORDS_PER_AUTHOR
"""Nodes that one founder can have put out: each is a record."""

Sealed = Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]


@dataclass(frozen=True, slots=True)
class InviteBody:
    """The body of an `invite` record; its key is the hash of a join code's secret in hexadecimal digits.

    Attributes:
        role: What the code grants.
        expires_s: Unix seconds after which it grants nothing.
        certificate: The author's own, sealed, where it is not a founder.
    """

    role: Annotated[str, Most(32)]
    expires_s: Annotated[int, Most(2**40)]
    certificate: Sealed | None = None


@dataclass(frozen=True, slots=True)
class RedemptionBody:
    """The body of a `redemption` record, with the same key: the code was used.

    Attributes:
        node: Who was let in.
        certificate: The author's own, sealed, where it is not a founder.
    """

    node: NodeId
    certificate: Sealed | None = None


@dataclass(frozen=True, slots=True)
class SuccessionBody:
    """The body of a `succession` record, whose author is a founder and whose key is empty.

    Attributes:
        successor: Who has the author's rights from now on.
        revoked: Whom the author has put out: of its revocations these count, and no others any more.
    """

    successor: NodeId
    revoked: Annotated[tuple[NodeId, ...], Most(REVOKED_MOST)] = ()
