"""One link: a connection as the way to its node, and what links need of the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from atmo.clock import Now
from atmo.identity import NodeId
from atmo.net.ports import Handler
from atmo.net.quic import Connection

LAST_WORDS_S = 0.1
"""What was said last goes out in this time: one packet."""


@dataclass(slots=True)
class DriverStats:
    """Counters since start.

    Attributes:
        messages_dropped: For links whose queue is full.
        malformed: Messages that do not decode.
        bad_requests: Requests that broke a rule.
        refused_requests: Requests of nodes that opened too many.
        misbehaved: Faults of other nodes, the malformed messages and bad requests among them.
    """

    messages_in: int = 0
    messages_out: int = 0
    messages_dropped: int = 0
    malformed: int = 0
    bad_requests: int = 0
    refused_requests: int = 0
    misbehaved: int = 0


LAST_WORDS_S = 0.1  # one packet


@dataclass(eq=False)
class Link:
    """One connection as the link to its node.

    Attributes:
        since: Monotonic seconds at which it came up.
        ready: Set once the other end proved its membership.
        gone: Set when it is out of the table.
        scope: Its end ends the link.
        reason: Why it ends, where it is known here.
        ended: It was asked to end.
        held: Requests under way on it.
        unheld: Set while there are none.
        retired: It is out of the table, and only there for the requests that are under way on it.
    """

    connection: Connection
    send: trio.MemorySendChannel[bytes]
    queue: trio.MemoryReceiveChannel[bytes]
    since: float
    ready: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    reason: str = ""
    gossiping: bool = False
    ended: bool = False
    held: int = 0
    unheld: trio.Event = field(default_factory=trio.Event)
    retired: bool = False

    @property
    def path(self) -> str:
        """The kind of path, for people; see `Connection.path`."""
        return self.connection.path

    @property
    def ending(self) -> bool:
        """True from the moment it is being closed."""
        return self.ended or self.scope.cancel_called or self.connection.closed.is_set()

    @property
    def needed(self) -> bool:
        """It is the link to its node, or has requests under way: worth a better path."""
        return not self.retired or self.held > 0

    def hold(self) -> None:
        """A request is under way on it."""
        self.held += 1
        self.unheld = trio.Event()

    def release(self) -> None:
        """The request is over."""
        self.held -= 1
        if not self.held:
            self.unheld.set()

    def end(self, reason: str) -> None:
        """Ends it with a reason for the other end, after a moment for what was said to it last."""
        self.reason = self.reason or reason
        self.ended = True
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + LAST_WORDS_S)


@dataclass(frozen=True, slots=True)
class Shell:
    """What links need of the driver.

    Attributes:
        now: Reads the clocks.
        kick: Performs the peer's effects.
        load: Tells how many requests this machine is running.
        dispatch: Says who answers a protocol on a link, None for nobody.
        admits: Charges a node for a stream that it opened; says whether it is within its budget.
    """

    now: Callable[[], Now]
    kick: Callable[[], None]
    load: Callable[[], int]
    dispatch: Callable[[Link, str], Handler | None]
    admits: Callable[[NodeId], bool]
