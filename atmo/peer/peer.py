"""The peer: all engines composed into one engine.

What happens across engines lives here, because what lives here is simulated.

A link is new (the transport authenticated the other node's key), then verified (its `Hello` showed a valid certificate
of this mesh). Before that nothing but a Hello counts. Every input ends in `_settle`, which moves effects of the inner
engines outwards and acts on what they told: a revoked node is hung up on, an expired one is no longer dialled, a dead
one frees its chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from atmo.clock import Now
from atmo.engine import Effect, Emit, Hangup, Message, Misbehaved, Outbox, Send
from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.broadcast import Broadcast, BroadcastConfig
from atmo.gossip.membership import Membership, MembershipConfig
from atmo.gossip.messages import Flood, Goodbye, Hello, Ping, Pong, Records, Summary
from atmo.gossip.records import ModelOffer, ModelRecord, ModelsBody, NodeRecord, Record, RevocationBody
from atmo.gossip.sync import UNKNOWN_AUTHOR, RecordChanged, RecordSync, SyncConfig
from atmo.identity import NodeId, Signer
from atmo.peer.directory import CapabilitiesBody, Directory, NodeView, check_body_untrusted, pages
from atmo.peer.events import LinkLost, LinkReady, Revoked
from atmo.router.capability import Capability
from atmo.router.offer import Offer
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferEngine
from atmo.trust.mesh import Member, MeshTrust
from atmo.wire import limits
from atmo.wire.address import Address
from atmo.wire.schema import pack, unpack_untrusted

REVOCATION_LIFETIME_S = 10 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Configuration of the composition and of each engine.

    Attributes:
        hello_s: A link whose other end has not proved its membership by then is closed. Source: guess.
        strikes: Broken messages of one neighbour that end its link. Source: guess.
    """

    hello_s: float = 5.0
    strikes: int = 16
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    broadcast: BroadcastConfig = field(default_factory=BroadcastConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)


@dataclass(slots=True)
class PeerStats:
    """Counters since start, of what no inner engine counts."""

    hellos_refused: int = 0
    misbehaved: int = 0
    dropped_unverified: int = 0
    revocations: int = 0


class Peer:
    """One member of one mesh.

    Args:
        config: Of all engines.
        signer: This node's key.
        trust: The mesh's rules; this node's own certificate is already admitted.
        epoch: Of this start, larger than at any start before.
        seed: Names the random streams of the engines.

    Raises:
        WireError: The own node has no certificate in `trust`.
    """

    def __init__(self, config: PeerConfig, signer: Signer, trust: MeshTrust, epoch: int, seed: str) -> None:
        member = trust.member(signer.node_id)
        if member is None:
            raise WireError("this node has no certificate of this mesh")
        self._config = config
        self._signer = signer
        self._member = member
        self.trust = trust
        self.node_id = signer.node_id
        self.membership = Membership(config.membership, self.node_id, Random(f"{seed}/membership"))
        self.broadcast = Broadcast(config.broadcast)
        self.sync = RecordSync(
            config.sync, signer, trust.mesh_id, epoch, Random(f"{seed}/sync"), authorise=self._authorise
        )
        self.transfer = TransferEngine(Random(f"{seed}/transfer"), config.transfer)
        self.stats = PeerStats()
        self._pending: dict[NodeId, float] = {}
        self._paths: dict[NodeId, str] = {}
        self._strikes: dict[NodeId, int] = {}
        self._directory = Directory()
        self._out = Outbox()

    # --- inputs ---------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId, path: str) -> None:
        """The transport has a connection to `node`, authenticated by its key; `path` is `lan`, `direct` or `relay`."""
        self._pending[node] = now.mono + self._config.hello_s
        self._paths[node] = path
        member = self._member
        self._out.put(Send(node, Hello(self.trust.mesh_id, member.sealed, member.issuer_sealed)))

    def link_down(self, now: Now, node: NodeId, reason: str) -> None:
        """The connection to `node` is gone."""
        verified = node in self.membership.links
        self._pending.pop(node, None)
        self._paths.pop(node, None)
        self._strikes.pop(node, None)
        self.membership.link_down(now, node)
        self.broadcast.link_down(node)
        self.sync.link_down(node)
        self.transfer.source_down(now, node)
        if verified:
            self._out.put(Emit(LinkLost(node, reason)))
        self._settle(now)

    def dial_failed(self, now: Now, node: NodeId) -> None:
        """None of the node's addresses answered."""
        self.membership.dial_failed(now, node)

    def receive(self, now: Now, source: NodeId, message: Message) -> None:
        """Takes a message of a connected node; see `atmo.engine.Engine`."""
        if isinstance(message, Hello):
            self._hello(now, source, message)
        elif source not in self.membership.links:
            self.stats.dropped_unverified += 1
            self._out.put(Misbehaved(source, "a message before its Hello", fatal=True))
            self._out.put(Hangup(source, "say Hello first"))
        else:
            self.membership.heard(now, source)
            self._dispatch(now, source, message)
        self._settle(now)

    def _dispatch(self, now: Now, source: NodeId, message: Message) -> None:
        match message:
            case Ping() | Pong():
                self.membership.receive(now, source, message)
            case Flood(envelope):
                self._take(now, source, envelope)
            case Records(envelopes):
                for envelope in envelopes:
                    self._take(now, source, envelope)
            case Summary():
                self.sync.receive_summary(source, message)
            case Goodbye(reason):
                self._out.put(Hangup(source, f"it left: {reason}"))

    def _take(self, now: Now, source: NodeId, envelope: bytes) -> None:
        if self.broadcast.first_time(envelope) and self.sync.accept_untrusted(now, source, envelope):
            self.broadcast.forward(envelope, source)

    def _hello(self, now: Now, source: NodeId, hello: Hello) -> None:
        if source not in self._pending:
            self._out.put(Misbehaved(source, "a second Hello"))
            return
        try:
            if hello.mesh != self.trust.mesh_id:
                raise WireError("it belongs to another mesh")
            self.trust.admit_untrusted(now.wall, source, hello.certificate, hello.issuer_certificate)
        except WireError as error:
            self.stats.hellos_refused += 1
            self._out.put(Misbehaved(source, f"Hello: {error}", fatal=True))
            self._out.put(Hangup(source, str(error)))
            return
        if self.membership.link_up(now, source):
            del self._pending[source]
            self.broadcast.link_up(source)
            self.sync.link_up(now, source)
            self._out.put(Emit(LinkReady(source)))

    def malformed(self, now: Now, source: NodeId, reason: str) -> None:
        """Bytes from `source` did not decode; before its Hello that is the end of the link."""
        self._out.put(Misbehaved(source, reason))
        if source not in self.membership.links:
            self._out.put(Hangup(source, reason))
        self._settle(now)

    def handle_timer(self, now: Now) -> None:
        """Does what is due in all engines."""
        self.membership.handle_timer(now)
        self.broadcast.handle_timer(now)
        self.transfer.handle_timer(now)
        for envelope in self.sync.handle_timer(now):
            self._spread(envelope)
        for node in [node for node, deadline in self._pending.items() if now.mono >= deadline]:
            self._pending[node] = math.inf
            self._out.put(Hangup(node, "no Hello in time"))
        self._settle(now)

    def next_timer(self) -> float:
        engines = (self.membership, self.broadcast, self.sync, self.transfer)
        return min(*(engine.next_timer() for engine in engines), min(self._pending.values(), default=math.inf))

    def drain(self) -> list[Effect]:
        for effect in self.transfer.drain():  # commands go to the transfer engine directly
            self._move(effect)
        return self._out.drain()

    # --- commands -------------------------------------------------------------------------------------------------

    def publish_node(self, now: Now, name: str, addresses: Sequence[Address], version: str, hardware: Any) -> None:
        """Tells the mesh who this node is and where it listens; `hardware` is a `gossip.records.Hardware`."""
        member = self._member
        node = NodeRecord(
            name, tuple(addresses[: limits.ADDRESSES]), member.sealed, member.issuer_sealed, version, hardware
        )
        self._publish(now, kinds.NODE, "", pack(node))

    def publish_models(self, now: Now, models: Sequence[ModelRecord]) -> None:
        """Tells the mesh which models this node holds, in place of what it said before."""
        self._publish_pages(now, kinds.MODELS, [pack(ModelsBody(page)) for page in pages(models)])

    def publish_capabilities(self, now: Now, capabilities: Sequence[Capability]) -> None:
        """Tells the mesh what this node can run, in place of what it said before."""
        bodies = [pack(CapabilitiesBody(page)) for page in pages(capabilities)]
        self._publish_pages(now, kinds.CAPABILITIES, bodies)

    def _publish_pages(self, now: Now, kind: str, bodies: list[bytes]) -> None:
        for number, body in enumerate(bodies):
            held = self.sync.record(self.node_id, kind, str(number))
            if held is None or held.body != body:
                self._publish(now, kind, str(number), body)
        number = len(bodies)
        while (held := self.sync.record(self.node_id, kind, str(number))) is not None:
            if held.body:
                self._spread(self.sync.withdraw(now, kind, str(number)))
            number += 1
        self._settle(now)

    def revoke(self, now: Now, node: NodeId, reason: str = "") -> None:
        """Puts a member out of the mesh, for good; every node that hears of it cuts its links.

        Raises:
            WireError: This node is no admin, or the other is a founder.
        """
        if not self.trust.is_admin(now.wall, self.node_id):
            raise WireError("only a founder or an admin can revoke a member")
        if node in self.trust.genesis.founders:
            raise WireError("a founder cannot be revoked")
        body = pack(RevocationBody(node, reason))
        envelope = self.sync.publish(now, kinds.REVOCATION, str(node), body, REVOCATION_LIFETIME_S)
        self._spread(envelope)
        self._settle(now)

    def leave(self, now: Now, reason: str = "shutting down") -> None:
        """Says goodbye to all neighbours."""
        for node in self.membership.links:
            self._out.put(Send(node, Goodbye(reason)))

    def load_records(self, now: Now, envelopes: Iterable[bytes]) -> None:
        """Takes the records kept from an earlier run or handed over at joining: who is where comes first."""
        envelopes = list(envelopes)
        self.sync.load(now, envelopes)
        self._settle(now)
        self.sync.load(now, envelopes)
        self._settle(now)

    def _publish(self, now: Now, kind: str, key: str, body: bytes) -> None:
        self._spread(self.sync.publish(now, kind, key, body))
        self._settle(now)

    def _spread(self, envelope: bytes) -> None:
        self.broadcast.first_time(envelope)
        self.broadcast.forward(envelope, None)

    # --- across engines -------------------------------------------------------------------------------------------

    def _authorise(self, now: Now, author: NodeId, record: Record) -> str | None:
        """The rules of who may write what; see `gossip.sync.Authorise`."""
        if self.trust.is_revoked(author):
            return "its author was revoked"
        try:
            if record.kind == kinds.NODE:
                node = unpack_untrusted(NodeRecord, record.body)
                self.trust.admit_untrusted(now.wall, author, node.certificate, node.issuer_certificate)
            elif not self.trust.is_member(now.wall, author):
                return UNKNOWN_AUTHOR
            elif record.kind == kinds.REVOCATION:
                unpack_untrusted(RevocationBody, record.body)
                return None if self.trust.is_admin(now.wall, author) else "only admins revoke"
            elif record.body:
                check_body_untrusted(record)
        except WireError as error:
            return str(error)
        return "its lifetime is too long" if record.lifetime_s > 2 * self._config.sync.lifetime_s else None

    def _settle(self, now: Now) -> None:
        """Moves effects outwards until the inner engines are silent."""
        while effects := [*self.sync.drain(), *self.membership.drain(), *self.broadcast.drain()]:
            for effect in effects:
                if isinstance(effect, Emit) and isinstance(effect.event, RecordChanged):
                    self._record_changed(now, effect.event)
                self._move(effect)

    def _move(self, effect: Effect) -> None:
        if isinstance(effect, Misbehaved):
            self._strike(effect.peer)
        self._out.put(effect)

    def _strike(self, node: NodeId) -> None:
        self.stats.misbehaved += 1
        if node not in self.membership.links:
            return
        self._strikes[node] = self._strikes.get(node, 0) + 1
        if self._strikes[node] == self._config.strikes:
            self._out.put(Hangup(node, f"{self._config.strikes} broken messages"))

    def _record_changed(self, now: Now, change: RecordChanged) -> None:
        self._directory.changed(change)
        if change.kind == kinds.NODE:
            node = self._directory.nodes.get(change.author)
            if node:
                self.membership.learn(now, change.author, node.addresses)
            else:
                self.membership.forget(change.author)
        elif change.kind == kinds.REVOCATION and change.record:
            self._revoked(unpack_untrusted(RevocationBody, change.record.body).node)

    def _revoked(self, node: NodeId) -> None:
        if not self.trust.revoke(node):
            return
        self.stats.revocations += 1
        self.sync.drop_author(node)
        self.membership.forget(node)
        if node in self.membership.links or node in self._pending:
            self._out.put(Hangup(node, "it was revoked"))
        self._out.put(Emit(Revoked(node)))

    # --- queries --------------------------------------------------------------------------------------------------

    def neighbours(self) -> list[NodeId]:
        """Returns the verified neighbours."""
        return list(self.membership.links)

    def is_ready(self, node: NodeId) -> bool:
        """Says whether `node` is linked and proved its membership: its requests may be served."""
        return node in self.membership.links

    def member(self, node: NodeId) -> Member | None:
        """Returns a member's certificate."""
        return self.trust.member(node)

    def name(self, node: NodeId) -> str:
        """Returns what a node calls itself, else the start of its id."""
        return self._directory.name(node)

    def _alive(self, node: NodeId) -> bool:
        return node == self.node_id or node in self.membership.links

    def models(self, now: Now) -> list[ModelOffer]:
        """Returns the models of this node and of every neighbour."""
        return [
            ModelOffer(node, self.name(node), model, node == self.node_id)
            for node, model in self._directory.models()
            if self._alive(node)
        ]

    def offers(self, now: Now) -> list[Offer]:
        """Returns the capabilities of this node and of every neighbour."""
        offers = []
        for node, capability in self._directory.capabilities():
            if node == self.node_id:
                offers.append(Offer(node, self.name(node), capability, True, 0.0, self.membership.load, "local"))
            elif link := self.membership.links.get(node):
                path = self._paths[node]
                offers.append(Offer(node, self.name(node), capability, False, link.rtt_s, link.load, path))
        return offers

    def nodes(self, now: Now) -> list[NodeView]:
        """Returns every member that is known to be there: this node first, then by name."""
        rows = [self._view(now, node, record) for node, record in self._directory.nodes.items()]
        return sorted(rows, key=lambda row: (row.path != "self", row.name, row.node))

    def _view(self, now: Now, node: NodeId, record: NodeRecord) -> NodeView:
        roles = self.trust.roles(node)
        if node == self.node_id:
            return NodeView(node, record.name, roles, "self", 0.0, 0.0, record.version, record.addresses)
        if link := self.membership.links.get(node):
            path, rtt_s, seen_s = self._paths[node], link.rtt_s, now.mono - link.heard
        else:
            issued_s = max(slot.issued_s for author, slot in self.sync.records(now, kinds.NODE) if author == node)
            path, rtt_s, seen_s = "", None, max(0.0, now.wall - issued_s)
        return NodeView(node, record.name, roles, path, rtt_s, seen_s, record.version, record.addresses)
