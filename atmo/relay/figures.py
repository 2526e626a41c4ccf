"""What a relay counts, and how `/metrics` says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class RelayStats:
    """Counters since start. A datagram is counted as received, then as dropped for a reason or, sooner or later, sent.

    Attributes:
        connections: TCP connections that were taken.
        refused: Those that were not let in, by the bound that they met.
        authenticated: Clients that proved who they are.
        ended: Connections that ended, by reason.
        received, received_bytes: Datagrams of clients, and the bytes of their messages.
        sent, sent_bytes: The same towards clients.
        paused_s: Seconds for which clients above their rates were not read, over all of them.
        dropped: Datagrams that were not passed on, by reason.
        absent_told: Times that a client was told that a node is not here.
        faults: Errors of this program that ended a connection.
    """

    connections: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    authenticated: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    paused_s: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    absent_told: int = 0
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Levels:
    """What is the case now.

    Attributes:
        clients: Nodes that are connected.
        handshakes: Connections that have not proved who they are.
        queued_bytes: Datagrams that wait for their readers, over all clients.
        draining: The relay ends.
    """

    clients: int
    handshakes: int
    queued_bytes: int
    draining: bool


class _Snapshot(Collector):
    def __init__(self, stats: RelayStats, levels: Levels) -> None:
        self._stats = stats
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        stats, levels = self._stats, self._levels
        yield _gauge("clients", "Nodes that are connected", levels.clients)
        yield _gauge("handshakes", "Connections that have not proved who they are", levels.handshakes)
        yield _gauge("queued_bytes", "Bytes of datagrams that wait for their readers", levels.queued_bytes)
        yield _gauge("draining", "1 while the relay ends", int(levels.draining))
        yield _counter("connections", "TCP connections", stats.connections)
        yield _by_reason("refused_connections", "Connections not let in, by the bound they met", stats.refused)
        yield _counter("authenticated_clients", "Clients that proved who they are", stats.authenticated)
        yield _by_reason("ended_connections", "Connections that ended", stats.ended)
        yield _counter("received_datagrams", "Datagrams of clients", stats.received)
        yield _counter("received_bytes", "Bytes of messages of clients", stats.received_bytes)
        yield _counter("sent_datagrams", "Datagrams to clients", stats.sent)
        yield _counter("sent_bytes", "Bytes of messages to clients", stats.sent_bytes)
        yield _counter("paused_seconds", "Seconds for which clients above their rates were not read", stats.paused_s)
        yield _by_reason("dropped_datagrams", "Datagrams not passed on", stats.dropped)
        yield _counter("absent_told", "Times that a client was told that a node is not here", stats.absent_told)
        yield _counter("faults", "Errors of the relay that ended a connection", stats.faults)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"atmo_relay_{name}", f"{text}.", value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"atmo_relay_{name}", f"{text}.", value=value)


def _by_reason(name: str, text: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(f"atmo_relay_{name}", f"{text}.", labels=("reason",))
    for reason, count in sorted(counts.items()):
        family.add_metric((reason,), count)
    return family


def render(stats: RelayStats, levels: Levels) -> bytes:
    """Returns the text of `/metrics`, with the usual `process_` figures (memory, CPU, open files) at its end."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(stats, levels))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
