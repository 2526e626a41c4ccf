"""On what terms this node deals with the mesh; its mode and its owner's settings say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from atmo.identity import NodeId
from atmo.router.capability import Capability


@dataclass(frozen=True, slots=True)
class Terms:
    """What is sent to others, and what is run for them.

    Attributes:
        routes_away: Requests may be sent to other nodes.
        accepts: Requests of other nodes are run.
        told: Returns a capability as others are told of it, None where they are not; nothing else is run for them.
        admits: Says whether a node may ask.
        roles: Returns the roles of a node that have effect now, by which it may ask more or less.
    """

    routes_away: bool = True
    accepts: bool = True
    told: Callable[[Capability], Capability | None] = lambda capability: capability
    admits: Callable[[NodeId], bool] = lambda _node: True
    roles: Callable[[NodeId], Collection[str]] = lambda _node: ()

    def offered(self, capabilities: Iterable[Capability]) -> list[Capability]:
        """Returns what of this machine's capabilities others are told of, and may use."""
        if not self.accepts:
            return []
        return [told for told in map(self.told, capabilities) if told is not None]
