"""The peer's shell over real QUIC on loopback: links, strangers, garbage, and members that vanish."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from atmo.engine import Contact, Store
from atmo.errors import RemoteError, UserError
from atmo.gossip.messages import Gossip, Hello, Ping
from atmo.gossip.records import Hardware
from atmo.identity import Signer
from atmo.net.driver import GOSSIP, PeerDriver
from atmo.net.ports import RequestStream
from atmo.net.quic import Endpoint, open_endpoint
from atmo.net.requests import open_request
from atmo.peer import Peer, PeerConfig
from atmo.peer.messages import encode_message
from atmo.trust.certificate import Certificate, issue
from atmo.trust.genesis import found
from atmo.trust.mesh import MeshTrust
from atmo.wire.frames import frame

FOUNDER = Signer(b"founder".ljust(32))
GENESIS = found(FOUNDER, "home", int(time.time()), b"nonce".ljust(16))


def new_peer(
    signer: Signer, genesis: bytes = GENESIS, founder: Signer = FOUNDER, config: PeerConfig = PeerConfig()
) -> Peer:
    trust = MeshTrust(genesis)
    now = int(time.time())
    certificate = Certificate(signer.node_id, founder.node_id, ("edge",), "x", now, now + 3600, b"s" * 16)
    trust.admit_untrusted(now, signer.node_id, issue(founder, trust.mesh_id, certificate), None)
    return Peer(config, signer, trust, 1, "test")


async def keep_nothing(batch: list[Store]) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def running(name: str, **kwargs: object) -> AsyncIterator[PeerDriver]:
    signer = Signer(name.encode().ljust(32))
    async with open_endpoint(signer, "127.0.0.1", 0) as endpoint, trio.open_nursery() as nursery:
        driver = PeerDriver(endpoint, new_peer(signer, **kwargs), keep_nothing, lambda: 0)  # type: ignore[arg-type]
        driver.peer.publish_node(driver.now(), name, [endpoint.local_address], "0", Hardware())
        await nursery.start(driver.run)
        yield driver
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger() -> AsyncIterator[Endpoint]:
    async with open_endpoint(Signer(b"stranger".ljust(32)), "127.0.0.1", 0) as endpoint:
        yield endpoint


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(8):
        while not condition():
            await trio.sleep(0.01)


def introduce(a: PeerDriver, b: PeerDriver) -> None:
    a.peer.hyparview.learn(a.now(), Contact(b.peer.node_id, (b.endpoint.local_address,)))
    a.peer.reach(a.now(), b.peer.node_id)
    a.kick()


def linked(a: PeerDriver, b: PeerDriver) -> bool:
    return b.peer.node_id in a.peer.neighbours() and a.peer.node_id in b.peer.neighbours()


async def echo(stream: RequestStream) -> None:
    while (body := await stream.receive()) is not None:
        await stream.send(body)


async def never(stream: RequestStream) -> None:
    await trio.sleep_forever()


async def test_two_who_dial_each_other_at_once_keep_one_link() -> None:
    async with running("anna") as anna, running("bert") as bert:
        introduce(anna, bert)
        introduce(bert, anna)
        await until(lambda: linked(anna, bert))
        bert.handle("test/echo/1", echo)
        async with anna.request(bert.peer.node_id, "test/echo/1", {"n": 1}, 5) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            await stream.finish()
        await until(lambda: anna.endpoint.connection_count == bert.endpoint.connection_count == 1)


async def test_requests_carry_headers_both_ways_and_need_a_link() -> None:
    async with running("anna") as anna, running("bert") as bert:
        with pytest.raises(RemoteError, match="no way"):
            async with anna.request(bert.peer.node_id, "test/echo/1", {}, 5):
                pass
        introduce(anna, bert)
        await until(lambda: linked(anna, bert))
        seen = []

        async def handler(stream: RequestStream) -> None:
            seen.append((stream.node_id, dict(stream.header)))
            await stream.send(b"done")

        anna.handle("test/look/1", handler)
        async with bert.request(anna.peer.node_id, "test/look/1", {"depth": 3}, 5) as stream:
            assert await stream.receive() == b"done"
        assert seen == [(bert.peer.node_id, {"depth": 3})]


async def test_a_member_that_vanishes_fails_the_request_and_is_forgotten() -> None:
    async with running("anna") as anna:
        async with running("bert") as bert:
            introduce(anna, bert)
            await until(lambda: linked(anna, bert))
            bert.handle("test/sleep/1", never)

            async def ask() -> None:
                async with anna.request(bert.peer.node_id, "test/sleep/1", {}, 5) as stream:
                    for connection in list(bert.endpoint.connections):
                        await connection.aclose("power cut")
                    await stream.receive()

            with pytest.raises(RemoteError):
                await ask()


async def test_a_stranger_gets_nowhere_but_to_open_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.driver._READY_S", 0.2)
    async with running("anna") as anna, stranger() as outside:
        anna.handle("test/secret/1", echo)
        anna.handle("test/door/1", echo, members_only=False)
        connection = await outside.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
        async with open_request(connection, "test/door/1", {}, 5) as stream:
            await stream.send(b"knock")
            assert await stream.receive() == b"knock"
            await stream.finish()

        async def ask_for_secrets() -> None:
            async with open_request(connection, "test/secret/1", {}, 10) as stream:
                await stream.send(b"let me in")
                await stream.receive()

        with pytest.raises(RemoteError):
            await ask_for_secrets()
        assert not anna.peer.neighbours()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (Ping(1), "misbehaved: a message before its Hello"),
        (Hello(b"m" * 32, b"no certificate"), "was not let in: it belongs to another mesh"),
        (Gossip(b"no record"), "misbehaved: a message before its Hello"),
    ],
)
async def test_a_stranger_that_talks_gossip_is_hung_up_on(
    message: object, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running("anna") as anna, stranger() as outside:
        connection = await outside.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                try:
                    async with open_request(connection, GOSSIP, {}, math.inf) as stream:
                        await stream.send(encode_message(message))
                        await stream.receive()
                except RemoteError:
                    pass

            nursery.start_soon(talk)
            with trio.fail_after(5):
                await connection.closed.wait()
            nursery.cancel_scope.cancel()
        assert anna.stats.misbehaved
        assert told in caplog.text
        assert not anna.peer.neighbours()


@pytest.mark.parametrize("garbage", [frame(b"\xff\xff\xff"), (2**31).to_bytes(4, "big"), b"\0\0"])
async def test_garbage_on_the_gossip_stream_ends_the_link(garbage: bytes) -> None:
    async with running("anna") as anna, stranger() as outside:
        connection = await outside.dial(anna.endpoint.local_address, anna.peer.node_id, 5)
        stream = await connection.open_stream()
        await stream.send_all(frame(b"\xa1\x68protocol\x6datmo/gossip/1"))
        await stream.send_all(garbage)
        await stream.send_eof()
        with trio.fail_after(5):
            await connection.closed.wait()
        assert not anna.peer.neighbours()


async def test_members_of_another_mesh_do_not_link() -> None:
    other = Signer(b"other founder".ljust(32))
    genesis = found(other, "home", int(time.time()), b"nonce".ljust(16))
    async with running("anna") as anna, running("bert", genesis=genesis, founder=other) as bert:
        introduce(anna, bert)
        await until(lambda: anna.peer.stats.hellos_refused or bert.peer.stats.hellos_refused)
        assert not anna.peer.neighbours()
        assert not bert.peer.neighbours()


async def test_goodbye_reaches_the_neighbours() -> None:
    async with running("anna") as anna, running("bert") as bert:
        introduce(anna, bert)
        await until(lambda: linked(anna, bert))
        reasons: list[str] = []
        anna.observers.append(lambda event: reasons.append(getattr(event, "reason", "")))
        await bert.leave()
        await until(lambda: any("it left" in reason for reason in reasons))
        assert not anna.peer.neighbours()


async def test_bad_requests_end_the_link_and_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running("anna") as anna, running("bert") as bert:
        introduce(anna, bert)
        await until(lambda: linked(anna, bert))
        link = bert.links._links[anna.peer.node_id]
        for _ in range(PeerConfig().strikes - 1):
            stream = await link.connection.open_stream()
            await stream.send_all(frame(b"\xff\xff\xff"))
        await until(lambda: anna.stats.bad_requests == PeerConfig().strikes - 1)
        assert linked(anna, bert)
        for _ in range(2):  # time forgave a little meanwhile
            stream = await link.connection.open_stream()
            await stream.send_all(frame(b"\xff\xff\xff"))
        await until(lambda: not anna.peer.neighbours())
        assert anna.peer.stats.bans == 1
        assert len([row for row in caplog.records if row.levelname == "WARNING"]) == 1


async def test_asking_what_nobody_answers_is_no_fault() -> None:
    async with running("anna") as anna, running("bert") as bert:
        introduce(anna, bert)
        await until(lambda: linked(anna, bert))
        for _ in range(2 * PeerConfig().strikes):
            with pytest.raises(RemoteError, match="does not speak"):
                async with bert.request(anna.peer.node_id, "test/later/2", {}, 5) as stream:
                    await stream.receive()
        assert linked(anna, bert)
        assert anna.stats.misbehaved == 0


async def test_a_disk_that_fails_does_not_end_a_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("atmo.net.driver._STORE_S", 0.001)
    monkeypatch.setattr("atmo.net.driver._STORE_AGAIN_S", 0.001)
    kept: dict[str, bytes | None] = {}
    room, tries = False, 0

    async def store(batch: list[Store]) -> None:
        nonlocal tries
        await trio.lowlevel.checkpoint()
        tries += 1
        if not room:
            raise UserError("The disk is full.")
        kept.update({each.key: each.value for each in batch})

    async with running("anna") as anna:
        await anna.flush()
        anna._store = store
        anna._perform(Store("a", b"1"))
        anna._perform(Store("b", b"1"))
        await until(lambda: tries > 2)
        anna._perform(Store("b", b"2"))
        with pytest.raises(UserError):
            await anna.flush()
        room = True
        await until(lambda: len(kept) == 2)
        assert kept == {"a": b"1", "b": b"2"}
        room = False
        anna._perform(Store("c", b"3"))
    assert len([row for row in caplog.records if "is not kept yet" in row.message and row.levelname == "WARNING"]) >= 2
