"""What this node saw of the nodes it sent requests to: service times, requests in flight, failures.

Each (node, capability) has a circuit breaker: after three failures in a row it opens and the node is asked last;
after a cool-down one request may try it again, and its success closes the breaker. A node that says when it takes more
is asked last until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atmo.identity import NodeId

CLOSED = "closed"
OPEN = "open"
HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class TableConfig:
    """How outcomes are weighed.

    Attributes:
        ewma_weight: Share of the newest service time in the average. Source: guess, as in Finagle's peak EWMA.
        failures_to_open: Failures in a row that open a breaker. Source: guess.
        cool_down_s: How long it stays open the first time; doubles each time in a row up to `cool_down_most_s`.
        max_rows: (node, capability) pairs that are remembered; the one unused longest goes first.
    """

    ewma_weight: float = 0.25
    failures_to_open: int = 3
    cool_down_s: float = 5.0
    cool_down_most_s: float = 60.0
    max_rows: int = 4_096


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request under way, from `NodeTable.begin` to `end`, `fail` or `cancel`."""

    node: NodeId
    capability: str
    began: float
    rtt_s: float
    queue_factor: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one (node, capability) at one moment.

    Attributes:
        service_s: Average time of one request on an idle node in seconds, None before the first.
        age_s: Seconds since the last outcome.
        in_flight: Requests of ours that the node is running, for any of its capabilities.
        failures: Failures in a row.
        breaker: `closed`, `open` or `half-open`.
        deferred_s: For so long it takes no more, as it said itself; 0 where it did not.
    """

    service_s: float | None = None
    age_s: float = 0.0
    in_flight: int = 0
    failures: int = 0
    breaker: str = CLOSED
    deferred_s: float = 0.0


@dataclass(slots=True)
class _Row:
    service_s: float | None = None
    last: float = 0.0
    in_flight: int = 0
    failures: int = 0
    opened: int = 0
    open_until: float = 0.0
    deferred_until: float = 0.0


@dataclass(slots=True)
class _Usual:
    """The service times of all rows of one capability."""

    total_s: float = 0.0
    count: int = 0


class NodeTable:
    """Outcomes per (node, capability), bounded."""

    def __init__(self, config: TableConfig | None = None) -> None:
        self._config = config or TableConfig()
        self._rows: dict[tuple[NodeId, str], _Row] = {}
        self._in_flight: dict[NodeId, int] = {}
        self._usual: dict[str, _Usual] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def begin(
        self, node: NodeId, capability: str, now: float, *, rtt_s: float = 0.0, load: int = 0, concurrency: int = 1
    ) -> Ticket:
        """Notes that a request goes to `node`; close the ticket with `end`, `fail` or `cancel`.

        Args:
            node: Who runs it.
            capability: The capability's id on that node.
            now: Monotonic seconds.
            rtt_s: Round-trip time of the way there, taken off the service time.
            load: Requests that were before it, so that waiting behind them is not taken for a slow node.
            concurrency: How many the capability runs at once.
        """
        row = self._rows.pop((node, capability), None) or _Row()
        self._rows[(node, capability)] = row
        row.in_flight += 1
        self._in_flight[node] = self._in_flight.get(node, 0) + 1
        if len(self._rows) > self._config.max_rows:
            self._evict()
        return Ticket(node, capability, now, rtt_s, queue_factor(load, concurrency))

    def end(self, ticket: Ticket, now: float) -> None:
        """Notes that the request was answered."""
        row = self._close(ticket)
        seconds = max(0.0, now - ticket.began - ticket.rtt_s) / ticket.queue_factor
        weight = self._config.ewma_weight
        usual = self._usual.setdefault(ticket.capability, _Usual())
        if row.service_s is None:
            usual.count += 1
            usual.total_s += seconds
            row.service_s = seconds
        else:
            change = weight * (seconds - row.service_s)
            usual.total_s = max(0.0, usual.total_s + change)
            row.service_s += change
        row.last = now
        row.failures = row.opened = 0
        row.open_until = 0.0

    def fail(self, ticket: Ticket, now: float) -> None:
        """Notes that the node failed the request: it vanished, refused, or answered with an error of its own."""
        row = self._close(ticket)
        row.failures += 1
        row.last = now
        if row.failures >= self._config.failures_to_open:
            cool_down = min(self._config.cool_down_s * 2**row.opened, self._config.cool_down_most_s)
            row.opened = min(row.opened + 1, 16)
            row.open_until = now + cool_down

    def defer(self, ticket: Ticket, now: float, wait_s: float) -> None:
        """Notes that the node refused the request as too much, and takes more in `wait_s` seconds."""
        row = self._close(ticket)
        row.deferred_until = now + min(wait_s, self._config.cool_down_most_s)

    def cancel(self, ticket: Ticket) -> None:
        """Notes that the request ended without telling anything about the node."""
        self._close(ticket)

    def usual_s(self, capability: str) -> float | None:
        """Returns the average service time over all nodes of a capability, by its id; None where none was observed."""
        usual = self._usual.get(capability)
        return usual.total_s / usual.count if usual else None

    def seen(self, node: NodeId, capability: str, now: float) -> Seen:
        """Returns what is known of `capability` on `node` at `now`."""
        in_flight = self._in_flight.get(node, 0)
        row = self._rows.get((node, capability))
        if row is None:
            return Seen(in_flight=in_flight)
        breaker = CLOSED
        if row.failures >= self._config.failures_to_open:
            breaker = OPEN if now < row.open_until or row.in_flight else HALF_OPEN
        deferred_s = max(0.0, row.deferred_until - now)
        if deferred_s:
            breaker = OPEN
        return Seen(row.service_s, max(0.0, now - row.last), in_flight, row.failures, breaker, deferred_s)

    def _close(self, ticket: Ticket) -> _Row:
        row = self._rows[(ticket.node, ticket.capability)]
        row.in_flight -= 1
        left = self._in_flight[ticket.node] - 1
        if left:
            self._in_flight[ticket.node] = left
        else:
            del self._in_flight[ticket.node]
        return row

    def _evict(self) -> None:
        idle: Iterator[tuple[NodeId, str]] = (key for key, row in self._rows.items() if not row.in_flight)
        oldest = next(idle, None)
        if oldest is not None:
            service_s = self._rows.pop(oldest).service_s
            if service_s is not None:
                self._forget(oldest[1], service_s)

    def _forget(self, capability: str, service_s: float) -> None:
        usual = self._usual[capability]
        usual.count -= 1
        usual.total_s = max(0.0, usual.total_s - service_s)
        if not usual.count:
            del self._usual[capability]


def queue_factor(load: int, concurrency: int) -> float:
    """Returns how many service times a request takes that finds `load` others on a node which runs `concurrency`."""
    return max(1.0, (load + 1) / max(1, concurrency))
