"""The endpoint on loopback sockets: who may connect, what is bounded, how it ends."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

import pytest
import trio
from aioquic.quic.packet import QuicProtocolVersion

from atmo.errors import RemoteError, UserError
from atmo.net.certificate import make_credentials
from atmo.net.quic import Endpoint, QuicConfig, open_endpoint
from atmo.net.quic_core import QuicCore
from atmo.net.udp import to_address
from atmo.wire.address import Address
from tests.net.loopback import DEADLINE_S, PLAIN, connected, never_ends, two_endpoints, until
from tests.net.pair import ALICE, BOB, EVE

NOBODY = Address("127.0.0.1", 9)


class Stranger:
    """A bare UDP socket that speaks to an endpoint as it likes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.target = (endpoint.local_address.host, endpoint.local_address.port)
        self.socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        await self.socket.sendto(data, self.target)

    async def receive(self) -> bytes:
        with trio.fail_after(DEADLINE_S):
            return await self.socket.recv(65_536)

    def hello(self) -> bytes:
        """Returns the first packet of a handshake."""
        return self.core().transmit(0.0)[0][0]

    def core(self) -> QuicCore:
        core = QuicCore(make_credentials(EVE), PLAIN, datagram_bytes=1_200, expected=BOB.node_id)
        core.connect(self.target, 0.0)
        return core


@pytest.fixture
async def stack() -> AsyncIterator[ExitStack]:
    with ExitStack() as each:
        yield each
        await trio.lowlevel.checkpoint()


async def test_both_ends_know_each_other_by_node_id() -> None:
    async with connected() as (outbound, inbound):
        assert (outbound.node_id, outbound.outbound) == (BOB.node_id, True)
        assert (inbound.node_id, inbound.outbound) == (ALICE.node_id, False)
        assert outbound.rtt_s is not None
        assert inbound.remote.host == "127.0.0.1"
        assert repr(outbound) == f"<Connection to {BOB.node_id.short}>"


async def test_another_node_than_the_expected_is_refused() -> None:
    async with two_endpoints() as (one, two):
        with pytest.raises(RemoteError, match="who was called"):
            await one.dial(two.local_address, EVE.node_id, DEADLINE_S)
        assert (one.stats.refused_identity, one.stats.dials_failed) == (1, 1)
        assert two.stats.accepted == 0


async def test_a_client_without_a_certificate_is_refused() -> None:
    async with open_endpoint(BOB, "127.0.0.1", 0) as endpoint, open_endpoint(EVE, "127.0.0.1", 0) as nameless:
        nameless._credentials = None  # type: ignore[assignment]
        connection = await nameless.dial(endpoint.local_address, BOB.node_id, DEADLINE_S)
        with trio.fail_after(DEADLINE_S):
            await connection.closed.wait()
        assert connection.close_reason == "a node must show its certificate"
        assert endpoint.stats.refused_identity == 1
        assert not endpoint.connections


async def test_a_node_may_dial_itself() -> None:
    async with open_endpoint(ALICE, "127.0.0.1", 0) as endpoint:
        outbound = await endpoint.dial(endpoint.local_address, ALICE.node_id, DEADLINE_S)
        inbound = await endpoint.accept()
        assert outbound.node_id == inbound.node_id == ALICE.node_id


async def test_both_may_dial_at_the_same_moment() -> None:
    async with two_endpoints() as (one, two), trio.open_nursery() as nursery:
        nursery.start_soon(one.dial, two.local_address, BOB.node_id, DEADLINE_S)
        nursery.start_soon(two.dial, one.local_address, ALICE.node_id, DEADLINE_S)
        assert (await one.accept()).node_id == BOB.node_id
        assert (await two.accept()).node_id == ALICE.node_id


async def test_ipv6_and_ipv4_reach_an_endpoint_that_listens_on_both() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with open_endpoint(BOB, "::", 0) as both, open_endpoint(ALICE, "127.0.0.1", 0) as four:
        port = both.local_address.port
        await four.dial(Address("127.0.0.1", port), BOB.node_id, DEADLINE_S)
        assert (await both.accept()).remote == four.local_address
        back = await both.dial(four.local_address, ALICE.node_id, DEADLINE_S)
        assert back.remote == four.local_address
        await both.dial(Address("::1", port), BOB.node_id, DEADLINE_S)
        with pytest.raises(RemoteError, match="cannot be reached from this node's socket"):
            await four.dial(Address("::1", port), BOB.node_id, DEADLINE_S)


# Deadlines and ends


async def test_nobody_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with open_endpoint(ALICE, "127.0.0.1", 0) as endpoint:
        with pytest.raises(RemoteError, match=r"no answer from 127.0.0.1:9 within 3 s"):
            await endpoint.dial(NOBODY, BOB.node_id, 3)
        await trio.sleep(5)
        assert endpoint.connection_count == 0


async def test_a_cancelled_dial_leaves_nothing_behind() -> None:
    async with open_endpoint(ALICE, "127.0.0.1", 0) as endpoint:
        assert await never_ends(lambda: endpoint.dial(NOBODY, BOB.node_id, 60), 0.01)
        await until(lambda: not endpoint.connection_count)


async def test_the_close_reason_reaches_the_other_end() -> None:
    async with connected() as (outbound, inbound):
        await outbound.aclose("had enough")
        with trio.fail_after(DEADLINE_S):
            await inbound.closed.wait()
        assert inbound.close_reason == outbound.close_reason == "had enough"
        with pytest.raises(RemoteError, match="is closed: had enough"):
            await inbound.open_stream()
        with pytest.raises(RemoteError, match="is closed: had enough"):
            await outbound.accept_stream()


async def test_closing_wakes_whoever_waits() -> None:
    async with connected() as (outbound, inbound), trio.open_nursery() as nursery:
        stream = await outbound.open_stream()
        failed = []

        async def expect_failure(work: object) -> None:
            with pytest.raises(RemoteError, match="going"):
                await work()  # type: ignore[operator]
            failed.append(work)

        for work in (stream.receive_some, outbound.accept_stream, inbound.accept_stream):
            nursery.start_soon(expect_failure, work)
        await trio.testing.wait_all_tasks_blocked()
        await inbound.aclose("going")
        await until(lambda: len(failed) == 3)


async def test_an_endpoint_that_ends_tells_its_connections() -> None:
    async with open_endpoint(ALICE, "127.0.0.1", 0) as one:
        async with open_endpoint(BOB, "127.0.0.1", 0) as two:
            connection = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
            await two.accept()
        with trio.fail_after(DEADLINE_S):
            await connection.closed.wait()
        assert connection.close_reason == "the node is shutting down"


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_endpoint(ALICE, "127.0.0.1", 0):
            raise ZeroDivisionError


async def test_a_vanished_peer_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.005
    async with two_endpoints() as (one, two):
        connection = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        one._by_id.clear()  # from here on nothing arrives any more, as after a power cut
        before = trio.current_time()
        await connection.closed.wait()
        assert connection.close_reason == "nothing was heard for 30 s"
        assert trio.current_time() - before < 45
        assert one.connection_count == 0


async def test_an_idle_connection_is_kept_alive(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.005
    async with connected() as (outbound, inbound):
        await trio.sleep(200)
        assert not outbound.closed.is_set()
        assert not inbound.closed.is_set()


async def test_an_address_in_use_is_told_to_the_user() -> None:
    async with open_endpoint(ALICE, "127.0.0.1", 0) as endpoint:
        with pytest.raises(UserError, match=r"Cannot listen on UDP 127.0.0.1:\d+.*Choose another"):
            async with open_endpoint(BOB, "127.0.0.1", endpoint.local_address.port):
                pass
    with pytest.raises(UserError, match=r"Cannot listen on UDP nowhere\.invalid"):
        async with open_endpoint(BOB, "nowhere.invalid", 0):
            pass


# Limits


async def test_half_open_handshakes_are_bounded_and_a_flood_is_asked_for_its_address(stack: ExitStack) -> None:
    config = replace(PLAIN, retry_above_half_open=3, max_half_open=5, max_half_open_per_host=4)
    async with open_endpoint(BOB, "127.0.0.1", 0, config) as endpoint:
        strangers = [stack.enter_context(Stranger(endpoint)) for _ in range(20)]
        for stranger in strangers:
            await stranger.send(stranger.hello())
        await until(lambda: endpoint.stats.datagrams_in >= 20)
        assert endpoint.connection_count == 3
        assert endpoint.stats.retries_sent == 17

        async with open_endpoint(ALICE, "127.0.0.1", 0) as honest:
            await honest.dial(endpoint.local_address, BOB.node_id, DEADLINE_S)
        assert endpoint.stats.retries_sent == 18


async def test_one_host_cannot_have_all_half_open_handshakes(stack: ExitStack) -> None:
    config = replace(PLAIN, max_half_open_per_host=2)
    async with open_endpoint(BOB, "127.0.0.1", 0, config) as endpoint:
        stranger = stack.enter_context(Stranger(endpoint))
        for _ in range(5):
            await stranger.send(stranger.hello())
        await until(lambda: endpoint.stats.refused_full == 3)
        assert endpoint.connection_count == 2


async def test_a_handshake_that_does_not_end_is_dropped(
    stack: ExitStack, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.005
    async with open_endpoint(BOB, "127.0.0.1", 0) as endpoint:
        stranger = stack.enter_context(Stranger(endpoint))
        await stranger.send(stranger.hello())
        await until(lambda: endpoint.connection_count == 1)
        await trio.sleep(20)
        assert endpoint.stats.handshakes_late == 1
        assert endpoint.connection_count == 0
        assert endpoint._admission.half_open == 0


async def test_connections_are_bounded() -> None:
    config = replace(PLAIN, max_connections=1)
    async with connected(bob=config) as (outbound, _), open_endpoint(EVE, "127.0.0.1", 0, config) as third:
        with pytest.raises(RemoteError, match="no answer"):
            await third.dial(outbound.remote, BOB.node_id, 0.05)
        with pytest.raises(RemoteError, match="which is its limit"):
            await third.dial(outbound.remote, BOB.node_id, 0.05)


async def test_connections_that_nobody_accepts_are_bounded() -> None:
    config = replace(PLAIN, max_accept_queue=1)
    async with two_endpoints(bob=config) as (one, two):
        first = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        second = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        with trio.fail_after(DEADLINE_S):
            await second.closed.wait()
        assert second.close_reason == "too many connections wait here"
        assert not first.closed.is_set()
        assert two.stats.refused_full == 1


async def test_a_connection_closed_before_it_is_accepted_is_passed_over() -> None:
    async with two_endpoints() as (one, two):
        first = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        await until(lambda: two.stats.accepted == 1)
        await first.aclose("changed my mind")
        await until(lambda: not two.connections)
        await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
        assert not (await two.accept()).closed.is_set()


# What else arrives on the port


async def test_another_version_is_answered_with_ours(stack: ExitStack) -> None:
    async with open_endpoint(BOB, "127.0.0.1", 0) as endpoint:
        stranger = stack.enter_context(Stranger(endpoint))
        hello = bytearray(stranger.hello())
        hello[1:5] = b"\x1a\x2a\x3a\x4a"
        await stranger.send(bytes(hello))
        answer = await stranger.receive()
        assert answer[0] & 0xC0 == 0xC0
        assert answer[1:5] == bytes(4)
        assert answer.endswith(int(QuicProtocolVersion.VERSION_1).to_bytes(4, "big"))
        assert endpoint.connection_count == 0


async def test_datagrams_that_are_not_quic_go_to_the_hook() -> None:
    async with two_endpoints() as (one, two):
        got = []
        one.on_other = lambda data, address: got.append((data, address))
        two.send_other(b"\x00\x01stun", one.local_address)
        await until(lambda: got)
        assert got == [(b"\x00\x01stun", two.local_address)]
        assert one.stats.dropped_other == 1


@pytest.mark.parametrize("seed", range(4))
async def test_garbage_leaves_the_endpoint_working(
    seed: int, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(seed)
    async with open_endpoint(BOB, "127.0.0.1", 0) as endpoint:
        stranger = stack.enter_context(Stranger(endpoint))
        hello = stranger.hello()
        for number in range(200):
            if number % 4 == 0:
                data = bytearray(hello)
                for _ in range(rng.randrange(1, 5)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            else:
                data = bytearray(rng.randbytes(rng.choice((0, 1, 6, 30, 1_200, 1_500))))
                if data and number % 2:
                    data[0] |= 0xC0
                if len(data) > 5 and number % 3:
                    data[1:5] = bytes((0, 0, 0, 1))
            await stranger.send(bytes(data))
        await until(lambda: endpoint.stats.datagrams_in >= 150)
        async with open_endpoint(ALICE, "127.0.0.1", 0) as honest:
            await honest.dial(endpoint.local_address, BOB.node_id, DEADLINE_S)
        assert endpoint.stats.internal_errors == 0


async def test_datagrams_that_cannot_be_sent_are_lost_and_nothing_else() -> None:
    async with connected() as (outbound, inbound):
        endpoint = outbound._touch.__self__  # type: ignore[attr-defined]
        endpoint.send_other(bytes(70_000), inbound.remote)
        endpoint.send_other(b"\x00", Address("255.255.255.255", 9))
        assert endpoint.stats.send_errors == 2
        stream = await outbound.open_stream()
        await stream.send_all(b"still here")
        assert await (await inbound.accept_stream()).receive_some() == b"still here"


async def test_connection_ids_may_change() -> None:
    async with connected() as (outbound, inbound):
        await until(lambda: outbound.core._quic._handshake_confirmed)
        ids = outbound.core._quic._peer_cid.cid, len(inbound.core.host_ids)
        outbound.core._quic.change_connection_id()
        stream = await outbound.open_stream()
        await stream.send_all(b"by another name")
        assert await (await inbound.accept_stream()).receive_some() == b"by another name"
        assert outbound.core._quic._peer_cid.cid != ids[0]
        endpoint = inbound._touch.__self__  # type: ignore[attr-defined]
        await until(lambda: ids[0] not in endpoint._by_id)
        await until(lambda: set(inbound.core.host_ids) <= endpoint._connections[inbound])
        assert len(inbound.core.host_ids) == ids[1]


async def test_finished_connections_and_timers_do_not_pile_up() -> None:
    async with two_endpoints(QuicConfig(), replace(PLAIN, max_accept_queue=64)) as (one, two):
        for _ in range(30):
            connection = await one.dial(two.local_address, BOB.node_id, DEADLINE_S)
            await (await two.accept()).aclose("next")
            with trio.fail_after(DEADLINE_S):
                await connection.closed.wait()
        await until(lambda: not one.connection_count)
        assert not one._by_id
        assert len(one._pump.wakeups._heap) <= 64
        assert one._admission.half_open == two._admission.half_open == 0


def test_an_address_from_port_0_is_not_one() -> None:
    with pytest.raises(ValueError, match="port"):
        to_address(("127.0.0.1", 0))
    assert to_address(("::ffff:192.0.2.1", 5, 0, 0)) == Address("192.0.2.1", 5)
    assert to_address(("fe80::1", 5, 0, 3)) == Address("fe80::1%3", 5)
