"""The composed peer: all engines as one engine, and what happens across them. No I/O.

May import from the engines' rooms and everything below. `atmo.peer` exports what the shells need.
"""

from atmo.peer.config import PeerConfig, PeerStats
from atmo.peer.directory import CapabilitiesBody
from atmo.peer.events import AdvertLeftOut, LinkLost, LinkReady, Revoked
from atmo.peer.peer import Peer
from atmo.peer.rules import LinkAge
from atmo.peer.views import NodeView

__all__ = [
    "AdvertLeftOut",
    "CapabilitiesBody",
    "LinkAge",
    "LinkLost",
    "LinkReady",
    "NodeView",
    "Peer",
    "PeerConfig",
    "PeerStats",
    "Revoked",
]
