"""The child process that fits a forecasting model to a series of numbers and writes it as ONNX. Started by `training`.

Of the exponential smoothing models with additive errors, with and without a trend, damped or not, with and without a
season, the one with the smallest corrected information criterion is taken. Its forecasts are computed by the graph that
is stored, after that was found to agree with the fit.

Source: R. Hyndman and others, "A state space framework for automatic forecasting using exponential smoothing methods",
International Journal of Forecasting 18 (2002), section 2.6, without its multiplicative models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.backends.child_side import Refusal, serve
from atmo.backends.export_ets import Ets, graph_of
from atmo.backends.ml_forecast import DEVIATION_OUTPUT, HISTORY_INPUT, HORIZON_INPUT, MAX_SEASON, MEAN_OUTPUT

Series = NDArray[np.float64]

STEPS_TESTED = 12
"""Values at the end that are held back to tell how good the model is; two seasons where it has one. Source: choice."""

AGREEMENT = 1e-3
"""How far the graph may be off, in standard deviations of the series. Source: choice; rounding gives 1e-12."""

AGREED_STEPS = 24
_TRENDS = ((None, False), ("add", False), ("add", True))


def work(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Fits to `data.npz` in `folder` (y: float64[n]); writes `model.onnx`.

    The request: `season` (a length, 0 for none, null to find it), `horizon` (0 for no forecast) and `test`, whether the
    model is to be tested on values that are held back.
    """
    with np.load(folder / "data.npz", allow_pickle=False) as data:
        y = np.asarray(data["y"], np.float64)
    season = request["season"]
    lengths = _season_lengths(y) if season is None else [season] if season else []
    model, method, criterion = _fit(y, lengths)
    graph = graph_of(model).SerializeToString()
    (folder / "model.onnx").write_bytes(graph)
    metrics: dict[str, Any] = {"aicc": criterion, "sigma": round(model.sigma, 6)}
    if request["test"]:
        metrics |= _tested(y, lengths)
    length = len(model.season) if len(model.season) > 1 else 0
    result: dict[str, Any] = {"config": {"method": method, "season": length, "n_observations": len(y)}}
    if request["horizon"]:
        mean, deviation = run_graph(graph, request["horizon"])
        result |= {"mean": mean.tolist(), "deviation": deviation.tolist()}
    return result | {"metrics": metrics}


def run_graph(graph: bytes, horizon: int) -> tuple[Series, Series]:
    """Returns (float64[horizon], float64[horizon]): what is expected after the history, and its standard deviation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    given = {HISTORY_INPUT: np.empty(0, np.float64), HORIZON_INPUT: np.array([horizon], np.int64)}
    mean, deviation = session.run([MEAN_OUTPUT, DEVIATION_OUTPUT], given)
    return mean, deviation


def _season_lengths(y: Series) -> list[int]:
    """Returns the length at which the differences of neighbours repeat most clearly, nothing where they do not."""
    from statsmodels.tsa.stattools import acf

    steps = np.diff(y)
    longest = min(MAX_SEASON, len(y) // 3)
    if longest < 2 or not steps.std():
        return []
    values = acf(steps, nlags=longest + 1, fft=True)
    significant = 1.96 / math.sqrt(len(steps))
    peaks = [
        lag
        for lag in range(2, longest + 1)
        if values[lag] > max(2 * significant, values[lag - 1], values[min(lag + 1, longest + 1)])
    ]
    return [max(peaks, key=lambda lag: float(values[lag]))] if peaks else []


def _fit(y: Series, lengths: list[int]) -> tuple[Ets, str, float | None]:
    """Returns the best model, its name, and its corrected information criterion."""
    spread = float(y.std())
    if spread <= 1e-12 * max(1.0, float(np.abs(y).max())):
        still = Ets(0.0, 0.0, 0.0, 1.0, float(y[0]), 0.0, np.zeros(1), y, 0.0)
        return still, "constant", None
    centre = float(y.mean())
    scaled = (y - centre) / spread
    fits = list(_candidates(scaled, lengths))
    if not fits:
        raise Refusal(
            "No exponential smoothing model fits this series.", "Look for values that are out of all proportion."
        )
    criterion, method, result, model = min(fits, key=lambda fit: fit[0])
    expected, _ = run_graph(graph_of(model).SerializeToString(), AGREED_STEPS)
    off = float(np.abs(expected - np.asarray(result.forecast(AGREED_STEPS))).max())
    if not off <= AGREEMENT:
        raise Refusal(f"The ONNX form of {method} is off by {off:.2g} standard deviations: refused.")
    return _rescaled(model, y, centre, spread), method, round(criterion, 3)


def _candidates(y: Series, lengths: list[int]) -> Iterator[tuple[float, str, Any, Ets]]:
    for length in (0, *lengths):
        for trend, damped in _TRENDS:
            # Two whole seasons are the least that says anything of one.
            if length and len(y) < 2 * length + 2:
                continue
            result = _try(y, trend, damped, length)
            if result is None:
                continue
            criterion = float(result.aicc)
            name = f"ETS(A,{'Ad' if damped else 'A' if trend else 'N'},{'A' if length else 'N'})"
            if math.isfinite(criterion):
                yield criterion, name, result, _read(result, y, bool(trend), length)


def _try(y: Series, trend: str | None, damped: bool, length: int) -> Any:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    try:
        model = ETSModel(
            y,
            error="add",
            trend=trend,
            damped_trend=damped,
            seasonal="add" if length else None,
            seasonal_periods=length or None,
            # Estimating the states of a season with the rest takes ten times as long and forecasts no better.
            initialization_method="heuristic" if length else "estimated",
        )
        result = model.fit(disp=False, warn_convergence=False)
    except (ValueError, np.linalg.LinAlgError):  # too short for this model, or nothing it converges to
        return None
    return result if np.isfinite(np.asarray(result.params)).all() else None


def _read(result: Any, y: Series, trend: bool, length: int) -> Ets:
    named = dict(zip(result.model.param_names, np.asarray(result.params, np.float64).tolist(), strict=True))
    season = np.asarray(result.initial_seasonal, np.float64) if length else np.zeros(1)
    return Ets(
        alpha=named["smoothing_level"],
        beta=named.get("smoothing_trend", 0.0),
        gamma=named.get("smoothing_seasonal", 0.0),
        phi=named.get("damping_trend", 1.0),
        level=float(result.initial_level),
        trend=float(result.initial_trend) if trend else 0.0,
        season=season,
        history=y,
        sigma=math.sqrt(float(result.scale)),
    )


def _rescaled(model: Ets, y: Series, centre: float, spread: float) -> Ets:
    return Ets(
        model.alpha,
        model.beta,
        model.gamma,
        model.phi,
        model.level * spread + centre,
        model.trend * spread,
        model.season * spread,
        y,
        model.sigma * spread,
    )


def _tested(y: Series, lengths: list[int]) -> dict[str, Any]:
    """Returns how far forecasts of values that were held back are off, in units of the naive forecast's steps."""
    length = lengths[0] if lengths else 1
    held = min(len(y) // 4, 2 * length if length > 1 else STEPS_TESTED)
    before, after = y[: len(y) - held], y[len(y) - held :]
    if held < 1 or len(before) < 2 * length + 2 or not before.std():
        return {"mase": None, "note": "The series is too short, or too still, to hold anything back to test on."}
    model, _, _ = _fit(before, lengths)
    expected, _ = run_graph(graph_of(model).SerializeToString(), held)
    naive = float(np.abs(before[length:] - before[:-length]).mean())
    repeated = np.resize(before[-length:], held)
    return {
        "held_back": held,
        "mase": round(float(np.abs(after - expected).mean()) / naive, 4) if naive else None,
        "mase_of_repeating": round(float(np.abs(after - repeated).mean()) / naive, 4) if naive else None,
    }


def main() -> None:
    """Runs the child."""
    serve(work)


if __name__ == "__main__":
    main()
