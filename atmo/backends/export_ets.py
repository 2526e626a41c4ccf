"""Exponential smoothing as an ONNX graph: it takes a history and gives what is to be expected after it.

The model is the additive innovations state space model ETS(A, N|A|Ad, N|A). Its graph carries the parameters and the
states before the first observation; `Scan` runs the states through a history, which is the one it was fitted to unless
another is given. So a stored model forecasts from new data as well.

    y_t = l + phi b + s_m + e,   l' = l + phi b + alpha e,   b' = phi b + beta e,   s' = s_m + gamma e

Source: R. Hyndman, A. Koehler, J. Ord, R. Snyder, "Forecasting with Exponential Smoothing", 2008, chapters 2 and 6; the
standard deviation of a forecast is that of its class 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from atmo.backends.ml_forecast import DEVIATION_OUTPUT, HISTORY_INPUT, HORIZON_INPUT, MEAN_OUTPUT

OPSET = 18


@dataclass(frozen=True, slots=True)
class Ets:
    """A fitted model.

    Attributes:
        alpha, beta, gamma, phi: Smoothing of level, trend and season, and damping; beta is 0 without a trend, gamma
            without a season.
        level, trend: States before the first observation.
        season: float64[m], the state before the first observation, of the season that comes first; [0] without one.
        history: float64[n], what it was fitted to.
        sigma: Standard deviation of the errors of one step.
    """

    alpha: float
    beta: float
    gamma: float
    phi: float
    level: float
    trend: float
    season: NDArray[np.float64]
    history: NDArray[np.float64]
    sigma: float


def graph_of(model: Ets) -> onnx.ModelProto:
    """Returns the graph."""
    constants = {
        "alpha": model.alpha,
        "beta": model.beta,
        "gamma": model.gamma,
        "phi": model.phi,
        "sigma": model.sigma,
        "level0": model.level,
        "trend0": model.trend,
        "season0": model.season,
        "history0": model.history,
        "one": 1.0,
    }
    whole = {"i0": 0, "i1": 1, "season_length": len(model.season), "axis": [0], "first": [0], "second": [1]}
    whole |= {"end": [np.iinfo(np.int64).max]}
    initializers = [numpy_helper.from_array(np.asarray(value, np.float64), name) for name, value in constants.items()]
    initializers += [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in whole.items()]
    graph = helper.make_graph(
        [*_chosen_history(), _filter(), *_ahead(), *_spread(len(model.season) > 1)],
        "ets",
        [
            helper.make_tensor_value_info(HISTORY_INPUT, TensorProto.DOUBLE, ["n"]),
            helper.make_tensor_value_info(HORIZON_INPUT, TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info(MEAN_OUTPUT, TensorProto.DOUBLE, ["h"]),
            helper.make_tensor_value_info(DEVIATION_OUTPUT, TensorProto.DOUBLE, ["h"]),
        ],
        initializers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def _node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def _chosen_history() -> list[onnx.NodeProto]:
    """Takes the history that was sent; the one of the model where it is empty."""
    given = helper.make_graph(
        [_node("Identity", HISTORY_INPUT, "given")],
        "given",
        [],
        [helper.make_tensor_value_info("given", TensorProto.DOUBLE, None)],
    )
    own = helper.make_graph(
        [_node("Identity", "history0", "own")],
        "own",
        [],
        [helper.make_tensor_value_info("own", TensorProto.DOUBLE, None)],
    )
    return [
        _node("Size", HISTORY_INPUT, "count"),
        _node("Greater", "count i0", "has_history"),
        helper.make_node("If", ["has_history"], ["y"], then_branch=given, else_branch=own),
    ]


def _filter() -> onnx.NodeProto:
    """Runs the states through the history. The season's state is a ring whose first place is the next to come."""

    def number(name: str, shape: list[str | int | None]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)

    body = helper.make_graph(
        [
            _node("Mul", "b phi", "damped"),
            _node("Slice", "s first second axis", "due_"),
            _node("Squeeze", "due_ axis", "due"),
            _node("Add", "l damped", "expected_level"),
            _node("Add", "expected_level due", "expected"),
            _node("Sub", "y_t expected", "error"),
            _node("Mul", "error alpha", "of_level"),
            _node("Add", "expected_level of_level", "l_next"),
            _node("Mul", "error beta", "of_trend"),
            _node("Add", "damped of_trend", "b_next"),
            _node("Mul", "error gamma", "of_season"),
            _node("Add", "due of_season", "s_new"),
            _node("Unsqueeze", "s_new axis", "s_last"),
            _node("Slice", "s second end axis", "s_rest"),
            _node("Concat", "s_rest s_last", "s_next", axis=0),
        ],
        "step",
        [number("l", []), number("b", []), number("s", ["m"]), number("y_t", [])],
        [number("l_next", []), number("b_next", []), number("s_next", ["m"])],
    )
    return helper.make_node(
        "Scan", ["level0", "trend0", "season0", "y"], ["l_end", "b_end", "s_end"], body=body, num_scan_inputs=1
    )


def _ahead() -> list[onnx.NodeProto]:
    """Level, what is left of the trend, and the season, for each step ahead."""
    return [
        _node("Squeeze", f"{HORIZON_INPUT} axis", "steps"),
        _node("Range", "i0 steps i1", "at"),
        _node("Cast", "at", "at_", to=TensorProto.DOUBLE),
        _node("Add", "at_ one", "ahead"),
        _node("Pow", "phi ahead", "damping"),
        _node("CumSum", "damping i0", "damped_sum"),
        _node("Mul", "damped_sum b_end", "of_trend"),
        _node("Mod", "at season_length", "place"),
        _node("Gather", "s_end place", "of_season"),
        _node("Add", "l_end of_trend", "rising"),
        _node("Add", "rising of_season", MEAN_OUTPUT),
    ]


def _spread(seasonal: bool) -> list[onnx.NodeProto]:
    """sigma * sqrt(1 + sum over j < h of (alpha + beta phi_j + gamma [j is a multiple of m])^2)."""
    places = [
        _node("Cast", "ahead", "ahead_", to=TensorProto.INT64),
        _node("Mod", "ahead_ season_length", "rest"),
        _node("Equal", "rest i0", "same_season"),
        _node("Cast", "same_season", "same", to=TensorProto.DOUBLE),
        _node("Mul", "same gamma", "by_season"),
        _node("Add", "by_level by_season", "c"),
    ]
    return [
        _node("Mul", "damped_sum beta", "by_trend"),
        _node("Add", "by_trend alpha", "by_level"),
        *(places if seasonal else [_node("Identity", "by_level", "c")]),
        _node("Mul", "c c", "c_squared"),
        _node("CumSum", "c_squared i0", "c_sums", exclusive=1),
        _node("Add", "c_sums one", "variance"),
        _node("Sqrt", "variance", "root"),
        _node("Mul", "root sigma", DEVIATION_OUTPUT),
    ]
