"""A world of peers in virtual time: it feeds the very `Peer` of the product and performs its effects.

The same seed gives the same world on every machine: `digest` names all that happened. Nodes are called by names; their
keys, and everything random about them, follow from the seed and the name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from atmo.clock import Now
from atmo.engine import CancelFetch, Dial, Effect, Emit, FetchChunk, Hangup, Misbehaved, Send, Store
from atmo.gossip.messages import decode_message_untrusted, encode_message
from atmo.gossip.records import Hardware
from atmo.identity import NodeId, Signer
from atmo.peer import LinkAge, Peer, PeerConfig
from atmo.sim.links import Arrived, DialFailed, Down, Links, LinksConfig, Up
from atmo.sim.loop import Loop
from atmo.sim.network import Network
from atmo.trust.certificate import ADMIN, Certificate, issue
from atmo.trust.genesis import found
from atmo.trust.mesh import MeshTrust
from atmo.version import __version__
from atmo.wire.address import Address

WALL_S = 1_750_000_000
"""Unix seconds at which every world begins."""

YEAR_S = 365 * 86_400

CHUNK_S = 0.1
"""How long any chunk takes from any source, until links have bandwidth. Source: 1 MiB at 10 MB/s."""


class CheckFailed(AssertionError):
    """Something that must always hold does not: the message says what, when, where, and the seed."""


@dataclass(frozen=True, slots=True)
class _TimerDue:
    pass


@dataclass(frozen=True, slots=True)
class _Fetched:
    fetch: FetchChunk


@dataclass(frozen=True, slots=True)
class _Call:
    deed: Callable[[], None]


@dataclass(eq=False)
class Node:
    """One simulated machine.

    Attributes:
        name: For people and random streams.
        signer: Its key.
        address: Where it listens.
        skew_s: How far its wall clock is ahead.
        certificate: Sealed.
        disk: What it keeps over restarts.
        peer: None while it does not run.
        epoch: Of its last start.
        events: What its peer emitted since its last start, with the time.
    """

    name: str
    signer: Signer
    address: Address
    skew_s: float
    certificate: bytes
    disk: dict[str, bytes] = field(default_factory=dict)
    peer: Peer | None = None
    epoch: int = 0
    events: list[tuple[float, Any]] = field(default_factory=list)
    timer_at: float = math.inf
    fetches: dict[tuple[str, NodeId, int], None] = field(default_factory=dict)

    @property
    def id(self) -> NodeId:
        """Its node id."""
        return self.signer.node_id

    @property
    def running(self) -> Peer:
        """The peer of a node that runs."""
        assert self.peer is not None, f"{self.name} does not run"
        return self.peer


@dataclass(slots=True)
class WorldStats:
    """Counters over all nodes."""

    inputs: int = 0
    messages: int = 0
    bytes: int = 0
    dials: int = 0


class World:
    """Nodes, links, time.

    Args:
        seed: Names every random stream.
        network: The rules of the network; the default loses nothing and takes no time.
        config: Of every peer.
        links: Of the transport.
        encode: Whether messages go through the codec, which proves their encoding and costs time; sizes are estimated
            otherwise.
    """

    def __init__(
        self,
        seed: str,
        network: Network | None = None,
        *,
        config: PeerConfig = PeerConfig(),
        links: LinksConfig = LinksConfig(),
        encode: bool = False,
    ) -> None:
        self.seed = seed
        self.loop = Loop()
        self.links = Links(self.loop, network or Network(), self._keeps, links)
        self.nodes: dict[str, Node] = {}
        self.misbehaved: list[tuple[float, str, Misbehaved]] = []
        self.checks: list[Callable[[World], None]] = []
        self.check_period_s = 1.0
        self.stats = WorldStats()
        self._config = config
        self._encode = encode
        self._by_id: dict[NodeId, Node] = {}
        self._next_check = 0.0
        self._trace = blake3()
        self._founder = Signer(blake3(f"{seed}/founder".encode()).digest())
        self.genesis = found(self._founder, "world", WALL_S, b"\0" * 16)
        self.mesh = MeshTrust(self.genesis).mesh_id

    # --- nodes ----------------------------------------------------------------------------------------------------

    def add(self, name: str, *, roles: tuple[str, ...] = ("edge",), skew_s: float = 0.0, founder: bool = False) -> Node:
        """Makes a machine with a founder's certificate; `start` turns it on."""
        signer = self._founder if founder else Signer(blake3(f"{self.seed}/{name}/key".encode()).digest())
        number = len(self.nodes) + 1
        address = Address(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 11_450)
        issued = WALL_S + int(self.loop.now)
        roles = (ADMIN,) if founder else roles
        serial = number.to_bytes(16, "big")
        certificate = Certificate(signer.node_id, self._founder.node_id, roles, name, issued, issued + YEAR_S, serial)
        node = Node(name, signer, address, skew_s, issue(self._founder, self.mesh, certificate))
        self.nodes[name] = self._by_id[node.id] = node
        return node

    def start(self, node: Node, knows: tuple[Node, ...] = ()) -> None:
        """Turns a machine on; it takes the records on its disk and those of the nodes that it knows, as on joining."""
        now = self.now(node)
        trust = MeshTrust(self.genesis)
        trust.admit_untrusted(now.wall, node.id, node.certificate, None)
        node.epoch += 1
        node.events.clear()
        node.fetches.clear()
        node.timer_at = math.inf
        peer = node.peer = Peer(self._config, node.signer, trust, node.epoch, f"{self.seed}/{node.name}/{node.epoch}")
        self.links.start(node.id)
        records = [*node.disk.values()]
        for other in knows:
            records += other.running.node_records()
        peer.load_records(now, records)
        peer.publish_node(now, node.name, [node.address], __version__, Hardware())
        self._perform(node)

    def crash(self, node: Node, *, keep_disk: bool = True) -> None:
        """Turns a machine off without a word to anybody."""
        self.links.crash(node.id)
        node.peer = None
        if not keep_disk:
            node.disk.clear()
            node.epoch = 0

    def leave(self, node: Node) -> None:
        """Turns a machine off after its goodbyes."""
        self.command(node, lambda peer, now: peer.leave(now))
        for other in self.nodes.values():
            if self.links.linked(node.id, other.id):
                self.links.hang_up(node.id, other.id, "shutting down")
        self.crash(node)

    def command(self, node: Node, deed: Callable[[Peer, Now], Any]) -> None:
        """Lets a node's services ask something of its peer, and performs what follows."""
        deed(node.running, self.now(node))
        self._perform(node)

    def later(self, time: float, deed: Callable[[], None]) -> None:
        """Lets something happen to the world at a virtual second."""
        self.loop.put(time, self._founder.node_id, _Call(deed))

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Lets virtual time pass, with all checks once a second.

        Raises:
            CheckFailed: A check did not hold.
        """
        end = self.loop.now + seconds
        while (due := min(self.loop.next_time(), self._next_check)) <= end:
            if due == self._next_check:
                self.loop.now = due
                self._next_check += self.check_period_s
                for check in self.checks:
                    check(self)
            else:
                self._step(*self.loop.pop())
        self.loop.now = end

    def run_until(self, condition: Callable[[], bool], most_s: float, what: str) -> float:
        """Lets time pass until a condition holds, looking every tenth of a second; returns how long it took.

        Raises:
            CheckFailed: It does not hold after `most_s`.
        """
        began = self.loop.now
        while not condition():
            if self.loop.now - began >= most_s:
                self.fail(f"not within {most_s:.0f} s: {what}")
            self.run(0.1)
        return self.loop.now - began

    def fail(self, what: str) -> None:
        """Reports a check that does not hold.

        Raises:
            CheckFailed: Always.
        """
        raise CheckFailed(f"at {self.loop.now:.3f} s, seed {self.seed!r}: {what}")

    def digest(self) -> str:
        """Returns a hash of everything that happened so far, in order."""
        return self._trace.hexdigest(16)

    def now(self, node: Node) -> Now:
        """Returns the clocks as a node reads them."""
        return Now(self.loop.now, WALL_S + self.loop.now + node.skew_s)

    def _step(self, node_id: NodeId, event: Any) -> None:
        if isinstance(event, _Call):
            event.deed()
            return
        node = self._by_id[node_id]
        if isinstance(event, _TimerDue):
            self._timer(node)
            return
        if isinstance(event, _Fetched):
            self._fetched(node, event.fetch)
            return
        told = self.links.handle(node_id, event)
        if told is None or node.peer is None:
            return
        now = self.now(node)
        match told:
            case Arrived(_, source, message):
                self._note(node, "message", type(message).__name__, source)
                node.peer.receive(now, source, message)
            case Up(_, other):
                self._note(node, "up", "", other)
                node.peer.link_up(now, other, "direct")
            case Down(_, other, reason):
                self._note(node, "down", reason, other)
                node.peer.link_down(now, other, reason)
            case DialFailed(other):
                self._note(node, "dial failed", "", other)
                node.peer.dial_failed(now, other)
        self._perform(node)

    def _keeps(self, node_id: NodeId, other: NodeId, old: LinkAge, outbound: bool) -> bool:
        node = self._by_id[node_id]
        return node.running.keeps(self.now(node), other, old, outbound)

    def _timer(self, node: Node) -> None:
        if node.peer is None or self.loop.now < node.timer_at:
            return
        node.timer_at = math.inf
        if node.peer.next_timer() <= self.loop.now:
            self._note(node, "timer", "", node.id)
            node.peer.handle_timer(self.now(node))
            if node.peer.next_timer() <= self.loop.now:
                self.fail(f"the timer of {node.name} does not move")
        self._perform(node)

    def _fetched(self, node: Node, fetch: FetchChunk) -> None:
        """A chunk arrives if the link still stands. The message world moves chunks in a fixed time."""
        key = (fetch.transfer, fetch.source, fetch.index)
        if key not in node.fetches or node.peer is None:
            return
        del node.fetches[key]
        self._note(node, "chunk", f"{fetch.transfer} {fetch.index}", fetch.source)
        now = self.now(node)
        if self.links.linked(node.id, fetch.source):
            node.peer.chunk_done(now, fetch)
        else:
            node.peer.chunk_failed(now, fetch, "the link is gone", fatal=False)
        self._perform(node)

    def _note(self, node: Node, kind: str, detail: str, other: NodeId) -> None:
        self.stats.inputs += 1
        known = self._by_id.get(other)
        whom = known.name if known else str(other)
        self._trace.update(f"{self.loop.now!r} {node.name} {kind} {detail} {whom}\n".encode())

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, node: Node) -> None:
        peer = node.running
        while effects := peer.drain():
            for effect in effects:
                self._do(node, effect)
        due = peer.next_timer()
        if due < node.timer_at:
            node.timer_at = max(due, self.loop.now)
            self.loop.put(due, node.id, _TimerDue())

    def _do(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self._send(node, to, message)
            case Dial(other, addresses):
                self.stats.dials += 1
                target = self._by_id.get(other)
                if target and target.address in addresses:
                    self.links.dial(node.id, other)
                else:
                    self.loop.put(self.loop.now, node.id, DialFailed(other))
            case Hangup(other, reason):
                self.links.hang_up(node.id, other, reason)
            case Misbehaved():
                self.misbehaved.append((self.loop.now, node.name, effect))
            case FetchChunk():
                node.fetches[effect.transfer, effect.source, effect.index] = None
                self.loop.put(self.loop.now + CHUNK_S, node.id, _Fetched(effect))
            case CancelFetch(transfer, source, index):
                node.fetches.pop((transfer, source, index), None)
            case Store(key, None):
                node.disk.pop(key, None)
            case Store(key, value):
                node.disk[key] = value or b""
            case Emit(event):
                node.events.append((self.loop.now, event))

    def _send(self, node: Node, to: NodeId, message: Any) -> None:
        self.stats.messages += 1
        if self._encode:
            data = encode_message(message)
            size, message = len(data), decode_message_untrusted(data)
        else:
            size = _estimate(message)
        self.stats.bytes += size
        self.links.send(node.id, to, message, size)


def _estimate(message: Any) -> int:
    """Returns about how many bytes a message takes on the wire."""
    if envelope := getattr(message, "envelope", None):
        return len(envelope) + 24
    if envelopes := getattr(message, "envelopes", None):
        return sum(len(envelope) for envelope in envelopes) + 24
    return 32 + 120 * len(getattr(message, "entries", ()))
