"""The peer: all engines composed into one engine.

What happens across engines lives here (`peer.core`), because what lives here is simulated. Before a link is ready
nothing but a Hello counts (`peer.links`), and while it closes nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atmo.clock import Now
from atmo.engine import Effect, Emit, Message, Misbehaved, Send
from atmo.errors import WireError
from atmo.gossip import messages as gossip
from atmo.gossip.messages import Goodbye, Gossip, Hello, Introduce, Ping, Pong, Records
from atmo.gossip.sync import Verdict
from atmo.identity import NodeId, Signer
from atmo.index import messages as index
from atmo.peer.budgets import Cost
from atmo.peer.commands import Commands
from atmo.peer.config import PeerConfig
from atmo.peer.crypto import REAL, Crypto
from atmo.peer.events import LinkLost, LinkReady
from atmo.peer.renewal import MESSAGES as RENEWAL
from atmo.peer.rights import Successions, hear_successions_untrusted
from atmo.peer.routes import RouteAnswer, RouteQuery
from atmo.transfer.messages import MESSAGES as TRANSFER
from atmo.trust.mesh import MeshTrust

FORWARD = "forward"
"""The path of a link whose datagrams other nodes pass on: no neighbour, and no way for others."""

_ROUNDS = 8

Handler = Callable[[Now, NodeId, Any], object]


class Peer(Commands):
    """One member of one mesh.

    Args:
        config: Of all engines.
        signer: This node's key.
        trust: The mesh's rules; this node's own certificate is already admitted.
        epoch: Of this start, larger than at any start before.
        seed: Names the random streams of the engines.
        crypto: Opens what is signed; the simulator's remembers what it has opened.

    Raises:
        WireError: The own node has no certificate in `trust`.
    """

    def __init__(
        self, config: PeerConfig, signer: Signer, trust: MeshTrust, epoch: int, seed: str, crypto: Crypto = REAL
    ) -> None:
        super().__init__(config, signer, trust, epoch, seed, crypto)
        self._moves: dict[type, int] = {}  # whose timer a message moves of which no other engine hears
        self._handlers = self._dispatch_table()

    def _dispatch_table(self) -> dict[type, Handler]:
        table: dict[type, Handler] = {
            Hello: self._second_hello,
            Successions: self._heard_successions,
            Gossip: self._gossip,
            Records: self._records,
            Goodbye: self._goodbye,
            Introduce: self._asked_for_introduction,
        }
        for engine, names in (
            (self.detector, (Ping, Pong, gossip.ProbeRequest, gossip.ProbeAnswer)),
            (
                self.hyparview,
                (
                    gossip.Neighbour,
                    gossip.NeighbourAnswer,
                    gossip.ForwardJoin,
                    gossip.Disconnect,
                    gossip.Shuffle,
                    gossip.ShuffleAnswer,
                ),
            ),
            (self.plumtree, (gossip.IHave, gossip.Graft, gossip.Prune)),
            (self.reconciler, (gossip.Digest, gossip.Listing, gossip.Want)),
            (self.index, tuple(index.MESSAGES.values())),
            (self.routes, (RouteQuery, RouteAnswer)),
            (self.renewal, tuple(RENEWAL.values())),
            (self.transfer, tuple(TRANSFER.values())),
        ):
            table |= dict.fromkeys(names, engine.receive)
            self._moves |= dict.fromkeys(names, self._engines.index(engine))
        return table

    # --- inputs ---------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId, path: str) -> None:
        """The transport has a connection to `node`, authenticated by its key; `path` is `lan`, `direct`, `punched`,
        `relay` or `forward`.
        """
        if self._links.get(node):
            self._down(now, node, "replaced by a newer link", replaced=True)
        if self._links.up(now, node, path):
            if self.trust.is_revoked(node) or self._offenders.is_banned(now.mono, node):
                self._links.hang_up(node, "it was revoked" if self.trust.is_revoked(node) else "it broke the protocol")
            else:
                if envelopes := self.successions():
                    self._out.put(Send(node, Successions(envelopes)))
                member = self._member
                hello = Hello(self.trust.mesh_id, member.sealed, member.issuer_sealed, size=self.mesh_size.members())
                self._out.put(Send(node, hello))
        self._settle(now)

    def link_down(self, now: Now, node: NodeId, reason: str) -> None:
        """The connection to `node` is gone."""
        self._down(now, node, reason, replaced=False)

    def _down(self, now: Now, node: NodeId, reason: str, *, replaced: bool) -> None:
        link = self._links.down(now, node, replaced=replaced)
        if link and link.ready:
            if (watched := self.detector.links.get(node)) and node in self._directory.issued_s:
                self._directory.heard[node] = watched.heard
            self.detector.link_down(now, node)
            self.hyparview.link_down(now, node)
            self.routes.link_down(now, node)
            self.transfer.source_down(now, node)
            self._out.put(Emit(LinkLost(node, reason)))
            if node in self._doubted and not replaced:
                self._links.dial(now, self._contact(node))
        self._settle(now)

    def path_changed(self, now: Now, node: NodeId, path: str) -> None:
        """What is sent over the link to `node` takes another kind of path from now on; see `link_up`."""
        link = self._links.get(node)
        if link is not None and link.path != path:
            forwarded, link.path = link.path == FORWARD, path
            if link.ready and forwarded:  # it is as good as any other now
                self.routes.link_up(now, node, path)
                self.hyparview.link_up(now, node)
        self._settle(now)

    def dial_failed(self, now: Now, node: NodeId) -> None:
        """None of the node's addresses answered."""
        self._links.dial_failed(now, node)
        self._settle(now)

    def receive(self, now: Now, source: NodeId, message: Message, size: int = 0) -> None:
        """Takes a message of a connected node, of `size` bytes; see `atmo.engine.Engine`."""
        link = self._links.get(source)
        moves, moved = None, self._moved
        if link is None or link.closing:
            self.stats.dropped_closing += 1
        elif link.ready:
            if self.budgets.admits_message(now, source, size):
                kind = type(message)
                self.detector.heard(now, source)
                if kind is not Ping and kind is not Pong:
                    link.used_at = now.mono
                self._handlers[kind](now, source, message)
                moves = self._moves.get(kind)
            else:
                self._move(now, Misbehaved(source, "more messages than anyone may send"))
        elif isinstance(message, Hello):
            self._hello(now, source, message)
        elif isinstance(message, Successions) and not link.told:
            self._heard_successions(now, source, message)
        else:
            self.stats.dropped_unverified += 1
            self._stranger_broke(now, source, "a message before its Hello")
        if self._settle(now) and moves is not None and moved is not None:
            self._moved = (*moved, moves)

    def malformed(self, now: Now, source: NodeId, reason: str) -> None:
        """Bytes from `source` did not decode."""
        link = self._links.get(source)
        if link and not link.closing:
            if link.ready:
                self._move(now, Misbehaved(source, reason))
            else:
                self._stranger_broke(now, source, reason)
        self._settle(now)

    def handle_timer(self, now: Now) -> None:
        """Does what is due in all engines; what one told may make another due at once."""
        own, rounds = len(self._engines), 0
        while rounds < _ROUNDS and self.next_timer() <= now.mono:
            rounds += 1
            due = tuple(number for number, at in enumerate(self._dues) if at <= now.mono)
            for number in due:
                if number < own:
                    self._engines[number].handle_timer(now)
                else:
                    self._handle_own_timer(now)
            if self._settle(now) and own not in due:
                self._moved = due

    def _handle_own_timer(self, now: Now) -> None:
        self._links.handle_timer(now)
        if now.mono >= self._next_check:
            self._check_members(now)
        if now.mono >= self._next_look:
            self._look_at_size(now)

    def drain(self) -> list[Effect]:
        return self._out.drain()

    # --- messages -------------------------------------------------------------------------------------------------

    def _hello(self, now: Now, source: NodeId, hello: Hello) -> None:
        try:
            if hello.mesh != self.trust.mesh_id:
                raise WireError("it belongs to another mesh")
            self.trust.admit_untrusted(now.wall, source, hello.certificate, hello.issuer_certificate)
        except WireError as error:
            self.stats.hellos_refused += 1
            self._out.put(Misbehaved(source, f"Hello: {error}"))
            self._links.hang_up(source, str(error))
            return
        if self.mesh_size.claim(now, hello.size):
            self._look_at_size(now)
        link = self._links.get(source)
        assert link is not None, "only a link says Hello"
        self._links.verified(now, source)
        self.routes.link_up(now, source, link.path)
        self._doubted.pop(source, None)
        self.presence.linked(now, source)
        if link.path != FORWARD:
            self.hyparview.link_up(now, source)
        if source in self._directory.nodes:
            self.index.learn(now, self._contact(source))
        if source in self._curious:
            del self._curious[source]
            self._out.put(Send(source, Introduce()))
        self._next_check = min(self._next_check, now.mono + self._config.members_s)
        self._next_look = min(self._next_look, now.mono + self._config.scale.look_s)
        self.transfer.link_up(now, source)
        self._out.put(Emit(LinkReady(source)))

    def _heard_successions(self, now: Now, source: NodeId, message: Successions) -> None:
        """Hand-overs prove themselves; without them the certificate in a Hello could not be judged."""
        link = self._links.get(source)
        assert link is not None, "only a link says anything"
        if not link.told:
            link.told = True
            if not hear_successions_untrusted(self.sync, self.trust.mesh_id, now, source, message) and not link.ready:
                self._stranger_broke(now, source, "successions that are none")
            self._settle(now)

    def _asked_for_introduction(self, now: Now, source: NodeId, message: Introduce) -> None:
        self._introduce(now, source)

    def _second_hello(self, now: Now, source: NodeId, hello: Hello) -> None:
        self._move(now, Misbehaved(source, "a second Hello"))

    def _goodbye(self, now: Now, source: NodeId, goodbye: Goodbye) -> None:
        self._links.hang_up(source, f"it left: {goodbye.reason}")

    def _gossip(self, now: Now, source: NodeId, message: Gossip) -> None:
        if self.plumtree.knows(message.envelope):
            self.plumtree.duplicate(now, source, message)
            return
        if not self.budgets.admits(now, source, Cost.SIGNATURE):
            return  # it was not looked at: it may come from another
        verdict = self.sync.accept_untrusted(now, source, message.envelope, broadcast=True)
        if verdict == Verdict.NEWS:
            self.plumtree.delivered(now, source, message)
        elif verdict == Verdict.KNOWN:
            self.plumtree.remember(message.envelope)
        else:
            self.plumtree.refused(message)

    def _records(self, now: Now, source: NodeId, message: Records) -> None:
        """What anti-entropy brings is not pushed on: the neighbours' own rounds fetch it, each once."""
        news = 0
        for envelope in message.envelopes:
            if self.plumtree.knows(envelope):
                continue
            if not self.budgets.admits(now, source, Cost.SIGNATURE):
                break
            verdict = self.sync.accept_untrusted(now, source, envelope)
            if verdict in (Verdict.NEWS, Verdict.KNOWN):
                self.plumtree.remember(envelope)
                news += verdict == Verdict.NEWS
            elif verdict == Verdict.UNENTITLED:
                self._settle(now)
            link = self._links.get(source)
            if verdict == Verdict.BROKEN or link is None or link.closing:
                break  # one lie is enough: what follows is not worth checking signatures
        self.reconciler.took(now, source, len(message.envelopes), news)
