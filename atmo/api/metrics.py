"""The `Stats` dataclasses of the engines and services, in Prometheus' text format."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")


class _Snapshot(Collector):
    def __init__(self, groups: Mapping[str, object], gauges: Mapping[str, float]) -> None:
        self._groups = groups
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for group, stats in self._groups.items():
            if not dataclasses.is_dataclass(stats):
                continue
            for field in dataclasses.fields(stats):
                value = getattr(stats, field.name)
                name = _NOT_IN_NAMES.sub("_", f"atmo_{group}_{field.name}")
                text = f"{field.name.replace('_', ' ')} ({group.replace('_', ' ')})"
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield CounterMetricFamily(name, text, value=value)
                elif isinstance(value, Mapping):
                    family = CounterMetricFamily(name, text, labels=("key",))
                    for key, count in value.items():
                        family.add_metric((str(key),), count)
                    yield family
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"atmo_{name}", name.replace("_", " "), value=value)


def render(groups: Mapping[str, object], gauges: Mapping[str, float]) -> bytes:
    """Returns the exposition text.

    Args:
        groups: Name of a group to a dataclass whose numbers are counters, and whose maps are counters by key.
        gauges: Name to current value.
    """
    registry = CollectorRegistry()
    registry.register(_Snapshot(groups, gauges))
    return generate_latest(registry)
