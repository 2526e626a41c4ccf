"""The composed peer: all engines as one engine, and what happens across them. No I/O.

May import from the engines' rooms and everything below. `atmo.peer` exports what the shells need.
"""

from atmo.peer.config import PeerConfig, PeerStats
from atmo.peer.crypto import Crypto
from atmo.peer.directory import CapabilitiesBody
from atmo.peer.events import AdvertLeftOut, LinkLost, LinkReady, Revoked, Unreachable
from atmo.peer.messages import decode_message_untrusted, encode_message
from atmo.peer.peer import Peer
from atmo.peer.presence import NodeBack, NodeGone
from atmo.peer.rules import LinkAge
from atmo.peer.views import Advice, LinkView, NodeView

__all__ = [
    "AdvertLeftOut",
    "Advice",
    "CapabilitiesBody",
    "Crypto",
    "LinkAge",
    "LinkLost",
    "LinkReady",
    "LinkView",
    "NodeBack",
    "NodeGone",
    "NodeView",
    "Peer",
    "PeerConfig",
    "PeerStats",
    "Revoked",
    "Unreachable",
    "decode_message_untrusted",
    "encode_message",
]
