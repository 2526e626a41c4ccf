"""Nodes that cannot dial each other meet at a relay, and move to a better path when there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from atmo.errors import RemoteError
from atmo.gossip.records import Hardware
from atmo.identity import NodeId, Signer
from atmo.net.driver import PeerDriver
from atmo.net.quic import open_endpoint
from atmo.net.quic_config import QuicConfig
from atmo.net.relayed import RelayPaths
from atmo.net.udp import DatagramSocket, open_udp
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayClientConfig, RelayState
from atmo.wire.address import Address
from tests.net.test_driver import echo, keep_nothing, new_peer, until
from tests.net.test_reaching import ask
from tests.net.test_steering import Cable
from tests.relay.kit import Harbour, harbour

NOWHERE = Address("127.0.0.1", 9)
HOME = "ws://relay.one:1/"
QUICK = RelayClientConfig(retry_first_s=0.1, move_jitter_s=0.05)


class Machine:
    """A node whose cable is cut: it reaches relays only."""

    def __init__(self, driver: PeerDriver, relayed: RelayPaths, cable: Cable) -> None:
        self.driver, self.relayed, self.cable = driver, relayed, cable

    def path(self, other: Machine) -> str:
        link = self.driver.links.get(other.driver.peer.node_id)
        return link.path if link else ""


def tell(driver: PeerDriver, relayed: RelayPaths, state: RelayState) -> None:
    driver.peer.publish_relay(driver.now(), relayed.home())
    driver.kick()


@asynccontextmanager
async def machines(sea: Harbour, nursery: trio.Nursery, homes: dict[str, list[str]]) -> AsyncIterator[list[Machine]]:
    made: list[Machine] = []

    async def run(name: str, urls: list[str], ready: trio.Event) -> None:
        signer = Signer(name.encode().ljust(32))
        cables: list[Cable] = []

        async def plug(host: str, port: int, buffer_bytes: int) -> DatagramSocket:
            cables.append(Cable(await open_udp(host, port, buffer_bytes)))
            cables[0].cut = True
            return cables[0]  # type: ignore[return-value]

        config = QuicConfig(loopback_datagram_bytes=1_200)
        async with open_endpoint(signer, "127.0.0.1", 0, config, plug) as endpoint, trio.open_nursery() as own:
            driver = PeerDriver(endpoint, new_peer(signer), keep_nothing, lambda: 0)
            driver.peer.publish_node(driver.now(), name, [endpoint.local_address], "0", Hardware())
            driver.handle("test/echo/1", echo)
            relays = [RelayAddress.parse_untrusted(url) for url in urls]
            relayed = RelayPaths(endpoint, signer, relays, QUICK, sea.connect)
            relayed.changed.append(partial(tell, driver, relayed))
            driver.use_relays(relayed)
            await own.start(driver.run)
            own.start_soon(relayed.run)
            await until(lambda: not urls or relayed.home())
            made.append(Machine(driver, relayed, cables[0]))
            ready.set()

    for name, urls in homes.items():
        ready = trio.Event()
        nursery.start_soon(run, name, urls, ready)
        await ready.wait()
    yield made


def meet(one: Machine, two: Machine) -> None:
    """Hands a node's record over, as on joining; it tells the relay."""
    one.driver.peer.load_records(one.driver.now(), two.driver.peer.node_records()[:1])
    one.driver.kick()


async def test_two_nodes_meet_at_a_relay_and_find_the_better_path() -> None:
    async with harbour() as (sea, nursery):
        sea.open(HOME)
        async with machines(sea, nursery, {"anna": [HOME], "bert": [HOME]}) as (anna, bert):
            meet(anna, bert)
            assert await ask(anna.driver, bert.driver.peer.node_id, b"x" * 100_000) == b"x" * 100_000
            assert (anna.path(bert), bert.path(anna)) == ("relay", "relay")
            await until(lambda: anna.driver.peer.neighbours() == [bert.driver.peer.node_id])
            anna.cable.cut = bert.cable.cut = False
            await until(lambda: (anna.path(bert), bert.path(anna)) == ("lan", "lan"))
            anna.cable.cut = bert.cable.cut = True
            assert await ask(anna.driver, bert.driver.peer.node_id, b"x" * 10_000, 10.0) == b"x" * 10_000
            await until(lambda: anna.path(bert) == "relay")
            nursery.cancel_scope.cancel()


async def test_a_node_without_a_relay_reaches_one_that_has_one() -> None:
    async with harbour() as (sea, nursery):
        sea.open(HOME)
        async with machines(sea, nursery, {"anna": [], "bert": [HOME]}) as (anna, bert):
            meet(anna, bert)
            assert await ask(anna.driver, bert.driver.peer.node_id) == b"hello"
            assert bert.path(anna) == "relay"
            nursery.cancel_scope.cancel()


async def test_the_link_outlives_the_relay_where_both_have_another_one() -> None:
    other = "ws://relay.two:1/"
    async with harbour() as (sea, nursery):
        sea.open(HOME)
        sea.open(other)
        homes = {"anna": [HOME, other], "bert": [HOME, other]}
        async with machines(sea, nursery, homes) as (anna, bert):
            meet(anna, bert)
            assert await ask(anna.driver, bert.driver.peer.node_id) == b"hello"
            sea.kill(HOME)
            await until(lambda: (bert.relayed.home() or "").startswith(other))
            assert await ask(anna.driver, bert.driver.peer.node_id, b"again", 40.0) == b"again"
            nursery.cancel_scope.cancel()


async def test_a_node_that_is_not_at_its_relay_is_no_way_at_once() -> None:
    async with harbour() as (sea, nursery):
        sea.open(HOME)
        async with machines(sea, nursery, {"anna": [HOME], "bert": [HOME]}) as (anna, bert):
            meet(anna, bert)
            sea.kill(HOME)
            sea.open(HOME)
            await until(lambda: anna.relayed.home())
            nobody = NodeId(bytes(32))
            began = trio.current_time()
            with pytest.raises(RemoteError, match="not at the relay"):
                await anna.driver.endpoint.dial(anna.relayed.path(nobody, HOME), nobody, 5.0)
            assert trio.current_time() - began < 3
            nursery.cancel_scope.cancel()


async def test_what_is_no_url_of_a_relay_is_no_path() -> None:
    async with harbour() as (sea, nursery):
        async with machines(sea, nursery, {"anna": []}) as (anna,):
            with pytest.raises(RemoteError, match="URL"):
                anna.relayed.path(NodeId(bytes(32)), "http://example.org")
            assert anna.relayed.home() is None
            assert anna.relayed.state.reason == "it is being dialled"
            nursery.cancel_scope.cancel()


async def test_strangers_at_a_relay_take_no_place_that_this_node_needs() -> None:
    async with harbour() as (sea, nursery):
        async with machines(sea, nursery, {"anna": []}) as (anna,):
            relay = RelayAddress.parse_untrusted(HOME)
            for number in range(200):
                anna.relayed._deliver_untrusted(NodeId(number.to_bytes(32, "big")), b"\xc0garbage", relay)
            assert len(anna.relayed._paths) == 96
            mine = anna.relayed.path(NodeId(b"m" * 32), HOME)
            assert anna.relayed.path(NodeId(b"m" * 32), HOME + "#" + str(NodeId(b"r" * 32))) is mine
            for number in range(95):
                anna.relayed.path(NodeId((1_000 + number).to_bytes(32, "big")), HOME)
            with pytest.raises(RemoteError, match="limit"):
                anna.relayed.path(NodeId(b"n" * 32), HOME)
            nursery.cancel_scope.cancel()


async def test_a_node_that_names_ever_new_relays_closes_its_own_paths() -> None:
    async with harbour() as (sea, nursery):
        async with machines(sea, nursery, {"anna": []}) as (anna,):
            other = anna.relayed.path(NodeId(b"o" * 32), HOME)
            for number in range(200):
                anna.relayed.path(NodeId(b"l" * 32), f"ws://192.0.2.1:{1_000 + number}/")
            assert len(anna.relayed._paths) == 5
            assert anna.relayed.path(NodeId(b"o" * 32), HOME) is other
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "0.0.0.0", "224.0.0.1"])
async def test_nobody_has_a_node_connect_to_itself_or_its_link(host: str) -> None:
    """Where it listens to others, that is: a request to a service of the machine would come from within."""
    async with open_endpoint(Signer(b"anna".ljust(32)), "0.0.0.0", 0) as endpoint:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]
        relay = RelayAddress.parse_untrusted(f"ws://{host}:{port}/")
        with pytest.raises(OSError, match="no place that others"):
            await RelayPaths(endpoint, Signer(b"anna".ljust(32)), [])._connect(relay)
        own = RelayPaths(endpoint, Signer(b"anna".ljust(32)), [RelayAddress.parse_untrusted(f"ws://127.0.0.1:{port}/")])
        await (await own._connect(RelayAddress.parse_untrusted(f"ws://127.0.0.1:{port}/"))).aclose()
        await listener.aclose()


async def test_nobody_chooses_what_a_node_asks_a_web_server() -> None:
    async with open_endpoint(Signer(b"anna".ljust(32)), "127.0.0.1", 0) as endpoint:
        own = RelayAddress.parse_untrusted("wss://proxy.example.org/our-relay")
        relayed = RelayPaths(endpoint, Signer(b"anna".ljust(32)), [own])
        with pytest.raises(RemoteError, match="choose no path"):
            relayed.path(NodeId(bytes(32)), "ws://192.168.1.1/reboot")
        for url in ("ws://192.168.1.1/", "ws://192.168.1.1/relay", str(own)):
            relayed.path(NodeId(bytes(32)), url)


async def test_a_node_that_could_not_say_at_which_relay_it_is_is_looked_for_at_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with harbour() as (sea, nursery):
        sea.open(HOME)
        async with machines(sea, nursery, {"anna": [HOME], "bert": [HOME]}) as (anna, bert):
            meet(anna, bert)
            monkeypatch.setattr(anna.driver.peer, "relay_of", lambda node: None)
            assert await ask(anna.driver, bert.driver.peer.node_id, b"x") == b"x"
            assert anna.path(bert) == "relay"
            nursery.cancel_scope.cancel()
