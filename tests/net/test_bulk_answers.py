"""What a holder's connection may send without asking the loop, and what the loop is told afterwards."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from atmo.net.bulk_answers import LITTLE_BYTES, Leave, NotAdmitted
from atmo.net.bulk_config import BulkConfig
from atmo.net.ports import ChunkRefused
from tests.net.bulk_kit import ASKER, CHUNK, NAME, Ends, Mesh, Service, passes, until

CONFIG = BulkConfig(leave_s=1.0, leave_most=5)
SIZE = len(CHUNK)


class World:
    """A connection's leave, with a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.mesh, self.service = Mesh(), Service()
        self.service.open = True
        self.leave = Leave(ASKER, self.service, self.mesh, CONFIG, lambda: self.now)

    def sends(self, count: int, size: int = SIZE) -> int:
        """Sends chunks as a connection does; returns how many times the loop was asked."""
        asked = 0
        for _ in range(count):
            allowed = not self.leave.take(NAME)
            if allowed:
                self.leave.ask(NAME, size)
                asked += 1
            self.leave.note(NAME, size, size, allowed=allowed)
        return asked


def test_who_sends_much_asks_seldom_and_everything_is_charged_once() -> None:
    world = World()
    assert world.sends(3) == 3
    world.leave.settle()
    assert world.sends(8) == 8 - CONFIG.leave_most
    world.leave.settle()
    assert world.service.asked == [NAME] * 11
    assert world.service.sent_bytes == [SIZE] * 11
    assert world.mesh.budget == 1_000 - 6  # one for each question


def test_a_leave_ends_soon() -> None:
    world = World()
    world.sends(3)
    world.leave.settle()
    world.now += 2 * CONFIG.leave_s
    assert world.sends(1) == 1


def test_who_sends_nothing_has_no_leave() -> None:
    world = World()
    world.sends(3)
    world.leave.settle()
    world.leave.settle()
    assert world.sends(1) == 1


def test_what_not_every_member_may_have_is_asked_for() -> None:
    world = World()
    world.sends(3)
    world.leave.settle()
    world.service.open = False
    assert world.sends(2) == 2


@pytest.mark.parametrize("when", ["asked", "afterwards"])
def test_where_a_limit_is_set_each_chunk_is_asked_for(when: str) -> None:
    world = World()
    if when == "afterwards":
        world.sends(3)
        world.leave.settle()
    world.service.waits_s = 0.5
    world.sends(3)
    world.leave.settle()
    assert world.sends(2) == 2


def test_a_slot_that_is_gone_ends_the_leave() -> None:
    world = World()
    world.sends(3)
    world.leave.settle()
    assert world.sends(2) == 0
    world.service.refuses = "busy"
    world.leave.settle()
    assert world.service.sent_bytes == [SIZE] * 5
    with pytest.raises(ChunkRefused, match="busy"):
        world.sends(1)


@pytest.mark.parametrize("why", ["no member", "too many little ones"])
def test_who_is_no_member_any_more_or_asks_too_much_is_found_out(why: str) -> None:
    world = World()
    world.sends(3)
    world.leave.settle()
    if why == "no member":
        assert world.sends(2) == 0
        world.mesh.member = False
    else:
        assert world.sends(2, LITTLE_BYTES - 1) == 0
        world.mesh.budget = 1
    with pytest.raises(NotAdmitted):
        world.leave.settle()
    assert len(world.service.sent_bytes) == 5
    with pytest.raises(NotAdmitted):
        world.leave.ask(NAME, SIZE)


async def test_only_so_many_chunks_are_in_memory(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    ends = Ends(nursery, BulkConfig(answering=1, asked_lan_connections=4))
    inside, most, go = 0, 0, threading.Event()

    def reading() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        go.wait(10)
        inside -= 1

    ends.service.reading = reading
    async with trio.open_nursery() as inner:
        for _ in range(4):
            inner.start_soon(ends.fetch)
        await until(lambda: len(ends.served) == 4)
        go.set()
    assert most == 1


async def test_who_takes_an_answer_too_slowly_is_given_up(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    go, failed = ends.hold(), ends.fail()
    await until(lambda: ends.served)
    await passes(mock_clock, BulkConfig().idle_s + 1)
    ends.holder.close_late()
    assert ends.holder.connections == 1
    await passes(mock_clock, BulkConfig().answer_s)
    ends.holder.close_late()
    await failed.wait()
    assert ends.holder.connections == 0
    go.set()
    await until(lambda: ends.service.sent_bytes == [0])  # what was let through is told to be over


async def test_a_cut_connection_does_not_wait_for_its_limit(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    ends.service.waits_s = 3_600.0
    failed = ends.fail()
    await until(lambda: ends.served)
    ends.holder.cut(ASKER)
    await failed.wait()
    await until(lambda: ends.service.sent_bytes == [0])  # it was let through, and is over
    await until(lambda: not ends.holder._threads.borrowed_tokens)
