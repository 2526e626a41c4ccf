"""What a peer answers about itself and its mesh; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Collection

from atmo.clock import Now
from atmo.gossip import records as kinds
from atmo.gossip.catalog import may_have
from atmo.gossip.records import DEPRECATION, ModelOffer, NodeRecord, ProfileBody
from atmo.identity import NodeId
from atmo.peer.affairs import Affairs
from atmo.peer.rules import LinkAge, keeps
from atmo.peer.views import Advice, LinkView, NodeView
from atmo.router.offers import Offers
from atmo.transfer.requirements import Profile
from atmo.trust.certificate import ADMIN
from atmo.trust.mesh import Member
from atmo.wire.address import Address

FOUNDER = "founder"
"""What lists of roles call founders; no certificate makes anybody one."""

_NOBODY = NodeRecord("", (), b"")


class Queries(Affairs):
    """This part of a peer."""

    def addresses(self) -> tuple[Address, ...]:
        """Returns where this node told the mesh that it listens."""
        return self.hyparview.contact.addresses

    def addresses_of(self, node: NodeId) -> tuple[Address, ...]:
        """Returns where a node says it listens."""
        record = self._directory.nodes.get(node) or self._directory.gone.get(node)
        return record.addresses if record else ()

    def relay_of(self, node: NodeId) -> str | None:
        """Returns the URL of the relay at which a node says it is found."""
        record = self._directory.nodes.get(node) or self._directory.gone.get(node)
        return record.relay if record else None

    def neighbours(self) -> list[NodeId]:
        """Returns the active view: those with whom this node exchanges the mesh's state."""
        return [node for node in self.hyparview.active if self._links.is_ready(node)]

    def linked(self) -> list[NodeId]:
        """Returns everyone with whom there is a link whose other end proved its membership."""
        return self._links.ready()

    def links(self, now: Now) -> list[LinkView]:
        """Returns what is known of each of these links, for people."""
        return self._views.links(now, self.hyparview.active)

    def rate_of(self, transfer: str, source: NodeId) -> float:
        """Returns how many bytes a second come from a source of a download; see `TransferEngine.rate_of`."""
        return self.transfer.rate_of(transfer, source)

    def is_ready(self, node: NodeId) -> bool:
        """Says whether `node` is linked and proved its membership: its requests may be served."""
        return self._links.is_ready(node)

    def is_present(self, node: NodeId) -> bool:
        """Says whether a member is believed to live."""
        return self._views.is_present(node)

    def keeps(self, now: Now, node: NodeId, old: LinkAge, outbound: bool) -> bool:
        """Says whether the link to `node` stays although there is a new one; see `rules.keeps`."""
        return keeps(now, self.node_id, node, old, outbound, self._config.simultaneous_s)

    def known(self) -> frozenset[NodeId]:
        """Returns the members whose records are here, or were until they expired."""
        return frozenset(self._directory.nodes) | frozenset(self._directory.gone)

    def member(self, node: NodeId) -> Member | None:
        """Returns a member's certificate."""
        return self.trust.member(node)

    def node_records(self) -> list[bytes]:
        """Returns the sealed records that say who is there, for one who joins: neighbours first, then everybody."""
        near = [*self.hyparview.active, self.node_id]
        first = [envelope for node in near if (envelope := self.sync.envelope(node, kinds.NODE))]
        return first + [envelope for envelope in self.sync.envelopes(kinds.NODE) if envelope not in first]

    def name(self, node: NodeId) -> str:
        """Returns what a node calls itself, else the start of its id."""
        return self._directory.name(node)

    def models(self, now: Now) -> list[ModelOffer]:
        """Returns the models of this node and of every member that is believed to live and whose records are here."""
        return self._views.models()

    def large_catalogs(self, name: str | None = None, capabilities: Collection[str] = ()) -> dict[NodeId, bytes]:
        """Returns who may have a model that they tell only when they are asked, and the hash of their catalog.

        Args:
            name: Of the model; None for any.
            capabilities: That the model is to have.
        """
        return {
            node: catalog.hash
            for node, catalog in self._directory.catalogs.items()
            if node != self.node_id and self._views.is_present(node) and may_have(catalog, name, capabilities)
        }

    def deprecations(self, now: Now) -> list[Advice]:
        """Returns what members advise against, whether or not it counts."""
        rows = []
        for (author, key), body in self._directory.deprecations.items():
            record = self.sync.record(author, DEPRECATION, key)
            assert record is not None, "the directory is in step"
            admin = self.trust.is_admin(now.wall, author)
            rows.append(
                Advice(
                    author,
                    self._directory.name(author),
                    admin,
                    body.name,
                    body.versions,
                    body.reason,
                    body.replacement,
                    record.issued_s,
                )
            )
        return rows

    def standing(self, now: Now, node: NodeId) -> frozenset[str]:
        """Returns the roles of a node that have effect now: none of a stranger; a founder is an admin, too."""
        if not self.trust.is_member(now.wall, node):
            return frozenset()
        roles = frozenset(self.trust.roles(node)) - {ADMIN, FOUNDER}
        if self.trust.is_founder(node):
            return roles | {ADMIN, FOUNDER}
        return roles | {ADMIN} if self.trust.is_admin(now.wall, node) else roles

    def profile(self, node: NodeId) -> Profile:
        """Returns what a node says that it has; nothing said is nothing known."""
        record = self._directory.nodes.get(node) or _NOBODY
        said = self._directory.profiles.get(node) or ProfileBody()
        return Profile(
            memory_mb=record.hardware.memory_mb,
            cpu_cores=record.hardware.cpu_cores,
            architecture=record.hardware.architecture,
            gpu=record.hardware.gpu,
            system=said.system,
            python_version=said.python_version,
            packages=said.packages,
            interests=said.interests,
            max_model_size_mb=said.max_model_size_mb,
            max_models=said.max_models,
        )

    def offers(self, now: Now) -> Offers:
        """Returns the capabilities of every member that is believed to live and whose records are here.

        What this node itself can run, its own services know better.
        """
        return self._views.offers()

    def nodes(self, now: Now) -> list[NodeView]:
        """Returns every member that is known: this node first, then by name; those who are away as they were last."""
        return self._views.nodes(now)
