"""Who was a member, over real QUIC: with an expired certificate, put out of the mesh, or with a request without end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from atmo.errors import RemoteError
from atmo.identity import Signer
from atmo.net.driver import PeerDriver
from atmo.net.ports import RequestStream
from atmo.net.quic import Connection, open_endpoint
from atmo.net.requests import open_request
from atmo.peer import Peer, PeerConfig, Revoked
from atmo.trust.certificate import Certificate, issue
from atmo.trust.mesh import MeshTrust
from atmo.wire import limits
from tests.net.test_driver import FOUNDER, GENESIS, echo, introduce, keep_nothing, linked, running, until

ECHO = "test/echo/1"


class Walls:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def peer_until(signer: Signer, lasts_s: int) -> Peer:
    """A member whose certificate lasts so long."""
    trust, now = MeshTrust(GENESIS), int(time.time())
    certificate = Certificate(signer.node_id, FOUNDER.node_id, ("edge",), "x", now, now + lasts_s, b"s" * 16)
    trust.admit_untrusted(now, signer.node_id, issue(FOUNDER, trust.mesh_id, certificate), None)
    return Peer(PeerConfig(members_s=0.1), signer, trust, 1, "test")


@asynccontextmanager
async def member(name: str, lasts_s: int, wall: Walls) -> AsyncIterator[PeerDriver]:
    signer = Signer(name.encode().ljust(32))
    async with open_endpoint(signer, "127.0.0.1", 0) as endpoint, trio.open_nursery() as nursery:
        driver = PeerDriver(endpoint, peer_until(signer, lasts_s), keep_nothing, lambda: 0, wall)
        await nursery.start(driver.run)
        yield driver
        nursery.cancel_scope.cancel()


async def refused(connection: Connection, protocol: str) -> None:
    """Asks on a connection, and fails where that is answered."""
    with pytest.raises(RemoteError):  # noqa: PT012
        async with open_request(connection, protocol, {}, 10) as stream:
            await stream.send(b"let me in")
            assert await stream.receive() is None
            raise RemoteError("the stream ended without an answer")


def connection_of(driver: PeerDriver, other: PeerDriver) -> Connection:
    link = driver.links.get(other.peer.node_id)
    assert link is not None
    return link.connection


async def test_who_comes_with_an_expired_certificate_is_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.driver._READY_S", 0.2)
    wall = Walls()
    wall.ahead_s = 7_200.0  # of the one who judges
    async with member("anna", 360_000, wall) as anna, member("bert", 3_600, Walls()) as bert:
        anna.handle(ECHO, echo)
        introduce(bert, anna)
        await until(lambda: anna.peer.stats.hellos_refused)
        await until(lambda: not anna.endpoint.connection_count)
        assert not anna.peer.neighbours()
        connection = await bert.endpoint.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
        await refused(connection, ECHO)
        assert anna.endpoint.stats.requests_served == 0


async def test_whose_certificate_expires_is_cut_off_from_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Walls()
    async with member("anna", 360_000, wall) as anna, member("bert", 3_600, Walls()) as bert:
        anna.handle(ECHO, echo)
        introduce(bert, anna)
        await until(lambda: linked(anna, bert))
        connection = connection_of(bert, anna)
        with pytest.raises(RemoteError):  # noqa: PT012
            async with bert.request(anna.peer.node_id, ECHO, {}, 20) as stream:
                await stream.send(b"still a member")
                assert await stream.receive() == b"still a member"
                wall.ahead_s = 7_200.0
                await refused(connection, ECHO)
                with trio.fail_after(8):
                    await connection.closed.wait()
                await stream.receive()
        assert "expired" in connection.close_reason
        assert not anna.peer.neighbours()
        assert not anna.links.alive()


async def test_who_was_put_out_is_cut_off_and_comes_back_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.driver._READY_S", 0.2)
    async with running("anna") as anna, running("bert") as bert:
        anna.handle(ECHO, echo)
        introduce(bert, anna)
        await until(lambda: linked(anna, bert))
        connection = connection_of(bert, anna)
        anna.peer.trust.revoke(bert.peer.node_id, FOUNDER.node_id)
        anna._tell(Revoked(bert.peer.node_id))
        with trio.fail_after(8):
            await connection.closed.wait()
        await until(lambda: not bert.peer.neighbours())
        again = await bert.endpoint.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
        bert.links.adopt(again)  # it says Hello with the certificate that it has
        await refused(again, ECHO)
        with trio.fail_after(8):
            await again.closed.wait()
        assert not anna.peer.neighbours()


async def test_senders_that_never_finish_hold_bounded_memory_and_one_of_them_spoils_nothing() -> None:
    """All streams of a connection, each with a frame of 1 MiB that never ends: what waits unread is a window."""
    held: list[RequestStream] = []

    async def never_reads(stream: RequestStream) -> None:
        held.append(stream)
        await trio.sleep_forever()

    async with running("anna") as anna, running("bert") as bert, trio.open_nursery() as nursery:
        anna.handle("test/hold/1", never_reads)
        anna.handle(ECHO, echo)
        introduce(bert, anna)
        await until(lambda: linked(anna, bert))
        far = connection_of(anna, bert)

        async def send_without_end() -> None:
            try:
                async with bert.request(anna.peer.node_id, "test/hold/1", {}, 60) as stream:
                    await stream.send_raw(limits.FRAME_BYTES.to_bytes(4, "big") + bytes(limits.FRAME_BYTES - 1))
                    await trio.sleep_forever()
            except RemoteError:
                pass

        for _ in range(100):
            nursery.start_soon(send_without_end)
        await until(lambda: len(held) >= 60)
        window = far.config.connection_window_bytes
        with trio.move_on_after(1.0):
            while True:
                assert sum(each.buffered_bytes for each in far._streams.values()) <= window
                await trio.sleep(0.02)
        assert far.stream_count <= 2 * far.config.max_streams
        async with running("cleo") as cleo:  # whoever else asks is answered meanwhile
            introduce(cleo, anna)
            await until(lambda: linked(anna, cleo))
            async with cleo.request(anna.peer.node_id, ECHO, {}, 10) as stream:
                await stream.send(b"me too")
                assert await stream.receive() == b"me too"
        nursery.cancel_scope.cancel()


async def test_streams_that_never_name_a_protocol_end_in_time_and_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.requests.serve_requests.__defaults__", (128, 0.3))
    async with running("anna") as anna, open_endpoint(Signer(b"eve".ljust(32)), "127.0.0.1", 0) as eve:
        connection = await eve.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
        streams = [await connection.open_stream() for _ in range(100)]
        for stream in streams:
            await stream.send_all(b"\0\0\xff")
        with trio.fail_after(8):
            await connection.closed.wait()
        assert anna.stats.bad_requests >= PeerConfig().stranger_strikes
        await until(lambda: not anna.endpoint.connection_count)
