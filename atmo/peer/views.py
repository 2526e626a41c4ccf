"""What a peer tells its users of the mesh: nodes, models and capabilities, with what is known of the way there."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

from atmo.clock import Now
from atmo.gossip.detector import Detector
from atmo.gossip.records import ModelOffer, NodeRecord
from atmo.identity import NodeId
from atmo.peer.directory import Directory
from atmo.peer.links import Links
from atmo.peer.presence import Presence
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.trust.mesh import Member, MeshTrust
from atmo.wire.address import Address


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of one member, for people.

    Attributes:
        path: `self`, `lan`, `direct`, `relay`, or empty without a link.
        rtt_s: Smoothed round trip, None without a link.
        last_seen_s: Seconds since it was heard, directly or by its record.
        present: It is believed to live.
    """

    node: NodeId
    name: str
    roles: tuple[str, ...]
    path: str
    rtt_s: float | None
    last_seen_s: float
    version: str
    addresses: tuple[Address, ...]
    present: bool = True


@dataclass(frozen=True, slots=True)
class LinkView:
    """One link of this node, for people.

    Attributes:
        node: The other end.
        path: `lan`, `direct`, `relay` or `forward`.
        rtt_s: Smoothed round trip, None where it was not measured yet.
        age_s: Since it came up.
        neighbour: It is one of the active view.
    """

    node: NodeId
    path: str
    rtt_s: float | None
    age_s: float
    neighbour: bool


@dataclass(frozen=True, slots=True)
class Advice:
    """A member advises against versions of a model.

    Attributes:
        author: Who; it counts for models that it published, and of an admin for all.
        author_name: For people.
        admin: It is an admin or a founder now.
        name, versions, reason, replacement: See `DeprecationBody`.
        issued_s: Unix seconds by the author's clock.
    """

    author: NodeId
    author_name: str
    admin: bool
    name: str
    versions: str
    reason: str
    replacement: str
    issued_s: int


class Views:
    """Read-only answers over the peer's tables, which it shares.

    Args:
        own: This node's membership.
        trust: Who is a member.
        detector: Round trips and load of links.
        presence: Who is believed to live.
        directory: What the records say.
        links: Who is linked.
    """

    def __init__(
        self,
        own: Member,
        trust: MeshTrust,
        detector: Detector,
        presence: Presence,
        directory: Directory,
        links: Links,
    ) -> None:
        self._own = own.certificate
        self._trust = trust
        self._detector = detector
        self._presence = presence
        self._directory = directory
        self._links = links
        self._offers = Offers()
        self._offers_of: tuple[object, ...] = ()

    def adopt(self, own: Member) -> None:
        """This node has a new certificate."""
        self._own = own.certificate

    def is_present(self, node: NodeId) -> bool:
        """Says whether a member is believed to live: it has a record, and nobody missed it or this node hears it."""
        if node == self._own.subject:
            return True
        return node in self._directory.nodes and (not self._presence.is_gone(node) or node in self._detector.links)

    def links(self, now: Now, neighbours: Container[NodeId]) -> list[LinkView]:
        """Returns every link whose other end proved its membership."""
        rows = []
        for node in self._links.ready():
            link, state = self._links.get(node), self._detector.links.get(node)
            assert link is not None, "what is ready is a link"
            rtt_s = state.rtt_s if state else None
            rows.append(LinkView(node, link.path, rtt_s, now.mono - link.since, node in neighbours))
        return rows

    def models(self) -> list[ModelOffer]:
        """See `Peer.models`."""
        own = self._own.subject
        return [
            ModelOffer(node, self._directory.name(node), model, node == own)
            for node, model in self._directory.models()
            if self.is_present(node)
        ]

    def offers(self) -> Offers:
        """See `Peer.offers`; the same object for as long as the same is offered by the same nodes."""
        directory, own = self._directory, self._own.subject
        heard = tuple(node for node in self._detector.links if self._presence.is_gone(node))
        now = (directory.offer_changes, self._presence.changes, heard)
        if now != self._offers_of:
            self._offers_of = now
            offers = [
                Offer(node, directory.name(node), capability, False, None, 0, "")
                for node, capability in directory.capabilities()
                if node != own and self.is_present(node)
            ]
            self._offers = Offers(offers, self._fresh)
        return self._offers

    def _fresh(self, offer: Offer) -> Offer:
        """Returns an offer with what is known of the way to its node now."""
        link, state = self._links.get(offer.node), self._detector.links.get(offer.node)
        if link is None and state is None:
            return offer
        path = link.path if link else ""
        rtt_s, load = (state.rtt_s, state.load) if state else (None, 0)
        return Offer(offer.node, offer.node_name, offer.capability, False, rtt_s, load, path)

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
        link, state = self._links.get(node), self._detector.links.get(node)
        if link and self._links.is_ready(node):
            path, rtt_s = link.path, state.rtt_s if state else None
            seen_s = now.mono - (state.heard if state else link.used_at)
        else:
            heard_s = now.mono - self._directory.heard.get(node, -math.inf)
            path, rtt_s, seen_s = "", None, max(0.0, min(heard_s, now.wall - self._directory.issued_s[node]))
        roles = self._trust.roles(node)
        return NodeView(
            node, record.name, roles, path, rtt_s, seen_s, record.version, record.addresses, self.is_present(node)
        )
