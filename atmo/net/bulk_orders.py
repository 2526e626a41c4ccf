"""What is asked of one holder over TCP: a queue of orders, connections, and the threads that work it off.

A thread runs as long as its connection has something to do. What it has done is told to the loop, of all threads at
once: the busier the loop is, the fewer times it is woken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from outcome import Outcome, Value, capture

from atmo.net.bulk_channel import Channel
from atmo.net.ports import ChunkRefused, Take


@dataclass(eq=False, slots=True)
class Order:
    """A chunk that a task waits for.

    Attributes:
        name, size, take: See `net.ports.BulkPort.fetch`.
        task: Who waits; None where nobody does any more.
        channel: The connection that it is asked on, None while it waits for one.
        over: Its connection is done with it.
    """

    name: bytes
    size: int
    take: Take
    task: trio.lowlevel.Task | None = None
    channel: Channel | None = None
    over: bool = False

    def tell(self, outcome: Outcome[Any]) -> None:
        """Wakes who waits."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, outcome)


@dataclass(eq=False, slots=True)
class Source:
    """What is known of one holder. Threads call `next` alone, everything else is for the loop.

    Attributes:
        free: Connections that nobody uses, the one used last at the end.
        all: All of them.
        opening: How many are being opened.
        rests_until: Until when no connection is tried.
        users: Tasks that fetch.
    """

    free: list[Channel] = field(default_factory=list)
    all: dict[Channel, None] = field(default_factory=dict)
    opening: int = 0
    rests_until: float = 0.0
    users: int = 0
    _orders: deque[Order] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, channel: Channel) -> Order | None:
        """Gives an open connection the order that has waited longest, where there is one."""
        with self._lock:
            if not self._orders or channel not in self.all:
                return None
            order = self._orders.popleft()
            order.channel = channel
            return order

    def add(self, order: Order) -> None:
        """Has an order wait for a connection."""
        with self._lock:
            self._orders.append(order)

    def take_back(self, order: Order) -> Channel | None:
        """Nobody wants an order any more; returns the connection that is at it, None where none is."""
        with self._lock:
            if order.channel is None:
                self._orders.remove(order)
            return None if order.over else order.channel

    def forget(self, channel: Channel) -> bool:
        """A connection is closed; says whether it was open until now."""
        with self._lock:
            known = channel in self.all
            self.all.pop(channel, None)
        if channel in self.free:
            self.free.remove(channel)
        return known

    def tell_waiting(self, outcome: Callable[[], Outcome[Any]]) -> None:
        """Wakes all who wait for a connection; `outcome` makes what each is told."""
        with self._lock:
            waiting, self._orders = self._orders, deque()
        for order in waiting:
            order.tell(outcome())


Done = tuple[Source, Channel, Order, Outcome[bool], bool]
"""Of whom, on what, which order, how it went, and whether its connection has no other."""


class Workers:
    """The threads of all connections.

    Args:
        settle: Called in the loop with each order that is done.
    """

    def __init__(self, settle: Callable[[Source, Channel, Order, Outcome[bool], bool], None]) -> None:
        self._settle = settle
        self._lock = threading.Lock()
        self._done: list[Done] = []

    def begin(self, source: Source, channel: Channel, order: Order) -> None:
        """Has an order and those behind it fetched over a connection that nobody uses."""
        token = trio.lowlevel.current_trio_token()
        trio.lowlevel.start_thread_soon(partial(self._work, token, source, channel, order), _nothing, "atmo chunks")

    def _work(self, token: trio.lowlevel.TrioToken, source: Source, channel: Channel, first: Order) -> None:
        order: Order | None = first
        while order is not None:
            done, order = order, None
            outcome = capture(channel.fetch, done.name, done.size, done.take)
            done.over = True
            kept = isinstance(outcome, Value) or isinstance(outcome.error, ChunkRefused)
            if kept and not channel.used_up:
                order = source.next(channel)
            self._tell(token, (source, channel, done, outcome, order is None))

    def _tell(self, token: trio.lowlevel.TrioToken, done: Done) -> None:
        with self._lock:
            self._done.append(done)
            first = len(self._done) == 1
        if first:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._settle_all)

    def _settle_all(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        for each in done:
            self._settle(*each)


def _nothing(_: Outcome[None]) -> None:
    """The loop is told already."""
