"""`/metrics` in Prometheus' text format: requests, the engines' `Stats`, the process, this build."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Callable, Iterator, Mapping

import trio
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from atmo.api.watch.request_metrics import RequestMetrics
from atmo.version import __version__

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")

Groups = Callable[[], Mapping[str, object]]
"""Name of a group to a dataclass: its numbers are counters, its maps are counters by key, and fields with `gauge` in
their metadata are values of now."""

Gauges = Callable[[], Mapping[str, float]]
"""Name of a gauge to its value now."""


class Metrics:
    """Everything that `/metrics` shows.

    Args:
        groups: Read at each scrape.
        gauges: Read at each scrape.

    Attributes:
        requests: Counts requests; its `observe` is to be told of each.
    """

    def __init__(self, groups: Groups = dict, gauges: Gauges = dict) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for
        self._counted, self._now = CollectorRegistry(), CollectorRegistry()
        self.requests = RequestMetrics(self._counted)
        self._counted.register(_Build())
        ProcessCollector(registry=self._counted)
        GCCollector(registry=self._counted)
        self._now.register(StatsCollector(groups, gauges))

    async def render(self) -> bytes:
        """Returns the exposition text.

        What is read of engines is read here, where nobody changes it meanwhile. The rest is written in a thread: with
        as many models as are told apart it takes 80 ms.
        """
        now = generate_latest(self._now)
        return now + await trio.to_thread.run_sync(generate_latest, self._counted)


class StatsCollector(Collector):
    """The `Stats` dataclasses of engines and services, and values of now."""

    def __init__(self, groups: Groups, gauges: Gauges) -> None:
        self._groups = groups
        self._gauges = gauges

    def describe(self) -> Iterator[Metric]:
        """Names nothing ahead: which groups there are changes when a mesh is joined."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Reads all of them."""
        for group, stats in self._groups().items():
            if dataclasses.is_dataclass(stats):
                yield from _of_group(group, stats)
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"atmo_{name}", name.replace("_", " "), value=value)


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        about = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("atmo_build", "What runs here.", value=about)


def _of_group(group: str, stats: object) -> Iterator[Metric]:
    assert dataclasses.is_dataclass(stats)
    for field in dataclasses.fields(stats):
        value = getattr(stats, field.name)
        name = _NOT_IN_NAMES.sub("_", f"atmo_{group}_{field.name}")
        text = f"{field.name.replace('_', ' ')} ({group.replace('_', ' ')})"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if "gauge" in field.metadata:
                yield GaugeMetricFamily(name, text, value=value)
            else:
                yield CounterMetricFamily(name, text, value=value)
        elif isinstance(value, Mapping):
            family = CounterMetricFamily(name, text, labels=("key",))
            for key, count in value.items():
                family.add_metric((str(key),), count)
            yield family
