"""The parts of a relay that do no I/O, or little: addresses, queues, paces, the door."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from atmo.errors import WireError
from atmo.relay.address import RelayAddress
from atmo.relay.door import Door, DoorConfig, Visit
from atmo.relay.outbox import CONTROL_MOST, ROWS_MOST, Outbox, Tank
from atmo.relay.pace import Pace
from atmo.relay.protocol import MESSAGE_BYTES, datagram_ends_untrusted, framed
from atmo.relay.stream import IDLE_BURST_BYTES, RECEIVE_BYTES, GuardedStream
from tests.relay.kit import ALICE, BOB, CAROL

A, B, C = ALICE.node_id, BOB.node_id, CAROL.node_id


@pytest.mark.parametrize(
    ("text", "url", "host", "port", "secure"),
    [
        ("wss://relay.example.org", "wss://relay.example.org/", "relay.example.org", 443, True),
        ("ws://192.168.1.10:11452/relay", "ws://192.168.1.10:11452/relay", "192.168.1.10", 11452, False),
        ("ws://[::1]:80/", "ws://[::1]/", "::1", 80, False),
    ],
)
def test_addresses(text: str, url: str, host: str, port: int, secure: bool) -> None:
    read = RelayAddress.parse_untrusted(text)
    assert (read.url, read.host, read.port, read.secure, read.pinned) == (url, host, port, secure, None)
    pinned = RelayAddress.parse_untrusted(f"{text}#{A}")
    assert pinned.pinned == A
    assert pinned == read, "it is the same relay"
    assert RelayAddress.parse_untrusted(str(pinned)).pinned == A


@pytest.mark.parametrize(
    "text",
    [
        *("", "relay.example.org", "http://a/", "ws://", "ws://a b/", "ws://a:0/", "ws://a:99999/", "ws://u:p@a/"),
        *("ws://a/?q", "ws://a/#short", "ws://ä/", "ws://a\r\nX: y/", "ws://[::1/", "ws://" + "a" * 600),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(WireError):
        RelayAddress.parse_untrusted(text)


async def test_a_queue_takes_turns_and_puts_together_what_goes_to_one_node() -> None:
    box = Outbox(1_000)
    for node, datagram in ((A, b"1"), (B, b"2"), (A, b"3")):
        assert box.put(node, framed(datagram), 1) == 0
    box.put_control(b"first")
    assert await box.next_message() == (b"first", 0)
    message, count = await box.next_message()
    assert (message[1:33], count, len(datagram_ends_untrusted(message))) == (A, 2, 2)
    message, count = await box.next_message()
    assert (message[1:33], count) == (B, 1)
    assert len(box) == 0


async def test_no_message_is_longer_than_allowed_and_nobody_waits_for_one_line() -> None:
    box = Outbox(10 * MESSAGE_BYTES)
    for _ in range(5):
        box.put(A, framed(bytes(30_000)), 1)
    box.put(B, framed(b"x"), 1)
    taken = [(await box.next_message())[0] for _ in range(4)]
    assert [message[1:33] for message in taken] == [A, B, A, A]
    assert all(len(message) <= MESSAGE_BYTES for message in taken)


def test_who_sends_much_loses_its_own() -> None:
    box = Outbox(1_000)
    assert box.put(B, bytes(100), 1) == 0
    assert sum(box.put(A, bytes(100), 1) for _ in range(50)) == 41
    assert box.put(C, bytes(100), 1) == 1, "of the longest line"
    assert box.nodes == [B, A, C]
    assert len(box) == 1_000
    assert box.clear() == 10
    assert len(box) == 0


def test_small_datagrams_are_bounded_by_their_number() -> None:
    box = Outbox(10**9)
    assert sum(box.put(A, b"\0\0\0\1x", 1) for _ in range(ROWS_MOST + 7)) == 7
    assert [box.put_control(b"c") for _ in range(CONTROL_MOST + 1)] == [True] * CONTROL_MOST + [False]


async def test_queues_share_a_tank() -> None:
    tank = Tank(1_000)
    one, two = Outbox(1_000, tank), Outbox(1_000, tank)
    assert one.put(A, bytes(900), 3) == 0
    assert two.put(A, bytes(900), 2) == 2, "the new one, as nothing of its own can go"
    assert two.put(A, bytes(50), 1) == 0
    assert two.put(A, bytes(100), 1) == 1, "its own older one"
    assert tank.bytes == 1_000
    await one.next_message()
    two.clear()
    assert tank.bytes == 0


def test_a_pace() -> None:
    pace = Pace(100.0, 200.0, 0.0)
    assert pace.charge(0.0, 200.0) == 0.0
    assert pace.charge(0.0, 50.0) == pytest.approx(0.5)
    assert pace.charge(0.5, 0.0) == pytest.approx(0.0)
    assert pace.charge(1_000.0, 201.0) == pytest.approx(0.01), "no more than the burst is saved up"
    pace.credit(1_000.0)
    assert pace.charge(1_000.0, 200.0) == 0.0


def test_the_door_counts_hosts_and_all() -> None:
    door = Door(DoorConfig(max_handshakes=3, max_handshakes_per_host=2, max_clients=3, max_clients_per_host=2))
    visits = [door.knock(host, 0.0) for host in ("a", "a", "a", "b", "c")]
    assert visits[2] == "handshakes_per_host"
    assert visits[4] == "handshakes"
    first = visits[0]
    assert isinstance(first, Visit)
    first.settled()
    first.settled()
    assert door.handshakes == 2
    assert isinstance(door.knock("c", 0.0), Visit)
    assert [door.seat(host) for host in ("a", "a", "a", "b", "c")] == [None, None, "clients_per_host", None, "clients"]
    door.left("a")
    assert door.seat("c") is None


def test_the_door_slows_arrivals_and_forgets_hosts() -> None:
    door = Door(DoorConfig(arrivals_per_s=1.0, arrivals_burst=2.0))

    def arrives(host: str, mono: float) -> bool:
        visit = door.knock(host, mono)
        if isinstance(visit, str):
            assert visit == "arrivals"
            return False
        visit.settled()
        return True

    assert [arrives("a", 0.0) for _ in range(3)] == [True, True, False]
    assert arrives("a", 1.0)
    for number in range(10_000):
        arrives(str(number), 1.0)
    assert len(door._arrivals) <= 4_096


async def test_what_is_no_message_is_read_slowly(autojump_clock: MockClock) -> None:
    pings = 2 * int(IDLE_BURST_BYTES)
    for messages, least_s, most_s in ((False, 47.0, 49.0), (True, 0.0, 0.1)):
        sender, receiver = trio.testing.memory_stream_one_way_pair()
        stream = GuardedStream(trio.StapledStream(sender, receiver), pings)
        stream.trust()
        await sender.send_all(bytes(pings))
        began, got = trio.current_time(), 0
        while got < pings:
            got += (size := len(await stream.receive_some(RECEIVE_BYTES)))
            if messages:
                stream.took(size)
        assert least_s <= trio.current_time() - began <= most_s


async def test_a_stranger_has_a_budget() -> None:
    sender, receiver = trio.testing.memory_stream_one_way_pair()
    stream = GuardedStream(trio.StapledStream(sender, receiver), 1_000, first=bytes(400))
    assert len(await stream.receive_some()) == 400
    await sender.send_all(bytes(600))
    assert len(await stream.receive_some(600)) == 600
    await sender.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError, match="too many bytes"):
        await stream.receive_some(1)
