"""What clients send to `/v1/ml/forecast` and what they get: values at equal distances in time, and what comes after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.backends.ml_data import invalid
from atmo.backends.onnx_file import BadModelFile
from atmo.backends.onnx_session import Array, Signature

Series = NDArray[np.float64]

MIN_VALUES = 10
"""Fewer say nothing of a trend. Source: what statsmodels needs for its first states."""

MAX_VALUES = 10_000
"""Of one series: some seconds of fitting on one core. Source: measured, 6 s."""

HORIZON, MAX_HORIZON = 12, 1_000
LEVELS, MAX_LEVELS = (80.0, 95.0), 8
"""Percent. Source: choice, those of R's forecast package."""

MAX_SEASON = 366
HISTORY_INPUT, HORIZON_INPUT, MEAN_OUTPUT, DEVIATION_OUTPUT = "history", "horizon", "mean", "deviation"
"""Of the graph of a forecaster: double[n] and int64[1] in, double[horizon] each out; an empty history means its own."""


def parse_series(body: Mapping[str, Any], least: int = MIN_VALUES) -> Series:
    """Reads the numbers of `body["data"]`, or those that `target` names in a list of objects.

    Returns:
        float64[n], all finite.

    Raises:
        RequestError: 400 naming what is wrong, with its index.
    """
    data, target = body.get("data"), body.get("target")
    if not isinstance(data, list) or not data:
        raise invalid("'data' must be a list of numbers at equal distances in time, the oldest first.", "data")
    if len(data) > MAX_VALUES:
        raise invalid(f"'data' has {len(data)} values; at most {MAX_VALUES} fit. Send the newest ones.", "data")
    if len(data) < least:
        raise invalid(f"'data' has {len(data)} values; at least {least} are needed to see how they go on.", "data")
    if isinstance(data[0], Mapping):
        if not isinstance(target, str):
            raise invalid("'target' is missing: name the column of 'data' that is to be forecast.", "target")
        data = [row.get(target) if isinstance(row, Mapping) else None for row in data]
    values = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise invalid(f"Item {index} of 'data' is not a finite number. Fill gaps before you send them.", "data")
    return np.array(values, np.float64)


def parse_horizon(body: Mapping[str, Any]) -> int:
    """Reads `horizon`: how many values to forecast.

    Raises:
        RequestError: 400.
    """
    return _whole(body, "horizon", HORIZON, 1, MAX_HORIZON)


def parse_season(body: Mapping[str, Any]) -> int | None:
    """Reads `season`: how many values until a pattern repeats, 0 for never, None where it is to be found.

    Raises:
        RequestError: 400.
    """
    if body.get("season") in (None, "auto"):
        return None
    season = _whole(body, "season", 0, 0, MAX_SEASON)
    if season == 1:
        raise invalid("'season' of 1 repeats nothing: say 0 for none, 12 for months of a year, or 'auto'.", "season")
    return season


def parse_levels(body: Mapping[str, Any]) -> tuple[float, ...]:
    """Reads `levels`: the shares, in percent, of future values that lie within each interval.

    Raises:
        RequestError: 400.
    """
    levels = body.get("levels")
    if levels is None:
        return LEVELS
    if not isinstance(levels, list) or len(levels) > MAX_LEVELS:
        raise invalid(f"'levels' must be a list of at most {MAX_LEVELS} percentages, such as [80, 95].", "levels")
    for level in levels:
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 100:
            raise invalid("'levels' holds something that is no number between 0 and 100.", "levels")
    return tuple(float(level) for level in levels)


def check_forecaster(signature: Signature) -> None:
    """Raises `BadModelFile` where a graph is not one of a forecaster."""
    given = {port.name: port.type for port in signature.inputs}
    taken = {port.name: port.type for port in signature.outputs}
    wanted = {HISTORY_INPUT: "tensor(double)", HORIZON_INPUT: "tensor(int64)"}
    if given != wanted or taken != {MEAN_OUTPUT: "tensor(double)", DEVIATION_OUTPUT: "tensor(double)"}:
        raise BadModelFile("its graph does not turn a history and a horizon into a mean and a deviation")


def forecaster_feeds(body: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the inputs of a forecaster's graph; without `data` it goes on from what it was fitted to.

    Raises:
        RequestError: 400 naming what is wrong.
    """
    history = np.empty(0) if body.get("data") is None else parse_series(body, 1)
    return {HISTORY_INPUT: history, HORIZON_INPUT: np.array([parse_horizon(body)], np.int64)}


def read_forecast(values: Sequence[Any], horizon: int) -> tuple[Series, Series]:
    """Reads the outputs of a forecaster's graph.

    Raises:
        BadModelFile: They are not what a forecaster gives.
    """
    mean, deviation = (np.asarray(value) for value in values)
    if mean.shape != (horizon,) or deviation.shape != (horizon,):
        raise BadModelFile(f"it does not give {horizon} values")
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation >= 0).all()):
        raise BadModelFile("it gives values that are not finite numbers")
    return mean, deviation


def forecast_answer(
    model: str, version: str, mean: Series, deviation: Series, levels: Sequence[float], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the body of a forecast.

    Args:
        model, version: Who answers.
        mean, deviation: float64[horizon] each.
        levels: Percent, of the intervals.
        about: `method` and `season` of the model.
    """
    from statistics import NormalDist

    intervals = []
    for level in levels:
        reach = NormalDist().inv_cdf(0.5 + level / 200) * deviation
        intervals.append({"level": level, "lower": _rounded(mean - reach), "upper": _rounded(mean + reach)})
    return {
        "object": "ml.forecast",
        "model": model,
        "version": version,
        "horizon": len(mean),
        "forecast": _rounded(mean),
        "intervals": intervals,
        "method": str(about.get("method", "")),
        "season": about.get("season") or None,
    }


def _rounded(values: Series) -> list[float]:
    """Nine digits: more than a forecast knows, and no noise of the last bit."""
    return [float(f"{value:.9g}") for value in values]


def _whole(body: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise invalid(f"'{name}' must be a whole number from {low} to {high}.", name)
    return value
