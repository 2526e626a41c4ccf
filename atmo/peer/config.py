"""Configuration and counters of the composed peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from atmo.gossip.broadcast import BroadcastConfig
from atmo.gossip.membership import MembershipConfig
from atmo.gossip.sync_config import SyncConfig
from atmo.transfer.config import TransferConfig
from atmo.wire import limits


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Configuration of the composition and of each engine.

    Attributes:
        hello_s: A link whose other end has not proved its membership by then is closed. Source: guess.
        unverified: Links at once whose other end has not proved its membership. Source: guess.
        simultaneous_s: Two links to one node so close together are two nodes that dial each other at once.
        members_s: How often the certificates of neighbours are looked at again.
        strikes: Broken messages of one neighbour that end its link. Source: guess.
        forgive_s: Each such time forgives one of them. Source: guess.
        stranger_strikes: The same of links whose other end has not proved its membership, each ended by one. Source:
            guess; its handshakes cost more than its messages.
        ban_s: How long a node that broke too many is kept out. Source: guess.
        gone: Members remembered of whom nobody has heard for a record's lifetime.
    """

    hello_s: float = 5.0
    unverified: int = 256
    simultaneous_s: float = 5.0
    members_s: float = 5.0
    strikes: int = 16
    stranger_strikes: int = 4
    forgive_s: float = 30.0
    ban_s: float = 300.0
    gone: int = limits.AUTHORS
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    broadcast: BroadcastConfig = field(default_factory=BroadcastConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)


@dataclass(slots=True)
class PeerStats:
    """Counters since start, of what no inner engine counts.

    Attributes:
        hellos_refused: Nodes that did not prove their membership.
        misbehaved: Broken messages and other faults of other nodes.
        dropped_unverified: Messages before a Hello.
        dropped_closing: Messages on links that were being hung up.
        bans: Nodes kept out for a while.
        revocations: Nodes put out of the mesh.
        adverts_left_out: Models and capabilities of this node that no node would accept.
    """

    hellos_refused: int = 0
    misbehaved: int = 0
    dropped_unverified: int = 0
    dropped_closing: int = 0
    bans: int = 0
    revocations: int = 0
    adverts_left_out: int = 0
