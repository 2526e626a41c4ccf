"""Models over TCP on loopback: what is counted, what breaks in the middle, and who is cut off."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from atmo.errors import AtmoError
from atmo.net.bulk import Bulk
from atmo.net.bulk_config import BulkConfig
from atmo.net.bulk_frames import TICKET_BYTES
from atmo.net.ports import Buffer, ChunkService
from atmo.net.tcp import TcpStream
from atmo.storage.chunks import MissingChunk
from atmo.wire.address import Address
from tests.services.machines import Machine, machine, names_seen
from tests.services.test_pull_over_quic import MIB, has_holders, safetensors, stored_digest, three


def bulk_of(one: Machine) -> Bulk:
    assert one.host.bulk is not None
    return one.host.bulk


class Altered:
    """A service that does something else where a chunk is to be read.

    Args:
        honest: The real one.
        read: Called with the honest one, the name, and the room for the chunk.
    """

    def __init__(self, one: Machine, read: Callable[[ChunkService, bytes, memoryview], None]) -> None:
        service = bulk_of(one).holder.service
        assert service is not None
        self._honest = service
        self._read = read
        self.allow, self.is_open, self.sent = service.allow, service.is_open, service.sent
        bulk_of(one).handle(self)

    def read(self, name: bytes, room: memoryview) -> None:
        self._read(self._honest, name, room)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def test_chunks_come_over_tcp_from_both_holders(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, cleo, digest = await three(stack, tmp_path, use_tcp=True)
        before = anna.models.server.stats.tcp_chunks
        row = await cleo.models.pull("weights")
        assert row.sha256 == digest == stored_digest(cleo)
        fetched = cleo.models.fetching
        assert fetched.tcp_bytes == row.size_bytes
        assert fetched.quic_chunks == 0
        await until(lambda: bert.models.server.stats.tcp_chunks > 0)
        await until(lambda: anna.models.server.stats.tcp_chunks > before)
        assert anna.models.server.stats.tcp_bytes == anna.models.server.stats.bytes
        assert bulk_of(cleo).stats.opened >= 2
        assert anna.host.tcp_port == anna.driver.endpoint.local_address.port
        assert anna.host.tcp() == str(anna.host.tcp_port)


async def test_a_port_that_is_taken_leaves_quic(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listen = Address("127.0.0.1", taken.getsockname()[1])
        anna = await stack.enter_async_context(machine(tmp_path, "anna", listen=listen))
        bert = await stack.enter_async_context(machine(tmp_path, "bert"))
        assert anna.host.tcp_port is None
        assert (anna.host.tcp() or "").startswith("none: TCP 127.0.0.1")
        digest = await weights_at(anna, bert, tmp_path)
        await bert.models.pull("weights")
        assert stored_digest(bert) == digest
        assert bert.models.fetching.tcp_chunks == 0
        assert bulk_of(bert).stats.failed


async def weights_at(anna: Machine, bert: Machine, tmp_path: Path) -> str:
    """A mesh of two of which the first holds the model `weights`."""
    await anna.service.create("home")
    await bert.service.join((await anna.service.invite())["code"])
    await names_seen(bert, {"anna", "bert"})
    digest = safetensors(tmp_path / "weights.safetensors", 6 * MIB)
    await anna.models.import_model(tmp_path / "weights.safetensors", name="weights", version="1.0")
    await has_holders(bert, {"anna"})
    return digest


async def two(stack: AsyncExitStack, tmp_path: Path) -> tuple[Machine, Machine, str]:
    anna, bert = [await stack.enter_async_context(machine(tmp_path, name)) for name in ("anna", "bert")]
    return anna, bert, await weights_at(anna, bert, tmp_path)


async def test_a_connection_that_breaks_in_mid_chunk_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TcpStream.send_blocking

    async with AsyncExitStack() as stack:
        anna, bert, digest = await two(stack, tmp_path)
        asked: list[bytes] = []

        def breaking(stream: TcpStream, data: Buffer) -> None:
            if len(data) > MIB and len(asked) >= 2:
                monkeypatch.undo()
                whole(stream, data[: MIB // 2])
                trio.from_thread.run_sync(stream.close)
                return
            whole(stream, data)

        def read(honest: ChunkService, name: bytes, room: memoryview) -> None:
            asked.append(name)
            honest.read(name, room)

        monkeypatch.setattr(TcpStream, "send_blocking", breaking)
        Altered(anna, read)
        await bert.models.pull("weights")
        assert stored_digest(bert) == digest
        assert bert.models.fetching.quic_chunks >= 1
        assert bert.driver.peer.stats.misbehaved == 0


async def test_a_holder_that_lies_over_tcp_is_found_out(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, bert, cleo, digest = await three(stack, tmp_path, use_tcp=True)

        def lying(honest: ChunkService, name: bytes, room: memoryview) -> None:
            room[:] = bytes(len(room))

        Altered(bert, lying)
        row = await cleo.models.pull("weights")
        assert row.sha256 == digest == stored_digest(cleo)
        assert cleo.driver.peer.stats.misbehaved


async def test_a_holder_that_lost_a_chunk_says_so_over_tcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, cleo, digest = await three(stack, tmp_path, use_tcp=True)

        def lost(name: bytes, room: memoryview) -> None:
            raise MissingChunk("gone")

        monkeypatch.setattr(bert.models.server._storage, "read_chunk_into", lost)
        await cleo.models.pull("weights")
        assert stored_digest(cleo) == digest
        assert anna.models.server.stats.tcp_chunks


async def test_a_revoked_node_is_cut_off(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, digest = await two(stack, tmp_path)
        started, hold = threading.Event(), threading.Event()

        def holding(honest: ChunkService, name: bytes, room: memoryview) -> None:
            started.set()
            hold.wait(10)

        Altered(anna, holding)
        async with trio.open_nursery() as nursery:

            async def pull() -> None:
                with pytest.raises(AtmoError):
                    await bert.models.pull("weights")

            nursery.start_soon(pull)
            await until(started.is_set)
            assert bulk_of(anna).holder.connections
            await anna.service.revoke("bert")
            await until(lambda: not bulk_of(anna).holder.connections)
            await until(lambda: not bulk_of(bert).asker.connections)
            hold.set()
            assert bulk_of(anna).stats.cut
            assert anna.models.server.stats.chunks == 0
            nursery.cancel_scope.cancel()
        assert bert.models.local_models() == []
        assert digest


async def test_strangers_at_the_tcp_port_of_a_running_node_cost_little_and_stop_no_pull(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, digest = await two(stack, tmp_path)
        bulk, port = bulk_of(anna), anna.host.tcp_port
        config = BulkConfig()
        assert port is not None
        strangers = []
        for number in range(120):
            strangers.append(await trio.open_tcp_stream("127.0.0.1", port))
            if number % 3 == 0:
                await strangers[-1].send_all(bytes(TICKET_BYTES))  # a ticket that nobody gave
        await until(lambda: bulk.stats.refused_full + bulk.stats.refused_tickets >= 120 - config.host_opening)
        assert sum(bulk.holder._opening.values()) <= config.host_opening
        assert bulk.holder.connections == 0
        assert len(bulk.holder.tickets) == 0
        row = await bert.models.pull("weights")  # from the very host that the strangers come from
        assert row.sha256 == digest == stored_digest(bert)
        for stranger in strangers:
            await stranger.aclose()
        await until(lambda: not bulk.holder._opening)
