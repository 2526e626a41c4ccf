from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
import trio
import trio.testing

from atmo.backends.base import Backend, Call, Part
from atmo.backends.pool import BackendPool, PoolConfig
from atmo.errors import RequestError
from atmo.identity import NodeId, Signer
from atmo.router.capability import CHAT, Capability


def capability(key: str, **more: object) -> Capability:
    return Capability(id=key, operation=CHAT, model=key, **more)  # type: ignore[arg-type]


class Runner(Backend):
    """A real, tiny backend whose discovery and answers the test steers."""

    def __init__(self, name: str, *offered: Capability, recheck_s: float = 30.0) -> None:
        self.name = name
        self.recheck_s = recheck_s
        self.offered: Sequence[Capability] = offered
        self.discover_takes_s = 0.0
        self.fails: Exception | None = None
        self.checks = 0
        self.running = 0
        self.most_running = 0
        self.ended = 0
        self.go = trio.Event()
        self.closed = False

    async def discover(self) -> Sequence[Capability]:
        self.checks += 1
        await trio.sleep(self.discover_takes_s)
        if self.fails:
            raise self.fails
        return self.offered

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            yield {"model": call.capability.model}
            await self.go.wait()
            yield {"last": True}
        finally:
            self.running -= 1
            self.ended += 1

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


async def collect(pool: BackendPool, call: Call) -> list[Part]:
    async with aclosing(pool.execute(call)) as parts:
        return [part async for part in parts]


async def test_first_discovery_is_concurrent_and_complete(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    runners = [Runner(f"r{i}", capability(f"c{i}")) for i in range(3)]
    for runner in runners:
        runner.discover_takes_s = 1.5
    pool = BackendPool(runners)
    changes: list[list[str]] = []
    pool.on_change(lambda: changes.append([c.id for c in pool.capabilities()]))
    await nursery.start(pool.run)
    assert trio.current_time() == pytest.approx(1.5)
    assert changes == [["c0", "c1", "c2"]]


async def test_a_slow_backend_does_not_hold_up_the_start(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    fast, slow = Runner("fast", capability("a")), Runner("slow", capability("b"))
    slow.discover_takes_s = 5
    pool = BackendPool([fast, slow])
    changes: list[int] = []
    pool.on_change(lambda: changes.append(len(pool.capabilities())))
    await nursery.start(pool.run)
    assert trio.current_time() == pytest.approx(2.0)
    assert changes == [1]
    await trio.sleep(4)
    assert changes == [1, 2]


async def test_only_real_changes_are_announced(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    runner = Runner("r", capability("a"), recheck_s=10)
    pool = BackendPool([runner])
    changes: list[int] = []
    pool.on_change(lambda: changes.append(len(pool.capabilities())))
    await nursery.start(pool.run)
    await trio.sleep(35)
    assert runner.checks == 4
    assert changes == [1]
    runner.offered = [capability("a"), capability("b")]
    pool.refresh("r")
    pool.refresh("nobody")
    await trio.sleep(0.1)
    assert changes == [1, 2]


async def test_refreshed_waits_for_a_check_that_began_after_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    runner = Runner("r")
    pool = BackendPool([runner])
    await nursery.start(pool.run)
    runner.discover_takes_s = 1
    pool.refresh("r")
    await trio.sleep(0.5)
    runner.offered = [capability("new")]
    await pool.refreshed("r")
    assert [c.id for c in pool.capabilities()] == ["new"]
    assert runner.checks == 3
    await pool.refreshed("nobody")


async def test_a_failing_backend_is_away_and_logged_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good, bad = Runner("good", capability("a")), Runner("bad", capability("b"), recheck_s=1)
    bad.fails = ZeroDivisionError("no")
    pool = BackendPool([good, bad])
    await nursery.start(pool.run)
    await trio.sleep(5.5)
    assert [c.id for c in pool.capabilities()] == ["a"]
    assert caplog.text.count("bad is treated as away") == 1
    bad.fails = None
    await trio.sleep(1)
    assert [c.id for c in pool.capabilities()] == ["a", "b"]
    assert "bad is back" in caplog.text


async def test_a_discovery_that_hangs_counts_as_away(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    runner = Runner("r", capability("a"), recheck_s=1)
    pool = BackendPool([runner])
    await nursery.start(pool.run)
    assert len(pool.capabilities()) == 1
    runner.discover_takes_s = 1e6
    await trio.sleep(12)
    assert pool.capabilities() == []


async def test_duplicates_and_floods_are_cut(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    first, second = Runner("first", capability("a")), Runner("second", capability("a"), capability("b"))
    flood = Runner("flood", *(capability(f"f{i}") for i in range(9)))
    pool = BackendPool([first, second, flood], PoolConfig(max_capabilities=3))
    await nursery.start(pool.run)
    assert [c.id for c in pool.capabilities()] == ["a", "b", "f0", "f1", "f2"]
    first.go.set()
    assert await collect(pool, Call(capability("a"), {})) == [{"model": "a"}, {"last": True}]
    assert (first.ended, second.ended) == (1, 0)


async def test_concurrency_and_queue_are_bounded(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    runner = Runner("r", capability("a", concurrency=2))
    pool = BackendPool([runner], PoolConfig(max_waiting=1))
    await nursery.start(pool.run)
    answers: list[list[Part]] = []

    async def one() -> None:
        answers.append(await collect(pool, Call(capability("a"), {})))

    for _ in range(3):
        nursery.start_soon(one)
    await trio.testing.wait_all_tasks_blocked()
    assert (runner.running, pool.in_flight) == (2, 3)
    with pytest.raises(RequestError) as caught:
        await collect(pool, Call(capability("a"), {}))
    assert caught.value.status == 429
    assert "Try again" in caught.value.message
    runner.go.set()
    await trio.sleep(1)
    assert len(answers) == 3
    assert (runner.most_running, pool.in_flight) == (2, 0)


async def test_other_nodes_leave_room_in_the_queue(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    runner = Runner("r", capability("a"))
    pool = BackendPool([runner], PoolConfig(max_waiting=6, max_waiting_per_node=2))
    await nursery.start(pool.run)
    one, two, three = (Signer(bytes([number]) * 32).node_id for number in (1, 2, 3))

    async def ask(asker: NodeId | None) -> None:
        async with aclosing(pool.execute(Call(capability("a"), {}), asker)) as parts:
            assert len([part async for part in parts]) == 2

    async def refused(asker: NodeId | None) -> bool:
        with trio.move_on_after(0.001):
            try:
                await ask(asker)
            except RequestError as error:
                return error.status == 429
        return False

    for asker in (one, one, one):
        nursery.start_soon(ask, asker)
    await trio.testing.wait_all_tasks_blocked()
    assert await refused(one)
    assert not await refused(two)
    nursery.start_soon(ask, two)
    await trio.testing.wait_all_tasks_blocked()
    assert await refused(three)
    for _ in range(3):
        nursery.start_soon(ask, None)
    await trio.testing.wait_all_tasks_blocked()
    assert await refused(None)
    runner.go.set()
    await trio.testing.wait_all_tasks_blocked()
    assert pool.in_flight == 0
    for _ in range(2):
        assert not await refused(three)


async def test_waiting_ends(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    runner = Runner("r", capability("a"))
    pool = BackendPool([runner], PoolConfig(max_wait_s=5))
    await nursery.start(pool.run)
    nursery.start_soon(collect, pool, Call(capability("a"), {}))
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(RequestError) as caught:
        await collect(pool, Call(capability("a"), {}))
    assert caught.value.status == 503
    assert pool.in_flight == 1
    runner.go.set()


async def test_cancelling_stops_the_work(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    runner = Runner("r", capability("a"))
    pool = BackendPool([runner])
    await nursery.start(pool.run)
    with trio.move_on_after(1) as scope:
        await collect(pool, Call(capability("a"), {}))
    assert scope.cancelled_caught
    assert (runner.running, runner.ended, pool.in_flight) == (0, 1, 0)
    async with aclosing(pool.execute(Call(capability("a"), {}))) as parts:
        await anext(parts)
    assert (runner.running, runner.ended, pool.in_flight) == (0, 2, 0)


async def test_a_capability_that_is_gone_is_a_404(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    pool = BackendPool([])
    await nursery.start(pool.run)
    with pytest.raises(RequestError) as caught:
        await collect(pool, Call(capability("a"), {}))
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize(("status", "checks"), [(400, 1), (404, 2), (502, 2)])
async def test_a_runner_that_fails_is_looked_at_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, status: int, checks: int
) -> None:
    class Failing(Runner):
        async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
            if status:
                raise RequestError(status, "no")
            yield {}

    runner = Failing("r", capability("a"))
    pool = BackendPool([runner])
    await nursery.start(pool.run)
    with pytest.raises(RequestError):
        await collect(pool, Call(capability("a"), {}))
    await trio.testing.wait_all_tasks_blocked()
    assert runner.checks == checks


async def test_backends_are_closed_at_the_end(autojump_clock: trio.testing.MockClock) -> None:
    runner = Runner("r")
    async with trio.open_nursery() as nursery:
        await nursery.start(BackendPool([runner]).run)
        nursery.cancel_scope.cancel()
    assert runner.closed
