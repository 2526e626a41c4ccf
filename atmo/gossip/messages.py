"""The messages between neighbours. Each is a frozen dataclass; `MESSAGES` gives them their names on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from atmo.identity import NodeId
from atmo.wire import limits
from atmo.wire.address import Contact
from atmo.wire.schema import Most

WALK_MOST = 8
"""Hops of a random walk. HyParView's are 6 (DSN 2007, section 5.1)."""

SHUFFLE_MOST = 10
"""Contacts in one shuffle. HyParView's have 8 (the same section)."""

HOPS_MOST = 1_000
"""Hops of a broadcast: more than any tree is deep."""

ANNOUNCED_MOST = 256
"""Announcements in one message."""

PREFIX_MOST = 4
"""Digits of a range's prefix: a sixteenth, a two hundred and fifty-sixth and so on of all authors."""

RANGES_MOST = 256
"""Ranges in one message."""

BRANCHES_MOST = 64
"""Ranges in one message of which all sixteen parts are told. This version tells 16 at most."""

SALT_BYTES = 8
FINGERPRINT_BYTES = 6
PART_BYTES = 2 + FINGERPRINT_BYTES
"""Of one part of a branch: a count and a fingerprint."""

NAME_BYTES = 9
"""Of the name of a slot."""

LISTED_BYTES = 50 * 1024
"""Of entries, or of names, in one message."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of each side on a new link; nothing else counts before it.

    Attributes:
        mesh: The mesh id; another mesh's node is hung up on.
        certificate: The sender's sealed certificate.
        issuer_certificate: The issuer's, where the issuer is not a founder.
        version: Of the software, for people.
        size: How many members the sender believes there are; 0 where it does not know.
    """

    mesh: Annotated[bytes, Most(32)]
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]
    issuer_certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None
    version: Annotated[str, Most(32)] = ""
    size: Annotated[int, Most(2**32)] = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong: measures the round trip and proves life."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping.

    Attributes:
        nonce: The Ping's.
        load: Requests the sender is running now.
    """

    nonce: int
    load: Annotated[int, Most(1_000_000)] = 0


@dataclass(frozen=True, slots=True)
class Records:
    """Records that the receiver lacks."""

    envelopes: Annotated[tuple[Annotated[bytes, Most(limits.MESSAGE_BYTES)], ...], Most(64)]


# --- membership: HyParView (Leitao, Pereira, Rodrigues, DSN 2007) -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Asks to be in the receiver's active view.

    Attributes:
        contact: The sender, as it listens.
        priority: The sender has no other neighbour: it is never refused.
        joining: The sender has just come: others are told by `ForwardJoin`.
    """

    contact: Contact
    priority: bool = False
    joining: bool = False


@dataclass(frozen=True, slots=True)
class NeighbourAnswer:
    """Says whether the receiver of a `Neighbour` took its sender into its active view."""

    accepted: bool


@dataclass(frozen=True, slots=True)
class ForwardJoin:
    """A random walk that spreads a newcomer; where it ends, a node asks the newcomer to be a neighbour."""

    contact: Contact
    ttl: Annotated[int, Most(WALK_MOST)]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The sender took the receiver out of its active view; the link may stay for other uses."""


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A random walk that carries a sample of the origin's views; where it ends, the samples are exchanged.

    Attributes:
        contacts: The origin first.
        ttl: Hops still to go.
        route: The nodes that it came through, the origin first: the answer goes back along it.
    """

    contacts: Annotated[tuple[Contact, ...], Most(SHUFFLE_MOST)]
    ttl: Annotated[int, Most(WALK_MOST)]
    route: Annotated[tuple[NodeId, ...], Most(WALK_MOST + 1)]


@dataclass(frozen=True, slots=True)
class ShuffleAnswer:
    """The sample in return, on its way back along what is left of the route."""

    contacts: Annotated[tuple[Contact, ...], Most(SHUFFLE_MOST)]
    route: Annotated[tuple[NodeId, ...], Most(WALK_MOST + 1)]


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """Asks a neighbour whether it hears from `target` (the indirect probe of SWIM)."""

    target: NodeId


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Answers a `ProbeRequest` at once, so that the asker knows that its own links work (Lifeguard's nack).

    Attributes:
        target: Of the request.
        heard: The sender has a link to the target and heard from it a moment ago.
    """

    target: NodeId
    heard: bool


# --- broadcast: Plumtree (Leitao, Pereira, Rodrigues, SRDS 2007) ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gossip:
    """One signed record on its way to everyone, along the tree.

    Attributes:
        envelope: The record.
        hops: From its author to the receiver.
        renew: It goes over all links, and the ways by which it comes first are the tree from then on.
    """

    envelope: Annotated[bytes, Most(limits.MESSAGE_BYTES)]
    hops: Annotated[int, Most(HOPS_MOST)] = 0
    renew: bool = False


@dataclass(frozen=True, slots=True)
class Announcement:
    """A record that the sender has.

    Attributes:
        name: The first 16 bytes of the BLAKE3 hash of its envelope.
        hops: That it has come, plus one.
    """

    name: Annotated[bytes, Most(16)]
    hops: Annotated[int, Most(HOPS_MOST)]


@dataclass(frozen=True, slots=True)
class IHave:
    """What the sender has and does not send, as this link is none of the tree's."""

    announcements: Annotated[tuple[Announcement, ...], Most(ANNOUNCED_MOST)]


@dataclass(frozen=True, slots=True)
class Graft:
    """Asks for announced records that did not come by the tree; the link becomes one of the tree's."""

    names: Annotated[tuple[Annotated[bytes, Most(16)], ...], Most(ANNOUNCED_MOST)]


@dataclass(frozen=True, slots=True)
class Prune:
    """The sender gets its records from elsewhere: this link becomes a lazy one."""


# --- anti-entropy over the table of records ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """All slots whose authors' ids begin with a prefix.

    Attributes:
        prefix: Hexadecimal digits of the authors' ids; empty for the whole table.
        count: Slots.
        fingerprint: 6 bytes over the slots and their versions; see `gossip.fingerprints`.
    """

    prefix: Annotated[str, Most(PREFIX_MOST)]
    count: Annotated[int, Most(2**32)]
    fingerprint: Annotated[bytes, Most(FINGERPRINT_BYTES)]


@dataclass(frozen=True, slots=True)
class Branch:
    """The sixteen parts of a range.

    Attributes:
        prefix: Of the range.
        parts: Of each part its count (2 bytes, 65,535 for as many or more) and its fingerprint, in order.
    """

    prefix: Annotated[str, Most(PREFIX_MOST)]
    parts: Annotated[bytes, Most(16 * PART_BYTES)]


@dataclass(frozen=True, slots=True)
class Digest:
    """What the sender holds in some ranges; where the receiver holds something else, it answers in more detail.

    Attributes:
        salt: Chosen anew for each message; the fingerprints in it are made with it.
        ranges, branches: Disjoint.
    """

    salt: Annotated[bytes, Most(SALT_BYTES)]
    ranges: Annotated[tuple[Range, ...], Most(RANGES_MOST)] = ()
    branches: Annotated[tuple[Branch, ...], Most(BRANCHES_MOST)] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The vector of some small ranges: every slot that the sender holds there, with its version.

    Without ranges it only says what the receiver lacks.

    Attributes:
        prefixes: Of the ranges; disjoint.
        entries: Name, epoch and sequence of each slot, packed, in ascending order; see `gossip.listings`.
        after: The name of the last slot of the page before, empty in the first one.
        more: Another page of the same ranges follows.
    """

    prefixes: Annotated[tuple[Annotated[str, Most(PREFIX_MOST)], ...], Most(RANGES_MOST)]
    entries: Annotated[bytes, Most(LISTED_BYTES)]
    after: Annotated[bytes, Most(NAME_BYTES)] = b""
    more: bool = False


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for records: of single slots, and of all slots in ranges of which the sender has nothing.

    Attributes:
        names: Of slots, one after the other.
        prefixes: Of ranges.
    """

    names: Annotated[bytes, Most(LISTED_BYTES)] = b""
    prefixes: Annotated[tuple[Annotated[str, Most(PREFIX_MOST)], ...], Most(RANGES_MOST)] = ()


@dataclass(frozen=True, slots=True)
class Introduce:
    """Asks for the near records of the receiver, which only its neighbours get unasked."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender leaves on purpose: nobody needs to suspect it first."""

    reason: Annotated[str, Most(200)] = ""


MESSAGES: Final[dict[str, type]] = {
    "hello": Hello,
    "ping": Ping,
    "pong": Pong,
    "records": Records,
    "neighbour": Neighbour,
    "neighbour-answer": NeighbourAnswer,
    "forward-join": ForwardJoin,
    "disconnect": Disconnect,
    "shuffle": Shuffle,
    "shuffle-answer": ShuffleAnswer,
    "probe-request": ProbeRequest,
    "probe-answer": ProbeAnswer,
    "gossip": Gossip,
    "ihave": IHave,
    "graft": Graft,
    "prune": Prune,
    "digest": Digest,
    "listing": Listing,
    "want": Want,
    "introduce": Introduce,
    "goodbye": Goodbye,
}
ITEMS: Final = {
    "records": 128,
    "shuffle": 512,
    "shuffle-answer": 512,
    "ihave": 1_536,
    "graft": 320,
    "digest": 3_072,
    "listing": 384,
    "want": 384,
}
"""Elements over all arrays and maps of messages with lists: full digests have 2,120, full records 68."""
