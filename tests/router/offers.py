"""Offers for tests, in one line each."""

from __future__ import annotations

from typing import Any

from atmo.identity import NodeId
from atmo.router.capability import CHAT, Capability
from atmo.router.offer import Offer

HERE = NodeId(bytes(32))


def node(number: int) -> NodeId:
    """Returns the node id of this number; 0 is this machine."""
    return NodeId(bytes([number]) * 32)


def offer(
    model: str,
    number: int = 1,
    *,
    operation: str = CHAT,
    rtt_s: float | None = 0.01,
    load: int = 0,
    **capability: Any,
) -> Offer:
    """Returns an offer of `model` on node `number`."""
    local = number == 0
    return Offer(
        node(number),
        f"n{number}",
        Capability(capability.pop("id", f"x:{model}"), operation, model, **capability),
        local,
        0.0 if local else rtt_s,
        load,
        "local" if local else "direct",
    )
