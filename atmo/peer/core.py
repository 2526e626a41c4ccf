"""The engines of a peer, and what happens across them.

Every input of the peer ends in `_settle`, which moves effects of the inner engines outwards and acts on what they told:
a revoked node is hung up on, a silent one is dialled once more and then told to be absent, a dead one frees its chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from atmo.clock import Now
from atmo.engine import Ask, Contact, Dial, Effect, Emit, Engine, Hangup, Misbehaved, Outbox, Send
from atmo.errors import WireError
from atmo.gossip.detector import Detector, LinkSilent, LinkSuspect, LinkTrusted
from atmo.gossip.hyparview import HyParView
from atmo.gossip.hyparview_config import NeighbourDown, NeighbourUp
from atmo.gossip.messages import Introduce, Records
from atmo.gossip.plumtree import Plumtree
from atmo.gossip.reconcile import Reconciler
from atmo.gossip.records import Record
from atmo.gossip.sync import RecordSync, Refusal, Signed
from atmo.identity import NodeId, Signer
from atmo.index.engine import Index
from atmo.index.events import LookupDone, NodeFound
from atmo.peer.adverts import Adverts
from atmo.peer.budgets import Budgets
from atmo.peer.config import PeerConfig, PeerStats
from atmo.peer.crypto import Crypto
from atmo.peer.directory import Directory
from atmo.peer.events import Unreachable
from atmo.peer.links import Links
from atmo.peer.presence import ABSENT, AbsencesChanged, NodeBack, NodeGone, Presence
from atmo.peer.renewal import Renewal
from atmo.peer.rights import Invitations
from atmo.peer.routes import RouteFinder
from atmo.peer.rules import judge_untrusted
from atmo.peer.scale import MeshSize
from atmo.peer.strikes import Offenders, Strikes
from atmo.peer.views import Views
from atmo.transfer.engine import TransferEngine
from atmo.trust.mesh import MeshTrust
from atmo.wire.address import CONTACT_ADDRESSES, Address
from atmo.wire.schema import pack

Act = Callable[[Now, Any], None]
"""What is done across engines when one of them tells something."""


class Core:
    """What a peer consists of; see `Peer` for the arguments."""

    def __init__(
        self, config: PeerConfig, signer: Signer, trust: MeshTrust, epoch: int, seed: str, crypto: Crypto
    ) -> None:
        member = trust.member(signer.node_id)
        if member is None:
            raise WireError("this node has no certificate of this mesh")
        self._config = config
        self._member = member
        self.trust = trust
        self.node_id = own = signer.node_id
        self.stats = PeerStats()
        self._out = Outbox()
        self.detector = Detector(config.detector, own, Random(f"{seed}/detector"))
        self.hyparview = HyParView(config.hyparview, own, Random(f"{seed}/hyparview"))
        self.plumtree = Plumtree(config.plumtree, Random(f"{seed}/plumtree"))
        self.sync = RecordSync(
            config.sync, signer, trust.mesh_id, epoch, Random(f"{seed}/sync"), self._authorise, crypto.open_record
        )
        self.reconciler = Reconciler(config.reconciler, self.sync.table, Random(f"{seed}/reconciler"))
        self.index = Index(
            config.index, signer, trust.mesh_id, epoch, Random(f"{seed}/index"), self._admits, crypto.open_provider
        )
        self.index.certificate, self.index.issuer_certificate = member.sealed, member.issuer_sealed
        self.presence = Presence(config.presence, own, Random(f"{seed}/presence"))
        self.routes = RouteFinder(config.routes, own, Random(f"{seed}/routes"))
        self.transfer = TransferEngine(Random(f"{seed}/transfer"), config.transfer, self._contact)
        self.renewal = Renewal(config.renewal, signer, trust, Random(f"{seed}/renewal"), self._contacts)
        self.invitations = Invitations(trust)
        self._engines: tuple[Engine, ...] = (
            self.sync,
            self.detector,
            self.hyparview,
            self.plumtree,
            self.reconciler,
            self.presence,
            self.index,
            self.routes,
            self.transfer,
            self.renewal,
        )
        self._links = Links(
            config.links, self._out, self._may_dial, self.hyparview.active.__contains__, self._unreachable
        )
        self.budgets = Budgets(config.budgets)
        self._offenders = Offenders(
            Strikes(config.strikes, config.forgive_s, config.ban_s),
            Strikes(config.stranger_strikes, config.forgive_s, config.ban_s),
        )
        self._directory = Directory(config.gone, own)
        self._views = Views(member, trust, self.detector, self.presence, self._directory, self._links)
        self.mesh_size = MeshSize(config.scale, lambda: len(self._directory.nodes), self.index.size_estimate)
        self._adverts = Adverts(member, self._is_admin, self.sync, self.stats, self._out)
        self._doubted: dict[NodeId, None] = {}  # fell silent; dialled once more before the mesh is told
        self._curious: dict[NodeId, None] = {}  # of whom this node wants to know what they offer
        self._sought: dict[int, NodeId] = {}  # whose addresses the index is asked for, by query
        self._said_at = -math.inf
        self._unswept = False  # somebody's membership ended
        self._next_check = math.inf
        self._next_look = math.inf
        self._acts: dict[type, Act] = {}
        self._inner = Outbox()
        for engine in self._engines:
            engine.out.join(self._inner)
        self._timers = (*(engine.next_timer for engine in self._engines), self._next_own)
        self._dues = [math.inf] * len(self._timers)  # what each said last
        self._moved: tuple[int, ...] | None = None  # those that may say something else now; None means all

    # --- across engines -------------------------------------------------------------------------------------------

    def _settle(self, now: Now) -> bool:
        """Moves effects outwards until the inner engines are silent.

        Returns:
            Whether nothing but messages went out: no other engine has heard of anything then.
        """
        self._moved = None
        quiet = True
        while True:
            while effects := self._inner.drain():
                for effect in effects:
                    if type(effect) is Send:
                        self._out.put(effect)
                    else:
                        quiet = False
                        self._move(now, effect)
            if not self._unswept:
                return quiet
            self._unswept = quiet = False  # who is cut hears first why: it may be the only way to all others
            self._sweep_members(now)

    def next_timer(self) -> float:
        dues, timers = self._dues, self._timers
        for index in range(len(timers)) if self._moved is None else self._moved:
            dues[index] = timers[index]()
        self._moved = ()
        return min(dues)

    def _next_own(self) -> float:
        return min(self._next_check, self._next_look, self._links.next_timer())

    def _move(self, now: Now, effect: Effect) -> None:
        match effect:
            case Misbehaved(peer):
                self._strike(now, peer)
                self._out.put(effect)
            case Emit(event):
                self._act(now, event)
            case Ask(contact, message):
                self._links.ask(now, contact if contact.addresses else self._contact(contact.node), message)
            case Dial(node, addresses):
                self._links.dial(now, Contact(node, addresses))
            case Hangup(node, reason, lingers):
                if self._links.get(node):
                    self._links.hang_up(node, reason, lingers=lingers)
            case _:
                self._out.put(effect)

    def _act(self, now: Now, event: Any) -> None:
        """Acts on what an engine told across engines; observers hear of what is for them."""
        if act := self._acts.get(type(event)):
            act(now, event)
        else:
            self._out.put(Emit(event))

    def _neighbour_up(self, now: Now, event: NeighbourUp) -> None:
        self._watch(now, event.node)
        self.plumtree.link_up(now, event.node)
        self.reconciler.link_up(now, event.node)
        self._introduce(now, event.node)
        if len(self.hyparview.active) == 1 and now.mono >= self._said_at + self._config.introduce_s:
            self._said_at = now.mono  # what was said while this node was alone reached nobody
            for envelope in self.sync.own_envelopes():
                self.plumtree.publish(now, envelope)

    def _neighbour_down(self, now: Now, event: NeighbourDown) -> None:
        self._unwatch(now, event.node)
        self.plumtree.link_down(now, event.node)
        self.reconciler.link_down(now, event.node)

    def _introduce(self, now: Now, node: NodeId) -> None:
        """Tells a node what only those get who deal with this one.

        That is many times as long as what asks for it, so over one link it is not told again at once.
        """
        link = self._links.get(node)
        if link and now.mono >= link.introduced_at + self._config.introduce_s:
            link.introduced_at = now.mono
            for envelope in self.sync.near_envelopes():
                self._out.put(Send(node, Records((envelope,))))

    def _watch(self, now: Now, node: NodeId) -> None:
        """Neighbours and links over which something runs are probed; others may die unnoticed."""
        if node not in self.detector.links and self._links.is_ready(node):
            self.detector.link_up(now, node)

    def _unwatch(self, now: Now, node: NodeId) -> None:
        """A suspect is watched to the verdict, whoever needs the link: the mesh is to hear of it."""
        link = self._links.get(node)
        needed = node in self.hyparview.active or (link and link.holds)
        if not needed and not self.detector.is_suspect(node):
            self.detector.link_down(now, node)

    def _suspect(self, now: Now, event: LinkSuspect) -> None:
        self.hyparview.suspect(now, event.node)
        self.plumtree.suspect(event.node)

    def _trust(self, now: Now, event: LinkTrusted) -> None:
        self.hyparview.trust(now, event.node)
        self._unwatch(now, event.node)

    def _silent(self, now: Now, event: LinkSilent) -> None:
        if not event.vouched:
            self._doubted[event.node] = None

    def _node_found(self, now: Now, event: NodeFound) -> None:
        if event.query in self._sought:
            self._links.dial(now, event.contact)
        else:
            self._out.put(Emit(event))

    def _lookup_done(self, now: Now, event: LookupDone) -> None:
        node = self._sought.get(event.query)
        if node is None:
            self._out.put(Emit(event))
        elif self._links.get(node) or self._links.is_dialling(node):
            del self._sought[event.query]
        else:
            self._unreachable(now, node)

    def _node_gone(self, now: Now, event: NodeGone) -> None:
        """Others saw it go; a link that nobody needs and this node does not watch is a dead one."""
        record = self._directory.nodes.get(event.node)
        leaving = record is not None and record.leaving  # then it ends its links itself
        if self._links.is_ready(event.node) and event.node not in self.detector.links and not leaving:
            self._links.hang_up(event.node, "it is believed to be gone", lingers=True)
        self.hyparview.gone(now, event.node)
        self._out.put(Emit(event))

    def _node_back(self, now: Now, event: NodeBack) -> None:
        self.hyparview.learn(now, self._contact(event.node))
        self._out.put(Emit(event))

    def _unreachable(self, now: Now, node: NodeId) -> None:
        self.hyparview.dial_failed(now, node)
        self.index.failed(now, node)
        self.renewal.failed(now, node)
        self.transfer.failed(now, node)
        self._curious.pop(node, None)
        for query in [query for query, sought in self._sought.items() if sought == node]:
            del self._sought[query]
            self.index.cancel(now, query)
        if node in self._doubted and self._links.get(node) is None:  # else it is dialled when its old link is down
            del self._doubted[node]
            self.presence.missed(now, node)
        self._out.put(Emit(Unreachable(node)))

    def _spread(self, now: Now, event: Signed) -> None:
        if not event.near:
            self.plumtree.publish(now, event.envelope)
            return
        for node in self.hyparview.active:
            self._out.put(Send(node, Records((event.envelope,))))

    def _tell_absences(self, now: Now, event: AbsencesChanged) -> None:
        if self.mesh_size.large:
            return
        if event.body.absences:
            self.sync.publish(now, ABSENT, "", pack(event.body))
        elif self.sync.record(self.node_id, ABSENT):
            self.sync.withdraw(now, ABSENT, "")

    def _sweep_members(self, now: Now) -> None:
        """Cuts and forgets who is no member any more."""
        alone = not self.trust.is_member(now.wall, self.node_id)
        for link in self._links.nodes():
            ready = self._links.is_ready(link)
            if alone or self.trust.is_revoked(link) or (ready and not self.trust.is_member(now.wall, link)):
                self._links.hang_up(link, "it was revoked")
        for author in self.sync.authors():
            if author != self.node_id and not self.trust.is_member(now.wall, author):
                self.sync.drop_author(author)
        for gone in list(self._directory.gone):
            if not self.trust.is_member(now.wall, gone):
                self._forget(now, gone)

    def _forget(self, now: Now, node: NodeId) -> None:
        """Forgets a node that is gone or no member any more: its name, where it was, that it could be dialled."""
        self._directory.forget(node)
        self.sync.forget(node)
        self.hyparview.forget(now, node)
        self.index.forget(now, node)
        self._links.forget(node)

    def _admits(self, now: Now, node: NodeId, certificate: bytes, issuer: bytes | None) -> bool:
        try:
            self.trust.admit_untrusted(now.wall, node, certificate, issuer)
        except WireError:
            return False
        return True

    def _contacts(self, now: Now) -> Iterator[Contact]:
        """Yields members that could be reached: those whom this node knows by their records."""
        for node in self._directory.nodes:
            if node != self.node_id and self._views.is_present(node):
                yield self._contact(node)

    def _contact(self, node: NodeId) -> Contact:
        """Returns where a node is, as far as this node knows."""
        record = self._directory.nodes.get(node) or self._directory.gone.get(node)
        if record:
            return Contact(node, record.addresses[:CONTACT_ADDRESSES])
        return self.hyparview.known.get(node) or self.index.contact_of(node) or Contact(node, ())

    def _authorise(self, now: Now, author: NodeId, record: Record, kept: bool) -> Refusal | None:
        return judge_untrusted(self.trust, now, author, record, kept, self._config.scale.lifetime_most_s)

    def _may_dial(self, now: Now, node: NodeId) -> bool:
        """Says whether a dial could succeed; who is not known yet shows its certificate on the link."""
        if node == self.node_id:
            return False  # others may name this node as one of those it might know
        other = self.trust.member(node) is None or self.trust.is_member(now.wall, node)
        return other and self.trust.is_member(now.wall, self.node_id) and not self._offenders.is_banned(now.mono, node)

    def _stranger_broke(self, now: Now, node: NodeId, reason: str) -> None:
        """Who has not proved its membership has no patience to use up, and is kept out if it comes back like that."""
        self._move(now, Misbehaved(node, reason))
        self.stats.bans += self._offenders.stranger(now.mono, node)
        self._links.hang_up(node, "say Hello first")

    def _is_admin(self, now: Now) -> bool:
        return self.trust.is_admin(now.wall, self.node_id)

    def _seek(self, now: Now, node: NodeId, addresses: tuple[Address, ...] = ()) -> None:
        """Opens a link to a member; where its address is not known, in a large mesh, the index is asked first."""
        contact = Contact(node, addresses) if addresses else self._contact(node)
        if self._links.is_ready(node):
            if self.mesh_size.large:
                self._out.put(Send(node, Introduce()))
        elif contact.addresses or not self.mesh_size.large:
            if self.mesh_size.large:
                self._curious[node] = None
            self._links.dial(now, contact)
        elif node not in self._sought.values():
            self._curious[node] = None
            self._sought[self.index.find_node(now, node)] = node

    def _strike(self, now: Now, node: NodeId) -> None:
        self.stats.misbehaved += 1
        if self._links.is_ready(node) and (ban := self._offenders.member(now, node)):
            self._out.put(ban)
            self.stats.bans += 1
            self._links.hang_up(node, f"{self._config.strikes} broken messages")
