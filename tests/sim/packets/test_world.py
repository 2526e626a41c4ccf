"""Real nodes, aioquic and SQLite included, over virtual UDP: what the packet world proves, and its own workings."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest
import trio

from atmo.errors import UserError
from atmo.sim.nat import SYMMETRIC, Nats
from atmo.sim.network import Latency, Loss, Network, Partition, Rule
from atmo.sim.packets import runs
from atmo.sim.packets.world import PacketWorld, run_packets
from atmo.sim.report import Report
from atmo.sim.runner import make_scenario, run_scenario
from atmo.sim.scenarios.packets import Packets
from atmo.sim.streams import Streams
from atmo.sim.world import WALL_S

T = TypeVar("T")


def played(body: Callable[[PacketWorld], Awaitable[T]], *rules: Rule) -> T:
    """Plays something among nodes that are 5 to 20 ms apart."""
    return run_packets(body, Network(*rules, Latency(Streams("1"), 0.005, 0.02)), most_s=300.0)


# What it proves


def test_all_join_by_codes_at_once_and_all_know_all() -> None:
    joined = played(partial(runs.join, count=6), Loss(Streams("1"), 0.01))
    assert joined.known_s < 20
    assert not any(node.faults() for node in joined.nodes)


def test_a_download_outlives_one_of_two_holders() -> None:
    fetched = played(runs.download)
    assert fetched.right
    assert min(fetched.chunks.values()) >= 1, "both had a part in it"


def test_two_that_cannot_reach_each_other_talk_through_a_third() -> None:
    nats = Nats()

    async def play(world: PacketWorld) -> runs.Relayed:
        for name in ("anna", "bert"):
            nats.give(world.node_id(name), SYMMETRIC)
        return await runs.relay(world)

    relayed = played(play, nats)
    assert relayed.fetched.right
    assert relayed.path == "forward"
    assert relayed.datagrams * 1_200 > runs.MIB
    assert relayed.fetched.chunks["cleo"] == 0, "who is in between has nothing of the model"


def test_the_end_that_dialled_moves_and_the_connection_goes_with_it() -> None:
    moved = played(partial(runs.path_change, moves="reader", mib=2))
    assert moved.fetched.right
    assert moved.same_connection
    assert moved.follows


def test_the_end_that_was_dialled_moves_on_the_same_connection() -> None:
    moved = played(partial(runs.path_change, moves="holder", mib=2))
    assert moved.fetched.right
    assert moved.same_connection, "paths are below QUIC, whose servers could not migrate"
    assert moved.follows
    assert moved.fetched.took_s < 30


def test_a_killed_node_comes_back_with_its_home() -> None:
    async def play(world: PacketWorld) -> set[str]:
        joined = await runs.join(world, 3)
        _, one, two = joined.nodes
        await world.kill(one)
        await world.stop(two)
        assert world.network.stats.sent > 0
        again = await world.start(one.name)
        assert again.id == one.id
        await world.until(lambda: again.driver.peer.neighbours(), 30, "it has a neighbour again")
        return again.knows()

    assert played(play) == {"n0", "n1", "n2"}


# The scenario


def test_the_scenario_tells_what_it_promised() -> None:
    scenario = make_scenario("packets", nodes=4, seed=2, duration_s=None, settings={"mib": "1"})
    report = run_scenario(scenario)
    assert report.ok, report.failures
    assert list(report.checks) == [*Packets.promise.safety, *Packets.promise.liveness]
    assert sorted(report.figures) == sorted(Packets.promise.figures)
    assert report.simulated_s > 1
    assert report.series


def test_what_takes_too_long_is_told() -> None:
    report: Report = run_scenario(Packets(nodes=4, most_s=0.01))
    assert not any(report.checks[name] for name in Packets.promise.liveness)
    assert report.checks["nobody_is_blamed"]


def test_more_than_it_can_do_is_refused() -> None:
    with pytest.raises(UserError, match="50 at most"):
        Packets(nodes=51)


# Time


def test_a_thread_takes_no_virtual_time() -> None:
    own = trio.CapacityLimiter(1)

    async def work(world: PacketWorld) -> tuple[float, float]:
        world.limiters.append(own)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await trio.sleep(1.0)
                ticks += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await trio.to_thread.run_sync(time.sleep, 0.02)
            await trio.to_thread.run_sync(partial(time.sleep, 0.02), limiter=own)
            while_working = trio.current_time(), ticks
            await trio.sleep(1_000.5)
            assert ticks == 1_000
            nursery.cancel_scope.cancel()
        return while_working

    began = time.monotonic()
    assert run_packets(work) == (0.0, 0)
    assert time.monotonic() - began >= 0.04


def test_wall_clocks_go_with_it() -> None:
    async def sleep(world: PacketWorld) -> float:
        await trio.sleep(86_400)
        return world.wall()

    assert run_packets(sleep, most_s=100_000) == WALL_S + 86_400


def test_a_run_is_given_up_in_time() -> None:
    async def wait(world: PacketWorld) -> None:
        await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run_packets(wait, most_s=5.0)
    with pytest.raises(RuntimeError, match="stands still"):
        run_packets(wait, most_s=math.inf)


def test_a_condition_that_never_holds_says_so_when_all_has_ended() -> None:
    async def play(world: PacketWorld) -> None:
        await runs.join(world, 2)
        await world.until(lambda: False, 3.0, "pigs fly")

    with pytest.raises(TimeoutError, match="pigs fly"):
        played(play)


def test_a_partition_keeps_nodes_apart() -> None:
    partition = Partition()

    async def play(world: PacketWorld) -> None:
        joined = await runs.join(world, 2)
        one, two = joined.nodes
        await world.until(lambda: two.driver.peer.neighbours(), 10, "they are linked")
        partition.split([one.id], [two.id])
        await world.until(lambda: not two.driver.links.ready(), 15, "the link is given up")
        partition.heal()
        await world.until(lambda: two.driver.links.ready(), 120, "they find each other again")

    played(play, partition)
