"""A few peers on a table: links without delay, time that the test moves, and a log of what each peer asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from atmo.clock import Now
from atmo.engine import Dial, Effect, Emit, Hangup, Misbehaved, Send, Store
from atmo.gossip.messages import Hello
from atmo.gossip.records import Hardware, ModelRecord
from atmo.identity import NodeId, Signer
from atmo.peer import Peer, PeerConfig
from atmo.peer.messages import decode_message_untrusted, encode_message
from atmo.router.capability import Capability
from atmo.trust.mesh import MeshTrust
from atmo.wire.address import Address
from tests.trust.kit import ANNA, BERT, GENESIS, MESH, START_S, certificate

T = TypeVar("T")

ADDRESS = Address("10.0.0.1", 11_450)

SPREAD_S = 2.0
"""By then new neighbours have compared their tables once."""


def model(name: str = "iris", **kwargs: Any) -> ModelRecord:
    """Returns an advert of a model."""
    return ModelRecord(name, "1.0.0", "classifier", "onnx", 1_000, b"h" * 32, b"m" * 32, **kwargs)


def capability(name: str = "iris", **kwargs: Any) -> Capability:
    """Returns an advert of something to run."""
    return Capability(f"onnx:{name}", "classify", name, **kwargs)


class Side:
    """One peer with the log of its effects."""

    def __init__(self, table: Table, signer: Signer, peer: Peer) -> None:
        self.table = table
        self.signer = signer
        self.peer = peer
        self.log: list[Effect] = []

    @property
    def id(self) -> NodeId:
        return self.peer.node_id

    def of(self, kind: type[T]) -> list[T]:
        """Returns the logged effects of one kind."""
        return [effect for effect in self.log if isinstance(effect, kind)]

    def emitted(self, kind: type[T]) -> list[T]:
        """Returns the logged events of one kind."""
        return [effect.event for effect in self.of(Emit) if isinstance(effect.event, kind)]

    def faults(self) -> list[str]:
        """Returns what it blames others for."""
        return [effect.reason for effect in self.of(Misbehaved)]

    def hangups(self) -> list[str]:
        """Returns the reasons for which it ended links."""
        return [effect.reason for effect in self.of(Hangup)]

    def hears(self, source: NodeId, message: Any) -> None:
        """Takes a message as if `source` had sent it."""
        self.peer.receive(self.table.now, source, message)
        self.table.settle()

    def tells(self, deed: Callable[[Peer, Now], Any]) -> None:
        """Runs a command and lets its effects reach everyone."""
        deed(self.peer, self.table.now)
        self.table.settle()

    def names(self) -> list[str]:
        """Returns the names of the members that it knows."""
        return [view.name for view in self.peer.nodes(self.table.now)]

    def models(self) -> list[str]:
        """Returns the names of the models that it could fetch or has."""
        return [offer.record.name for offer in self.peer.models(self.table.now)]

    def disk(self) -> list[bytes]:
        """Returns what it has asked to keep since its start."""
        kept = {store.key: store.value for store in self.of(Store)}
        return [value for value in kept.values() if value is not None]


class Table:
    """Peers of one mesh, their links, and the time.

    Attributes:
        answering: Dials of sides that are there succeed; else nobody answers any.
    """

    def __init__(self, config: PeerConfig = PeerConfig()) -> None:
        self.config = config
        self.mono = 0.0
        self.wall = float(START_S)
        self.sides: dict[NodeId, Side] = {}
        self.links: dict[tuple[NodeId, NodeId], None] = {}
        self.answering = False
        self._dials: list[tuple[NodeId, NodeId]] = []

    @property
    def now(self) -> Now:
        return Now(self.mono, self.wall)

    def add(
        self,
        signer: Signer,
        name: str = "",
        *,
        sealed: bytes | None = None,
        issuer: bytes | None = None,
        epoch: int = 1,
        records: list[bytes] | None = None,
    ) -> Side:
        """Starts a peer; without a certificate it gets one of the founder. Without a name it tells nobody of itself."""
        trust = MeshTrust(GENESIS)
        trust.admit_untrusted(self.wall, signer.node_id, sealed or certificate(signer.node_id), issuer)
        side = Side(self, signer, Peer(self.config, signer, trust, epoch, f"test/{signer.node_id}"))
        self.sides[side.id] = side
        side.peer.load_records(self.now, records or [])
        if name:
            side.peer.publish_node(self.now, name, [ADDRESS], "1.0", Hardware())
        self.settle()
        return side

    def link(self, one: Side, two: Side, path: str = "lan", *, spread_s: float = SPREAD_S) -> None:
        """Connects two peers and lets them talk for a moment."""
        self._join(one, two, path)
        self.settle()
        self.advance(spread_s)

    def _join(self, one: Side, two: Side, path: str) -> None:
        self.links[one.id, two.id] = self.links[two.id, one.id] = None
        one.peer.link_up(self.now, two.id, path)
        two.peer.link_up(self.now, one.id, path)

    def stranger(self, side: Side, node: NodeId) -> None:
        """Connects somebody who says only what the test lets it say."""
        self.links[side.id, node] = None
        side.peer.link_up(self.now, node, "direct")
        self.settle()

    def verified(self, side: Side, signer: Signer) -> None:
        """Connects a member that says only what the test lets it say after its Hello."""
        self.stranger(side, signer.node_id)
        side.hears(signer.node_id, Hello(MESH, certificate(signer.node_id)))

    def cut(self, one: NodeId, two: NodeId, reason: str = "cut") -> None:
        """Ends a link at both ends."""
        for mine, theirs in ((one, two), (two, one)):
            if (mine, theirs) in self.links:
                del self.links[mine, theirs]
                self.sides[mine].peer.link_down(self.now, theirs, reason)

    def die(self, side: Side) -> None:
        """Ends a peer without a word: its links are there until somebody notices."""
        del self.sides[side.id]
        for link in [link for link in self.links if link[0] == side.id]:
            del self.links[link]

    def settle(self) -> None:
        """Performs effects until nobody asks for more."""
        self._settle()
        while self._dials:  # when nobody has anything left to say on a former link
            self._dial(*self._dials.pop(0))
            self._settle()

    def _settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for side in list(self.sides.values()):
                for effect in side.peer.drain():
                    busy = True
                    side.log.append(effect)
                    self._perform(side, effect)

    def _dial(self, one: NodeId, two: NodeId) -> None:
        if one not in self.sides:
            return
        if self.answering and two in self.sides and (one, two) not in self.links:
            self._join(self.sides[one], self.sides[two], "lan")
        else:
            self.sides[one].peer.dial_failed(self.now, two)

    def _perform(self, side: Side, effect: Effect) -> None:
        match effect:
            case Send(to, message) if (side.id, to) in self.links and to in self.sides:
                again = decode_message_untrusted(encode_message(message))
                self.sides[to].peer.receive(self.now, side.id, again)
            case Hangup(node):
                self.cut(side.id, node)
            case Dial(node):
                self._dials.append((side.id, node))
            case _:
                pass

    def advance(self, seconds: float) -> None:
        """Lets time pass; every timer that is served has to move on."""
        end = self.mono + seconds
        while (due := min(side.peer.next_timer() for side in self.sides.values())) <= end:
            self._move_to(max(due, self.mono))
            for side in self.sides.values():
                if side.peer.next_timer() <= self.mono:
                    side.peer.handle_timer(self.now)
                    assert side.peer.next_timer() > self.mono, "a timer that was served moves on"
            self.settle()
        self._move_to(end)

    def _move_to(self, mono: float) -> None:
        self.wall += mono - self.mono
        self.mono = mono

    def forget_logs(self) -> None:
        """Empties all logs."""
        for side in self.sides.values():
            side.log.clear()


def pair() -> tuple[Table, Side, Side]:
    """Returns two linked members, anna and bert."""
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT, "bert")
    table.link(anna, bert)
    return table, anna, bert
