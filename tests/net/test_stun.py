"""Both sides of STUN: asking, retransmissions, answers nobody asked for; answering, and how much of it."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from atmo.errors import RemoteError
from atmo.net.stun import StunClient, StunConfig, StunServer, StunStats
from atmo.net.stun_message import BindingAnswer, encode_answer, encode_request, open_answer_untrusted, transaction_of
from atmo.wire.address import Address

SERVER, OTHER, ME = Address("11.0.0.1", 3478), Address("12.0.0.1", 3479), Address("9.9.9.9", 40_000)
ME6 = Address("2600::1", 7)
PLAIN = StunConfig()
ID = bytes(12)
REQUEST = encode_request(ID)


class Wire:
    """A client whose requests are seen and may be answered."""

    def __init__(self, config: StunConfig = PLAIN) -> None:
        self.stats = StunStats()
        self.sent: list[tuple[float, bytes, Address]] = []
        self.client = StunClient(self.send, config, self.stats)
        self.answers: list[tuple[bytes | None, Address]] = []

    def send(self, data: bytes, address: Address) -> None:
        self.sent.append((trio.current_time(), data, address))
        for answer, source in self.answers:
            self.client.take_untrusted(answer or encode_answer(transaction_of(data), ME), source)


async def test_an_answer(autojump_clock: MockClock) -> None:
    wire = Wire()
    wire.answers = [(None, SERVER)]
    assert await wire.client.ask(SERVER) == BindingAnswer(ME)
    assert await wire.client.ask(SERVER) == BindingAnswer(ME)
    one, two = (transaction_of(data) for _, data, _ in wire.sent)
    assert one != two
    assert (wire.stats.asked, wire.stats.answers_in, wire.stats.dropped_unasked) == (2, 2, 0)


async def test_retransmissions_are_of_one_request_and_end(autojump_clock: MockClock) -> None:
    wire = Wire()
    began = trio.current_time()
    assert await wire.client.ask(SERVER) is None
    assert [round(at - began, 3) for at, _, _ in wire.sent] == [0, 0.5, 1.5, 3.5, 7.5]
    assert trio.current_time() - began == pytest.approx(11.5)
    assert {(data, address) for _, data, address in wire.sent} == {wire.sent[0][1:]}
    assert (wire.stats.silent, wire.stats.requests_out) == (1, 5)


async def test_an_answer_to_a_retransmission(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        found = []

        async def ask() -> None:
            found.append(await wire.client.ask(SERVER))

        nursery.start_soon(ask)
        await trio.sleep(1)
        wire.answers = [(None, SERVER), (None, SERVER)]
    assert found == [BindingAnswer(ME)]
    assert len(wire.sent) == 3
    assert wire.stats.dropped_unasked == 1, "the second copy"


async def test_answers_that_were_not_asked_for_or_come_from_elsewhere(autojump_clock: MockClock) -> None:
    wire = Wire()
    wire.answers = [(None, OTHER), (encode_answer(ID, ME), SERVER), (b"\1", SERVER)]
    assert await wire.client.ask(SERVER) is None
    assert wire.stats.dropped_unasked == 15
    wire.client.take_untrusted(encode_answer(transaction_of(wire.sent[0][1]), ME), SERVER)
    assert wire.stats.dropped_unasked == 16, "too late"
    assert wire.stats.answers_in == 0


async def test_the_answer_to_a_test_has_to_come_from_the_other_address(autojump_clock: MockClock) -> None:
    wire = Wire()
    wire.answers = [(None, SERVER)]
    assert await wire.client.ask(SERVER, 6, OTHER) is None
    wire.answers = [(None, OTHER)]
    assert await wire.client.ask(SERVER, 6, OTHER) == BindingAnswer(ME)


async def test_answers_that_do_not_decode_are_not_the_end(autojump_clock: MockClock) -> None:
    wire = Wire()

    def garble(data: bytes, address: Address) -> None:
        answer = encode_answer(transaction_of(data), ME)
        wire.client.take_untrusted(answer[:-1], SERVER)
        wire.client.take_untrusted(answer, SERVER)

    wire.client._send = garble
    assert await wire.client.ask(SERVER) == BindingAnswer(ME)
    assert (wire.stats.dropped_malformed, wire.stats.answers_in) == (1, 1)


async def test_refusals(autojump_clock: MockClock) -> None:
    wire = Wire()
    wire.client._send = lambda data, address: wire.client.take_untrusted(b"\1\x11\0\0" + data[4:20], SERVER)
    with pytest.raises(RemoteError, match=r"11\.0\.0\.1:3478 refused"):
        await wire.client.ask(SERVER)
    assert wire.stats.refusals_in == 1


async def test_questions_are_bounded_and_leave_nothing_behind(autojump_clock: MockClock) -> None:
    wire = Wire(StunConfig(pending=2))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(wire.client.ask, SERVER)
        await trio.sleep(0.1)
        with pytest.raises(RemoteError, match="2 STUN servers are asked at once"):
            await wire.client.ask(SERVER)
        nursery.cancel_scope.cancel()
    wire.answers = [(None, SERVER)]
    assert await wire.client.ask(SERVER) == BindingAnswer(ME)
    assert wire.client._pending == {}


# The server


class Served:
    """A server and what it sent."""

    def __init__(self, config: StunConfig = PLAIN) -> None:
        self.stats = StunStats()
        self.out: list[tuple[bytes, Address]] = []
        self.server = StunServer(lambda data, address: self.out.append((data, address)), config, self.stats)

    def ask(self, source: Address = ME, mono: float = 0.0, data: bytes = REQUEST) -> None:
        self.server.take_untrusted(data, source, mono)


@pytest.mark.parametrize("source", [ME, ME6, Address("fe80::1%lo", 7)])
def test_the_server_says_where_it_saw_the_socket(source: Address) -> None:
    served = Served()
    served.ask(source)
    ((data, address),) = served.out
    assert address == source
    assert transaction_of(data) == ID
    assert open_answer_untrusted(data).mapped == Address(source.host.partition("%")[0], source.port)
    assert len(data) <= 3 * len(REQUEST)


@pytest.mark.parametrize(
    "data",
    [
        encode_request(ID, 6),
        REQUEST[:-1],
        b"\0\1",
        REQUEST + b"\0",
        b"\0\1\0\0" + bytes(16),
    ],
)
def test_what_is_no_plain_request_gets_no_answer(data: bytes) -> None:
    served = Served()
    served.ask(data=data)
    assert served.out == []
    assert (served.stats.refused_other, served.stats.served) == (1, 0)


def test_answers_are_no_use_to_who_forges_senders() -> None:
    served = Served(StunConfig(amplification=1))
    served.ask()
    assert (served.out, served.stats.refused_other) == ([], 1)


def test_one_host_gets_no_more_than_its_rate() -> None:
    served = Served()
    for number in range(1_000):
        served.ask(Address(ME.host, 1 + number), mono=number / 1_000)
    assert len(served.out) == pytest.approx(PLAIN.host_burst + PLAIN.host_rate, abs=2)
    served.ask(Address("10.1.1.1", 1), mono=1.0)
    assert served.out[-1][1].host == "10.1.1.1", "others are served"
    assert served.stats.served + served.stats.refused_rate == 1_001
    for number in range(50):
        served.ask(Address(f"2600::{number + 1:x}", 1), mono=1.0)
    assert sum(address.host.startswith("2600") for _, address in served.out) == PLAIN.host_burst, "a /64 is a host"


def test_all_hosts_together_get_no_more_than_the_rate_and_cost_bounded_memory() -> None:
    served = Served()
    for number in range(20_000):
        served.ask(Address(f"10.{number // 65_536}.{number // 256 % 256}.{number % 256}", 1), mono=number / 2_000)
    assert len(served.out) == pytest.approx(PLAIN.burst + 10 * PLAIN.rate, abs=2)
    assert len(served.server._hosts) <= PLAIN.hosts


def test_a_host_that_is_forgotten_has_its_whole_allowance_by_then() -> None:
    """The bound of remembered hosts is no way around the rate of one."""
    served = Served()
    mono, mine = 0.0, 0
    for number in range(12_000):
        mono += 1 / 400
        served.ask(Address(f"10.1.{number // 256}.{number % 256}", 1), mono)
        before = len(served.out)
        served.ask(ME, mono)
        mine += len(served.out) - before
    assert mine <= PLAIN.host_burst + PLAIN.host_rate * mono + 1


def test_an_address_that_cannot_be_sent_to() -> None:
    stats = StunStats()

    def fail(data: bytes, address: Address) -> None:
        raise RemoteError("no such scope")

    StunServer(fail, PLAIN, stats).take_untrusted(REQUEST, ME, 0.0)
    assert stats.served == 0


async def test_a_client_and_our_server(autojump_clock: MockClock) -> None:
    stats = StunStats()
    client = StunClient(lambda data, _: server.take_untrusted(data, ME, trio.current_time()), PLAIN, stats)
    server = StunServer(lambda data, _: client.take_untrusted(data, SERVER), PLAIN, stats)
    answers = []
    async with trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            answers.append(await client.ask(SERVER))

        for number in range(10):
            nursery.start_soon(partial(ask, number))
    assert answers == [BindingAnswer(ME)] * 10
    assert (stats.served, stats.answers_in) == (10, 10)
