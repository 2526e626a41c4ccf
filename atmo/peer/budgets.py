"""What one other node may cost this one: token buckets of messages, bytes, signature checks and streams.

Buckets outlive links, so that nobody fills them again by coming back; those that are full again are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from atmo.clock import Now
from atmo.identity import NodeId


class Cost(Enum):
    """What is counted."""

    MESSAGE = "messages"
    BYTE = "bytes"
    SIGNATURE = "signature checks"
    STREAM = "streams"


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket.

    Attributes:
        per_s: Tokens a second.
        burst: Tokens of a full bucket.
    """

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class BudgetsConfig:
    """What each other node may cost.

    Honest bursts fit: a newcomer gets some thousands of records from one neighbour, and half of a mesh that dies at
    once is told in about as many messages.

    Attributes:
        messages: Between neighbours. Source: guess.
        bytes: Of those messages. Source: guess.
        signatures: Checks, at about 0.13 ms each (../shared/measurements.md): at most 4 % of a core. Source: guess.
        streams: Requests that it may open. Source: guess; a download opens one for each chunk.
        nodes: Whose buckets are kept.
    """

    messages: Rate = Rate(300.0, 10_000.0)
    bytes: Rate = Rate(2.0 * 1024 * 1024, 32.0 * 1024 * 1024)
    signatures: Rate = Rate(300.0, 10_000.0)
    streams: Rate = Rate(500.0, 2_000.0)
    nodes: int = 2_048


@dataclass(slots=True)
class BudgetsStats:
    """What was refused since start."""

    messages: int = 0
    bytes: int = 0
    signatures: int = 0
    streams: int = 0


_PRUNE_LEAST = 32
"""Accounts below which full buckets are left where they are. Source: guess, a node's neighbours and a few others."""

_COSTS = range(len(Cost))
_INDEX = {cost: number for number, cost in enumerate(Cost)}


@dataclass(eq=False, slots=True)
class _Account:
    at: float
    spent: list[float] = field(default_factory=lambda: [0.0] * len(_INDEX))


class Budgets:
    """The accounts of all other nodes.

    Args:
        config: What each may cost.
    """

    def __init__(self, config: BudgetsConfig) -> None:
        self._config = config
        self._rates = (config.messages, config.bytes, config.signatures, config.streams)
        self._per_s = tuple(rate.per_s for rate in self._rates)
        self._accounts: dict[NodeId, _Account] = {}
        self._prune_at = min(_PRUNE_LEAST, config.nodes)
        self.stats = BudgetsStats()

    def admits_message(self, now: Now, node: NodeId, size: int) -> bool:
        """Charges a message of `size` bytes; returns whether it is to be looked at."""
        spent = self._account(now, node).spent
        if spent[0] + 1.0 > self._rates[0].burst:
            self.stats.messages += 1
            return False
        if spent[1] + size > self._rates[1].burst:
            self.stats.bytes += 1
            return False
        spent[0] += 1.0
        spent[1] += size
        return True

    def admits(self, now: Now, node: NodeId, cost: Cost, amount: float = 1.0) -> bool:
        """Charges one kind of cost; returns whether it is within the budget."""
        index = _INDEX[cost]
        spent = self._account(now, node).spent
        if spent[index] + amount > self._rates[index].burst:
            setattr(self.stats, cost.name.lower() + "s", getattr(self.stats, cost.name.lower() + "s") + 1)
            return False
        spent[index] += amount
        return True

    def _account(self, now: Now, node: NodeId) -> _Account:
        account = self._accounts.get(node)
        if account is None:
            if len(self._accounts) >= self._prune_at:
                self._prune(now)
            account = self._accounts[node] = _Account(now.mono)
        elif now.mono > account.at:
            passed, account.at = now.mono - account.at, now.mono
            spent, per_s = account.spent, self._per_s
            for index in _COSTS:
                if left := spent[index]:
                    left -= passed * per_s[index]
                    spent[index] = left if left > 0.0 else 0.0
        return account

    def _prune(self, now: Now) -> None:
        """Makes room: full buckets go, else, with as many as are kept, the one that was touched longest ago. The next
        time is when there are twice as many as now, so that a long list is not gone through for each newcomer.
        """
        for node in list(self._accounts):
            if not any(self._account(now, node).spent):
                del self._accounts[node]
        if len(self._accounts) >= self._config.nodes:
            del self._accounts[next(iter(self._accounts))]
        self._prune_at = min(self._config.nodes, max(_PRUNE_LEAST, 2 * len(self._accounts)))
