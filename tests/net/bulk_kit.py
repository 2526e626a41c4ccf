"""Both ends of bulk connections without a mesh: what they need of one, and byte streams in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import trio
import trio.testing

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.bulk_asker import Asker
from atmo.net.bulk_config import BulkConfig, BulkStats
from atmo.net.bulk_frames import Ticket, Want, directions, seal_request
from atmo.net.bulk_holder import Holder
from atmo.net.ports import Buffer, ChunkRefused, NoFastPath, RequestStream
from atmo.net.tcp import ByteStream
from atmo.transfer.manifest import chunk_hash
from atmo.wire.address import Address
from tests.net.pair import ALICE, BOB

ASKER, HOLDER = ALICE.node_id, BOB.node_id
WHERE = Address("192.0.2.1", 11_450)
CHUNK = bytes(range(256)) * 4_096
NAME = chunk_hash(CHUNK)


class MemoryBytes:
    """A `ByteStream` in memory.

    Args:
        stream: One end of a pair of trio's.

    Attributes:
        closed: It was closed at this end.
        only: No more than so many bytes of each message go out; None for all.
    """

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self.closed = False
        self.only: int | None = None
        self.sent = bytearray()
        self.token = trio.lowlevel.current_trio_token()

    async def send_all(self, data: Buffer) -> None:
        try:
            await self.stream.send_all(data[: self.only])
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError("it broke") from error
        self.sent += data

    def send_blocking(self, data: Buffer) -> None:
        trio.from_thread.run(self.send_all, data, trio_token=self.token)

    def receive_blocking(self, room: memoryview, least: int) -> int:
        return trio.from_thread.run(self.receive_least, room, least, trio_token=self.token)

    async def receive_least(self, room: memoryview, least: int) -> int:
        have, came = 0, 1
        while have < least and came:
            came = await self.receive_into(room[have:])
            have += came
        return have

    async def receive_into(self, room: memoryview) -> int:
        try:
            data = await self.stream.receive_some(len(room))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError("it broke") from error
        room[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.closed = True
        for half in (self.stream.send_stream, self.stream.receive_stream):
            half.close()


def pair(*, lockstep: bool = False) -> tuple[MemoryBytes, MemoryBytes]:
    """Two ends; with `lockstep` a sender waits for its reader."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    one, two = make()
    return MemoryBytes(one), MemoryBytes(two)


@dataclass
class Link:
    """The asker's QUIC connection to the holder."""

    path: str = "lan"
    remote: Address = WHERE
    rtt_s: float | None = None


@dataclass
class Mesh:
    """What both ends need of the peer's shell: a link between two members."""

    link: Link | None = field(default_factory=Link)
    member: bool = True
    budget: float = 1_000
    tickets: Holder | None = None
    held: int = 0
    addresses: tuple[Address, ...] = ()

    def now(self) -> Now:
        return Now(trio.current_time(), 0.0)

    def is_linked(self, node: NodeId) -> bool:
        return self.member and node == ASKER

    def admits(self, node: NodeId) -> bool:
        self.budget -= 1
        return self.is_linked(node) and self.budget >= 0

    def holding(self, node: NodeId) -> AbstractContextManager[None]:
        self.held += 1
        return nullcontext()

    def way(self, node: NodeId) -> Link | None:
        return self.link if node == HOLDER else None

    def announced(self, node: NodeId) -> tuple[Address, ...]:
        return self.addresses

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[RequestStream]:
        assert (node, protocol, header) == (HOLDER, "atmo/bulk/1", {})
        await trio.lowlevel.checkpoint()
        if self.tickets is None:
            raise RemoteError("the other end does not speak this protocol")
        answer = Answer()
        await self.tickets.give_ticket(cast(RequestStream, answer))
        yield cast(RequestStream, answer)


class Answer:
    """A request for a ticket, seen from both ends."""

    node_id = ASKER

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    async def send(self, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.frames.append(body)

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.frames.pop(0) if self.frames else None


class Service:
    """Has one chunk.

    Attributes:
        asked: Names that were asked for.
        sent_bytes: What was told to have been sent, by name.
        waits_s: What everybody has to wait.
        refuses: Why nobody may have anything; empty where they may.
        open: Whether every member may have everything; where not, the loop is asked for each chunk.
        reading: Called before a chunk is read, in its thread.
    """

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.sent_bytes: list[int] = []
        self.waits_s = 0.0
        self.refuses = ""
        self.open = False
        self.reading: Callable[[], object] = lambda: None

    def allow(self, node: NodeId, name: bytes, size: int) -> float:
        assert node == ASKER
        self.asked.append(name)
        if self.refuses:
            raise ChunkRefused(self.refuses)
        return self.waits_s

    def is_open(self, name: bytes) -> bool:
        return self.open

    def read(self, name: bytes, room: memoryview) -> None:
        self.reading()
        if (name, len(room)) != (NAME, len(CHUNK)):
            raise ChunkRefused("missing")
        room[:] = CHUNK

    def sent(self, node: NodeId, size: int) -> None:
        self.sent_bytes.append(size)


class Ends:
    """A holder with one chunk and an asker, whose connections are made in memory.

    Attributes:
        made: The holder's end and the asker's end of each connection.
        reachable: Whether a connection can be made.
    """

    def __init__(self, nursery: trio.Nursery, config: BulkConfig = BulkConfig(), *, lockstep: bool = False) -> None:
        self.nursery = nursery
        self.near = True
        self.mesh = Mesh()
        self.stats = BulkStats()
        self.holder = Holder(HOLDER, self.mesh, config, self.stats, lambda host: self.near)
        self.holder.service = self.service = Service()
        self.mesh.tickets = self.holder
        self.asker = Asker(ASKER, self.mesh, config, self.stats, self.connect, lambda host: self.near)
        self.made: list[tuple[MemoryBytes, MemoryBytes]] = []
        self.tried: list[Address] = []
        self.reachable = True
        self.lockstep = lockstep

    @property
    def served(self) -> list[bytes]:
        """Names that were asked for."""
        return self.service.asked

    async def connect(self, address: Address) -> ByteStream:
        self.tried.append(address)
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise RemoteError(f"no TCP connection to {address}")
        theirs, ours = pair(lockstep=self.lockstep)
        self.made.append((theirs, ours))
        self.nursery.start_soon(self.holder.serve, theirs, "192.0.2.9")
        return ours

    async def fetch(self, name: bytes = NAME, size: int = len(CHUNK)) -> bool:
        return await self.asker.fetch(HOLDER, name, size, lambda data: data == CHUNK)

    def hold(self) -> threading.Event:
        """Has the holder read no chunk before the event is set."""
        go = threading.Event()
        self.service.reading = lambda: go.wait(10)
        return go

    def fail(self) -> trio.Event:
        """Has somebody fetch what will not come over TCP; the event tells when that is found out."""
        failed = trio.Event()

        async def fetch() -> None:
            with pytest.raises(NoFastPath):
                await self.fetch()
            failed.set()

        self.nursery.start_soon(fetch)
        return failed

    def ticket(self) -> Ticket:
        ticket = self.holder.tickets.issue(self.mesh.now(), ASKER)
        assert ticket is not None
        return ticket

    def knock(self, first: bytes, host: str = "192.0.2.9") -> MemoryBytes:
        """A stranger that connects and sends something."""
        theirs, ours = pair()
        self.nursery.start_soon(self.holder.serve, theirs, host)
        self.nursery.start_soon(ours.send_all, first)
        return ours


def opening(ticket: Ticket, name: bytes = NAME) -> bytes:
    """What an asker sends first."""
    return ticket.ticket + seal_request(directions(ticket, ASKER, HOLDER)[0], Want.CHUNK, name, len(CHUNK))


async def passes(clock: trio.testing.MockClock, seconds: float) -> None:
    """Lets time pass, and then everybody do what is due."""
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that no event tells of, by the real clock."""
    for _ in range(5_000):
        if condition():
            return
        await trio.to_thread.run_sync(time.sleep, 0.001)
    raise TimeoutError


async def silence(stream: MemoryBytes) -> bool:
    """Waits for the end of a connection; says whether nothing came before it."""
    return await stream.receive_into(memoryview(bytearray(100))) == 0
