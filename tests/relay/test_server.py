"""The relay against clients that break the rules, read slowly, send too much, or are too many."""

from __future__ import annotations

import random
from contextlib import nullcontext, suppress

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock
from wsproto.events import BytesMessage, Ping

from atmo.errors import UserError
from atmo.relay.door import DoorConfig
from atmo.relay.protocol import (
    ABSENT,
    CLOSE_FULL,
    CLOSE_REFUSED,
    CLOSE_REPLACED,
    DATAGRAMS,
    DRAINING_MESSAGE,
    ClientHandshake,
    absent_message,
    datagrams_message,
    framed,
)
from atmo.relay.server import Relay, RelayConfig, bind
from atmo.relay.session import Session, SessionConfig
from atmo.relay.stream import FRAGMENTS_MOST
from tests.relay.kit import ALICE, BOB, CAROL, closing, member, on_loopback, prove, raw, until, visiting

HELLO = datagrams_message(BOB.node_id, [framed(b"hello")])


def relay(config: RelayConfig = RelayConfig()) -> Relay:
    return Relay(CAROL, config)


async def test_the_source_is_who_proved_it() -> None:
    one = relay()
    async with member(one, ALICE) as alice, member(one, BOB) as bob:
        await alice.send_message(HELLO)
        assert await bob.get_message() == datagrams_message(ALICE.node_id, [framed(b"hello")])


async def answered(one: Relay, answer: bytes | str) -> tuple[int, str]:
    """Says something in place of an answer; returns how that ends."""
    async with visiting(one) as stream, raw(stream) as socket:
        await socket.get_message()
        await socket.send_message(answer)
        return await closing(socket)


@pytest.mark.parametrize("answer", [HELLO, b"", b"\x02garbage", "a text", b"\x02" + bytes(2_000)])
async def test_who_does_not_prove_itself_is_out(answer: bytes | str) -> None:
    one = relay()
    code, _ = await answered(one, answer)
    assert code == CLOSE_REFUSED
    assert one.stats.ended == {"authentication": 1}
    assert (one.stats.authenticated, one.levels.handshakes) == (0, 0)


async def test_a_recorded_answer_is_worth_nothing() -> None:
    one = relay()
    async with visiting(one) as stream, raw(stream) as socket:
        answer = ClientHandshake(ALICE, bytes(32)).answer_untrusted(await socket.get_message())
        await socket.send_message(answer)
        await until(lambda: one.levels.clients)
        code, words = await answered(one, answer)
        assert (code, words) == (CLOSE_REFUSED, "an answer to another challenge")
        assert one.levels.clients == 1, "and its owner stays"


async def test_a_claim_of_anothers_id_is_refused() -> None:
    one = relay()
    async with visiting(one) as stream, raw(stream) as socket:
        answer = ClientHandshake(ALICE, bytes(32)).answer_untrusted(await socket.get_message())
        await socket.send_message(answer.replace(ALICE.node_id, BOB.node_id))
        code, words = await closing(socket)
    assert code == CLOSE_REFUSED
    assert "signature" in words


@pytest.mark.parametrize(
    "message", ["text", b"", bytes([ABSENT]) + BOB.node_id, DRAINING_MESSAGE, bytes([DATAGRAMS]), HELLO + b"x"]
)
async def test_a_malformed_message_ends_the_connection(message: bytes | str) -> None:
    one = relay()
    async with member(one, ALICE) as alice:
        await alice.send_message(message)
        code, _ = await closing(alice)
        assert code == CLOSE_REFUSED
    assert one.stats.ended == {"malformed": 1}
    assert one.levels.clients == 0


async def test_a_message_over_the_limit_ends_the_connection() -> None:
    one = relay()
    async with member(one, ALICE) as alice:
        await alice.send_message(HELLO + bytes(70_000))
        code, _ = await closing(alice)
        assert code == 1009
        await until(lambda: not one.levels.clients)


async def test_a_message_in_empty_pieces_ends_the_connection() -> None:
    one = relay()
    async with member(one, ALICE) as alice:
        for _ in range(FRAGMENTS_MOST // 64 + 1):
            pieces = [alice._wsproto.send(BytesMessage(data=b"", message_finished=False)) for _ in range(64)]
            with suppress(trio.BrokenResourceError):
                await alice._stream.send_all(b"".join(pieces))
        await until(lambda: not one.levels.clients, 5)
    assert one.stats.faults == 0


async def test_the_newer_connection_of_a_node_stays() -> None:
    one = relay()
    async with member(one, BOB) as bob, member(one, ALICE) as older, member(one, ALICE) as newer:
        assert (await closing(older))[0] == CLOSE_REPLACED
        await bob.send_message(datagrams_message(ALICE.node_id, [framed(b"you")]))
        assert await newer.get_message() == datagrams_message(BOB.node_id, [framed(b"you")])
        assert one.levels.clients == 2
    await until(lambda: not one.levels.clients)
    assert one.stats.ended == {"replaced": 1, "left": 2}


async def test_who_is_not_here_is_told_of_but_not_without_end() -> None:
    one = relay(RelayConfig(session=SessionConfig(absent_per_s=0.001)))
    async with member(one, ALICE) as alice:
        await alice.send_message(HELLO)
        for _ in range(9):
            await alice.send_message(HELLO)
        await until(lambda: one.stats.received == 10)
        assert one.stats.absent_told == 0
    one = relay()
    async with member(one, ALICE) as alice:
        for _ in range(100):
            await alice.send_message(HELLO)
        assert await alice.get_message() == absent_message(BOB.node_id)
        await until(lambda: one.stats.received == 100)
        assert 40 <= one.stats.absent_told <= 60
        assert one.stats.dropped == {"absent": 100}


async def test_a_flood_is_taken_at_the_rate_and_no_faster(autojump_clock: MockClock) -> None:
    rate = 100_000.0
    one = relay(RelayConfig(session=SessionConfig(bytes_per_s=rate)))
    body = framed(bytes(10_000))
    async with member(one, ALICE) as alice, member(one, BOB), trio.open_nursery() as nursery:

        async def flood() -> None:
            for _ in range(1_000):
                await alice.send_message(datagrams_message(BOB.node_id, [body]))

        began = trio.current_time()
        nursery.start_soon(flood)
        await trio.sleep(20)
        passed = trio.current_time() - began
        most = rate * (1.0 + passed) + len(body) + 100
        assert 0.9 * rate * passed < one.stats.received_bytes <= most
        assert one.stats.paused_s > 15
        nursery.cancel_scope.cancel()


async def test_small_datagrams_are_paced_by_their_number(autojump_clock: MockClock) -> None:
    one = relay(RelayConfig(session=SessionConfig(datagrams_per_s=100.0)))
    async with member(one, ALICE) as alice, member(one, BOB), trio.open_nursery() as nursery:

        async def flood() -> None:
            for _ in range(5_000):
                await alice.send_message(HELLO)

        nursery.start_soon(flood)
        await trio.sleep(9)
        assert 150 < one.stats.received <= 10 * 100 / 5 + 1, "a message counts as four more"
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_loses_datagrams_and_nobody_waits_for_it() -> None:
    session = SessionConfig(bytes_per_s=1e12, datagrams_per_s=1e12, queue_bytes=200_000)
    one = relay(RelayConfig(session=session))
    highest = 0
    async with on_loopback(one) as port, member(one, ALICE) as alice, member(one, CAROL) as carol:
        async with raw(await trio.open_tcp_stream("127.0.0.1", port)) as bob:
            await prove(bob, BOB)
            body = framed(bytes(50_000))
            for _ in range(400):
                await alice.send_message(datagrams_message(BOB.node_id, [body]))
                await trio.lowlevel.checkpoint()
                highest = max(highest, one.levels.queued_bytes)
            await alice.send_message(datagrams_message(CAROL.node_id, [framed(b"and you?")]))
            assert await carol.get_message() == datagrams_message(ALICE.node_id, [framed(b"and you?")])
            assert highest <= 200_000
            assert one.stats.dropped["queue"] > 200
            assert (await bob.get_message())[:1] == bytes([DATAGRAMS]), "what was not lost comes"
    assert one.levels.queued_bytes == 0


async def test_half_open_handshakes_end_and_are_bounded(autojump_clock: MockClock) -> None:
    one = relay(RelayConfig(door=DoorConfig(max_handshakes_per_host=2)))
    async with visiting(one), visiting(one) as second:
        await second.send_all(b"GET / HTTP/1.1\r\nHo")
        await trio.testing.wait_all_tasks_blocked()
        assert one.levels.handshakes == 2
        async with visiting(one) as third:
            assert await third.receive_some(1) == b""
        assert one.stats.refused == {"handshakes_per_host": 1}
        async with member(one, ALICE, host="10.0.0.2"):
            await trio.sleep(RelayConfig().handshake_s + 0.1)
            assert one.levels.handshakes == 0
            assert one.stats.ended == {"late": 2}
            assert one.levels.clients == 1, "who has proved itself has all the time"


async def test_clients_of_one_host_are_bounded() -> None:
    one = relay(RelayConfig(door=DoorConfig(max_clients_per_host=1)))
    async with member(one, ALICE), visiting(one) as stream, raw(stream) as bob:
        await bob.send_message(ClientHandshake(BOB, bytes(32)).answer_untrusted(await bob.get_message()))
        assert (await closing(bob))[0] == CLOSE_FULL
        async with member(one, BOB, host="10.0.0.2"):
            assert one.levels.clients == 2
    assert one.stats.refused == {"clients_per_host": 1}


async def test_who_says_nothing_more_is_given_up(autojump_clock: MockClock) -> None:
    one = relay()
    async with trio.open_nursery() as nursery, visiting(one) as stream:
        nursery.start_soon(one.keep)
        async with trio.open_nursery() as inner:

            async def come() -> None:
                async with raw(stream) as alice:
                    await prove(alice, ALICE)

            inner.start_soon(come)  # and its reader, which answers pings, ends
        await until(lambda: not one.levels.clients, 120)
        nursery.cancel_scope.cancel()
    assert one.stats.ended.total() == 1


async def asked(one: Relay, request: bytes) -> bytes:
    async with visiting(one) as stream:
        await stream.send_all(request)
        answer = b""
        while data := await stream.receive_some(65_536):
            answer += data
        return answer


@pytest.mark.parametrize("proved", [True, False])
async def test_garbage_ends_connections_and_nothing_else(proved: bool, autojump_clock: MockClock) -> None:
    one = relay(RelayConfig(door=DoorConfig(arrivals_burst=1_000.0)))
    chance = random.Random(7)
    opening = [b"", b"\x82\xfe", b"\x88\x82" + bytes(4), b"\x89\x80" + bytes(4), b"\x02\x80" + bytes(4), b"\x80\x80"]
    for _ in range(100):
        garbage = b"".join(chance.choice(opening) for _ in range(3)) + chance.randbytes(chance.randrange(200))
        async with visiting(one) as stream:
            async with raw(stream) if proved else nullcontext() as alice:
                if alice is not None:
                    await prove(alice, ALICE)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_all(garbage)
    assert (one.stats.faults, one.levels.clients, one.levels.handshakes) == (0, 0, 0)
    assert one.stats.ended.total() == 100


async def test_frames_after_the_end_do_no_harm() -> None:
    one = relay()
    async with member(one, ALICE) as alice:
        frames = alice._wsproto.send(BytesMessage(data=b"bad")) + alice._wsproto.send(Ping(payload=b"")) * 20
        await alice._stream.send_all(frames)
        await until(lambda: not one.levels.clients)
    assert one.stats.ended == {"malformed": 1}
    assert one.stats.faults == 0


async def test_metrics_can_be_read() -> None:
    one = relay()
    async with member(one, ALICE) as alice:
        await alice.send_message(HELLO)
        await until(lambda: one.stats.received)
        head, _, body = (await asked(one, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["atmo_relay_clients",] == 1
    assert samples["atmo_relay_received_datagrams_total",] == 1
    assert samples["atmo_relay_dropped_datagrams_total", "absent"] == 1
    assert samples["atmo_relay_authenticated_clients_total",] == 1


@pytest.mark.parametrize(
    ("request_line", "status", "ended"),
    [
        (b"GET /health HTTP/1.1", b"200", "http"),
        (b"HEAD /metrics HTTP/1.1", b"200", "http"),
        (b"GET /health?x=1 HTTP/1.1", b"200", "http"),
        (b"POST /metrics HTTP/1.1", b"405", "http"),
        (b"GET / HTTP/1.1", b"404", "http"),
        (b"GET /other HTTP/1.1\r\nUpgrade: websocket", b"404", "http"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1", b"", "not_http"),
        (b"\x16\x03\x01 not http", b"", "not_http"),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8", b"400", "late"),
    ],
)
async def test_plain_requests(request_line: bytes, status: bytes, ended: str, autojump_clock: MockClock) -> None:
    one = relay()
    answer = await asked(one, request_line + b"\r\nHost: a\r\n\r\n")
    assert answer[9:12] == status
    assert one.stats.ended == {ended: 1}
    assert one.stats.faults == 0


async def test_an_error_of_the_program_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = relay()
    async with member(one, ALICE) as alice, member(one, BOB) as bob:
        monkeypatch.setattr(Session, "deliver", None)
        await alice.send_message(HELLO)
        await closing(alice)
        assert one.stats.faults == 1
        assert "error of this program" in caplog.text
        await bob.send_message(datagrams_message(ALICE.node_id, [framed(b"x")]))
        assert await bob.get_message() == absent_message(ALICE.node_id)


async def test_draining_tells_and_then_ends(autojump_clock: MockClock) -> None:
    one = relay()
    async with member(one, ALICE) as alice, trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(one.drain)
        assert await alice.get_message() == DRAINING_MESSAGE
        async with visiting(one) as stream, raw(stream) as late:
            await late.send_message(ClientHandshake(BOB, bytes(32)).answer_untrusted(await late.get_message()))
            assert (await closing(late))[0] == CLOSE_FULL
        assert b"503" in await asked(one, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await closing(alice))[0] == 1001
        assert trio.current_time() - began == pytest.approx(RelayConfig().drain_s, abs=1)
    assert one.stats.ended["drained"] == 1


async def test_a_taken_port_is_a_users_error() -> None:
    listener = bind("127.0.0.1", 0, 65_536)[0]
    port = listener.socket.getsockname()[1]
    with pytest.raises(UserError, match="in use"):
        bind("127.0.0.1", port, 65_536)
    await listener.aclose()
    with pytest.raises(UserError, match="Cannot listen"):
        bind("no.such.host.invalid", 0, 65_536)
