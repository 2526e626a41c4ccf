"""What a flood from forged addresses gets out of an endpoint: little more than silence, and no memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from atmo.errors import RemoteError
from atmo.identity import Signer
from atmo.net.certificate import make_credentials
from atmo.net.connection import Connection
from atmo.net.quic import Endpoint, QuicConfig, open_endpoint
from atmo.net.quic_core import QuicCore, SocketAddress
from atmo.net.stun import StunConfig, StunServer, StunStats
from atmo.net.stun_message import encode_request
from atmo.reach.config import PathsConfig
from atmo.reach.probe import NONCE_BYTES, PROBE, PROBE_BYTES, Key, seal_probe
from atmo.wire.address import Address
from tests.net.loopback import DEADLINE_S, until
from tests.net.pair import ALICE, BOB, EVE
from tests.net.spoof import RATIO, Internet, host

HERE = ("203.0.113.1", 7)
HERE_ADDRESS = Address(*HERE)
PLAIN = QuicConfig()


@asynccontextmanager
async def endpoint(internet: Internet, config: QuicConfig = PLAIN) -> AsyncIterator[Endpoint]:
    """Bob's, of whom nothing is known to the attacker but the address and the id."""
    async with open_endpoint(BOB, *HERE, config, internet.open) as found:
        yield found


def client(signer: Signer = EVE) -> QuicCore:
    core = QuicCore(make_credentials(signer), PLAIN, datagram_bytes=1_200, expected=BOB.node_id)
    core.connect(HERE, 0.0)
    return core


def hello() -> bytes:
    """The first packet of a handshake that would end well."""
    return client().transmit(0.0)[0][0]


def refused_hello() -> bytes:
    """That of a handshake which ends at once: it speaks another protocol."""
    core = QuicCore(make_credentials(EVE), PLAIN, datagram_bytes=1_200, expected=BOB.node_id)
    core._quic._configuration.alpn_protocols = ["other/1"]
    core.connect(HERE, 0.0)
    return core.transmit(0.0)[0][0]


def another_version() -> bytes:
    data = hello()
    return data[:1] + b"\x1a\x2a\x3a\x4a" + data[5:]


def long_ids_of_another_version() -> bytes:
    """What RFC 8999 allows: ids of 255 bytes, which the answer repeats."""
    return (b"\xc0\x1a\x2a\x3a\x4a\xff" + bytes(255) + b"\xff" + bytes(255)).ljust(1_200, b"\0")


KINDS: dict[str, Callable[[], bytes]] = {
    "hello": hello,
    "refused hello": refused_hello,
    "another version": another_version,
    "long ids": long_ids_of_another_version,
    "STUN": lambda: encode_request(os.urandom(12)),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_no_forged_address_gets_three_times_what_came_in_its_name(kind: str, autojump_clock: MockClock) -> None:
    internet, make = Internet(), KINDS[kind]
    async with endpoint(internet) as bob:
        server = StunServer(bob.send_other, StunConfig(), StunStats())
        bob.on_other = lambda data, source: server.take_untrusted(data, source, trio.current_time())
        victims: list[SocketAddress] = [(host(number), 53) for number in range(60)]
        for victim in victims:  # more than `retry_above_half_open`: the later ones get a Retry
            internet.carry(make(), victim, HERE)
        await trio.sleep(60)  # retransmissions, the end of the handshake, and its last words
        assert bob.connection_count == 0
        assert bob.stats.bytes_out > 0
        assert max(internet.factor(victim) for victim in victims) <= RATIO
        if kind == "hello":
            assert bob.stats.retries_sent == 60 - PLAIN.retry_above_half_open


@pytest.mark.parametrize("after_s", [0.0, 10.01])
async def test_a_handshake_that_was_closed_is_no_amplifier(after_s: float, autojump_clock: MockClock) -> None:
    """Whoever begins a handshake knows an id of it, and nine bytes name it: RFC 9000 section 10.2.1."""
    internet, victim = Internet(), ("198.51.100.9", 53)
    async with endpoint(internet) as bob:
        first = refused_hello() if after_s == 0.0 else hello()
        internet.carry(first, victim, HERE)
        await trio.sleep(after_s + 0.01)
        assert bob.connection_count == 1
        for _ in range(300):
            internet.carry(b"\x40" + first[6 : 6 + first[5]], victim, HERE)
            await trio.sleep(0.001)
        assert bob.connection_count == 1, "it is still there to answer"
        assert internet.factor(victim) <= RATIO


async def test_handshakes_that_fail_at_once_take_no_more_memory_than_others(autojump_clock: MockClock) -> None:
    internet = Internet()
    async with endpoint(internet) as bob, open_endpoint(ALICE, "203.0.113.2", 7, PLAIN, internet.open) as alice:
        for number in range(400):
            internet.carry(refused_hello(), (host(number), 53), HERE)
            await trio.sleep(0.0005)
            assert bob.connection_count <= PLAIN.retry_above_half_open
        assert bob.stats.retries_sent > 100
        await alice.dial(HERE_ADDRESS, BOB.node_id, DEADLINE_S)
        await trio.sleep(60)
        assert bob.connection_count == 1
        assert bob._admission.half_open == 0
        assert not bob._admission._handshakes


async def test_first_packets_that_are_garbage_soon_cost_no_key_any_more(autojump_clock: MockClock) -> None:
    internet = Internet()
    async with endpoint(internet) as bob, open_endpoint(ALICE, "203.0.113.2", 7, PLAIN, internet.open) as alice:
        first = hello()
        for number in range(1_000):
            garbage = first[:6] + os.urandom(8) + first[14:]  # the keys are made of the id
            internet.carry(garbage, (host(number), 53), HERE)
        await until(lambda: bob.stats.datagrams_in == 1_000)
        assert bob.stats.dropped_malformed <= PLAIN.broken_burst + 2
        assert bob.stats.retries_sent >= 1_000 - PLAIN.broken_burst - 2
        assert bob.connection_count == 0
        await alice.dial(HERE_ADDRESS, BOB.node_id, DEADLINE_S)  # at the price of a round trip
        retries = bob.stats.retries_sent
        await trio.sleep(PLAIN.wary_s)
        await alice.dial(HERE_ADDRESS, BOB.node_id, DEADLINE_S)
        assert bob.stats.retries_sent == retries


async def test_strangers_leave_room_for_what_a_node_dials(autojump_clock: MockClock) -> None:
    internet, config = Internet(), QuicConfig(max_connections=16, max_incoming_per_host=64)
    async with endpoint(internet, config) as bob, open_endpoint(EVE, "203.0.113.3", 7, PLAIN, internet.open) as eve:
        async with open_endpoint(ALICE, "203.0.113.2", 7, PLAIN, internet.open):
            for _ in range(14):
                await eve.dial(HERE_ADDRESS, BOB.node_id, DEADLINE_S)
            with pytest.raises(RemoteError, match="no answer"):
                await eve.dial(HERE_ADDRESS, BOB.node_id, 1.0)
            for _ in range(2):
                await bob.dial(Address("203.0.113.2", 7), ALICE.node_id, DEADLINE_S)
            assert bob.stats.refused_full > 0


@pytest.mark.parametrize("size", [0, 1, 4, 7])
async def test_a_first_packet_with_a_short_id_begins_nothing(size: int, autojump_clock: MockClock) -> None:
    internet = Internet()
    async with endpoint(internet) as bob:
        core = client()
        core._quic._peer_cid.cid = core._quic._original_destination_connection_id = os.urandom(size)
        core._quic._initialize(core._quic._peer_cid.cid)
        core._quic._connect(now=0.0)
        internet.carry(core.transmit(0.0)[0][0], ("198.51.100.9", 53), HERE)
        await until(lambda: bob.stats.datagrams_in == 1)
        assert (bob.connection_count, bob.stats.dropped_unknown, bob._by_id) == (0, 1, {})


async def test_garbage_in_the_form_of_probes_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    internet = Internet()
    async with endpoint(internet) as bob:
        for number in range(5_000):
            size = (0, 1, 51, 52, 8_000, 16_383)[number % 6]
            internet.carry(b"\x99" + os.urandom(16)[:size].ljust(size, b"\x01"), (host(number), 53), HERE)
            if number % 64 == 0:
                await trio.sleep(0.001)
        await until(lambda: bob.stats.datagrams_in == 5_000)
        assert (bob.stats.dropped_probes, bob.stats.probes_in, bob.stats.datagrams_out) == (5_000, 0, 0)
        assert not bob.probing._connections
        assert not bob.probing.seen


@settings(max_examples=60)
@given(datagrams=st.lists(st.binary(max_size=80), max_size=30), first=st.sampled_from([0x00, 0x99, 0x40, 0xC0]))
def test_any_datagrams_are_dropped_and_counted(datagrams: list[bytes], first: int) -> None:
    async def main() -> None:
        internet = Internet()
        async with endpoint(internet) as bob:
            for number, data in enumerate(datagrams):
                internet.carry(bytes([first]) + data, (host(number), 53), HERE)
            await until(lambda: bob.stats.datagrams_in == len(datagrams))
            stats = bob.stats
            dropped = stats.dropped_malformed + stats.dropped_other + stats.dropped_probes + stats.dropped_unknown
            assert dropped == len(datagrams)
            assert (bob.connection_count, stats.bytes_out, stats.internal_errors) == (0, 0, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0.001))


# What a member may do: it has a connection, and the key of its probes.


@asynccontextmanager
async def member(internet: Internet) -> AsyncIterator[tuple[Endpoint, Connection, Key]]:
    """Bob's endpoint, his connection from Eve, and the key under which he takes her probes."""
    async with endpoint(internet) as bob, open_endpoint(EVE, "203.0.113.3", 7, PLAIN, internet.open) as eve:
        near = await eve.dial(HERE_ADDRESS, BOB.node_id, DEADLINE_S)
        far = await bob.accept()
        key = bob.probing.offer(far)
        bob.probing.begin(far, eve.probing.offer(near), [])
        yield bob, far, key


async def test_probes_from_thousands_of_addresses_have_few_sent(autojump_clock: MockClock) -> None:
    internet, config = Internet(), PathsConfig()
    async with member(internet) as (_, far, key):
        victims: list[SocketAddress] = [(host(number), 53) for number in range(3_000)]
        for number, victim in enumerate(victims):
            internet.carry(seal_probe(key, PROBE, os.urandom(NONCE_BYTES)), victim, HERE)
            if number % 50 == 0:
                await trio.sleep(0.01)
        await trio.sleep(60)
        steering = far.steering
        assert steering is not None
        assert len(steering.paths.all()) <= config.places
        assert len(steering._places) <= 64
        answered = [victim for victim in victims if internet.went[victim]]
        assert len(answered) <= config.learns + 5  # one more in each `learn_s`
        assert sum(internet.went[victim] for victim in victims) < sum(internet.came[victim] for victim in victims)
        # One reply, and one burst of probes: a place may be the other end's after all.
        assert max(internet.went[victim] for victim in victims) <= (2 + len(config.burst_s)) * PROBE_BYTES
        assert not far.closed.is_set()


async def test_a_padded_probe_has_a_reply_that_is_not(autojump_clock: MockClock) -> None:
    internet, victim = Internet(), ("198.51.100.9", 53)
    async with member(internet) as (_, _, key):
        for _ in range(50):
            internet.carry(seal_probe(key, PROBE, os.urandom(NONCE_BYTES), size=8_192), victim, HERE)
            await trio.sleep(0.001)
        await trio.sleep(5)
        assert 0 < internet.went[victim] < internet.came[victim] / 50


async def test_who_has_everybody_punch_again_and_again_gets_a_few(autojump_clock: MockClock) -> None:
    internet, config = Internet(), PathsConfig()
    async with member(internet) as (bob, far, _):
        victims = [Address(host(number), 53) for number in range(20)]
        steering = bob.probing.begin(far, Key(b"s" * 8, b"k" * 32), victims)
        await trio.sleep(30)
        before, began = bob.stats.datagrams_out, trio.current_time()
        for _ in range(600):
            steering.punch(trio.current_time())
            await trio.sleep(0.1)
        punches = config.punches + (trio.current_time() - began) / config.punches_s
        assert bob.stats.datagrams_out - before <= (punches + 2) * len(victims) * (1 + len(config.burst_s))


async def test_one_liar_is_one_voice_about_where_a_node_is_seen(autojump_clock: MockClock) -> None:
    async with member(Internet()) as (bob, far, _):
        true = Address("9.9.9.9", 9)
        for _ in range(2):
            bob.probing.saw(true)
        for number in range(500):
            bob.probing._seen_by(far, Address(host(number % 20), 53))
        assert bob.probing.seen.most_common(1) == [(true, 2)]
        assert len(bob.probing.seen) == 4
        assert set(bob.probing.seen.values()) == {2, 1}
        bob.probing.forget(far)
        assert bob.probing.seen == {true: 2}


async def test_of_too_many_places_that_others_saw_the_rarest_goes(autojump_clock: MockClock) -> None:
    async with member(Internet()) as (bob, _, _):
        true = Address("9.9.9.9", 9)
        for _ in range(2):
            bob.probing.saw(true)
        for number in range(100):
            bob.probing.saw(Address(host(number), 53))
        assert len(bob.probing.seen) == 16
        assert bob.probing.seen[true] == 2
        assert Address(host(99), 53) in bob.probing.seen


async def test_closing_says_so_once_and_not_to_whoever_asks(autojump_clock: MockClock) -> None:
    """The id of an open connection is seen by everyone on the way."""
    internet, victim = Internet(), ("198.51.100.9", 53)
    async with member(internet) as (_, far, _):
        far.close("done")
        await trio.sleep(0.001)
        before = internet.went[("203.0.113.3", 7)]
        for _ in range(20):
            internet.carry(b"\x40" + far.core.host_ids[0], victim, HERE)
            await trio.sleep(0.0005)
        assert internet.went[victim] == 0
        assert internet.went[("203.0.113.3", 7)] - before <= RATIO * internet.came[victim]
