"""How much other nodes may ask of this one: each as much as its roles allow, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

from atmo.errors import RequestError
from atmo.gateway.budget import ByteBudget, Holding
from atmo.gateway.rates import Rate, Rates
from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What one other node may ask. Values are guesses.

    Attributes:
        calls: Requests of it that run, or wait for their turn, at once.
        per_s: Requests a second that it may send, on average; 0 for any.
        burst: Requests that it may send at once.
    """

    calls: int = 32
    per_s: float = 1_000.0
    burst: float = 2_000.0

    def joined(self, other: NodeLimits) -> NodeLimits:
        """Returns the more generous of both in everything."""
        per_s = max(self.per_s, other.per_s) if self.per_s and other.per_s else 0.0
        return NodeLimits(max(self.calls, other.calls), per_s, max(self.burst, other.burst))


BY_ROLE: Mapping[str, NodeLimits] = {
    "gateway": NodeLimits(64, 5_000.0, 10_000.0),
    "admin": NodeLimits(48, 2_000.0, 4_000.0),
}
"""Where the settings say nothing else: a gateway asks for many clients, an admin's machine is a person's own."""


class _Asker:
    def __init__(self, held_bytes: int) -> None:
        self.calls = 0
        self.budget = ByteBudget(held_bytes)


class Askers:
    """The nodes whose requests are being served.

    Args:
        most: Requests of all of them at once.
        held_bytes: Of bodies, of one node.
        everybody: What a node may ask that has no role in `by_role`.
        by_role: What those of a role may ask; of several roles the more generous counts.
        roles: Returns the roles of a node that have effect now.
        remembered: Nodes whose rates are remembered.
    """

    def __init__(
        self,
        most: int,
        held_bytes: int,
        everybody: NodeLimits,
        by_role: Mapping[str, NodeLimits],
        roles: Callable[[NodeId], Collection[str]],
        remembered: int = 4_096,
    ) -> None:
        self._most = most
        self._held_bytes = held_bytes
        self._everybody = everybody
        self._by_role = by_role
        self._roles = roles
        self._rates: Rates[NodeId] = Rates(remembered)
        self._rows: dict[NodeId, _Asker] = {}

    def limits(self, node: NodeId) -> NodeLimits:
        """Returns what a node may ask now."""
        allowed = [self._by_role[role] for role in self._roles(node) if role in self._by_role]
        return reduce(NodeLimits.joined, allowed) if allowed else self._everybody

    def refusal(self, mono: float, node: NodeId) -> RequestError | None:
        """Returns why a request of a node is not run now; None where it is, and then it is counted in its rate."""
        allowed = self.limits(node)
        row = self._rows.get(node)
        if sum(other.calls for other in self._rows.values()) >= self._most or (row and row.calls >= allowed.calls):
            message = "This node runs as many requests of others as it may: try again shortly."
            return RequestError(429, message, kind="rate_limit_error", code="busy", retry_s=BUSY_S)
        wait_s = self._rates.wait_s(mono, node, Rate(allowed.per_s, allowed.burst))
        if wait_s:
            message = f"This node takes {allowed.per_s:g} requests a second of one node: try again in {wait_s:.1f} s."
            return RequestError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_s=wait_s)
        return None

    @contextmanager
    def served(self, node: NodeId) -> Iterator[Holding]:
        """Counts a request for the length of the block; yields what its body is charged to."""
        row = self._rows.setdefault(node, _Asker(self._held_bytes))
        row.calls += 1
        try:
            with row.budget.holding() as holding:
                yield holding
        finally:
            row.calls -= 1
            if not row.calls:
                del self._rows[node]


BUSY_S = 1.0
"""After which somebody that was refused as too much runs here may try again. Source: guess."""
