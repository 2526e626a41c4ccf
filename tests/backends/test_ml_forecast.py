"""Forecasts: what is asked for, the models that are fitted, their graphs, and the answers."""

from __future__ import annotations

import math
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from atmo.backends import forecast_child
from atmo.backends.base import Call, as_object
from atmo.backends.child_side import Refusal
from atmo.backends.export_ets import Ets, graph_of
from atmo.backends.forecast_child import run_graph
from atmo.backends.ml_children import ChildrenBackend
from atmo.backends.ml_forecast import (
    check_forecaster,
    forecast_answer,
    parse_horizon,
    parse_levels,
    parse_season,
    parse_series,
    read_forecast,
)
from atmo.backends.onnx import OnnxBackend
from atmo.backends.onnx_file import BadModelFile
from atmo.backends.onnx_session import Port, Signature
from atmo.backends.training import Trainer, check_forecasting
from atmo.errors import RequestError
from atmo.router.capability import CLUSTER, FORECAST
from tests.backends.graphs import Stored, TinyEmbedder, linear
from tests.backends.test_training import Store

MONTHS = 100 + 0.5 * np.arange(72) + 10 * np.sin(2 * np.pi * np.arange(72) / 12)
NOISE = np.random.default_rng(0).normal(0, 0.5, 72)


def fit(folder: Path, y: NDArray[np.float64], **order: Any) -> dict[str, Any]:
    """Does the child's work in this process."""
    np.savez(folder / "data.npz", y=y)
    return forecast_child.work({"season": None, "horizon": 12, "test": False} | order, folder)


async def ask(models: list[Stored], body: dict[str, Any]) -> dict[str, Any]:
    backend = OnnxBackend(lambda: models, TinyEmbedder())
    (capability,) = await backend.discover()
    assert capability.operation == FORECAST
    async with aclosing(backend.execute(Call(capability, body))) as parts:
        return as_object(await anext(parts))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "data", "must be a list"),
        ({"data": []}, "data", "must be a list"),
        ({"data": [1, 2]}, "data", "at least 10"),
        ({"data": [1.0] * 10_001}, "data", "at most 10000"),
        ({"data": [{"y": 1}] * 10}, "target", "name the column"),
        ({"data": [{"y": 1}] * 9 + [{"x": 1}], "target": "y"}, "data", "Item 9"),
        ({"data": [1] * 9 + [True]}, "data", "Item 9"),
        ({"data": [1] * 9 + ["2"]}, "data", "Item 9"),
        ({"data": [1] * 9 + [math.inf]}, "data", "Item 9"),
        ({"data": [1] * 9 + [[1, 2]]}, "data", "Item 9"),
    ],
)
def test_series_that_are_none(body: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse_series(body)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_series() -> None:
    assert parse_series({"data": [[float(one)] for one in range(10)]}).tolist() == list(range(10))
    assert parse_series({"data": [{"t": 0, "y": one} for one in range(10)], "target": "y"}).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("parse", "body", "found"),
    [
        (parse_horizon, {}, 12),
        (parse_horizon, {"horizon": 1_000}, 1_000),
        (parse_season, {}, None),
        (parse_season, {"season": "auto"}, None),
        (parse_season, {"season": 0}, 0),
        (parse_season, {"season": 7}, 7),
        (parse_levels, {}, (80.0, 95.0)),
        (parse_levels, {"levels": [50]}, (50.0,)),
    ],
)
def test_options(parse: Any, body: dict[str, Any], found: Any) -> None:
    assert parse(body) == found


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (parse_horizon, {"horizon": 0}),
        (parse_horizon, {"horizon": 1_001}),
        (parse_horizon, {"horizon": True}),
        (parse_horizon, {"horizon": 1.5}),
        (parse_season, {"season": 1}),
        (parse_season, {"season": 367}),
        (parse_levels, {"levels": 80}),
        (parse_levels, {"levels": [100]}),
        (parse_levels, {"levels": [True]}),
        (parse_levels, {"levels": [50] * 9}),
    ],
)
def test_options_that_are_none(parse: Any, body: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body)
    assert caught.value.param == next(iter(body))


def test_a_season_and_a_trend_are_found(tmp_path: Path) -> None:
    found = fit(tmp_path, MONTHS + NOISE, test=True)
    assert found["config"]["season"] == 12
    assert found["config"]["method"] in ("ETS(A,A,A)", "ETS(A,Ad,A)")
    after = 100 + 0.5 * np.arange(72, 84) + 10 * np.sin(2 * np.pi * np.arange(72, 84) / 12)
    assert np.abs(np.array(found["mean"]) - after).max() < 2
    assert found["metrics"]["mase"] < 0.5 < found["metrics"]["mase_of_repeating"]
    assert min(found["deviation"]) > 0


@pytest.mark.parametrize("season", [0, 12])
def test_a_season_that_is_told_is_believed(tmp_path: Path, season: int) -> None:
    assert fit(tmp_path, MONTHS + 30 * NOISE, season=season)["config"]["season"] in (0, season)


def test_a_straight_line_goes_on(tmp_path: Path) -> None:
    found = fit(tmp_path, np.arange(20.0) * 1e9, horizon=3)
    assert found["mean"] == pytest.approx([20e9, 21e9, 22e9], rel=1e-4)


def test_a_series_that_stands_still(tmp_path: Path) -> None:
    found = fit(tmp_path, np.full(12, 3.0), horizon=2, test=True)
    assert (found["mean"], found["deviation"]) == ([3.0, 3.0], [0.0, 0.0])
    assert found["config"]["method"] == "constant"
    assert found["metrics"]["mase"] is None


def test_too_short_to_test(tmp_path: Path) -> None:
    assert fit(tmp_path, np.array([1.0, 2, 1, 2, 1, 2, 1, 2, 1, 3]), season=4, test=True)["metrics"]["mase"] is None


def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_child, "AGREEMENT", -1.0)
    with pytest.raises(Refusal, match="off by"):
        fit(tmp_path, MONTHS)


def test_nothing_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_child, "_TRENDS", ())
    with pytest.raises(Refusal, match="No exponential smoothing"):
        fit(tmp_path, MONTHS)


def test_the_graph_is_the_recursion() -> None:
    """Against the recursion of the book, written out."""
    model = Ets(0.3, 0.1, 0.2, 0.9, 5.0, 1.0, np.array([1.0, -1.0, 0.5]), np.array([6.0, 7, 9, 8, 6]), 2.0)
    level, trend, season = model.level, model.trend, list(model.season)
    for value in model.history:
        error = value - (level + model.phi * trend + season[0])
        level, trend = level + model.phi * trend + model.alpha * error, model.phi * trend + model.beta * error
        season = [*season[1:], season[0] + model.gamma * error]
    mean, deviation, damped, variance = [], [], 0.0, 1.0
    for step in range(1, 8):
        damped += model.phi**step
        mean.append(level + damped * trend + season[(step - 1) % 3])
        deviation.append(model.sigma * math.sqrt(variance))
        variance += (model.alpha + model.beta * damped + model.gamma * (step % 3 == 0)) ** 2
    found = run_graph(graph_of(model).SerializeToString(), 7)
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(deviation)


async def test_a_fitted_model_goes_on_from_its_own_history_or_another(tmp_path: Path) -> None:
    config = fit(tmp_path, MONTHS)["config"]
    models = [Stored(tmp_path / "model.onnx", "months", type="forecaster", config=config)]
    own = await ask(models, {"horizon": 12, "levels": [90]})
    assert (own["object"], own["model"], own["horizon"], own["season"]) == ("ml.forecast", "months", 12, 12)
    assert own["forecast"][0] == pytest.approx(136, abs=1)
    (interval,) = own["intervals"]
    assert interval["lower"][0] <= own["forecast"][0] <= interval["upper"][0]
    other = await ask(models, {"data": (MONTHS[:48] + 50).tolist(), "horizon": 1})
    assert other["forecast"][0] == pytest.approx(MONTHS[48] + 50, abs=10)
    with pytest.raises(RequestError) as caught:
        await ask(models, {"data": ["x"]})
    assert caught.value.status == 400


async def test_a_graph_of_another_kind_is_left_out(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "m.onnx")
    backend = OnnxBackend(lambda: [Stored(tmp_path / "m.onnx", type="forecaster")], TinyEmbedder())
    assert await backend.discover() == []


def test_answers_of_a_graph_that_are_none() -> None:
    for values in ([np.zeros(2), np.ones(3)], [np.array([1, np.nan]), np.ones(2)], [np.zeros(2), -np.ones(2)]):
        with pytest.raises(BadModelFile):
            read_forecast(values, 2)
    with pytest.raises(BadModelFile):
        check_forecaster(Signature((Port("history", "tensor(double)", (None,)),), ()))


def test_the_answer() -> None:
    answer = forecast_answer("m", "1", np.array([1.0, 2.0]), np.array([1.0, 0.0]), [95.0], {"method": "x", "season": 0})
    assert answer["intervals"] == [{"level": 95.0, "lower": [-0.959963985, 2.0], "upper": [2.95996398, 2.0]}]
    assert (answer["season"], answer["method"]) == (None, "x")


async def test_without_a_fitted_model() -> None:
    backend = ChildrenBackend(TinyEmbedder())
    cluster, forecast = await backend.discover()
    assert (cluster.operation, forecast.operation) == (CLUSTER, FORECAST)
    body = {"data": MONTHS.tolist(), "horizon": 3}
    async with aclosing(backend.execute(Call(forecast, body))) as parts:
        answer = as_object(await anext(parts))
    assert answer["model"] == "builtin-forecast"
    assert answer["forecast"] == pytest.approx([136, 141.5, 145.7], abs=0.5)


async def test_without_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (only,) = await ChildrenBackend(TinyEmbedder()).discover()
    assert only.operation == CLUSTER
    with pytest.raises(RequestError, match=r"atmosphere-mesh\[forecast\]") as caught:
        check_forecasting()
    assert caught.value.status == 503


async def test_a_forecaster_is_fitted_saved_and_answers(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    store = Store(tmp_path)
    trainer = Trainer(TinyEmbedder().embed, store.save, tmp_path / "work")
    answer = await trainer.fit("forecast", {"model": "months", "data": MONTHS.tolist()})
    assert (answer["type"], answer["samples"], answer["version"]) == ("forecaster", 72, "1")
    assert answer["metrics"]["mase"] < 0.5
    assert store.saved[0].description == "months: forecasts how a series of numbers goes on."
    assert (await ask(store.models, {"horizon": 1}))["forecast"][0] == pytest.approx(136, abs=0.5)
