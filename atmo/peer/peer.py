"""The peer: all engines composed into one engine.

What happens across engines lives here, because what lives here is simulated.

A link is new (the transport authenticated the other node's key), then verified (its `Hello` showed a valid certificate
of this mesh), then closing (it was asked to be hung up). Before it is verified nothing but a Hello counts, and while it
closes nothing at all. Every input ends in `_settle`, which moves effects of the inner engines outwards and acts on what
they told: a revoked node is hung up on, one that is no member any more is not dialled, a dead one frees its chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from random import Random

from atmo.clock import Now
from atmo.engine import Dial, Effect, Emit, Engine, Hangup, Message, Misbehaved, Outbox, Send
from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.broadcast import Broadcast
from atmo.gossip.membership import Membership
from atmo.gossip.messages import Flood, Goodbye, Hello, Ping, Pong, Records, Summary
from atmo.gossip.records import Hardware, ModelOffer, ModelRecord, NodeRecord, Record, RevocationBody
from atmo.gossip.sync import RecordChanged, RecordSync, Refusal, Signed, Verdict
from atmo.identity import NodeId, Signer
from atmo.peer.adverts import Adverts
from atmo.peer.config import PeerConfig, PeerStats
from atmo.peer.directory import Directory
from atmo.peer.downloads import Downloads
from atmo.peer.events import LinkLost, LinkReady, Revoked
from atmo.peer.rules import LinkAge, judge_untrusted, keeps
from atmo.peer.strikes import Strikes
from atmo.peer.views import NodeView, Views
from atmo.router.capability import Capability
from atmo.router.offer import Offer
from atmo.transfer.engine import TransferEngine
from atmo.trust.mesh import Member, MeshTrust
from atmo.wire.address import Address
from atmo.wire.schema import pack, unpack_untrusted

REASON_CHARS = 200


class Peer(Downloads):
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
        self._engines: tuple[Engine, ...] = (self.sync, self.membership, self.broadcast, self.transfer)
        self.stats = PeerStats()
        self._paths: dict[NodeId, str] = {}  # of all links
        self._pending: dict[NodeId, float] = {}  # of new links: when the Hello is overdue
        self._closing: dict[NodeId, None] = {}
        self._strikes = Strikes(config.strikes, config.forgive_s, config.ban_s)
        self._strangers = Strikes(config.stranger_strikes, config.forgive_s, config.ban_s)  # keys cost them nothing
        self._directory = Directory(config.gone)
        self._views = Views(member, trust, self.membership, self._directory, self._paths, self._closing)
        self._next_check = math.inf
        self._out = Outbox()
        self._adverts = Adverts(member, self.sync, self.stats, self._out)

    # --- inputs ---------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId, path: str) -> None:
        """The transport has a connection to `node`, authenticated by its key; `path` is `lan`, `direct` or `relay`."""
        if node in self._paths:
            self.link_down(now, node, "replaced by a newer link")
        self._paths[node] = path
        self.membership.link_pending(node)
        if self.trust.is_revoked(node) or self._is_banned(now, node):
            self._hangup(node, "it was revoked" if self.trust.is_revoked(node) else "it broke the protocol")
        elif len(self._pending) >= self._config.unverified:
            self._hangup(node, "too many links at once")
        else:
            self._pending[node] = now.mono + self._config.hello_s
            member = self._member
            self._out.put(Send(node, Hello(self.trust.mesh_id, member.sealed, member.issuer_sealed)))
        self._settle(now)

    def link_down(self, now: Now, node: NodeId, reason: str) -> None:
        """The connection to `node` is gone."""
        verified = node in self.membership.links
        self._paths.pop(node, None)
        self._pending.pop(node, None)
        self._closing.pop(node, None)
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
        if source in self._closing or source not in self._paths:
            self.stats.dropped_closing += 1
        elif isinstance(message, Hello):
            self._hello(now, source, message)
        elif source in self._pending:
            self.stats.dropped_unverified += 1
            self._stranger_broke(now, source, "a message before its Hello")
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
                    verdict = self._take(now, source, envelope)
                    if verdict == Verdict.UNENTITLED:
                        self._settle(now)
                    if verdict == Verdict.BROKEN or source in self._closing:
                        break  # one lie is enough: what follows is not worth checking signatures
            case Summary():
                self.sync.receive_summary(now, source, message)
            case _:
                assert isinstance(message, Goodbye), "the messages of `MESSAGES` are all told apart above"
                self._hangup(source, f"it left: {message.reason}")

    def _take(self, now: Now, source: NodeId, envelope: bytes) -> Verdict:
        if self.broadcast.knows(envelope):
            return Verdict.KNOWN
        verdict = self.sync.accept_untrusted(now, source, envelope)
        if verdict in (Verdict.NEWS, Verdict.KNOWN):
            self.broadcast.remember(envelope)
        if verdict == Verdict.NEWS:
            self.broadcast.forward(envelope, source)
        return verdict

    def _hello(self, now: Now, source: NodeId, hello: Hello) -> None:
        if source not in self._pending:
            self._move(now, Misbehaved(source, "a second Hello"))
            return
        try:
            if hello.mesh != self.trust.mesh_id:
                raise WireError("it belongs to another mesh")
            self.trust.admit_untrusted(now.wall, source, hello.certificate, hello.issuer_certificate)
        except WireError as error:
            self.stats.hellos_refused += 1
            self._out.put(Misbehaved(source, f"Hello: {error}"))
            self._hangup(source, str(error))
            return
        if self.membership.link_up(now, source):
            del self._pending[source]
            self.broadcast.link_up(source)
            self.sync.link_up(now, source)
            self._next_check = min(self._next_check, now.mono + self._config.members_s)
            self._out.put(Emit(LinkReady(source)))

    def malformed(self, now: Now, source: NodeId, reason: str) -> None:
        """Bytes from `source` did not decode."""
        if source in self._pending:
            self._stranger_broke(now, source, reason)
        elif source in self._paths and source not in self._closing:
            self._move(now, Misbehaved(source, reason))
        self._settle(now)

    def _hangup(self, node: NodeId, reason: str) -> None:
        """Asks for the end of a link; nothing that still comes over it counts."""
        assert node in self._paths, "only a link is hung up"
        self._pending.pop(node, None)
        self._closing[node] = None
        self._out.put(Hangup(node, reason))

    def handle_timer(self, now: Now) -> None:
        """Does what is due in all engines."""
        for engine in self._engines:
            engine.handle_timer(now)
        for node in [node for node, deadline in self._pending.items() if now.mono >= deadline]:
            self._hangup(node, "no Hello in time")
        if now.mono >= self._next_check:
            self._check_members(now)
        self._settle(now)

    def _check_members(self, now: Now) -> None:
        for node in self.membership.links:
            if not self.trust.is_member(now.wall, node):
                self._hangup(node, "its certificate has expired")
        self._next_check = now.mono + self._config.members_s if self.membership.links else math.inf

    def next_timer(self) -> float:
        due = min(engine.next_timer() for engine in self._engines)
        return min(due, self._next_check, min(self._pending.values(), default=math.inf))

    def drain(self) -> list[Effect]:
        return self._out.drain()

    # --- commands -------------------------------------------------------------------------------------------------

    def publish_node(self, now: Now, name: str, addresses: Sequence[Address], version: str, hardware: Hardware) -> None:
        """Tells the mesh who this node is and where it listens.

        Raises:
            WireError: The name is one that every reader would refuse.
        """
        self._adverts.node(now, name, addresses, version, hardware)
        self._settle(now)

    def publish_models(self, now: Now, models: Sequence[ModelRecord]) -> None:
        """Tells the mesh which models this node holds, in place of what it said before.

        One that no reader would accept is left out: an `AdvertLeftOut` says so.

        Raises:
            WireError: They are more than a node may tell; what it said before stands.
        """
        self._adverts.models(now, models)
        self._settle(now)

    def publish_capabilities(self, now: Now, capabilities: Sequence[Capability]) -> None:
        """Tells the mesh what this node can run, in place of what it said before; see `publish_models`."""
        self._adverts.capabilities(now, capabilities)
        self._settle(now)

    def revoke(self, now: Now, node: NodeId, reason: str = "") -> None:
        """Puts a member out of the mesh, for good; every node that hears of it cuts its links. Once is enough.

        Raises:
            WireError: This node is no admin, the other is a founder, or this node revoked too many.
        """
        if not self.trust.is_admin(now.wall, self.node_id):
            raise WireError("only a founder or an admin can revoke a member")
        if node in self.trust.genesis.founders:
            raise WireError("a founder cannot be revoked")
        proof = None if self.node_id in self.trust.genesis.founders else self._member.sealed
        body = pack(RevocationBody(node, reason[:REASON_CHARS], proof))
        if self.sync.record(self.node_id, kinds.REVOCATION, str(node)):
            return
        self.sync.publish(now, kinds.REVOCATION, str(node), body, kinds.REVOCATION_LIFETIME_S)
        self._settle(now)

    def leave(self, now: Now, reason: str = "shutting down") -> None:
        """Says goodbye to all neighbours."""
        for node in self.neighbours():
            self._out.put(Send(node, Goodbye(reason[:REASON_CHARS])))

    def load_records(self, now: Now, envelopes: Iterable[bytes]) -> None:
        """Takes the records kept from an earlier run or handed over at joining.

        Revocations among them count if their authors could write them at their dates. Node records that have expired
        tell where to look for their authors.
        """
        expired = self.sync.load(now, envelopes)
        self._settle(now)
        for author, record in sorted(expired, key=lambda row: row[1].issued_s):
            try:
                node = unpack_untrusted(NodeRecord, record.body)
                self.trust.admit_untrusted(now.wall, author, node.certificate, node.issuer_certificate)
            except WireError:
                self.sync.forget(author)
                continue
            self._directory.remember(author, record)
            self.membership.learn(now, author, node.addresses, stale=True)
        self._forget_surplus()
        self._settle(now)

    def set_load(self, load: int) -> None:
        """Tells how many requests this node is running: its answers to pings say so."""
        self.membership.load = load

    def accuse(self, now: Now, node: NodeId, reason: str) -> None:
        """Counts against a node what the shell found wrong outside of chunks, such as a manifest that lies."""
        self._move(now, Misbehaved(node, reason))
        self._settle(now)

    # --- across engines -------------------------------------------------------------------------------------------

    def _authorise(self, now: Now, author: NodeId, record: Record, kept: bool) -> Refusal | None:
        return judge_untrusted(self.trust, now, author, record, kept, 2 * self._config.sync.lifetime_s)

    def _settle(self, now: Now) -> None:
        """Moves effects outwards until the inner engines are silent."""
        while effects := [effect for engine in self._engines for effect in engine.drain()]:
            for effect in effects:
                self._move(now, effect)

    def _move(self, now: Now, effect: Effect) -> None:
        match effect:
            case Hangup(node, reason):
                self._hangup(node, reason)
                return
            case Dial(node) if not self._may_dial(now, node):
                self.membership.dial_failed(now, node)
                return
            case Emit(Signed(envelope)):
                self.broadcast.remember(envelope)
                self.broadcast.forward(envelope, None)
                return
            case Emit(RecordChanged() as change):
                self._record_changed(now, change)
            case Misbehaved(node):
                self._strike(now, node)
        self._out.put(effect)

    def _may_dial(self, now: Now, node: NodeId) -> bool:
        """Says whether a dial could succeed; who is not known yet shows its certificate on the link."""
        other = self.trust.member(node) is None or self.trust.is_member(now.wall, node)
        return other and self.trust.is_member(now.wall, self.node_id) and not self._is_banned(now, node)

    def _is_banned(self, now: Now, node: NodeId) -> bool:
        return self._strikes.is_banned(now.mono, node) or self._strangers.is_banned(now.mono, node)

    def _stranger_broke(self, now: Now, node: NodeId, reason: str) -> None:
        """Who has not proved its membership has no patience to use up, and is kept out if it comes back like that."""
        self._move(now, Misbehaved(node, reason))
        self.stats.bans += self._strangers.strike(now.mono, node)
        self._hangup(node, "say Hello first")

    def _strike(self, now: Now, node: NodeId) -> None:
        self.stats.misbehaved += 1
        if self.is_ready(node) and self._strikes.strike(now.mono, node):
            self.stats.bans += 1
            self._hangup(node, f"{self._config.strikes} broken messages")

    def _record_changed(self, now: Now, change: RecordChanged) -> None:
        self._directory.changed(change)
        if change.kind == kinds.NODE:
            if change.record:
                self.membership.learn(now, change.author, self._directory.nodes[change.author].addresses)
            elif self.trust.is_member(now.wall, change.author):
                self.membership.mark_stale(change.author)
                self._forget_surplus()
            else:
                self._forget(change.author)
        elif change.kind == kinds.REVOCATION and change.record:
            self._revoked(now, unpack_untrusted(RevocationBody, change.record.body).node, change.author)

    def _revoked(self, now: Now, node: NodeId, by: NodeId) -> None:
        """Someone was put out: so are all whom it let in, and what it did as an admin is undone."""
        was_out = self.trust.is_revoked(node)
        self.trust.revoke(node, by)
        if self.trust.is_revoked(node) and not was_out:
            self.stats.revocations += 1
            self._out.put(Emit(Revoked(node)))
        alone = not self.trust.is_member(now.wall, self.node_id)
        for link in list(self._paths):
            if (
                alone
                or self.trust.is_revoked(link)
                or (self.is_ready(link) and not self.trust.is_member(now.wall, link))
            ):
                self._hangup(link, "it was revoked")
        for author in self.sync.authors():
            if author != self.node_id and not self.trust.is_member(now.wall, author):
                self.sync.drop_author(author)
        for node in list(self._directory.gone):
            if not self.trust.is_member(now.wall, node):
                self._forget(node)

    def _forget_surplus(self) -> None:
        for node in self._directory.surplus():
            self._forget(node)

    def _forget(self, node: NodeId) -> None:
        """Forgets a node that is gone or no member any more: its name, where it was, that it could be dialled."""
        self._directory.forget(node)
        self.membership.forget(node)
        self.sync.forget(node)

    # --- queries --------------------------------------------------------------------------------------------------

    def neighbours(self) -> list[NodeId]:
        """Returns the verified neighbours."""
        return [node for node in self.membership.links if self._views.is_ready(node)]

    def is_ready(self, node: NodeId) -> bool:
        """Says whether `node` is linked and proved its membership: its requests may be served."""
        return self._views.is_ready(node)

    def keeps(self, now: Now, node: NodeId, old: LinkAge, outbound: bool) -> bool:
        """Says whether the link to `node` stays although there is a new one; see `rules.keeps`."""
        return keeps(now, self.node_id, node, old, outbound, self._config.simultaneous_s)

    def member(self, node: NodeId) -> Member | None:
        """Returns a member's certificate."""
        return self.trust.member(node)

    def node_records(self) -> list[bytes]:
        """Returns the sealed records that say who is there, for one who joins."""
        return list(self.sync.envelopes(kinds.NODE))

    def name(self, node: NodeId) -> str:
        """Returns what a node calls itself, else the start of its id."""
        return self._directory.name(node)

    def models(self, now: Now) -> list[ModelOffer]:
        """Returns the models of this node and of every neighbour."""
        return self._views.models()

    def offers(self, now: Now) -> list[Offer]:
        """Returns the capabilities of every neighbour; what this node itself can run, its own services know better."""
        return self._views.offers()

    def nodes(self, now: Now) -> list[NodeView]:
        """Returns every member that is known: this node first, then by name; those who are away as they were last."""
        return self._views.nodes(now)
