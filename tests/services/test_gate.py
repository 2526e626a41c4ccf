from __future__ import annotations

import trio
import trio.testing

from atmo.services.gate import Gate


async def test_the_urgent_come_first_and_nobody_is_lost() -> None:
    gate, order = Gate(1), list[str]()
    hold = trio.Event()

    async def job(name: str, rank: int) -> None:
        async with gate.place(rank):
            order.append(name)
            if name == "first":
                await hold.wait()

    async with trio.open_nursery() as nursery:
        for name, rank in (("first", 9), ("late", 2), ("urgent", 0), ("also urgent", 0)):
            nursery.start_soon(job, name, rank)
            await trio.testing.wait_all_tasks_blocked()
        assert (gate.waiting, gate.has_room) == (3, False)
        hold.set()
    assert order == ["first", "urgent", "also urgent", "late"]
    assert gate.has_room


async def test_who_gives_up_leaves_no_gap() -> None:
    gate = Gate(1)
    async with trio.open_nursery() as nursery:

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                async with gate.place(0):
                    raise AssertionError("it had given up")

        early, late = trio.CancelScope(), trio.CancelScope()
        async with gate.place(0):
            nursery.start_soon(wait, early)
            await trio.testing.wait_all_tasks_blocked()
            early.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert gate.waiting == 0
            nursery.start_soon(wait, late)
            await trio.testing.wait_all_tasks_blocked()
            late.cancel()  # and before it hears of that, the place becomes free and is given to it
    assert gate.has_room
