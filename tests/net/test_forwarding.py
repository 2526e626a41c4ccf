"""Forwarded connections over real sockets: end to end, bounded, without loops, and opaque to those in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.carrier import Allowance, CarrierConfig
from atmo.net.forwarding import FORWARD, ForwardConfig, ForwardHeader
from atmo.net.ports import RequestStream
from atmo.net.quic import Connection
from atmo.net.requests import open_request
from atmo.wire import codec
from atmo.wire.schema import to_wire
from tests.net.chain import Hop, chain
from tests.net.loopback import until

QUICK = ForwardConfig(carrier=CarrierConfig(idle_s=0.3, linger_s=0.05))


async def ask(connection: Connection, body: bytes) -> bytes | None:
    async with open_request(connection, "test/echo/1", {}, 5) as stream:
        await stream.send(body)
        await stream.finish()
        return await stream.receive()


async def test_a_reaches_c_through_b_which_sees_only_ciphertext() -> None:
    async with chain(3) as (anna, bert, cora):
        connection = await anna.reach(bert, cora)
        assert connection.node_id == cora.node_id
        assert connection.path == "forward"
        secret = b"the password is swordfish"
        seen: list[bytes] = []
        carried = RequestSpy(bert, seen)
        carried.install()
        assert await ask(connection, secret) == secret
        assert seen
        assert not any(secret in each for each in seen)
        await until(lambda: len(cora.forwarded) == 1)
        assert cora.forwarded[0].node_id == anna.node_id
        assert bert.forwarder.stats.passed_on == cora.forwarder.stats.accepted == 1
        assert anna.held == 1
        await connection.aclose("done")
        await until(lambda: anna.held == bert.held == 0)
        await until(lambda: cora.forwarded[0].closed.is_set())
        assert cora.forwarded[0].close_reason == "done"


class RequestSpy:
    """Sees the datagrams that a node splices."""

    def __init__(self, hop: Hop, seen: list[bytes]) -> None:
        self.hop, self.seen = hop, seen

    def install(self) -> None:
        for connection in self.hop.links.values():
            for stream in connection._streams.values():
                take = stream.receive_some

                async def spy(max_bytes: int = 65_536, take: Any = take) -> bytes:
                    data: bytes = await take(max_bytes)
                    self.seen.append(data)
                    return data

                stream.receive_some = spy  # type: ignore[method-assign]


async def test_four_hops_carry_and_five_are_refused() -> None:
    async with chain(6) as hops:
        connection = await hops[0].reach(*hops[1:5])
        assert await ask(connection, b"x" * 200_000) == b"x" * 200_000
        with pytest.raises(RemoteError):
            await hops[0].reach(*hops[1:6])
        assert any("more than 4 hops" in reason for reason in hops[1].bad)


async def test_a_node_that_is_not_there_is_told_of() -> None:
    async with chain(3) as (anna, bert, cora):
        with pytest.raises(RemoteError, match="unreachable"):
            await anna.forwarder.dial(anna.nursery, (bert.node_id, NodeId(b"z" * 32)), 5)
        with pytest.raises(RemoteError, match="no link"):
            await anna.forwarder.dial(anna.nursery, (cora.node_id, bert.node_id), 5)
        assert bert.forwarder.stats.unreachable == 1
        await until(lambda: anna.held == bert.held == 0)
        assert not anna.bad + bert.bad + cora.bad


async def test_the_deadline_travels_along_and_ends_a_hop_that_hangs() -> None:
    async with chain(4) as (anna, bert, cora, dora):
        seen: list[int] = []

        async def hang(stream: RequestStream) -> None:
            seen.append(stream.header["deadline_ms"])
            await trio.sleep_forever()

        cora.handlers[FORWARD] = hang
        began = trio.current_time()
        with pytest.raises(RemoteError, match=r"in time|unreachable"):
            await anna.reach(bert, cora, dora, seconds=0.3)
        assert trio.current_time() - began < 2
        assert 0 < seen[0] <= 300
        await until(lambda: anna.held == bert.held == 0)


async def test_a_node_that_lies_about_the_target_is_found_out() -> None:
    async with chain(3) as (anna, bert, cora):
        bert.handlers[FORWARD] = lambda stream: swallow(stream)
        with pytest.raises(RemoteError, match="no answer"):
            await anna.reach(bert, cora, seconds=0.2)
        await until(lambda: anna.held == 0 and not anna.endpoint.connection_count > 1)


async def swallow(stream: RequestStream) -> None:
    await stream.send(codec.encode({"ok": True}))
    while await stream.receive() is not None:
        pass


@pytest.mark.parametrize("answer", [b"\xff", codec.encode(1), codec.encode({"error": "\x1b[2J"}), codec.encode({})])
async def test_an_answer_that_is_none(answer: bytes) -> None:
    async with chain(3) as (anna, bert, cora):

        async def say(stream: RequestStream) -> None:
            await stream.send(answer)

        bert.handlers[FORWARD] = say
        with pytest.raises(RemoteError) as caught:
            await anna.reach(bert, cora)
        assert "\x1b" not in str(caught.value)


def header(target: Hop, *route: Hop, hops: int = 1) -> dict[str, Any]:
    made: dict[str, Any] = to_wire(ForwardHeader(target.node_id, tuple(hop.node_id for hop in route), hops, 1_000))
    return made


async def test_headers_that_no_honest_node_sends_are_faults() -> None:
    async with chain(3) as (anna, bert, cora):
        bad = [
            header(cora),
            header(anna, cora, anna),
            header(bert, cora, bert),
            header(cora, cora, cora),
            header(cora, cora, hops=0),
            header(cora, cora, hops=4),
            {},
            header(cora, cora) | {"route": [1]},
        ]
        for number, fields in enumerate(bad):

            async def send(fields: dict[str, Any] = fields) -> None:
                async with open_request(anna.links[bert.node_id], FORWARD, fields, 5) as stream:
                    await stream.receive()

            with pytest.raises(RemoteError, match="could not read"):
                await send()
            assert len(bert.bad) == number + 1


async def test_a_frame_that_is_no_datagram_is_a_fault_of_who_sent_it() -> None:
    async with chain(3, QUICK) as (anna, bert, cora):

        async def send(fields: dict[str, Any]) -> None:
            async with open_request(anna.links[bert.node_id], FORWARD, fields, 5) as stream:
                assert codec.decode_untrusted(await stream.receive() or b"") == {"ok": True}
                await stream.send(b"x" * 2_000)
                while await stream.receive() is not None:
                    pass

        for fields in (header(bert), header(cora, cora)):
            with pytest.raises(RemoteError):
                await send(fields)
        assert len([reason for reason in bert.bad if "no datagram" in reason]) == 2
        assert not cora.bad
        await until(lambda: bert.held == 0)


async def test_garbage_on_a_path_that_ends_here_is_dropped() -> None:
    async with chain(2) as (anna, bert):
        async with open_request(anna.links[bert.node_id], FORWARD, header(bert), 5) as stream:
            assert codec.decode_untrusted(await stream.receive() or b"") == {"ok": True}
            await stream.send(b"x" * 1_300)
            await stream.send(b"\xff" * 1_300)
            await until(lambda: bert.endpoint.stats.virtual_in == 2)
        assert not bert.bad
        assert not bert.forwarded


async def test_paths_of_one_node_and_of_all_are_bounded() -> None:
    def configure(number: int) -> ForwardConfig:
        return replace(ForwardConfig(), paths_of_one=2, paths=2) if number == 1 else ForwardConfig()

    async with chain(3, configure=configure) as (anna, bert, cora):
        first = await anna.reach(bert, cora)
        await anna.reach(bert, cora)
        with pytest.raises(RemoteError, match="busy"):
            await anna.reach(bert, cora)
        assert bert.forwarder.stats.refused_busy == 1
        await first.aclose("room for another")
        await until(lambda: bert.forwarder._paths.total() == 1)
        await anna.reach(bert, cora)


async def test_a_silent_path_ends_at_every_hop() -> None:
    async with chain(3, QUICK) as (anna, bert, cora):
        connection = await anna.reach(bert, cora)
        await until(lambda: connection.closed.is_set())
        await until(lambda: anna.held == bert.held == 0)
        await until(lambda: not bert.forwarder._paths and not cora.forwarder._paths)


async def test_a_hop_that_vanishes_ends_the_connection() -> None:
    async with chain(3) as (anna, bert, cora):
        connection = await anna.reach(bert, cora)
        await until(lambda: cora.forwarded)
        for each in list(bert.endpoint.connections):
            await each.aclose("power cut")
        await until(lambda: connection.closed.is_set() and cora.forwarded[0].closed.is_set())
        assert "path through" in connection.close_reason


async def test_more_than_the_allowance_is_dropped_and_made_good_by_quic() -> None:
    def configure(number: int) -> ForwardConfig:
        return ForwardConfig(bytes_per_s=60_000) if number == 1 else ForwardConfig()

    async with chain(3, configure=configure) as (anna, bert, cora):
        connection = await anna.reach(bert, cora)
        assert await ask(connection, b"x" * 50_000) == b"x" * 50_000
        assert bert.forwarder.carried.dropped_allowance


def test_an_allowance_fills_again() -> None:
    allowance = Allowance(1_000, 0.0)
    assert allowance.admits(0.0, 1_000)
    assert not allowance.admits(0.5, 501)
    assert allowance.admits(0.5, 500)
    assert not allowance.admits(100.0, 1_001)


async def test_allowances_of_nodes_without_paths_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.forwarding._ALLOWANCES", 4)
    async with chain(2) as (anna, _):
        for number in range(20):
            with anna.forwarder._slot(NodeId(bytes([number] * 32))) as allowance:
                assert allowance is not None
        assert len(anna.forwarder._allowances) <= 4
