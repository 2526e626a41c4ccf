"""The client: a home relay, what becomes of it, and connections to relays of others."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from atmo.errors import WireError
from atmo.relay.address import RELAYS_MOST, RelayAddress
from atmo.relay.client import RelayClient, RelayClientConfig
from atmo.relay.door import DoorConfig
from atmo.relay.link import LinkConfig
from atmo.relay.protocol import datagrams_message, framed
from atmo.relay.server import RelayConfig
from atmo.relay.session import SessionConfig
from tests.relay.kit import ALICE, BOB, CAROL, Harbour, Node, harbour, member, until

ONE, TWO, THREE = (f"ws://{name}.example/" for name in ("one", "two", "three"))
CONFIG = RelayClientConfig(link=LinkConfig(queue_bytes=10_000), others_most=1)


def address(url: str) -> RelayAddress:
    return RelayAddress.parse_untrusted(url)


async def started(nursery: trio.Nursery, place: Harbour, node: Node, *urls: str) -> RelayClient:
    client = node.use(place, *urls, config=CONFIG)
    nursery.start_soon(client.run)
    await until(lambda: node.home)
    return client


async def test_datagrams_go_both_ways(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        relay = place.open(ONE)
        alice, bob = Node(ALICE), Node(BOB)
        one, two = await started(nursery, place, alice, ONE), await started(nursery, place, bob, ONE)
        for number in range(3):
            assert one.send(BOB.node_id, b"ping %d" % number)
        await until(lambda: len(bob.got) == 3)
        assert bob.got == [(ALICE.node_id, b"ping %d" % number, ONE) for number in range(3)]
        assert two.send(ALICE.node_id, bytes(65_536))
        await until(lambda: alice.got)
        assert alice.got == [(BOB.node_id, bytes(65_536), ONE)]
        assert alice.states[-1].relay == relay.node_id
        assert (relay.stats.received, relay.stats.sent, relay.stats.dropped.total()) == (4, 4, 0)


async def test_what_goes_to_one_node_at_once_shares_messages(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice, bob = Node(ALICE), Node(BOB)
        one, _ = await started(nursery, place, alice, ONE), await started(nursery, place, bob, ONE)
        sent = [bytes([number]) * 100 for number in range(50)]
        for datagram in sent:
            one.send(BOB.node_id, datagram)
        await until(lambda: len(bob.got) == 50)
        assert [data for _, data, _ in bob.got] == sent


async def test_a_node_that_is_not_there_is_told_of(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice = Node(ALICE)
        one = await started(nursery, place, alice, ONE)
        one.send(CAROL.node_id, b"anyone?")
        await until(lambda: alice.absent)
        assert alice.absent == [(CAROL.node_id, ONE)]


async def test_a_relay_that_floods_is_read_slowly(autojump_clock: MockClock) -> None:
    config = RelayClientConfig(link=LinkConfig(read_bytes_per_s=10_000.0))
    async with harbour() as (place, nursery):
        relay = place.open(ONE)
        bob = Node(BOB)
        nursery.start_soon(bob.use(place, ONE, config=config).run)
        await until(lambda: bob.home)
        async with member(relay, ALICE) as alice:
            for _ in range(100):
                await alice.send_message(datagrams_message(BOB.node_id, [framed(bytes(1_000))]))
                await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await until(lambda: len(bob.got) == 100)
        assert trio.current_time() - began > 5


async def test_without_a_home_nothing_is_kept(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        alice = Node(ALICE)
        client = alice.use(place, ONE)
        assert not client.send(BOB.node_id, b"too early")
        assert not client.send(BOB.node_id, b"too early", address(TWO))
        nursery.start_soon(client.run)
        await until(lambda: alice.states)
        assert not client.send(BOB.node_id, b"nobody listens")
        assert client.stats.dropped == 3
        assert "cannot be reached: Connection refused" in alice.states[-1].reason


@pytest.mark.parametrize("size", [0, 65_537])
async def test_what_is_no_datagram_is_refused(size: int, autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        client = await started(nursery, place, Node(ALICE), ONE)
        with pytest.raises(WireError):
            client.send(BOB.node_id, bytes(size))


async def test_it_moves_when_its_relay_dies(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        place.open(TWO)
        alice = Node(ALICE)
        await started(nursery, place, alice, ONE, TWO)
        assert alice.home == ONE
        began = trio.current_time()
        place.kill(ONE)
        await until(lambda: alice.home == TWO)
        assert trio.current_time() - began < 1.0
        assert [state.home and state.home.url for state in alice.states] == [ONE, None, TWO]


async def test_it_comes_back_when_its_relay_was_restarted(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice = Node(ALICE)
        await started(nursery, place, alice, ONE)
        place.kill(ONE)
        await trio.sleep(600)
        assert alice.home is None
        tried = len(place.dials)
        assert 600 / 60 <= tried <= 40, "the pauses grow, but not over a minute"
        place.open(ONE)
        await until(lambda: alice.home == ONE, 60)


async def test_a_relay_that_drains_is_left_for_the_next_without_a_gap(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        first, second = place.open(ONE), place.open(TWO)
        alice = Node(ALICE)
        await started(nursery, place, alice, ONE, TWO)
        began = trio.current_time()
        await first.drain()
        assert trio.current_time() - began < RelayConfig().drain_s, "it does not wait for the last moment"
        assert [state.home and state.home.url for state in alice.states] == [ONE, TWO]
        assert (first.levels.clients, second.levels.clients) == (0, 1)


async def test_with_one_relay_it_stays_until_that_has_drained(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        relay = place.open(ONE)
        alice = Node(ALICE)
        await started(nursery, place, alice, ONE)
        await relay.drain()
        await until(lambda: alice.home is None)
        assert "this relay ends" in alice.states[-1].reason or "no room" in alice.states[-1].reason
        assert relay.stats.ended["drained"] == 1


async def test_a_silent_relay_is_given_up(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE, config=RelayConfig(session=SessionConfig(ping_s=1_000.0)))
        alice = Node(ALICE)
        await started(nursery, place, alice, ONE)
        await until(lambda: alice.home is None, 120)
        assert "nothing was heard" in alice.states[-1].reason


async def test_pings_keep_an_idle_client(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        relay = place.open(ONE)
        alice = Node(ALICE)
        await started(nursery, place, alice, ONE)
        await trio.sleep(3_600)
        assert len(alice.states) == 1
        assert relay.levels.clients == 1


async def test_a_full_relay_is_passed_over(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        full = place.open(ONE, config=RelayConfig(door=DoorConfig(max_clients=1)))
        place.open(TWO)
        alice, bob = Node(ALICE), Node(BOB)
        await started(nursery, place, alice, ONE, TWO)
        await started(nursery, place, bob, ONE, TWO)
        assert (alice.home, bob.home) == (ONE, TWO)
        assert full.stats.refused == {"clients": 1}


async def test_the_pinned_relay_or_none(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE, signer=CAROL)
        alice, bob = Node(ALICE), Node(BOB)
        await started(nursery, place, alice, f"{ONE}#{CAROL.node_id}")
        client = bob.use(place, f"{ONE}#{ALICE.node_id}")
        nursery.start_soon(client.run)
        await until(lambda: bob.states)
        assert bob.home is None
        assert "not the expected" in bob.states[-1].reason


async def test_two_processes_with_one_key_do_not_throw_each_other_out_for_ever(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        relay = place.open(ONE)
        first, second = Node(ALICE), Node(ALICE)
        await started(nursery, place, first, ONE)
        await started(nursery, place, second, ONE)
        await until(lambda: first.home is None)
        await trio.sleep(50)
        assert second.home == ONE
        assert relay.stats.ended["replaced"] == 1


async def test_a_node_with_another_home_is_reached_over_its_relay_and_answers_there(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        relay = place.open(TWO)
        alice, bob = Node(ALICE), Node(BOB)
        one, two = await started(nursery, place, alice, ONE), await started(nursery, place, bob, TWO)
        assert one.send(BOB.node_id, b"hello", address(TWO))
        await until(lambda: bob.got)
        source, data, where = bob.got[0]
        assert (source, data, where) == (ALICE.node_id, b"hello", TWO)
        assert two.send(source, b"back", address(where))
        await until(lambda: alice.got)
        assert alice.got == [(BOB.node_id, b"back", TWO)]
        assert len(one.others) == 1
        await until(lambda: not one.others, CONFIG.other_idle_s + 1)
        assert relay.levels.clients == 1


async def test_other_connections_are_bounded_and_failures_are_told(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice = Node(ALICE)
        one = await started(nursery, place, alice, ONE)
        assert one.send(BOB.node_id, b"a", address(TWO))
        assert not one.send(BOB.node_id, b"a", address(THREE)), "there may be one"
        await until(lambda: alice.absent)
        assert alice.absent == [(BOB.node_id, TWO)]
        assert not one.send(BOB.node_id, b"a", address(TWO)), "it failed a moment ago"
        await trio.sleep(CONFIG.other_retry_s)
        place.open(TWO)
        assert one.send(BOB.node_id, b"a", address(TWO))


async def test_another_relay_becomes_home(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        two = place.open(TWO)
        alice = Node(ALICE)
        client = await started(nursery, place, alice, ONE, TWO)
        client.send(BOB.node_id, b"a", address(TWO))
        await until(lambda: two.levels.clients == 1)
        place.kill(ONE)
        await until(lambda: alice.home == TWO)
        await trio.sleep(100)
        assert not client.others
        assert alice.home == TWO
        assert two.stats.ended["replaced"] == 0


async def test_a_queue_that_is_full_drops_the_oldest(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice, bob = Node(ALICE), Node(BOB)
        one, _ = await started(nursery, place, alice, ONE), await started(nursery, place, bob, ONE)
        for number in range(20):
            one.send(BOB.node_id, bytes([number]) * 1_000)
        await until(lambda: bob.got)
        await trio.sleep(1)
        assert [data[0] for _, data, _ in bob.got] == list(range(11, 20))
        assert one.stats.dropped == 11


async def test_cancelling_says_goodbye(autojump_clock: MockClock) -> None:
    async with harbour() as (place, _):
        relay = place.open(ONE)
        alice = Node(ALICE)
        client = alice.use(place, ONE)
        async with trio.open_nursery() as own:
            own.start_soon(client.run)
            await until(lambda: alice.home)
            own.cancel_scope.cancel()
        await until(lambda: not relay.levels.clients)
        assert relay.stats.ended == {"left": 1}


async def test_no_relays_and_too_many(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice = Node(ALICE)
        client = alice.use(place)
        nursery.start_soon(client.run)
        await trio.testing.wait_all_tasks_blocked()
        assert client.send(BOB.node_id, b"a", address(ONE))
        with pytest.raises(ValueError, match="more than 16"):
            alice.use(place, *(f"ws://{number}.example/" for number in range(RELAYS_MOST + 1)))


class Frozen(trio.abc.Stream):
    """A stream from which nothing comes any more once it is frozen."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.frozen = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if self.frozen:
            await trio.sleep_forever()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_after_a_change_of_network_a_relay_that_answers_stays_and_one_that_does_not_is_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        streams: list[Frozen] = []
        connect = place.connect

        async def freezable(address: RelayAddress) -> trio.abc.Stream:
            streams.append(Frozen(await connect(address)))
            return streams[-1]

        monkeypatch.setattr(place, "connect", freezable)
        alice = Node(ALICE)
        client = await started(nursery, place, alice, ONE)
        client.network_changed(["192.0.2.1"])
        await trio.sleep(10.0)
        assert len(alice.states) == 1
        streams[0].frozen = True
        client.network_changed(["192.0.2.2"])
        await until(lambda: alice.home is None, CONFIG.link.doubt_s + 1.0)
        assert "network changed" in alice.states[-1].reason
        await until(lambda: alice.home is not None)
        assert len(streams) == 2


async def test_a_connection_of_an_address_that_is_gone_is_made_anew_at_once(autojump_clock: MockClock) -> None:
    async with harbour() as (place, nursery):
        place.open(ONE)
        alice = Node(ALICE)
        client = await started(nursery, place, alice, ONE)
        assert client._home is not None
        client._home.host = "192.0.2.1"
        client.network_changed(["192.0.2.1", "192.0.2.2"])
        await trio.sleep(5.0)
        assert len(alice.states) == 1
        client.network_changed(["192.0.2.2"])
        await until(lambda: len(alice.states) == 3, 1.0)
        assert "192.0.2.1" in alice.states[1].reason
        assert alice.home is not None


async def test_a_node_that_waits_to_try_again_does_so_at_once_when_the_network_changed(
    autojump_clock: MockClock,
) -> None:
    async with harbour() as (place, nursery):
        alice = Node(ALICE)
        client = alice.use(place, ONE, config=CONFIG)
        nursery.start_soon(client.run)
        await trio.sleep(500.0)
        place.open(ONE)
        client.network_changed([])
        await until(lambda: alice.home, 0.5)
