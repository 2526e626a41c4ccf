"""Requests under way: which answer belongs to which, which are slow and which are lost."""

from __future__ import annotations

import heapq
import math
from typing import Any

from atmo.identity import NodeId
from atmo.wire.address import Contact


class Call:
    """One request under way.

    Attributes:
        token: In the request and its answer.
        contact: Who was asked.
        owner: On whose behalf.
        due: Monotonic seconds at which it is slow, or lost if it is slow already.
        slow: It took a while already.
    """

    __slots__ = ("contact", "due", "owner", "slow", "token")

    def __init__(self, token: int, contact: Contact, owner: Any, due: float) -> None:
        self.token = token
        self.contact = contact
        self.owner = owner
        self.due = due
        self.slow = False


class Calls:
    """All requests under way.

    Args:
        hedge_s: After this one is slow.
        timeout_s: After this it is lost.
    """

    def __init__(self, hedge_s: float, timeout_s: float) -> None:
        self._hedge_s = hedge_s
        self._timeout_s = timeout_s
        self._calls: dict[int, Call] = {}
        self._heap: list[tuple[float, int]] = []  # a row counts while its time is the call's
        self._token = 0

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, mono: float, contact: Contact, owner: Any) -> int:
        """Remembers a request; returns its token."""
        self._token += 1
        call = self._calls[self._token] = Call(self._token, contact, owner, mono + self._hedge_s)
        heapq.heappush(self._heap, (call.due, call.token))
        return call.token

    def close(self, node: NodeId, token: int) -> Call | None:
        """Takes the request out that an answer belongs to; None where `node` was not asked this."""
        call = self._calls.get(token)
        if call is None or call.contact.node != node:
            return None
        del self._calls[token]
        return call

    def close_all(self, node: NodeId) -> list[Call]:
        """Takes out all requests to a node."""
        calls = [call for call in self._calls.values() if call.contact.node == node]
        for call in calls:
            del self._calls[call.token]
        return calls

    def disown(self, owner: Any) -> None:
        """Nobody waits for these any more; their answers still tell who lives."""
        for call in self._calls.values():
            if call.owner is owner:
                call.owner = None

    def due(self, mono: float) -> list[tuple[Call, bool]]:
        """Returns the requests that became slow, and with True those that are lost, which are taken out."""
        rows = []
        while self.next_due() <= mono:
            call = self._calls[heapq.heappop(self._heap)[1]]
            rows.append((call, call.slow))
            if call.slow:
                del self._calls[call.token]
            else:
                call.slow = True
                call.due += self._timeout_s - self._hedge_s
                heapq.heappush(self._heap, (call.due, call.token))
        return rows

    def next_due(self) -> float:
        """Returns when the next one is due, `math.inf` when none is."""
        while self._heap:
            due, token = self._heap[0]
            call = self._calls.get(token)
            if call is not None and call.due == due:
                return due
            heapq.heappop(self._heap)
        return math.inf
