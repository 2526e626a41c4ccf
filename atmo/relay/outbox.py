"""What waits to be sent to the other end of a connection: bounded, fair among nodes, the oldest lost first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import trio

from atmo.relay.protocol import HEAD_BYTES, MESSAGE_BYTES, datagrams_message

CONTROL_MOST = 64
"""Messages that are no datagrams; what comes on top is dropped."""

ROWS_MOST = 1_024
"""Bodies of datagrams, whatever their size: each has its cost in memory beside its bytes."""


@dataclass(slots=True)
class Tank:
    """What all queues of a relay may hold together.

    Attributes:
        most: Bytes.
        bytes: What they hold.
    """

    most: int
    bytes: int = 0


@dataclass(slots=True)
class _Line:
    rows: deque[tuple[bytes, int]] = field(default_factory=deque)
    bytes: int = 0


class Outbox:
    """The queue of one connection: a line for each node that datagrams go to or come from, served in turn.

    What does not fit pushes out the oldest of its own line, or of the longest one where its own is empty. So who sends
    much loses its own, not others'. The oldest, because to QUIC, whose packets these are, a gap that shows at once
    is a better sign of too much than the loss of what would have come last.

    Args:
        most_bytes: Of datagrams; one message fits in any case.
        tank: Shared with other queues, where together they are bounded, too.
    """

    __slots__ = ("_bytes", "_control", "_lines", "_most_bytes", "_rows", "_tank", "_wake")

    def __init__(self, most_bytes: int, tank: Tank | None = None) -> None:
        self._most_bytes = most_bytes
        self._tank = tank or Tank(most_bytes + MESSAGE_BYTES)
        self._lines: dict[bytes, _Line] = {}
        self._control: deque[bytes] = deque()
        self._bytes = 0
        self._rows = 0
        self._wake: trio.Event | None = None

    def __len__(self) -> int:
        """Bytes of datagrams that wait."""
        return self._bytes

    @property
    def nodes(self) -> list[bytes]:
        """The nodes for which something waits."""
        return list(self._lines)

    def put(self, node: bytes, body: bytes, count: int) -> int:
        """Queues framed datagrams to or from a node; never blocks.

        Returns:
            How many datagrams were dropped for it.
        """
        dropped = 0
        size = len(body)
        tank = self._tank
        while self._rows and (
            self._bytes + size > self._most_bytes or self._rows >= ROWS_MOST or tank.bytes + size > tank.most
        ):
            longest = node if node in self._lines else max(self._lines, key=lambda each: self._lines[each].bytes)
            dropped += self._pop(longest)[1]
        if tank.bytes + size > tank.most:
            return dropped + count
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = _Line()
        line.rows.append((body, count))
        line.bytes += size
        self._bytes += size
        tank.bytes += size
        self._rows += 1
        self._ring()
        return dropped

    def put_control(self, message: bytes) -> bool:
        """Queues another message, ahead of all datagrams; says whether there was room."""
        if len(self._control) >= CONTROL_MOST:
            return False
        self._control.append(message)
        self._ring()
        return True

    async def next_message(self) -> tuple[bytes, int]:
        """Waits for something to send.

        Returns:
            A message, and how many datagrams it holds: as many of the next line as fit.
        """
        while not self._control and not self._rows:
            self._wake = trio.Event()
            await self._wake.wait()
        if self._control:
            return self._control.popleft(), 0
        node, line = next(iter(self._lines.items()))
        body, count = self._pop(node)
        bodies, size = [body], HEAD_BYTES + len(body)
        while line.rows and size + len(line.rows[0][0]) <= MESSAGE_BYTES:
            body, more = self._pop(node)
            bodies.append(body)
            size += len(body)
            count += more
        if line.rows:
            self._lines[node] = self._lines.pop(node)  # to the end: it is another one's turn
        return datagrams_message(node, bodies), count

    def clear(self) -> int:
        """Drops everything; returns how many datagrams that were."""
        lost = sum(count for line in self._lines.values() for _, count in line.rows)
        self._lines.clear()
        self._tank.bytes -= self._bytes
        self._control.clear()
        self._bytes = self._rows = 0
        return lost

    def _pop(self, node: bytes) -> tuple[bytes, int]:
        line = self._lines[node]
        row = line.rows.popleft()
        line.bytes -= len(row[0])
        self._bytes -= len(row[0])
        self._tank.bytes -= len(row[0])
        self._rows -= 1
        if not line.rows:
            del self._lines[node]
        return row

    def _ring(self) -> None:
        if self._wake is not None:
            self._wake.set()
            self._wake = None
