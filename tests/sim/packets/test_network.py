"""Virtual UDP by itself."""

from __future__ import annotations

import math

import pytest
import trio

from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.sim.network import LOST, Network
from atmo.sim.packets.network import PacketNetwork, VirtualSocket

ANNA, BERT = NodeId(b"a" * 32), NodeId(b"b" * 32)
AT_ANNA, AT_BERT = ("10.0.0.1", 11_450), ("10.0.0.2", 11_450)


class Delays:
    """A rule that takes its delays from a list."""

    on = True

    def __init__(self, *delays: float) -> None:
        self._delays = list(delays)

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        return self._delays.pop(0)


async def pair(*rules: Delays, buffer_bytes: int = 10_000) -> tuple[PacketNetwork, VirtualSocket, VirtualSocket]:
    network = PacketNetwork(Network(*rules))
    anna = await network.open(ANNA, *AT_ANNA, buffer_bytes)
    return network, anna, await network.open(BERT, *AT_BERT, buffer_bytes)


def arrived(network: PacketNetwork, sock: VirtualSocket, after_s: float = 0.0) -> list[bytes]:
    """Returns what there is to read after so many seconds."""
    network.deliver(trio.current_time() + after_s)
    found = []
    while True:
        try:
            found.append(sock.recvfrom(16_384)[0])
        except BlockingIOError:
            return found


async def test_a_datagram_comes_from_the_address_of_its_sender() -> None:
    network, anna, bert = await pair()
    assert anna.getsockname() == AT_ANNA
    assert anna.sendto(b"one", AT_BERT) == 3
    network.deliver(trio.current_time())
    await bert.wait_readable()
    assert bert.recvfrom(2) == (b"on", AT_ANNA)
    assert (network.stats.sent, network.stats.sent_bytes) == (1, 3)


async def test_a_reader_is_woken() -> None:
    network, anna, bert = await pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bert.wait_readable)
        await trio.testing.wait_all_tasks_blocked()
        anna.sendto(b"one", AT_BERT)
        network.deliver(trio.current_time())


async def test_rules_delay_lose_and_reorder() -> None:
    network, anna, bert = await pair(Delays(1.0, LOST, 0.5))
    for data in (b"late", b"lost", b"soon"):
        anna.sendto(data, AT_BERT)
    assert 0.4 < network.next_arrival - trio.current_time() <= 0.5
    assert arrived(network, bert, 0.75) == [b"soon"]
    assert arrived(network, bert, 1.25) == [b"late"]
    assert network.next_arrival == math.inf
    assert network.stats.lost == 1


async def test_jitter_keeps_the_order() -> None:
    network, anna, bert = await pair(Delays(0.105, 0.1))
    for data in (b"one", b"two"):
        anna.sendto(data, AT_BERT)
    assert arrived(network, bert, 1.0) == [b"one", b"two"]


async def test_what_nobody_takes_is_counted() -> None:
    network, anna, bert = await pair(Delays(0.0, 0.0, 0.0), buffer_bytes=5)
    anna.sendto(b"x", ("10.0.0.9", 1))
    assert network.stats.unreachable == 1
    anna.sendto(b"1234", AT_BERT)
    anna.sendto(b"5678", AT_BERT)
    assert arrived(network, bert, 1.0) == [b"1234"]
    assert network.stats.overflowed == 1
    anna.sendto(b"9", AT_BERT)
    bert.close()
    bert.close()
    assert arrived(network, bert, 1.0) == []
    assert network.stats.unreachable == 2


async def test_who_is_unplugged_is_heard_no_more() -> None:
    network, anna, bert = await pair()
    network.unplug(ANNA)
    anna.sendto(b"x", AT_BERT)
    assert network.stats.sent == 0
    assert arrived(network, bert) == []
    again = await network.open(ANNA, *AT_ANNA, 10)
    anna.close()
    again.sendto(b"y", AT_BERT)
    assert arrived(network, bert) == [b"y"]


async def test_a_port_is_taken_once() -> None:
    network, *_ = await pair()
    with pytest.raises(UserError, match="taken"):
        await network.open(NodeId(b"c" * 32), *AT_ANNA, 10)


async def test_a_new_external_port_takes_the_place_of_the_old_one() -> None:
    network, anna, bert = await pair()
    bert.sendto(b"on its way", AT_ANNA)
    new = network.rebind(ANNA)
    assert new == network.address(ANNA) != AT_ANNA
    assert anna.getsockname() == AT_ANNA, "the node itself does not see it"
    assert arrived(network, anna) == []
    anna.sendto(b"x", AT_BERT)
    network.deliver(trio.current_time())
    assert bert.recvfrom(10) == (b"x", new)
    bert.sendto(b"y", new)
    bert.sendto(b"z", AT_ANNA)
    assert arrived(network, anna) == [b"y"]
    assert network.rebind(ANNA) not in (new, AT_ANNA)
