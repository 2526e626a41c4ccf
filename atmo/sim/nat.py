"""NATs in front of nodes, by how they map and filter (RFC 4787 sections 4 and 5).

A node's socket has one address behind its NAT. What it sends gets an external port; what comes in from outside passes
if it is for a port that is mapped and from whom the filter lets in. Others know the port that the node has towards most
of the world, and towards whoever heard from it the one that it used there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from atmo.identity import NodeId
from atmo.sim.network import LOST


class Depends(Enum):
    """On what of the other end a mapping or a filter depends (RFC 4787 sections 4.1 and 5)."""

    ON_NOTHING = "endpoint-independent"
    ON_ADDRESS = "address-dependent"
    ON_PORT = "address and port-dependent"


@dataclass(frozen=True, slots=True)
class NatKind:
    """How a NAT behaves.

    Attributes:
        mapping: Whether every destination gets a port of its own.
        filtering: Who may send to a mapped port.
        expiry_s: A mapping over which nothing was sent outwards for this long is forgotten. Source: RFC 4787 section
            4.3 asks for two minutes and more; 30 s is what home routers are known to do for UDP.
    """

    mapping: Depends = Depends.ON_NOTHING
    filtering: Depends = Depends.ON_PORT
    expiry_s: float = 30.0


FULL_CONE = NatKind(filtering=Depends.ON_NOTHING)
RESTRICTED = NatKind(filtering=Depends.ON_ADDRESS)
PORT_RESTRICTED = NatKind()
SYMMETRIC = NatKind(mapping=Depends.ON_PORT)
"""The four kinds by their names in RFC 3489 section 5."""

NAT_KINDS = (FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC)

_USUAL_PORT = 1


@dataclass(slots=True)
class _Behind:
    """The NAT of one node.

    Attributes:
        sent: By destination: when something was last sent there, and to which of its ports.
        ports: By destination: the external port towards it.
        out_at: When anything was last sent.
    """

    kind: NatKind
    site: str
    sent: dict[NodeId, tuple[float, int]] = field(default_factory=dict)
    ports: dict[NodeId, int] = field(default_factory=dict)
    out_at: float = -1e9
    last_port: int = _USUAL_PORT


class Nats:
    """All NATs: a rule of the network. A node without one is in the open."""

    def __init__(self) -> None:
        self._behind: dict[NodeId, _Behind] = {}
        self._seen: dict[tuple[NodeId, NodeId], int] = {}  # (who, whom): the port that who has seen of whom
        self.refused = 0
        self.on = False

    def give(self, node: NodeId, kind: NatKind, site: str = "") -> None:
        """Puts a node behind a NAT. Nodes of one named site reach each other as in the open."""
        self._behind[node] = _Behind(kind, site)
        self.on = True

    def open(self, nodes: Sequence[NodeId]) -> None:
        """Takes nodes out from behind their NATs."""
        for node in nodes:
            self._behind.pop(node, None)
        self.on = bool(self._behind)

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        here, there = self._behind.get(source), self._behind.get(target)
        if here is None and there is None:
            return 0.0
        if here is not None and there is not None and here.site and here.site == there.site:
            return 0.0
        to_port = self._seen.get((source, target), _USUAL_PORT)
        from_port = _USUAL_PORT if here is None else self._go_out(now, here, target, to_port)
        if there is not None and not _lets_in(now, there, source, from_port, to_port):
            self.refused += 1
            return LOST
        self._seen[target, source] = from_port
        return 0.0

    @staticmethod
    def _go_out(now: float, nat: _Behind, target: NodeId, to_port: int) -> int:
        last = nat.sent.get(target)
        alive = last is not None and now - last[0] <= nat.kind.expiry_s
        nat.sent[target] = (now, to_port)
        nat.out_at = now
        if nat.kind.mapping is Depends.ON_NOTHING:
            return _USUAL_PORT
        if not alive:
            nat.last_port += 1
            nat.ports[target] = nat.last_port
        return nat.ports[target]


def _lets_in(now: float, nat: _Behind, source: NodeId, from_port: int, to_port: int) -> bool:
    last, expiry_s = nat.sent.get(source), nat.kind.expiry_s
    spoke = last is not None and now - last[0] <= expiry_s
    if nat.kind.mapping is Depends.ON_NOTHING:
        if now - nat.out_at > expiry_s:
            return False
    elif not spoke or nat.ports.get(source) != to_port:
        return False
    if nat.kind.filtering is Depends.ON_NOTHING:
        return True
    if not spoke:
        return False
    assert last is not None
    return nat.kind.filtering is Depends.ON_ADDRESS or last[1] == from_port
