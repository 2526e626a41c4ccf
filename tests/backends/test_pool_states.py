"""What a pool tells of its backends and of who waits, for health and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import pytest
import trio
import trio.testing

from atmo.backends.base import Call
from atmo.backends.pool import BackendPool, BackendState
from atmo.router.capability import Capability
from tests.gateway.world import Echo, Failing, chat


class Flaky(Echo):
    """Away until it is let."""

    def __init__(self) -> None:
        super().__init__(name="flaky")
        self.answers = trio.Event()
        self.fails = True

    async def discover(self) -> Sequence[Capability]:
        await self.answers.wait()
        if self.fails:
            raise OSError("it is away")
        return self.offered


async def test_backends_start_are_away_and_get_ready(autojump_clock: object) -> None:
    flaky = Flaky()
    async with trio.open_nursery() as nursery:
        pool = BackendPool([flaky])
        nursery.start_soon(pool.run)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.states() == [BackendState("flaky", "starting", 0)]
        flaky.answers.set()
        await trio.testing.wait_all_tasks_blocked()
        assert pool.states() == [BackendState("flaky", "away", 0)]
        flaky.fails = False
        await pool.refreshed("flaky")
        assert pool.states() == [BackendState("flaky", "ready", 1)]
        nursery.cancel_scope.cancel()


async def test_who_waits_is_counted(autojump_clock: object) -> None:
    backend = Failing()
    async with trio.open_nursery() as nursery:
        pool = BackendPool([backend])
        await nursery.start(pool.run)

        async def run() -> None:
            async with aclosing(pool.execute(Call(backend.offered[0], chat()))) as parts:
                await anext(parts, None)

        for _ in range(3):
            nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert (pool.in_flight, pool.waiting) == (3, 2)
        nursery.cancel_scope.cancel()
    assert (pool.in_flight, pool.waiting) == (0, 0)


async def test_names_that_cannot_be_printed_are_left_out(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        evil = Echo(*(Capability(name, "chat", name) for name in ("good", "bad\ud800", "bad\r\nx: 1")), name="evil")
        pool = BackendPool([evil])
        await nursery.start(pool.run)
        assert [capability.model for capability in pool.capabilities()] == ["good"]
        assert caplog.text.count("2 capabilities with names that cannot be printed") == 1
        nursery.cancel_scope.cancel()
