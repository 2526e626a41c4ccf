"""What the whole machine runs and queues at once, whatever its capabilities allow each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
import trio

from atmo.backends.base import Call
from atmo.backends.exposure import Hints
from atmo.backends.pool import BackendPool, PoolConfig
from atmo.errors import RequestError
from atmo.router.capability import CHAT, Capability
from tests.gateway.world import Failing, chat, node_id

A, B = (Capability(f"x:{name}", CHAT, name, concurrency=4) for name in "ab")


class Held(Failing):
    """Answers nothing until it is cancelled, and may have others do its work."""

    def __init__(self, *capabilities: Capability, delegates: bool = False) -> None:
        super().__init__(*capabilities)
        self.delegates = delegates


@asynccontextmanager
async def pool_of(config: PoolConfig, hints: Hints | None = None, **held: bool) -> AsyncIterator[BackendPool]:
    pool = BackendPool([Held(A, B, **held)], config, hints)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()


async def ask(pool: BackendPool, capability: Capability, number: int = 0) -> None:
    asker = node_id(number) if number else None
    async with aclosing(pool.execute(Call(capability, chat()), asker)) as parts:
        async for _ in parts:
            pass


def running(pool: BackendPool) -> int:
    (slot,) = pool._slots.values()
    backend = slot.backend
    assert isinstance(backend, Held)
    return len(backend.calls)


async def test_all_capabilities_share_the_places_of_the_machine(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(PoolConfig(max_running=2)) as pool, trio.open_nursery() as nursery:
        for capability in (A, B, A, B):
            nursery.start_soon(ask, pool, capability)
        await trio.testing.wait_all_tasks_blocked()
        assert (running(pool), pool.in_flight) == (2, 4)
        nursery.cancel_scope.cancel()


async def test_a_place_is_given_on(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(PoolConfig(max_running=1)) as pool, trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await ask(pool, A)
        nursery.start_soon(ask, pool, B)
        await trio.testing.wait_all_tasks_blocked()
        assert running(pool) == 2
        nursery.cancel_scope.cancel()


async def test_who_waits_for_the_machine_gives_its_place_of_the_capability_back() -> None:
    async with pool_of(PoolConfig(max_running=1)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool, A)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as other:
                other.start_soon(ask, pool, B)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert pool._gates[B.id].borrowed_tokens == 0
        assert pool._queue == 0
        nursery.cancel_scope.cancel()


async def test_the_queue_of_the_machine_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(PoolConfig(max_running=1, max_queued=2)) as pool, trio.open_nursery() as nursery:
        for capability in (A, B, A):
            nursery.start_soon(ask, pool, capability)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RequestError) as caught:
            await ask(pool, B)
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        nursery.cancel_scope.cancel()


async def test_half_of_the_queue_is_kept_for_this_machine(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(PoolConfig(max_running=1, max_queued=2)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool, A)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, pool, A, 1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RequestError, match="queue"):
            await ask(pool, B, 2)
        nursery.start_soon(ask, pool, B)
        await trio.testing.wait_all_tasks_blocked()
        assert pool._queue == 2
        nursery.cancel_scope.cancel()


async def test_who_has_others_do_the_work_takes_no_place(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(PoolConfig(max_running=1), delegates=True) as pool, trio.open_nursery() as nursery:
        for capability in (A, B, A):
            nursery.start_soon(ask, pool, capability)
        await trio.testing.wait_all_tasks_blocked()
        assert running(pool) == 3
        nursery.cancel_scope.cancel()


async def test_a_wait_for_the_machine_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(PoolConfig(max_running=1, max_wait_s=5)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool, A)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RequestError) as caught:
            await ask(pool, B)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        nursery.cancel_scope.cancel()


async def test_hints_are_on_every_capability() -> None:
    async with pool_of(PoolConfig(), Hints(2, "high", "", "US")) as pool:
        assert [(one.concurrency, one.priority, one.residency) for one in pool.capabilities()] == [
            (2, "high", "US")
        ] * 2
