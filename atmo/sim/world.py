"""A world of peers in virtual time: it feeds the very `Peer` of the product and performs its effects.

The same seed gives the same world on every machine: `digest` names all that happened. Nodes are called by names; their
keys, and everything random about them, follow from the seed and the name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from blake3 import blake3

from atmo.clock import Now
from atmo.engine import CancelFetch, Dial, Emit, FetchChunk, Hangup, Message, Misbehaved, Send, Store
from atmo.gossip.records import NODE, Hardware
from atmo.gossip.sync import STORE_PREFIX
from atmo.identity import NodeId, Signer
from atmo.peer import LinkAge, LinkReady, Peer, PeerConfig
from atmo.peer.events import Unreachable
from atmo.peer.messages import decode_message_untrusted, encode_message
from atmo.peer.strikes import BAN_PREFIX
from atmo.sim import trace as kinds
from atmo.sim.bandwidth import Lines
from atmo.sim.chunks import Chunks
from atmo.sim.links import Links, LinksConfig, Port
from atmo.sim.loop import Loop
from atmo.sim.machine import Node, WorldStats
from atmo.sim.memory import Memory
from atmo.sim.network import Network
from atmo.sim.report import CheckFailed
from atmo.sim.sizes import HANDSHAKE_BYTES, message_bytes, packets_bytes
from atmo.sim.trace import Trace
from atmo.transfer.scores import SCORES_KEY
from atmo.trust.certificate import ADMIN, Certificate, issue
from atmo.trust.genesis import found
from atmo.trust.mesh import MeshTrust
from atmo.version import __version__
from atmo.wire.address import Address

WALL_S = 1_750_000_000
"""Unix seconds at which every world begins."""

YEAR_S = 365 * 86_400

KNOWS_MOST = 32
"""Node records that a newcomer gets of each member that it knows. Source: guess."""


class World:
    """Nodes, links, time.

    Args:
        seed: Names every random stream.
        network: The rules of the network; the default loses nothing and takes no time.
        config: Of every peer.
        links: Of the transport.
        lines: How fast chunks travel; None for a fixed time each.
        encode: Whether messages go through the codec, which proves their encoding and costs time.
        trace: Takes what happens.
        keep_events: Whether nodes keep all that their peers emit; `watch` hears of it in any case.

    Attributes:
        nodes: By name.
        misbehaved: What peers blamed each other for: when, who, what.
        checks: Called once in each `check_period_s`; they call `fail`.
        ticks: Called after the checks: observers that measure.
        watch: By the type of an event or of a `Hangup`, who is told of it.
        on_start, on_stop: Told of each machine that was turned on or is being turned off.
        chunks: Carries chunks of models.
    """

    def __init__(
        self,
        seed: str,
        network: Network | None = None,
        *,
        config: PeerConfig = PeerConfig(),
        links: LinksConfig = LinksConfig(),
        lines: Lines | None = None,
        encode: bool = False,
        trace: Trace | None = None,
        keep_events: bool = True,
    ) -> None:
        self.seed = seed
        self.loop = Loop()
        self.network = network or Network()
        self.links = Links(self.loop, self.network, self, links)
        self.nodes: dict[str, Node] = {}
        self.misbehaved: list[tuple[float, str, Misbehaved]] = []
        self.checks: list[Callable[[World], None]] = []
        self.ticks: list[Callable[[World], None]] = []
        self.check_period_s = 1.0
        self.on_start: list[Callable[[Node], None]] = []
        self.on_stop: list[Callable[[Node], None]] = []
        self.stats = WorldStats()
        self.chunks = Chunks(self, lines)
        self.watch: dict[type, list[Callable[[Node, Any], None]]] = {}
        self.trace = trace or Trace()
        self._config = config
        self._encode = encode
        self._memory = Memory()
        self._keep_events = keep_events
        self._by_id: dict[NodeId, Node] = {}
        self._next_check = 0.0
        self._sized: tuple[Message, int] = (None, 0)
        self._due = self._timer
        self._perform_kind: dict[type, Callable[[Node, Any], None]] = {
            Dial: self._dial,
            Hangup: self._hang_up,
            Misbehaved: lambda node, effect: self.misbehaved.append((self.loop.now, node.name, effect)),
            FetchChunk: self.chunks.fetch,
            CancelFetch: lambda node, effect: self.chunks.cancel(node, effect.transfer, effect.source, effect.index),
            Store: self._store,
            Emit: self._emit,
        }
        self._founder = Signer(blake3(f"{seed}/founder".encode()).digest())
        self.genesis = found(self._founder, "world", WALL_S, b"\0" * 16)
        self.mesh = MeshTrust(self.genesis).mesh_id

    # --- nodes ----------------------------------------------------------------------------------------------------

    def add(self, name: str, *, roles: tuple[str, ...] = ("edge",), skew_s: float = 0.0, founder: bool = False) -> Node:
        """Makes a machine with a founder's certificate; `start` turns it on."""
        signer = self._founder if founder else Signer(blake3(f"{self.seed}/{name}/key".encode()).digest())
        count = len(self.nodes) + 1
        address = Address(f"10.{count >> 16 & 255}.{count >> 8 & 255}.{count & 255}", 11_450)
        issued = WALL_S + int(self.loop.now)
        roles = (ADMIN,) if founder else roles
        serial = count.to_bytes(16, "big")
        certificate = Certificate(signer.node_id, self._founder.node_id, roles, name, issued, issued + YEAR_S, serial)
        sealed = issue(self._founder, self.mesh, certificate)
        node = Node(
            signer.node_id,
            name=name,
            number=self.trace.number(name),
            signer=signer,
            address=address,
            certificate=sealed,
            skew_s=skew_s,
        )
        self.nodes[name] = self._by_id[node.id] = node
        return node

    def start(self, node: Node, knows: Sequence[Node] = ()) -> None:
        """Turns a machine on; it takes the records on its disk and those of the nodes that it knows, as on joining."""
        now = self.now(node)
        trust = MeshTrust(self.genesis, open_certificate=self._memory.open_certificate)
        trust.admit_untrusted(now.wall, node.id, node.certificate, None)
        node.begin(self.loop.now, max(node.epoch + 1, int(now.wall)))
        seed = f"{self.seed}/{node.name}/{node.epoch}"
        peer = node.peer = Peer(self._config, node.signer, trust, node.epoch, seed, self._memory.crypto)
        self.links.start(node)
        self.note(kinds.START, node, node, "")
        records = [value for key, value in node.disk.items() if key.startswith(STORE_PREFIX)]
        for other in knows:
            records += other.running.node_records()[:KNOWS_MOST]
        peer.load_records(now, records)
        peer.load_bans(now, [row for row in node.disk.items() if row[0].startswith(BAN_PREFIX)])
        peer.load_scores(now, node.disk.get(SCORES_KEY))
        peer.publish_node(now, node.name, [node.address], __version__, Hardware())
        self._perform(node)
        if node.malice is not None:
            node.malice.begin(self, node)
        for told in self.on_start:
            told(node)

    def crash(self, node: Node, *, keep_disk: bool = True) -> None:
        """Turns a machine off without a word to anybody."""
        for told in self.on_stop:
            told(node)
        own = node.running.sync.record(node.id, NODE)
        node.newest = max(node.newest, own.version if own else node.newest)
        self.links.crash(node)
        node.peer = None
        self.note(kinds.STOP, node, node, "" if keep_disk else "its disk is lost")
        if not keep_disk:
            node.disk.clear()
            node.epoch = 0

    def leave(self, node: Node) -> None:
        """Turns a machine off after its goodbyes."""
        self.command(node, lambda peer, now: peer.leave(now))
        for other in list(node.ends):
            self.links.hang_up(node, other, "shutting down")
        self.crash(node)

    def command(self, node: Node, deed: Callable[[Peer, Now], Any]) -> Any:
        """Lets a node's services ask something of its peer, performs what follows, and returns what the peer said."""
        answer = deed(node.running, self.now(node))
        self._perform(node)
        return answer

    def later(self, time: float, deed: Callable[[], None]) -> None:
        """Lets something happen to the world at a virtual second."""
        self.loop.put(time, deed)

    def node(self, node_id: NodeId) -> Node | None:
        """Returns the machine with this id."""
        return self._by_id.get(node_id)

    def alive(self) -> list[Node]:
        """Returns the machines that are on, in the order in which they were made."""
        return [node for node in self.nodes.values() if node.peer is not None]

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Lets virtual time pass, with all checks once a second.

        Raises:
            CheckFailed: A check did not hold.
        """
        end = self.loop.now + seconds
        while self._next_check <= end:
            self.loop.run_until(self._next_check)
            self._next_check += self.check_period_s
            for check in (*self.checks, *self.ticks):
                check(self)
        self.loop.run_until(end)

    def run_until(self, condition: Callable[[], bool], most_s: float, what: str, step_s: float = 0.1) -> float:
        """Lets time pass until a condition holds, looking every `step_s`; returns how long it took.

        Raises:
            CheckFailed: It does not hold after `most_s`.
        """
        took = self.wait(condition, most_s, step_s)
        if took is None:
            self.fail(f"not within {most_s:.0f} s: {what}")
        return took

    def wait(self, condition: Callable[[], bool], most_s: float, step_s: float = 0.1) -> float | None:
        """The same, but returns None where the condition does not hold after `most_s`."""
        began = self.loop.now
        while not condition():
            if self.loop.now - began >= most_s:
                return None
            self.run(step_s)
        return self.loop.now - began

    def fail(self, what: str, *nodes: str) -> NoReturn:
        """Reports a check that does not hold.

        Raises:
            CheckFailed: Always.
        """
        raise CheckFailed(what, self.loop.now, self.seed, nodes)

    def digest(self) -> str:
        """Returns a hash of everything that happened so far, in order."""
        return self.trace.digest()

    def now(self, node: Node) -> Now:
        """Returns the clocks as a node reads them."""
        return Now(self.loop.now, WALL_S + self.loop.now + node.skew_s)

    # --- what the transport says ----------------------------------------------------------------------------------

    def arrived(self, port: Port, source: Port, message: Message, size: int) -> None:
        """See `sim.links.Hears`."""
        assert isinstance(port, Node)
        assert isinstance(source, Node)
        peer = port.peer
        if peer is None:
            return
        port.received_bytes += packets_bytes(size)
        now = self.loop.now
        self.trace.note(now, kinds.MESSAGE, port.number, source.number, type(message).__name__, size)
        if port.malice is not None and not port.malice.hears(self, port, source.id, message):
            return
        self.stats.inputs += 1
        peer.receive(Now(now, WALL_S + now + port.skew_s), source.id, message, size)
        self._perform(port)

    def link_up(self, port: Port, other: NodeId) -> None:
        """See `sim.links.Hears`."""
        node, far = self._by_id[port.id], self._by_id[other]
        self.note(kinds.UP, node, far, "")
        node.running.link_up(self.now(node), other, "direct")
        self._perform(node)

    def link_down(self, port: Port, other: NodeId, reason: str) -> None:
        """See `sim.links.Hears`."""
        node = self._by_id[port.id]
        if node.peer is not None:
            self.note(kinds.DOWN, node, self._by_id[other], reason)
            node.peer.link_down(self.now(node), other, reason)
            self._perform(node)

    def dial_failed(self, port: Port, other: NodeId) -> None:
        """See `sim.links.Hears`."""
        node = self._by_id[port.id]
        if node.peer is not None:
            self.note(kinds.DIAL_FAILED, node, self._by_id.get(other), "")
            node.peer.dial_failed(self.now(node), other)
            self._perform(node)

    def keeps(self, port: Port, other: NodeId, old: LinkAge, outbound: bool) -> bool:
        """See `sim.links.Hears`."""
        node = self._by_id[port.id]
        return node.running.keeps(self.now(node), other, old, outbound)

    def note(self, kind: int, node: Node, other: Node | None, detail: str, size: int = 0) -> None:
        """Puts something that happened to a node into the trace."""
        self.stats.inputs += 1
        number = other.number if other is not None else kinds.NOBODY
        self.trace.note(self.loop.now, kind, node.number, number, detail, size)

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, node: Node) -> None:
        peer = node.peer
        assert peer is not None
        perform = self._perform_kind
        while effects := peer.drain():
            for effect in effects:
                if type(effect) is not Send:
                    perform[type(effect)](node, effect)
                elif node.malice is None:
                    self.post(node, effect.to, effect.message)
                else:
                    for other, instead in node.malice.sends(self, node, effect.to, effect.message):
                        self.post(node, other, instead)
        due = node.due = peer.next_timer()
        if due < node.timer_at:
            node.timer_at = due if due > self.loop.now else self.loop.now
            self.loop.put(due, self._due, node, node.life)

    def _timer(self, node: Node, life: int) -> None:
        peer, now = node.peer, self.loop.now
        if peer is None or node.life != life or now < node.timer_at:
            return
        node.timer_at = math.inf
        if node.due > now:  # it has been put off since
            if node.due < math.inf:
                node.timer_at = node.due
                self.loop.put(node.due, self._due, node, life)
            return
        self.trace.note(now, kinds.TIMER, node.number, node.number, "")
        self.stats.inputs += 1
        peer.handle_timer(Now(now, WALL_S + now + node.skew_s))
        self._perform(node)
        if node.due <= now:
            self.fail(f"the timer of {node.name} does not move", node.name)

    def post(self, node: Node, to: NodeId, message: Message) -> None:
        """Puts a message of a node on its link to another."""
        last, size = self._sized
        if self._encode:
            data = encode_message(message)
            size, message = len(data), decode_message_untrusted(data)
        elif message is not last:
            size = message_bytes(message)
            self._sized = (message, size)
        whole = packets_bytes(size)
        self.stats.sent(type(message).__name__, size, whole)
        node.sent_bytes += whole
        self.links.send(node, to, message, size)

    def _dial(self, node: Node, effect: Dial) -> None:
        self.stats.dials += 1
        self.stats.wire_bytes += HANDSHAKE_BYTES
        target = self._by_id.get(effect.node)
        if target is not None and target.address in effect.addresses:
            node.sent_bytes += HANDSHAKE_BYTES // 2
            target.sent_bytes += HANDSHAKE_BYTES // 2
            self.links.dial(node, target)
        else:
            self.loop.put(self.loop.now, self._dial_in_vain, node, effect.node, node.life)

    def _dial_in_vain(self, node: Node, other: NodeId, life: int) -> None:
        if node.life == life:
            self.dial_failed(node, other)

    def _hang_up(self, node: Node, effect: Hangup) -> None:
        for told in self.watch.get(Hangup, ()):
            told(node, effect)
        self.links.hang_up(node, effect.node, effect.reason)

    def _store(self, node: Node, effect: Store) -> None:
        if effect.value is None:
            node.disk.pop(effect.key, None)
        else:
            node.disk[effect.key] = effect.value

    def _emit(self, node: Node, effect: Emit) -> None:
        event = effect.event
        if self._keep_events:
            node.events.append((self.loop.now, event))
        if isinstance(event, LinkReady):
            self.chunks.linked(node, event.node)
        elif isinstance(event, Unreachable):
            self.chunks.unreachable(node, event.node)
        for told in self.watch.get(type(event), ()):
            told(node, event)
