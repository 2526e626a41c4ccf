"""Configuration and counters of the composed peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from atmo.gossip.detector import DetectorConfig
from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.gossip.plumtree_config import PlumtreeConfig
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.gossip.sync_config import SyncConfig
from atmo.index.config import IndexConfig
from atmo.peer.budgets import BudgetsConfig
from atmo.peer.links import LinksConfig
from atmo.peer.presence import PresenceConfig
from atmo.peer.renewal import RenewalConfig
from atmo.peer.routes import RouteConfig
from atmo.peer.scale import ScaleConfig
from atmo.transfer.config import TransferConfig
from atmo.wire import limits


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Configuration of the composition and of each engine.

    Attributes:
        simultaneous_s: Two links to one node so close together are two nodes that dial each other at once.
        members_s: How often the certificates of neighbours are looked at again.
        strikes: Broken messages of one neighbour that end its link. Source: guess.
        forgive_s: Each such time forgives one of them. Source: guess.
        stranger_strikes: The same of links whose other end has not proved its membership, each ended by one. Source:
            guess; its handshakes cost more than its messages.
        introduce_s: Who asks for near records again before this gets none. Source: guess.
        ban_s: How long a node that broke too many is kept out. Source: guess.
        gone: Members remembered of whom nobody has heard for a record's lifetime.
    """

    simultaneous_s: float = 5.0
    members_s: float = 5.0
    strikes: int = 16
    stranger_strikes: int = 4
    forgive_s: float = 30.0
    introduce_s: float = 10.0
    ban_s: float = 300.0
    gone: int = limits.AUTHORS
    links: LinksConfig = field(default_factory=LinksConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    hyparview: HyParViewConfig = field(default_factory=HyParViewConfig)
    plumtree: PlumtreeConfig = field(default_factory=PlumtreeConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    reconciler: ReconcileConfig = field(default_factory=ReconcileConfig)
    presence: PresenceConfig = field(default_factory=PresenceConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    routes: RouteConfig = field(default_factory=RouteConfig)
    renewal: RenewalConfig = field(default_factory=RenewalConfig)
    budgets: BudgetsConfig = field(default_factory=BudgetsConfig)
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
