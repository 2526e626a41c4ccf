"""The composed peer: all engines as one engine, and what happens across them. No I/O.

May import from the engines' rooms and everything below. `atmo.peer` exports what the shells need.
"""

from atmo.peer.directory import CapabilitiesBody, NodeView
from atmo.peer.events import LinkLost, LinkReady, Revoked
from atmo.peer.peer import Peer, PeerConfig, PeerStats

__all__ = ["CapabilitiesBody", "LinkLost", "LinkReady", "NodeView", "Peer", "PeerConfig", "PeerStats", "Revoked"]
