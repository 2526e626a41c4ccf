"""Orders that wait for a connection: who works them off, and what becomes of them when connections end."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from atmo.net.bulk_config import BulkConfig
from atmo.net.ports import NoFastPath
from tests.net.bulk_kit import CHUNK, HOLDER, NAME, Ends, until

ONE = BulkConfig(asked_lan_connections=1)


class Held(Ends):
    """Ends whose holder answers when it is told to."""

    def __init__(self, nursery: trio.Nursery, config: BulkConfig = ONE) -> None:
        super().__init__(nursery, config)
        self.go = self.hold()
        self.told: Counter[str] = Counter()

    async def tell(self) -> None:
        try:
            await self.fetch()
            self.told["came"] += 1
        except NoFastPath:
            self.told["failed"] += 1

    @asynccontextmanager
    async def busy(self, waiting: int) -> AsyncIterator[None]:
        """Has its one connection busy, and others wait; at the end of the block all have been told."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tell)
            await until(lambda: self.served)
            for _ in range(waiting):
                nursery.start_soon(self.tell)
            await trio.testing.wait_all_tasks_blocked(0.01)
            yield


@pytest.fixture
async def ends(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> Held:
    return Held(nursery)


async def test_one_connection_works_off_all_orders(ends: Held) -> None:
    async with ends.busy(5):
        ends.go.set()
    assert ends.told == {"came": 6}
    assert ends.stats.opened == 1


async def test_an_order_that_waits_is_cancelled_without_harm(ends: Held) -> None:
    async with ends.busy(0):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as two:
                two.start_soon(ends.fetch)
                await until(lambda: ends.asker._holders[HOLDER]._orders)
                scope.cancel()
        ends.go.set()
    assert ends.told == {"came": 1}
    assert len(ends.served) == 1
    assert ends.asker.connections == 1


async def test_when_the_link_ends_those_who_wait_learn_it(ends: Held) -> None:
    async with ends.busy(3):
        ends.asker.cut(HOLDER)
    ends.go.set()
    assert ends.told == {"failed": 4}
    assert ends.asker.connections == 0


async def test_when_the_only_connection_is_taken_along_by_its_order_another_one_is_opened(ends: Held) -> None:
    async with trio.open_nursery() as inner:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as two:
                two.start_soon(ends.fetch)
                await until(lambda: ends.served)
                for _ in range(3):
                    inner.start_soon(ends.tell)
                await until(lambda: len(ends.asker._holders[HOLDER]._orders) == 3)
                scope.cancel()
        ends.go.set()
    assert ends.told == {"came": 3}
    assert ends.stats.opened == 2


async def test_what_cannot_be_kept_is_told_to_who_asked_and_others_go_on(ends: Held) -> None:
    def full(data: object) -> bool:
        raise OSError("the disk is full")

    async def fetch() -> None:
        with pytest.raises(OSError, match="full"):
            await ends.asker.fetch(HOLDER, NAME, len(CHUNK), full)

    async with trio.open_nursery() as inner:
        inner.start_soon(fetch)
        await until(lambda: ends.served)
        inner.start_soon(ends.tell)
        await until(lambda: ends.asker._holders[HOLDER]._orders)
        ends.go.set()
    assert ends.told == {"came": 1}
    assert ends.stats.opened == 2
