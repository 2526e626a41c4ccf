"""One simulated machine, and what is counted over all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from atmo.engine import FetchChunk, Message
from atmo.identity import NodeId, Signer
from atmo.peer import Peer
from atmo.sim.links import Port
from atmo.wire.address import Address

if TYPE_CHECKING:
    from atmo.sim.world import World


class Malice(Protocol):
    """How a machine breaks the protocol, around a peer that keeps it; see `sim.malice`."""

    def begin(self, world: World, node: Node) -> None:
        """The machine was turned on."""

    def sends(self, world: World, node: Node, to: NodeId, message: Message) -> list[tuple[NodeId, Message]]:
        """Says what leaves the machine in place of a message of its peer."""

    def hears(self, world: World, node: Node, source: NodeId, message: Message) -> bool:
        """Says whether its peer gets to see a message."""

    def chunk_is_good(self, node: Node, reader: NodeId) -> bool:
        """Says whether a chunk that it serves is what its name says."""


@dataclass(eq=False, slots=True)
class Node(Port):
    """One simulated machine.

    Attributes:
        name: For people and random streams.
        number: Of its name in the trace.
        signer: Its key.
        address: Where it listens.
        certificate: Sealed.
        skew_s: How far its wall clock is ahead.
        disk: What it keeps over restarts.
        peer: None while it does not run.
        epoch: Of its last start.
        events: What its peer emitted since its last start, with the time.
        newest: The version of its newest record in earlier lives.
        malice: How it breaks the protocol; None for an honest machine.
        due: When its peer wants to be woken.
        timer_at: When it is looked at again whether that has come.
        fetches: Chunks that it has asked for.
        awaiting: Those of them that wait for a link to their source.
        sent_bytes, received_bytes: On the wire, headers and all.
        started_at: Of its last start.
    """

    name: str = ""
    number: int = 0
    signer: Signer = field(default_factory=lambda: Signer(bytes(32)))
    address: Address = field(default_factory=lambda: Address("10.0.0.1", 1))
    certificate: bytes = b""
    skew_s: float = 0.0
    disk: dict[str, bytes] = field(default_factory=dict)
    peer: Peer | None = None
    epoch: int = 0
    events: list[tuple[float, Any]] = field(default_factory=list)
    newest: tuple[int, int] = (0, 0)
    malice: Malice | None = None
    due: float = math.inf
    timer_at: float = math.inf
    fetches: dict[tuple[str, NodeId, int], FetchChunk] = field(default_factory=dict)
    awaiting: dict[NodeId, list[FetchChunk]] = field(default_factory=dict)
    sent_bytes: int = 0
    received_bytes: int = 0
    started_at: float = 0.0

    @property
    def running(self) -> Peer:
        """The peer of a node that runs."""
        assert self.peer is not None, f"{self.name} does not run"
        return self.peer

    def begin(self, now: float, epoch: int) -> None:
        """It is turned on: all that it had in memory is gone."""
        self.started_at, self.epoch = now, epoch
        self.events.clear()
        self.fetches.clear()
        self.awaiting.clear()
        self.timer_at = math.inf


@dataclass(slots=True)
class WorldStats:
    """Counters over all nodes.

    Attributes:
        inputs: What peers were told.
        messages, bytes: Sent, as encoded; headers are not counted.
        wire_bytes: Sent, headers and handshakes counted.
        dials: Begun.
        by_kind: Messages of each type and their bytes as encoded.
    """

    inputs: int = 0
    messages: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    dials: int = 0
    by_kind: dict[str, list[int]] = field(default_factory=dict)

    def sent(self, kind: str, size: int, whole: int) -> None:
        """Counts a message of so many bytes, as encoded and on the wire."""
        self.messages += 1
        self.bytes += size
        self.wire_bytes += whole
        counts = self.by_kind.get(kind)
        if counts is None:
            counts = self.by_kind[kind] = [0, 0]
        counts[0] += 1
        counts[1] += size
