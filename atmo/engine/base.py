"""The engine interface and the effects that engines ask their shell to perform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from atmo.clock import Now
from atmo.identity import NodeId
from atmo.wire.address import Address, Contact

Message = Any
"""A frozen dataclass that the peer's message registry knows (`atmo.gossip.messages.MESSAGES`)."""


@dataclass(slots=True)
class Send:
    """Send `message` to a neighbour over its link; dropped when there is no link any more."""

    to: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `message` to a node that need not be a neighbour: a link is opened first where there is none.

    Stays inside the peer, which tells the engine that asked by `failed(now, node)` when nobody answers there.
    """

    contact: Contact
    message: Message


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a link to `node`; the shell answers with `link_up` or `dial_failed`."""

    node: NodeId
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the link to `node`; the shell answers with `link_down`.

    Attributes:
        lingers: It is only silent: what is under way on it may still end well, if it is heard again.
    """

    node: NodeId
    reason: str
    lingers: bool = False


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """A peer broke the protocol: count it. If that ends its link, there is a `Hangup` beside this."""

    peer: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Store:
    """Keep `value` under `key` over restarts, or forget it where `value` is None."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class FetchChunk:
    """Fetch one chunk from `source`; the shell verifies and stores it, then reports `chunk_done` or `chunk_failed`."""

    transfer: str
    source: NodeId
    index: int


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Stop a fetch whose answer is no longer wanted; no report follows."""

    transfer: str
    source: NodeId
    index: int


@dataclass(slots=True)
class Emit:
    """Tell the observers that something happened."""

    event: Any


Effect = Send | Ask | Dial | Hangup | Misbehaved | Store | FetchChunk | CancelFetch | Emit


class Engine(Protocol):
    """A protocol as plain synchronous Python: what all of them have in common.

    What else goes in, each says itself: messages and news of links come by methods such as `receive` and `link_up`,
    which never raise for what a neighbour says, and commands by methods of their own. What goes out are effects alone.

    Attributes:
        out: Where they are put.
    """

    out: Outbox

    def handle_timer(self, now: Now) -> None:
        """Does what is due at `now`."""

    def next_timer(self) -> float:
        """Returns the monotonic second at which `handle_timer` wants to be called, `math.inf` when idle."""

    def drain(self) -> list[Effect]:
        """Returns and forgets the effects asked for since the last call, in order."""


class Outbox:
    """The list of effects that an engine fills and `drain` empties.

    Attributes:
        put: Adds an effect.
    """

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self.put: Callable[[Effect], None] = self._effects.append

    def join(self, other: Outbox) -> None:
        """Lets all that is put here from now on come out of `other`, in the order in which it was put into either."""
        self._effects, self.put = other._effects, other.put

    def drain(self) -> list[Effect]:
        if not self._effects:
            return []
        effects = self._effects[:]
        self._effects.clear()  # and not a new list, as others may fill the same one
        return effects
