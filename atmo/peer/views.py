"""What a peer tells its users of the mesh: nodes, models and capabilities, with what is known of the way there."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from atmo.clock import Now
from atmo.gossip.membership import Membership
from atmo.gossip.records import ModelOffer, NodeRecord
from atmo.identity import NodeId
from atmo.peer.directory import Directory
from atmo.router.offer import Offer
from atmo.trust.mesh import Member, MeshTrust
from atmo.wire.address import Address


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of one member, for people.

    Attributes:
        path: `self`, `lan`, `direct`, `relay`, or empty without a link.
        rtt_s: Smoothed round trip, None without a link.
        last_seen_s: Seconds since it was heard, directly or by its record.
    """

    node: NodeId
    name: str
    roles: tuple[str, ...]
    path: str
    rtt_s: float | None
    last_seen_s: float
    version: str
    addresses: tuple[Address, ...]


class Views:
    """Read-only answers over the peer's tables, which it shares.

    Args:
        own: This node's membership.
        trust: Who is a member.
        membership: Who is linked.
        directory: What the records say.
        paths: The kind of path of each link.
        closing: Links that are being hung up: their ends count as away.
    """

    def __init__(
        self,
        own: Member,
        trust: MeshTrust,
        membership: Membership,
        directory: Directory,
        paths: Mapping[NodeId, str],
        closing: Container[NodeId],
    ) -> None:
        self._own = own.certificate
        self._trust = trust
        self._membership = membership
        self._directory = directory
        self._paths = paths
        self._closing = closing

    def is_ready(self, node: NodeId) -> bool:
        """Says whether `node` is linked, proved its membership, and is not being hung up."""
        return node in self._membership.links and node not in self._closing

    def models(self) -> list[ModelOffer]:
        """Returns the models of this node and of every neighbour."""
        own = self._own.subject
        return [
            ModelOffer(node, self._directory.name(node), model, node == own)
            for node, model in self._directory.models()
            if node == own or self.is_ready(node)
        ]

    def offers(self) -> list[Offer]:
        """Returns the capabilities of every neighbour."""
        offers = []
        for node, capability in self._directory.capabilities():
            name = self._directory.name(node)
            if self.is_ready(node):
                link = self._membership.links[node]
                offers.append(Offer(node, name, capability, False, link.rtt_s, link.load, self._paths[node]))
        return offers

    def nodes(self, now: Now) -> list[NodeView]:
        """Returns every member that is known: this node first, then by name; those who are away as they were last."""
        directory = self._directory
        rows = [
            self._view(now, node, record)
            for node, record in [*directory.nodes.items(), *directory.gone.items()]
            if node != self._own.subject and self._trust.is_member(now.wall, node)
        ]
        return [self._own_view(), *sorted(rows, key=lambda row: (row.name, row.node))]

    def _own_view(self) -> NodeView:
        node, roles = self._own.subject, self._own.roles
        record = self._directory.nodes.get(node)
        if record is None:
            return NodeView(node, self._own.name, roles, "self", 0.0, 0.0, "", ())
        return NodeView(node, record.name, roles, "self", 0.0, 0.0, record.version, record.addresses)

    def _view(self, now: Now, node: NodeId, record: NodeRecord) -> NodeView:
        if self.is_ready(node):
            link = self._membership.links[node]
            path, rtt_s, seen_s = self._paths[node], link.rtt_s, now.mono - link.heard
        else:
            path, rtt_s, seen_s = "", None, max(0.0, now.wall - self._directory.issued_s[node])
        roles = self._trust.roles(node)
        return NodeView(node, record.name, roles, path, rtt_s, seen_s, record.version, record.addresses)
