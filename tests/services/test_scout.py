"""The scout alone: a peer that does nothing, events that the test tells, and time that jumps."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atmo.clock import Now
from atmo.gossip.records import MODELS
from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.index.events import LookupDone, ProviderFound
from atmo.net.ports import MeshPort
from atmo.peer import LinkReady, NodeGone, Unreachable
from atmo.services.scout import Scout, ScoutConfig
from atmo.wire.address import Address
from tests.index.kit import contact, node, provider

KEY, OTHER = b"k" * 32, b"o" * 32


class Port:
    """A mesh that hears commands; `script` says what follows each kick."""

    def __init__(self, *, large: bool = True) -> None:
        self.peer: Any = SimpleNamespace(
            mesh_size=SimpleNamespace(large=large),
            find_providers=self._find_providers,
            cancel_query=lambda now, query: self.cancelled.append(query),
            reach=self._reach,
            is_ready=lambda node: node in self.linked,
            neighbours=lambda: self.near,
        )
        self.queries: dict[int, bytes] = {}
        self.cancelled: list[int] = []
        self.reached: list[NodeId] = []
        self.linked: list[NodeId] = []
        self.near: list[NodeId] = []
        self.kicks = 0
        self.script: Callable[[], None] = lambda: None

    def _find_providers(self, now: Now, key: bytes) -> int:
        self.queries[len(self.queries) + 1] = key
        return len(self.queries)

    def _reach(self, now: Now, node: NodeId, addresses: tuple[Address, ...]) -> None:
        assert addresses, "what the provider signed is the best that is known of where it is"
        self.reached.append(node)

    def now(self) -> Now:
        return Now(trio.current_time(), 0.0)

    def kick(self) -> None:
        self.kicks += 1
        self.script()


class World:
    """A scout on such a port, and what it is told."""

    def __init__(self, config: ScoutConfig = ScoutConfig(), *, large: bool = True) -> None:
        self.port = Port(large=large)
        self.scout = Scout(lambda: cast(MeshPort, self.port), config)

    def found(self, number: int, query: int = 1) -> None:
        self.scout.on_event(ProviderFound(query, contact(number), provider(), 1, 0.1))

    def done(self, query: int = 1, *, refused: bool = False) -> None:
        self.scout.on_event(LookupDone(query, 0, 1, 0.1, 5, refused))

    def ready(self, number: int) -> None:
        self.scout.on_event(LinkReady(node(number)))

    def tells(self, number: int) -> None:
        self.scout.on_event(RecordChanged(node(number), MODELS, "0", None))

    def fails(self, number: int) -> None:
        self.scout.on_event(Unreachable(node(number)))


async def took(world: World, *keys: bytes, enough: Callable[[], bool] = lambda: False) -> float:
    """Returns how long it looked, in seconds."""
    began = trio.current_time()
    await world.scout.find(keys or (KEY,), enough)
    return trio.current_time() - began


async def test_nothing_is_asked_where_it_is_of_no_use(autojump_clock: MockClock) -> None:
    small = World(large=False)
    assert await took(small) == 0
    nowhere = Scout(lambda: None)
    await nowhere.find([KEY])
    known = World()
    assert await took(known, enough=lambda: True) == 0
    for world in (small, known):
        assert (world.port.queries, world.port.kicks) == ({}, 0)


async def test_a_provider_that_tells_enough_ends_the_lookup(autojump_clock: MockClock) -> None:
    world, told = World(), list[int]()

    async def mesh() -> None:
        await trio.sleep(0.3)
        world.found(1)
        await wait_all_tasks_blocked()
        assert world.port.reached == [node(1)]
        await trio.sleep(0.3)
        world.ready(1)
        world.scout.on_event(NodeGone(node(1)))  # no affair of its
        await trio.sleep(0.1)
        told.append(1)
        world.tells(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh)
        assert await took(world, enough=lambda: bool(told)) == pytest.approx(0.7)
    assert world.port.queries == {1: KEY}
    assert world.port.cancelled == [1], "the index need not go on"
    assert (world.scout.stats.lookups, world.scout.stats.reached, world.scout.stats.met) == (1, 1, 1)
    assert await took(world, enough=lambda: len(told) > 1) == 2.5, "it was not in vain, so it is looked up again"


async def test_it_is_over_when_all_who_were_found_have_answered_or_cannot_be_reached(
    autojump_clock: MockClock,
) -> None:
    world = World()

    async def mesh() -> None:
        for number in (1, 2, 3):
            world.found(number)
        world.done()
        await trio.sleep(0.2)
        world.fails(1)
        world.ready(2)
        world.ready(3)
        await trio.sleep(0.3)
        world.tells(2)

    world.port.linked.append(node(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh)
        assert await took(world) == pytest.approx(1.2), "the third was linked and said nothing for a second"
    assert world.port.cancelled == [], "the index was through"


async def test_who_is_linked_is_asked_and_neighbours_have_told_already(autojump_clock: MockClock) -> None:
    world = World()
    world.port.linked += [node(1), node(2)]
    world.port.near += [node(2)]

    def script() -> None:
        if not world.port.reached:
            world.found(1)
            world.found(2)
            world.done()

    world.port.script = script
    assert await took(world) == pytest.approx(1.0)
    assert world.port.reached == [node(1)]


async def test_news_that_come_while_a_command_runs_are_not_missed(autojump_clock: MockClock) -> None:
    world = World()

    def script() -> None:
        if not world.port.reached:
            world.found(1)
        else:
            world.fails(1)
            world.done()

    world.port.script = script
    assert await took(world) == 0


async def test_nobody_waits_longer_than_the_deadline(autojump_clock: MockClock) -> None:
    world = World()
    assert await took(world, KEY, OTHER) == 2.5
    assert world.port.cancelled == [1, 2]


async def test_providers_are_reached_a_few_at_once_and_not_too_many(autojump_clock: MockClock) -> None:
    world = World(ScoutConfig(at_once=2, reached=5, patience_s=10))
    counts = []

    async def mesh() -> None:
        for number in range(1, 9):
            world.found(number)
        world.done()
        await wait_all_tasks_blocked()
        counts.append(len(world.port.reached))
        world.fails(1)
        await wait_all_tasks_blocked()
        counts.append(len(world.port.reached))
        await trio.sleep(1.1)
        counts.append(len(world.port.reached))
        world.found(9)
        for number in range(2, 6):
            world.fails(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh)
        assert await took(world) == pytest.approx(1.1)
    assert counts == [2, 3, 5], "one that failed and two that were silent made room"
    assert world.port.reached == [node(number) for number in range(1, 6)]


async def test_who_asks_for_the_same_at_the_same_time_shares_one_lookup(autojump_clock: MockClock) -> None:
    world, told, spans = World(), set[str](), dict[str, float]()

    async def ask(name: str) -> None:
        spans[name] = await took(world, enough=lambda: name in told)

    async with trio.open_nursery() as nursery:
        impatient = trio.CancelScope()

        async def leaves() -> None:
            with impatient:
                await ask("bert")

        nursery.start_soon(ask, "anna")
        nursery.start_soon(leaves)
        nursery.start_soon(ask, "cleo")
        await trio.sleep(0.5)
        told.add("anna")
        world.found(1)
        await wait_all_tasks_blocked()
        impatient.cancel()
        await trio.sleep(0.5)
        assert world.port.cancelled == [], "somebody still waits"
        told.add("cleo")
        world.ready(1)
    assert spans == {"anna": pytest.approx(0.5), "cleo": pytest.approx(1.0)}
    assert (world.port.queries, world.port.cancelled) == ({1: KEY}, [1])
    assert world.port.reached == [node(1)]
    assert world.scout.stats.shared == 2


async def test_cancellation_ends_the_lookup_and_does_not_count_as_in_vain(autojump_clock: MockClock) -> None:
    world = World()
    with trio.move_on_after(1):
        await took(world)
    assert world.port.cancelled == [1]
    kicks = world.port.kicks
    assert await took(world) == 2.5
    assert world.port.kicks > kicks
    assert len(world.port.queries) == 2


async def test_a_lookup_in_vain_is_not_repeated_at_once(autojump_clock: MockClock) -> None:
    world = World()
    world.port.script = world.done
    assert [await took(world) for _ in range(10)] == [0] * 10
    assert (len(world.port.queries), world.scout.stats.spared) == (1, 9)
    await trio.sleep(5.1)
    world.port.script = lambda: world.done(2)
    await took(world)
    assert len(world.port.queries) == 2


async def test_what_the_index_refused_was_not_in_vain(autojump_clock: MockClock) -> None:
    world = World()
    world.port.script = lambda: world.done(len(world.port.queries), refused=True)
    await took(world)
    await took(world)
    assert len(world.port.queries) == 2


async def test_only_so_many_lookups_in_vain_are_remembered(autojump_clock: MockClock) -> None:
    world = World(ScoutConfig(resting=3))
    world.port.script = lambda: world.done(len(world.port.queries))
    for number in range(5):
        await took(world, bytes([number]) * 32)
    await took(world, b"\x00" * 32)
    assert len(world.port.queries) == 6, "the oldest was forgotten"
    await took(world, b"\x04" * 32)
    assert len(world.port.queries) == 6


async def test_only_so_many_lookups_and_callers_at_once(autojump_clock: MockClock) -> None:
    world = World(ScoutConfig(lookups=2, callers=3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(took, world, KEY, OTHER)
        await wait_all_tasks_blocked()
        assert await took(world, b"3" * 32) == 0
        nursery.start_soon(took, world, KEY)
        nursery.start_soon(took, world, KEY)
        await wait_all_tasks_blocked()
        assert await took(world, KEY) == 0
    assert len(world.port.queries) == 2
    assert (world.scout.stats.shared, world.scout.stats.spared) == (2, 2)
