"""TCP on loopback: the listener on the endpoint's port, and streams that break or stall."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from atmo.errors import RemoteError
from atmo.net.tcp import TcpStream, connect_tcp, open_tcp, receive_exactly
from atmo.wire.address import Address
from tests.net.bulk_kit import CHUNK, Ends, opening, until


def both() -> tuple[TcpStream, trio.socket.SocketType]:
    """A stream, and the socket at its other end."""
    one, two = socket.socketpair(), trio.socket
    return TcpStream(two.from_stdlib_socket(one[0]), 0.05), two.from_stdlib_socket(one[1])


def free_port(host: str) -> int:
    """A port that nobody listens on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_ends_of_a_connection(nursery: trio.Nursery, host: str) -> None:
    async with open_tcp(Address(host, free_port(host))) as door:
        assert door.listener is not None
        assert door.port
        here = await connect_tcp(Address(host, door.port))
        there = TcpStream((await door.listener.accept()).socket)
        nursery.start_soon(trio.to_thread.run_sync, here.send_blocking, CHUNK)
        assert await receive_exactly(there, len(CHUNK)) == CHUNK
        here.close()
        assert await receive_exactly(there, 1) is None
        there.close()
        with pytest.raises(RemoteError, match="broke"):
            await trio.to_thread.run_sync(there.send_blocking, b"x")


async def test_a_port_that_is_taken_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with open_tcp(Address("127.0.0.1", taken.getsockname()[1])) as door:
            assert door.listener is None
            assert door.port is None
            assert "cannot be listened on" in door.problem
    assert "QUIC alone" in caplog.text


async def test_nobody_there() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(RemoteError, match="no TCP connection"):
            await connect_tcp(Address("127.0.0.1", silent.getsockname()[1]))


async def test_who_neither_sends_nor_reads_is_given_up() -> None:
    stream, other = both()
    with other:
        with pytest.raises(RemoteError, match="nothing moved"):
            await stream.receive_into(memoryview(bytearray(1)))
        with pytest.raises(RemoteError, match="nothing moved"):
            await trio.to_thread.run_sync(stream.send_blocking, bytes(2**24))
        with pytest.raises(RemoteError, match="nothing moved"):
            await trio.to_thread.run_sync(stream.receive_blocking, memoryview(bytearray(1)), 1)
    stream.close()


async def test_closing_wakes_who_waits(nursery: trio.Nursery) -> None:
    stream, other = both()
    woken = trio.Event()

    async def wait() -> None:
        with pytest.raises(RemoteError, match="broke"):
            await stream.receive_into(memoryview(bytearray(1)))
        woken.set()

    with other:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
        await woken.wait()


async def test_an_asker_that_never_reads_loses_its_connection(nursery: trio.Nursery) -> None:
    ends = Ends(nursery)
    stream, other = both()

    async def serve() -> None:
        await ends.holder.serve(stream, "127.0.0.1")

    ticket = ends.ticket()
    with other:
        nursery.start_soon(serve)
        await other.send(opening(ticket))
        await until(lambda: ends.stats.broken)
        assert ends.holder.connections == 0


@pytest.mark.parametrize("what", ["receiving", "sending"])
async def test_closing_wakes_a_thread_that_waits_and_it_closes_the_socket(nursery: trio.Nursery, what: str) -> None:
    one, two = socket.socketpair()
    with two:
        stream = TcpStream(trio.socket.from_stdlib_socket(one), 30.0)
        failed = trio.Event()

        def block() -> None:
            if what == "sending":
                stream.send_blocking(bytes(2**24))
            elif not stream.receive_blocking(memoryview(bytearray(1)), 1):
                raise RemoteError("closed")

        async def wait() -> None:
            with pytest.raises(RemoteError, match=r"broke|closed"):
                await trio.to_thread.run_sync(block)
            failed.set()

        nursery.start_soon(wait)
        await until(lambda: stream._inside)
        stream.close()
        stream.close()
        with trio.fail_after(10):
            await failed.wait()
        assert stream._plain.fileno() == -1
        with pytest.raises(RemoteError, match="closed here"):
            stream.send_blocking(b"x")
