"""What the records of a mesh mean to a peer across its engines: who is there, who was put out, what this node tells."""

from __future__ import annotations

import math
from itertools import islice

from atmo.clock import Now
from atmo.engine import Emit
from atmo.gossip import records as kinds
from atmo.gossip.detector import LinkSilent, LinkSuspect, LinkTrusted
from atmo.gossip.hyparview_config import NeighbourDown, NeighbourUp
from atmo.gossip.plumtree_config import TreeAges
from atmo.gossip.records import RevocationBody
from atmo.gossip.sync import RecordChanged, Signed
from atmo.identity import NodeId, Signer
from atmo.index.events import LookupDone, NodeFound
from atmo.index.keys import capability_key, manifest_key, model_capability_key, model_key, node_key
from atmo.peer.config import PeerConfig
from atmo.peer.core import Act, Core
from atmo.peer.crypto import Crypto
from atmo.peer.events import Revoked
from atmo.peer.presence import ABSENT, AbsencesChanged, AbsentBody, NodeBack, NodeGone, Refute
from atmo.peer.renewal import AdminSought, CertificateRenewed
from atmo.peer.rights import succeeded
from atmo.peer.scale import RECORDS_BYTES, lifetime_s
from atmo.trust.mesh import MeshTrust
from atmo.trust.records import INVITE, REDEMPTION, REVOCATION, SUCCESSION
from atmo.wire.schema import unpack_untrusted

PROVIDED_MOST = 2_048
"""Keys of one node in the index, itself and what it runs first. Source: guess; renewed five a second."""


class Affairs(Core):
    """This part of a peer."""

    def __init__(
        self, config: PeerConfig, signer: Signer, trust: MeshTrust, epoch: int, seed: str, crypto: Crypto
    ) -> None:
        super().__init__(config, signer, trust, epoch, seed, crypto)
        self._acts = self._action_table()

    def _action_table(self) -> dict[type, Act]:
        return {
            NeighbourUp: self._neighbour_up,
            NeighbourDown: self._neighbour_down,
            LinkSuspect: self._suspect,
            LinkTrusted: self._trust,
            LinkSilent: self._silent,
            Signed: self._spread,
            AbsencesChanged: self._tell_absences,
            Refute: lambda now, event: self._adverts.refresh_node(now),
            TreeAges: lambda now, event: self._adverts.refresh_node(now),
            RecordChanged: self._record_changed,
            NodeGone: self._node_gone,
            NodeBack: self._node_back,
            CertificateRenewed: self._adopt,
            AdminSought: lambda now, event: self._seek(now, event.issuer),
            NodeFound: self._node_found,
            LookupDone: self._lookup_done,
        }

    def _record_changed(self, now: Now, change: RecordChanged) -> None:
        self._directory.changed(change)
        if change.kind == kinds.NODE:
            self._node_changed(now, change)
        elif change.kind == ABSENT:
            body = change.record.body if change.record else b""
            self.presence.told(now, change.author, unpack_untrusted(AbsentBody, body) if body else None)
        elif change.kind == REVOCATION and change.record:
            self._revoked(now, unpack_untrusted(RevocationBody, change.record.body).node, change.author)
        elif change.kind == SUCCESSION:
            self._succeeded(now, change)
        elif change.kind in (INVITE, REDEMPTION) and (event := self.invitations.changed(change)):
            self._out.put(Emit(event))
        self._out.put(Emit(change))

    def _node_changed(self, now: Now, change: RecordChanged) -> None:
        node = change.author
        if change.record is None:
            self.presence.unrecorded(node)
            if not self.trust.is_member(now.wall, node):
                self._forget(now, node)
            elif node != self.node_id:
                self.hyparview.gone(now, node)
                self._forget_surplus(now)
            return
        leaving = self._directory.nodes[node].leaving
        self.presence.recorded(now, node, change.record.version, leaving=leaving)
        if node != self.node_id and not leaving:
            contact = self._contact(node)
            self.hyparview.learn(now, contact)
            if self._links.is_ready(node):
                self.index.learn(now, contact)

    def _revoked(self, now: Now, node: NodeId, by: NodeId) -> None:
        """Someone was put out: so are all whom it let in, and what it did as an admin is undone."""
        was_out = self.trust.is_revoked(node)
        self.trust.revoke(node, by)
        if self.trust.is_revoked(node) and not was_out:
            self.stats.revocations += 1
            self._out.put(Emit(Revoked(node)))
        self._unswept = True

    def _succeeded(self, now: Now, change: RecordChanged) -> None:
        """A founder handed its rights over: certificates that only its old key vouches for may count no more."""
        if event := succeeded(self.trust, change):
            self._out.put(Emit(event))
            self._unswept = True
            self.renewal.changed(now)

    def _check_members(self, now: Now) -> None:
        ready = self._links.ready()
        for node in ready:
            if not self.trust.is_member(now.wall, node):
                self._links.hang_up(node, "its certificate has expired")
        self._next_check = now.mono + self._config.members_s if ready else math.inf

    def _forget_surplus(self, now: Now) -> None:
        for node in self._directory.surplus():
            self._forget(now, node)

    def _adopt(self, now: Now, event: CertificateRenewed) -> None:
        """This node has a new certificate, and shows that one from now on."""
        member = event.member
        self._member = member
        self._views.adopt(member)
        self.index.certificate, self.index.issuer_certificate = member.sealed, member.issuer_sealed
        self.index.renew(now)
        self._adverts.adopt(now, member)
        self._out.put(Emit(event))

    def _provide(self, now: Now) -> None:
        """Keeps the index in step with what this node has; in a small mesh everybody knows without it."""
        wanted = self._own_keys() if self.mesh_size.large else {}
        provided = dict.fromkeys(self.index.provided())
        for key in provided:
            if key not in wanted:
                self.index.withdraw(now, key)
        for key in wanted:
            if key not in provided:
                self.index.provide(now, key)

    def _own_keys(self) -> dict[bytes, None]:
        keys = {node_key(self.node_id): None}
        for capability in self._directory.capabilities_of(self.node_id):
            keys |= {capability_key(capability.operation): None, model_key(capability.model): None}
        for model in self._directory.models_of(self.node_id):
            keys |= {model_key(model.name): None, manifest_key(model.manifest): None}
            keys |= {model_capability_key(name): None for name in model.capabilities}
        return dict.fromkeys(islice(keys, PROVIDED_MOST))

    def _look_at_size(self, now: Now) -> None:
        scale = self._config.scale
        self._next_look = now.mono + scale.look_s
        table_bytes = max(self.sync.table.bytes, self.mesh_size.members() * RECORDS_BYTES)
        before, now_s = self.sync.lifetime_s, lifetime_s(scale, table_bytes)
        self.sync.set_lifetime(now_s)
        longer = now_s > before and not self.hyparview.active  # nobody has heard the short-lived ones yet
        if self.mesh_size.look(now) or longer:
            self._adverts.respread(now, near=self.mesh_size.large)
        self._provide(now)

    # --- misbehaviour ---------------------------------------------------------------------------------------------
