"""What the router chooses between: capabilities with the node that offers them and what is known of the way there."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.identity import NodeId
from atmo.router.capability import Capability


@dataclass(frozen=True, slots=True)
class Offer:
    """One capability on one live node.

    Attributes:
        node: Who offers it.
        node_name: Its name, for people and for breaking ties in print.
        capability: What is offered.
        local: It is this machine.
        rtt_s: Round-trip time of the link in seconds; 0 for this machine, None where it is not known yet.
        load: Requests the node said it was running when last heard of.
        path: How it is reached: `local`, `lan`, `direct`, `relay`.
    """

    node: NodeId
    node_name: str
    capability: Capability
    local: bool
    rtt_s: float | None
    load: int
    path: str
