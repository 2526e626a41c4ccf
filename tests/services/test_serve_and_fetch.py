"""Both ends of `atmo/manifest/1` and `atmo/chunks/1`, one at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from atmo.errors import RemoteError, UserError
from atmo.gossip.records import ModelRecord
from atmo.identity import NodeId
from atmo.net.ports import ChunkRefused, ChunkService, MeshPort, NoFastPath, Take
from atmo.services import serve
from atmo.services.fetch import Fetcher, FetchStats, Misled, NotThere, fetch_manifest
from atmo.services.serve import Server
from atmo.storage.chunks import CorruptChunk, MissingChunk, ModelStorage
from atmo.transfer.manifest import ChunkPlace, chunk_hash, manifest_id, seal_manifest
from atmo.wire import codec, envelope, schema
from tests.transfer.samples import SIGNER, manifest_of

NODE = NodeId(bytes(32))
PLACE = ChunkPlace(0, 0, 5, chunk_hash(b"hello"))


class Answer:
    """A holder that says one thing: implements the asking end of a request, and the mesh that opens it."""

    bulk: Any = None

    def __init__(self, frame: bytes | None, raw: bytes = b"") -> None:
        self.frame, self.raw = frame, raw

    @asynccontextmanager
    async def request(self, *_: object) -> AsyncIterator[Answer]:
        await trio.lowlevel.checkpoint()
        yield self

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.frame

    async def receive_raw(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.raw[:count]


def saying(frame: bytes | None, raw: bytes = b"") -> MeshPort:
    return cast(MeshPort, Answer(frame, raw))


class Bulk:
    """TCP to the holder that does one thing: implements `BulkPort`."""

    def __init__(self, outcome: bytes | Exception) -> None:
        self.outcome = outcome

    def handle(self, service: ChunkService) -> None:
        raise NotImplementedError

    async def fetch(self, node: NodeId, name: bytes, size: int, take: Take) -> bool:
        await trio.lowlevel.checkpoint()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return take(self.outcome)


def fetcher() -> Fetcher:
    return Fetcher(trio.CapacityLimiter(1))


async def test_a_chunk_is_what_was_sent() -> None:
    one = fetcher()
    for wanted in (b"hello", b"other"):
        answer = saying(codec.encode({"size": 5}), b"hello")
        assert await one.fetch(answer, NODE, PLACE, wanted.__eq__) is (wanted == b"hello")
    assert one.stats == FetchStats(quic_chunks=2, quic_bytes=10)


async def test_a_chunk_comes_over_tcp_where_it_can_and_else_over_quic() -> None:
    one, mesh = fetcher(), saying(codec.encode({"size": 5}), b"quic!")
    for outcome, came in ((b"tcp!!", b"tcp!!"), (NoFastPath("no"), b"quic!")):
        mesh.bulk = Bulk(outcome)
        assert await one.fetch(mesh, NODE, PLACE, came.__eq__)
    assert one.stats == FetchStats(1, 5, 1, 5)
    for reason, error in (("missing", NotThere), ("busy", RemoteError)):
        mesh.bulk = Bulk(ChunkRefused(reason))
        with pytest.raises(error, match=r"no more|refuses: busy"):
            await one.fetch(mesh, NODE, PLACE, lambda data: True)


@pytest.mark.parametrize(
    ("frame", "error", "why"),
    [
        (None, RemoteError, "without an answer"),
        (b"\xff", Misled, "no CBOR"),
        (codec.encode([5]), Misled, "neither"),
        (codec.encode({"size": True}), Misled, "neither"),
        (codec.encode({"size": -1}), Misled, "neither"),
        (codec.encode({"size": 2**40}), Misled, "neither"),
        (codec.encode({"size": 6}), Misled, "6 bytes instead of 5"),
        (codec.encode({"error": "missing"}), NotThere, "no more"),
        (codec.encode({"error": "busy"}), RemoteError, "refuses: busy"),
    ],
)
async def test_answers_that_are_none(frame: bytes | None, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        await fetcher().fetch(saying(frame), NODE, PLACE, lambda data: True)


async def test_a_manifest_must_be_sound_and_be_what_was_announced() -> None:
    manifest = manifest_of()
    garbage = envelope.seal(SIGNER, "atmo/manifest/1", envelope.NO_MESH, codec.encode({"name": "iris"}))
    forged = envelope.seal(SIGNER, "atmo/record/1", envelope.NO_MESH, schema.pack(manifest))
    for sealed in (garbage, forged):
        record = ModelRecord("iris", "1.0.0", "x", "onnx", 1, bytes(32), manifest_id(sealed))
        with pytest.raises(Misled, match="not sound"):
            await fetch_manifest(saying(codec.encode({"size": len(sealed)}), sealed), NODE, record)
    sealed = seal_manifest(SIGNER, manifest)
    record = ModelRecord(
        "iris", "1.0.0", "x", "onnx", manifest.size_bytes, manifest.checksum_sha256, manifest_id(sealed)
    )
    answer = saying(codec.encode({"size": len(sealed)}), sealed)
    assert await fetch_manifest(answer, NODE, record) == (sealed, manifest)


class Reader:
    """The answering end of a request; its reader stops reading after `takes` sends."""

    protocol = serve.CHUNK_PROTOCOL

    def __init__(self, takes: float = 10, node: int = 0) -> None:
        self.node_id = NodeId(bytes([node] * 32))
        self.header = {"chunk": bytes(32)}
        self.sent: list[bytes] = []
        self.takes = takes

    async def send(self, body: bytes) -> None:
        if len(self.sent) >= self.takes:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.sent.append(bytes(body))

    send_raw = send


class Storage:
    """A store with one chunk."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def read_chunk(self, name: bytes) -> bytes:
        if self.error:
            raise self.error
        return b"data"

    def read_chunk_into(self, name: bytes, room: memoryview) -> None:
        room[:] = self.read_chunk(name)


def server(storage: Any = None) -> Server:
    return Server(cast(ModelStorage, storage or Storage()), lambda node, name: True)


async def test_a_reader_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SEND_S", 0.01)
    with pytest.raises(RemoteError, match="did not take an answer"):
        await server().chunk(cast(Any, Reader(takes=1)))


async def test_more_requests_than_may_wait_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "WAITING_MOST", 2)
    busy = server()
    async with trio.open_nursery() as nursery:
        for number in range(serve.SENDING_MOST + 2):
            nursery.start_soon(busy.chunk, cast(Any, Reader(takes=0, node=number)))
        while busy.waiting < 2:
            await trio.sleep(0.001)
        late = Reader()
        await busy.chunk(cast(Any, late))
        nursery.cancel_scope.cancel()
    assert late.sent == [codec.encode({"error": "busy"})]
    assert busy.stats.busy == 1


async def test_one_node_cannot_take_all_places() -> None:
    busy, readers = server(), [Reader(takes=0) for _ in range(serve.NODE_MOST)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(busy.chunk, cast(Any, reader))
        await trio.testing.wait_all_tasks_blocked()
        for node, answer in ((0, {"error": "busy"}), (1, {"size": 4})):
            late = Reader(node=node)
            await busy.chunk(cast(Any, late))
            assert late.sent[0] == codec.encode(answer)
        nursery.cancel_scope.cancel()
    again = Reader()
    await busy.chunk(cast(Any, again))
    assert again.sent == [codec.encode({"size": 4}), b"data"]


async def test_requests_over_quic_take_the_places_of_their_node_over_tcp() -> None:
    busy, readers = server(), [Reader(takes=0) for _ in range(serve.NODE_MOST)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(busy.chunk, cast(Any, reader))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ChunkRefused, match="busy"):
            busy.allow(NODE, bytes(32), 4)
        assert busy.allow(NodeId(bytes([1] * 32)), bytes(32), 4) == 0.0
        nursery.cancel_scope.cancel()
    assert busy.stats.busy == 1


def test_what_is_sent_over_tcp_is_counted() -> None:
    one, room = server(), bytearray(4)
    one.read(bytes(32), memoryview(room))
    for size in (4, 0):
        one.sent(NODE, size)
    assert room == b"data"
    assert (one.stats.chunks, one.stats.tcp_chunks, one.stats.bytes, one.stats.tcp_bytes) == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(MissingChunk("gone"), "missing"), (CorruptChunk("wrong"), "corrupt"), (UserError("damaged"), "corrupt")],
)
def test_what_cannot_be_read_over_tcp_is_refused(error: Exception, reason: str) -> None:
    one = server(Storage(error))
    with pytest.raises(ChunkRefused) as refused:
        one.read(bytes(32), memoryview(bytearray(4)))
    assert refused.value.reason == reason
    assert getattr(one.stats, reason) == 1


def test_who_may_not_read_is_refused_over_tcp() -> None:
    secret = Server(cast(ModelStorage, Storage()), lambda node, name: False)
    with pytest.raises(ChunkRefused, match="forbidden"):
        secret.allow(NODE, bytes(32), 4)
    assert secret.stats.forbidden == 1
    assert not secret.is_open(bytes(32))


async def test_a_store_that_cannot_read_refuses() -> None:
    broken, reader = server(Storage(UserError("the database is damaged"))), Reader()
    await broken.chunk(cast(Any, reader))
    assert reader.sent == [codec.encode({"error": "corrupt"})]
    assert broken.stats.corrupt == 1
