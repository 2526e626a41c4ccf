"""Groups and forecasts without a stored model: fitted to what a request sends, in a child process, and forgotten."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio

from atmo.backends.base import Backend, Call, Object, Part
from atmo.backends.child import ChildLimits
from atmo.backends.ml_cluster import cluster_answer, parse_k
from atmo.backends.ml_forecast import forecast_answer, parse_horizon, parse_levels, parse_season, parse_series
from atmo.backends.pool import FOREVER
from atmo.backends.store import TextEmbedder
from atmo.backends.training import CLUSTERING, FORECASTING, can_forecast, fit_rows, run_fit
from atmo.router.capability import CLUSTER, FORECAST, Capability
from atmo.version import __version__

CLUSTER_MODEL, FORECAST_MODEL = "builtin-cluster", "builtin-forecast"
LIMITS = ChildLimits(wall_s=120.0, cpu_s=120)

_CLUSTER = Capability(
    id="builtin:cluster",
    operation=CLUSTER,
    model=CLUSTER_MODEL,
    description="Finds groups among the rows or texts sent, without a fitted model.",
    examples=("which of these rows belong together", "group these texts by topic", "segment these customers"),
    general=True,
    concurrency=1,
    backend="builtin",
)
_FORECAST = Capability(
    id="builtin:forecast",
    operation=FORECAST,
    model=FORECAST_MODEL,
    description="Forecasts how a series of numbers goes on, with intervals, without a fitted model.",
    examples=("how will these sales go on", "predict the next values of this sensor", "forecast next month's load"),
    general=True,
    concurrency=1,
    backend="builtin",
)


class ChildrenBackend(Backend):
    """The backend `builtin-children`. Forecasts are offered where statsmodels is installed.

    Args:
        embedder: Embeds texts that are to be grouped.
    """

    name = "builtin-children"
    recheck_s = FOREVER

    def __init__(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder

    async def discover(self) -> Sequence[Capability]:
        """Returns what can be fitted here."""
        forecasts = await trio.to_thread.run_sync(can_forecast)
        return [_CLUSTER, _FORECAST] if forecasts else [_CLUSTER]

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request."""
        yield await (_forecast(call.body) if call.operation == FORECAST else self._cluster(call.body))

    async def _cluster(self, body: Mapping[str, Any]) -> Object:
        rows, config = await fit_rows(body, self._embedder.embed)
        order = {"k": parse_k(body, len(rows)), "text": config["input"] == "text", "save": False}
        with tempfile.TemporaryDirectory(prefix="atmo-cluster-") as folder:
            found = await run_fit(CLUSTERING, {"x": rows}, order, Path(folder), LIMITS, "Grouping the rows")
        return cluster_answer(CLUSTER_MODEL, __version__, found["labels"], found["distances"], found)


async def _forecast(body: Mapping[str, Any]) -> Object:
    series = await trio.to_thread.run_sync(parse_series, body)
    levels, order = parse_levels(body), {"season": parse_season(body), "horizon": parse_horizon(body), "test": False}
    with tempfile.TemporaryDirectory(prefix="atmo-forecast-") as folder:
        found = await run_fit(FORECASTING, {"y": series}, order, Path(folder), LIMITS, "Forecasting")
    mean, deviation = np.array(found["mean"]), np.array(found["deviation"])
    return forecast_answer(FORECAST_MODEL, __version__, mean, deviation, levels, found["config"])
