"""Virtual time for real code: trio's `MockClock`, moved when nothing else is left to do.

`MockClock` can jump by itself once every task waits. A task that waits for a worker thread waits like any other:
the clock would run ahead by hours while a thread reads a chunk. Here a task of its own moves the clock, and only while
no thread works: a thread takes no virtual time at all. Threads are known by the tokens that they hold of their
limiters, which trio takes back in the very step in which the waiting task goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atmo.sim.packets.network import PacketNetwork

_LOOK_S = 0.000_5
"""Real seconds between two looks at threads that work."""


async def move_time(clock: MockClock, network: PacketNetwork, limiters: Iterable[trio.CapacityLimiter]) -> None:
    """Moves the clock to the next deadline or datagram whenever all tasks wait and no thread works; until cancelled.

    Args:
        clock: That of this trio run.
        network: Whose datagrams are handed out when they are due.
        limiters: Of all threads but those under trio's own limiter.

    Raises:
        RuntimeError: All tasks wait for something that never comes.
    """
    usual = trio.to_thread.current_default_thread_limiter()
    pause_s = 0.0
    while True:
        await wait_all_tasks_blocked(pause_s)
        if usual.borrowed_tokens or any(each.borrowed_tokens for each in limiters):
            pause_s = _LOOK_S
            continue
        pause_s = 0.0
        now = trio.current_time()
        wait_s = min(trio.lowlevel.current_statistics().seconds_to_next_deadline, network.next_arrival - now)
        if wait_s == math.inf:
            raise RuntimeError("the packet world stands still: every task waits, and nothing is due")
        clock.jump(max(0.0, wait_s))
        network.deliver(trio.current_time())
