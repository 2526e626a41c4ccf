"""A port is mapped and stays so: by routers that are honest, old, forgetful, greedy or liars."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atmo.clock import Now
from atmo.reach.port_mapping import PortMapping
from atmo.reach.port_mapping_config import NAT_PMP, PCP, PortMappingConfig
from atmo.wire.address import Address
from tests.reach.port_router import TCP, UDP, Entry, Router

HOME, GATE, PORT = "192.168.1.2", Address("192.168.1.1", 5_351), 11_450
OUT = Address("11.0.0.1", PORT)
CONFIG = PortMappingConfig()
SECRET = b"secret of a node"


class World:
    """One node, one router, and the wire between them."""

    def __init__(self, router: Router | None = None, *, tcp: bool = True, client: str = HOME) -> None:
        self.router = router or Router()
        self.mono = 1_000.0
        self.engine = PortMapping(CONFIG, Random(7), SECRET, client, GATE, PORT, tcp)
        self.loses: Callable[[bytes], bool] = lambda data: False
        self.sent: list[tuple[float, bytes]] = []
        self._arriving: list[tuple[float, int, bytes]] = []

    @property
    def now(self) -> Now:
        return Now(self.mono, 0.0)

    def pump(self) -> None:
        """Carries what is sent to the router and its answers back, 10 ms later."""
        for data in self.engine.drain():
            self.sent.append((self.mono, data))
            assert len(data) <= 1_100
            answer = None if self.loses(data) else self.router.answer(self.mono, data)
            if answer is not None and not self.loses(answer):
                heapq.heappush(self._arriving, (self.mono + 0.01, len(self.sent), answer))

    def run(self, seconds: float) -> None:
        end, turns = self.mono + seconds, 0
        self.pump()
        while True:
            due = min(self.engine.next_timer(), self._arriving[0][0] if self._arriving else math.inf)
            if due > end:
                break
            turns = turns if due <= self.mono else 0
            self.mono = max(self.mono, due)
            if self._arriving and self._arriving[0][0] <= self.mono:
                self.engine.receive_untrusted(self.now, heapq.heappop(self._arriving)[2], GATE)
            else:
                turns += 1
                assert turns < 10, "time stands still"
                self.engine.handle_timer(self.now)
            self.pump()
        self.mono = end

    def is_mapped(self) -> bool:
        """Says whether the router does what the engine believes."""
        mapped, found = self.engine.mapped(), self.router.lets_in(self.mono)
        assert mapped.external is not None
        return (
            mapped.external == Address(self.router.host, found.get(UDP, 0) or 1)
            and mapped.tcp == (TCP in found)
            and mapped.until <= self.mono + CONFIG.lifetime_s
        )


@pytest.mark.parametrize(
    ("router", "how"),
    [(Router(), PCP), (Router(nat_pmp=False), PCP), (Router(pcp=False), NAT_PMP)],
)
def test_a_port_is_mapped_kept_and_taken_back(router: Router, how: str) -> None:
    world = World(router)
    world.run(1.0)
    mapped = world.engine.mapped()
    assert (mapped.how, mapped.external, mapped.tcp, mapped.reason) == (how, OUT, True, "")
    assert router.lets_in(world.mono) == {UDP: PORT, TCP: PORT}
    for _ in range(48):
        world.run(1_800.0)
        assert world.is_mapped()
    assert len(world.sent) < 48 * 1_800 / CONFIG.check_s * 1.3 + 10
    world.engine.stop()
    world.run(1.0)
    assert not router.table
    assert world.engine.forgotten
    assert world.engine.next_timer() == math.inf


def test_udp_alone() -> None:
    world = World(tcp=False)
    world.run(10_000.0)
    assert world.router.lets_in(world.mono) == {UDP: PORT}
    assert not world.engine.mapped().tcp


def test_a_firewall_of_ipv6_is_asked_by_pcp_alone() -> None:
    world = World(Router(host="2600::2"), client="2600::2")
    world.run(1.0)
    assert world.engine.mapped().external == Address("2600::2", PORT)
    silent = World(Router(pcp=False), client="2600::2")
    silent.run(60.0)
    assert all(data[0] == 2 for _, data in silent.sent)
    assert silent.engine.mapped().reason == "PCP: speaks another version"


def test_nobody_answers() -> None:
    world = World(Router(pcp=False, nat_pmp=False))
    world.run(300.0)
    begun = world.sent[0][0]
    waits = [at - begun for at, _ in world.sent]
    assert [data[0] for _, data in world.sent] == [2] * 3 + [0] * 6
    assert waits[:3] == pytest.approx([0.0, 3.0, 9.0], abs=1.0)
    quick = [at - waits[3] for at in waits[3:]]
    assert quick == pytest.approx([0.0, 0.25, 0.75, 1.75, 3.75, 7.75])
    assert world.engine.mapped().reason == "PCP and NAT-PMP: the router does not answer"
    assert world.engine.resting
    world.run(CONFIG.rest_s)
    assert len(world.sent) == 18, "and again after a rest"


def test_nothing_listens_there() -> None:
    world = World(Router(pcp=False, nat_pmp=False))
    world.engine.handle_timer(world.now)
    for version in (2, 0):
        (data,) = world.engine.drain()
        assert data[0] == version
        world.engine.unreachable(world.now)
    assert world.engine.mapped().reason == "PCP and NAT-PMP: the router does not speak it"
    assert world.engine.next_timer() == world.mono + CONFIG.rest_s
    world.engine.unreachable(world.now)
    world.engine.check(world.now)
    assert world.engine.next_timer() == world.mono, "another network: no rest"


def test_lost_datagrams_are_sent_again() -> None:
    world, lost = World(), Random(3)
    world.loses = lambda data: lost.random() < 0.4
    world.run(120.0)
    assert world.is_mapped()


def test_a_router_that_restarts_is_noticed_and_asked_for_everything() -> None:
    for router in (Router(), Router(pcp=False)):
        world = World(router)
        world.run(100.0)
        router.restart(world.mono)
        world.run(CONFIG.check_s + 1.0)
        assert router.lets_in(world.mono) == {UDP: PORT, TCP: PORT}
        assert world.engine.stats.restarts_in == 1


def test_another_address_outside_is_noticed() -> None:
    for router in (Router(), Router(pcp=False)):
        world = World(router)
        world.run(100.0)
        router.host = "11.0.0.9"
        world.run(CONFIG.check_s + 1.0)
        assert world.engine.mapped().external == Address("11.0.0.9", PORT)
        assert world.is_mapped()


def test_a_router_that_always_says_that_it_restarted_gets_no_flood() -> None:
    world = World()
    epochs = Random(1)

    class Forgetful(Router):
        def answer(self, now: float, data: bytes) -> bytes | None:
            self.booted = now - epochs.randrange(1_000_000)
            return super().answer(now, data)

    world.router = Forgetful()
    world.run(3_600.0)
    assert len(world.sent) < 3 * 3_600 / CONFIG.retry_s
    assert world.engine.stats.restarts_in > 10


def test_another_port_than_asked_is_taken_and_tcp_goes_with_it() -> None:
    world = World(Router(taken={(UDP, PORT)}))
    world.run(1.0)
    assert world.engine.mapped().external == Address(OUT.host, PORT + 1)
    assert world.router.lets_in(world.mono) == {UDP: PORT + 1, TCP: PORT + 1}


def test_a_tcp_port_of_another_number_is_given_back() -> None:
    for router in (Router(taken={(TCP, PORT)}), Router(pcp=False, taken={(TCP, PORT)})):
        world = World(router)
        world.run(1.0)
        assert world.router.lets_in(world.mono) == {UDP: PORT}
        assert not world.engine.mapped().tcp
        router.taken.clear()
        world.run(2 * CONFIG.rest_most_s)
        assert world.router.lets_in(world.mono) == {UDP: PORT, TCP: PORT}


@pytest.mark.parametrize(
    ("pcp", "result", "words"),
    [
        (True, 2, "PCP and NAT-PMP: the router does not allow it"),
        (True, 12, "there is a NAT between"),
        (True, 99, "refuses with code 99"),
        (False, 3, "NAT-PMP: the router has no connection itself"),
    ],
)
def test_refusals_are_remembered(pcp: bool, result: int, words: str) -> None:
    world = World(Router(pcp=pcp, refuses=result, refuses_s=10**9))
    world.run(60.0)
    count = len(world.sent)
    assert words in world.engine.mapped().reason
    wait_s = CONFIG.rest_most_s if pcp else CONFIG.rest_s
    world.run(wait_s - 120.0)
    assert len(world.sent) == count
    world.router.refuses = 0
    world.run(180.0)
    assert world.is_mapped()


def test_what_was_granted_stays_where_a_renewal_is_refused_and_ends_with_its_lifetime() -> None:
    world = World()
    world.run(1.0)
    world.router.refuses = 8
    world.run(CONFIG.lifetime_s - 60.0)
    assert world.engine.mapped().external == OUT
    world.run(120.0)
    assert world.engine.mapped().external is None


def test_a_router_that_is_gone_is_asked_until_the_mapping_ends_and_from_the_beginning_then() -> None:
    world = World()
    world.run(1.0)
    world.router.pcp = world.router.nat_pmp = False
    world.run(CONFIG.lifetime_s / 2)
    assert world.engine.mapped().external == OUT
    world.run(CONFIG.lifetime_s)
    assert world.engine.mapped().external is None
    world.router.nat_pmp = True
    world.run(CONFIG.rest_s + 60.0)
    assert world.engine.mapped().how == NAT_PMP


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.1.1", "255.255.255.255", "2600::1"])
def test_addresses_that_cannot_be(host: str) -> None:
    world = World(Router(host=host, nat_pmp=False))
    world.run(60.0)
    assert world.engine.mapped().external is None
    assert "which cannot be" in world.engine.mapped().reason


@pytest.mark.parametrize("most_s", [0, 1, 119])
def test_mappings_for_moments_are_refusals(most_s: int) -> None:
    world = World(Router(most_s=most_s))
    world.run(3_600.0)
    assert world.engine.mapped().external is None
    assert len(world.sent) < 40


def test_short_mappings_are_renewed_in_time() -> None:
    world = World(Router(most_s=120))
    for _ in range(100):
        world.run(61.0)
        assert world.is_mapped()


def test_a_node_that_was_killed_gets_its_mapping_back() -> None:
    """A router leaves a mapping to its nonce: the next run has to know it."""
    world = World()
    world.run(1.0)
    again = World(world.router)
    again.run(1.0)
    assert again.is_mapped()
    world.router.table[UDP, PORT].nonce = b"of somebody else"
    other = World(world.router)
    other.router.nat_pmp = False
    other.run(60.0)
    assert "does not allow it" in other.engine.mapped().reason


def test_a_mapping_that_is_being_asked_for_at_the_end_is_taken_back_too() -> None:
    world = World()
    world.engine.handle_timer(world.now)
    world.engine.drain()
    world.router.table[UDP, PORT] = Entry(PORT, math.inf, world.engine._nonce(UDP))
    world.engine.stop()
    world.pump()
    assert not world.router.table


def test_at_the_end_only_what_was_asked_for_counts_and_time_changes_nothing() -> None:
    world = World()
    world.run(1.0)
    world.engine.stop()
    requests = world.engine.drain()
    world.engine.handle_timer(Now(world.mono + 1e6, 0.0))
    assert world.engine.drain() == []
    for request in requests:
        answer = world.router.answer(world.mono, request)
        assert answer is not None
        world.engine.receive_untrusted(world.now, answer[:40] + b"\x00\x01" + answer[42:], GATE)  # another port
        assert not world.engine.forgotten
    for request in requests:
        answer = world.router.answer(world.mono, request)
        assert answer is not None
        world.engine.receive_untrusted(world.now, answer, GATE)
    assert world.engine.forgotten


def test_a_mapping_of_tcp_alone_that_ends_is_asked_for_again() -> None:
    world = World()
    world.run(1.0)
    world.engine._grants[TCP] = replace(world.engine._grants[TCP], until=world.mono)
    world.engine.handle_timer(world.now)
    assert not world.engine.mapped().tcp
    world.run(1.0)
    assert world.engine.mapped().tcp


def test_nowhere_is_no_address() -> None:
    assert not World().engine._can_be("")


def test_only_the_router_and_only_what_was_asked_counts() -> None:
    world = World()
    world.engine.handle_timer(world.now)
    (request,) = world.engine.drain()
    answer = world.router.answer(world.mono, request)
    assert answer is not None
    for data, source in (
        (answer, Address(GATE.host, 5_350)),
        (answer, Address("192.168.1.9", 5_351)),
        (answer[:24] + bytes(12) + answer[36:], GATE),  # another nonce
        (answer[:36] + b"\x06" + answer[37:], GATE),  # another protocol
        (answer[:40] + b"\x00\x01" + answer[42:], GATE),  # another port of this machine
        (answer[:59], GATE),
        (b"", GATE),
    ):
        world.engine.receive_untrusted(world.now, data, source)
        assert world.engine.mapped().external is None
        assert world.engine.asking
    world.engine.receive_untrusted(world.now, answer, GATE)
    assert world.engine.mapped().external == OUT
    assert world.engine.stats.dropped_malformed == 2
    assert world.engine.stats.dropped_unasked == 5


class Mayhem(RuleBasedStateMachine):
    """A router that loses, lies, restarts and changes; in the end it is honest, and the port is mapped."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.world = World()
        self.random = Random(seed)
        self.loss = 0.0
        self.kicks = 0
        self.world.loses = lambda data: self.random.random() < self.loss

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(loss=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    def lose(self, loss: float) -> None:
        self.loss = loss

    @rule()
    def restart(self) -> None:
        self.world.router.restart(self.world.mono)

    @rule(pcp=st.booleans(), nat_pmp=st.booleans(), refuses=st.sampled_from([0, 0, 0, 2, 8]))
    def become(self, pcp: bool, nat_pmp: bool, refuses: int) -> None:
        router = self.world.router
        router.pcp, router.nat_pmp, router.refuses = pcp, nat_pmp, refuses

    @rule(most_s=st.sampled_from([0, 60, 120, 3_600, 2**32 - 1]), number=st.integers(1, 200))
    def grant(self, most_s: int, number: int) -> None:
        self.world.router.most_s, self.world.router.host = most_s, f"11.0.0.{number}"

    @rule(protocol=st.sampled_from([UDP, TCP]), more=st.integers(0, 3))
    def take(self, protocol: int, more: int) -> None:
        self.world.router.taken.add((protocol, PORT + more))

    @rule(data=st.binary(max_size=80))
    def noise(self, data: bytes) -> None:
        self.world.engine.receive_untrusted(self.world.now, data, GATE)
        self.world.pump()

    @precondition(lambda self: self.world.sent)
    @rule(flips=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), max_size=3))
    def lie(self, flips: list[tuple[int, int]]) -> None:
        answer = self.world.router.answer(self.world.mono, self.world.sent[-1][1])
        data = bytearray(answer or bytes(60))
        for place, value in flips:
            if place < len(data):
                data[place] = value
        self.world.engine.receive_untrusted(self.world.now, bytes(data), GATE)
        self.world.pump()

    @rule(which=st.booleans())
    def kick(self, which: bool) -> None:
        self.kicks += 1
        (self.world.engine.check if which else self.world.engine.unreachable)(self.world.now)
        self.world.engine.handle_timer(self.world.now)
        self.world.pump()

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        assert len(world.sent) <= 60 + 20 * self.kicks + (world.mono - 1_000.0) / 2
        mapped = world.engine.mapped()
        assert mapped.external is None or world.mono < mapped.until + 1e-6 <= world.mono + CONFIG.lifetime_s + 1
        assert not world.engine.forgotten or not mapped.tcp

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        self.loss = 0.0
        world.router = Router(booted=world.mono, host=world.router.host)
        world.run(2 * CONFIG.lifetime_s)
        assert world.is_mapped()
        world.engine.stop()
        world.run(1.0)
        assert not world.router.table


TestMayhem = Mayhem.TestCase
