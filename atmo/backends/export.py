"""Fitted scikit-learn estimators as ONNX files. Runs in child processes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import skl2onnx
from numpy.typing import NDArray
from skl2onnx.common import _container
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import is_classifier, is_outlier_detector, is_regressor
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline

from atmo.backends import export_iforest
from atmo.backends.child_side import Refusal

OPSETS = {"": 18, "ai.onnx.ml": 3}
"""Operator sets of onnxruntime 1.14 and later. Source: onnxruntime's compatibility table."""

AGREEMENT = 0.98
"""Share of sample rows on which the graph must give the estimator's own answer. Source: choice; float32 against
float64 moves rows that lie on a boundary."""

_SAMPLES = 256


def kind_of(estimator: Any) -> str:
    """Returns the manifest's type for an estimator, empty where there is none."""
    if is_classifier(estimator):
        return "classifier"
    if is_outlier_detector(estimator):
        return "anomaly_detector"
    return "regressor" if is_regressor(estimator) else ""


def last_step(estimator: Any) -> Any:
    """Returns what answers in the end: the last step of a pipeline, or the estimator itself."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def describe_scores(estimator: Any) -> dict[str, Any]:
    """Returns the keys of the manifest's config that tell how to read an outlier detector's scores."""
    last = last_step(estimator)
    if isinstance(last, IsolationForest | LocalOutlierFactor):
        return {
            "score_output": "score_samples",
            "score_direction": "lower_is_anomalous",
            "threshold": float(last.offset_),
        }
    return {"score_output": "scores", "score_direction": "lower_is_anomalous", "threshold": 0.0}


def export(estimator: Any, width: int, target: Path, samples: NDArray[np.float32] | None = None) -> float:
    """Writes a fitted estimator as an ONNX file and checks that it answers as the estimator does.

    Args:
        estimator: Fitted on rows of `width` numbers.
        width: Columns.
        target: The file to write.
        samples: float32[n, width] to compare on; without it, rows spread over what the estimator tells apart.

    Returns:
        The share of rows on which both agree.

    Raises:
        Refusal: There is no faithful ONNX form; the message names the class.
    """
    _prepare()
    name = type(last_step(estimator)).__name__
    model = _convert(estimator, width, name)
    data = model.SerializeToString()
    if samples is None:
        samples = _spread(estimator, width)
    agreement = _compare(estimator, data, samples)
    if agreement < AGREEMENT:
        raise Refusal(
            f"The ONNX form of {name} agrees with the original on {agreement:.1%} of sample rows only: refused.",
            SUPPORTED,
        )
    target.write_bytes(data)
    return agreement


SUPPORTED = (
    "Classifiers, pipelines and outlier detectors of scikit-learn work, such as LogisticRegression,"
    " RandomForestClassifier and IsolationForest; or export the model to ONNX yourself."
)


def _prepare() -> None:
    export_iforest.register()
    # onnx from 1.19 on refuses numpy scalars and booleans, which skl2onnx writes for histogram gradient boosting.
    _container.make_node = _make_node


def _make_node(*args: Any, **attributes: Any) -> Any:
    plain: dict[str, Any] = {
        name: [_plain(item) for item in value] if isinstance(value, list) else value
        for name, value in attributes.items()
    }
    return onnx.helper.make_node(*args, **plain)


def _plain(item: Any) -> Any:
    value = item.item() if isinstance(item, np.generic) else item
    return int(value) if isinstance(value, bool) else value


def _convert(estimator: Any, width: int, name: str) -> Any:
    tried = _options(estimator)
    for options in tried:
        try:
            return skl2onnx.to_onnx(
                estimator,
                initial_types=[("X", FloatTensorType([None, width]))],
                options=options,
                target_opset=OPSETS,
            )
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, NameError) and options is not tried[-1]:
                continue
            reason = " ".join(str(error).split())[:200]
            raise Refusal(f"{name} cannot be converted to ONNX: {reason}", SUPPORTED) from error
    raise AssertionError


def _options(estimator: Any) -> list[dict[int, dict[str, bool]]]:
    """Returns what to try: classes without the option `zipmap` answer it with a NameError."""
    last = last_step(estimator)
    if isinstance(last, LocalOutlierFactor):
        return [{id(last): {"score_samples": True}}]
    return [{id(last): {"zipmap": False}}, {}] if is_classifier(last) else [{}]


def _spread(estimator: Any, width: int) -> NDArray[np.float32]:
    """Returns float32[n, width] over the range of the thresholds and means that the estimator holds."""
    random = np.random.default_rng(0)
    low, high = np.full(width, -3.0), np.full(width, 3.0)
    for part in _parts(estimator):
        mean, scale = getattr(part, "mean_", None), getattr(part, "scale_", None)
        if mean is not None and scale is not None and np.shape(mean) == np.shape(scale) == (width,):
            low, high = mean - 3 * scale, mean + 3 * scale
        tree = getattr(part, "tree_", None)
        if tree is not None and tree.n_features == width:
            inner = tree.feature >= 0
            np.minimum.at(low, tree.feature[inner], tree.threshold[inner])
            np.maximum.at(high, tree.feature[inner], tree.threshold[inner])
    return random.uniform(low, high, (_SAMPLES, width)).astype(np.float32)


def _parts(estimator: Any) -> list[Any]:
    if isinstance(estimator, Pipeline):
        return [part for _, step in estimator.steps for part in _parts(step)]
    inner = getattr(estimator, "estimators_", [])
    return [estimator, *np.ravel(np.asarray(inner, dtype=object))]


def _compare(estimator: Any, data: bytes, samples: NDArray[np.float32]) -> float:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    given = np.asarray(session.run(None, {"X": samples})[0]).reshape(-1)
    wanted = np.asarray(estimator.predict(samples)).reshape(-1)
    if is_regressor(estimator):
        spread = float(np.std(wanted)) or 1.0
        return float(np.mean(np.abs(given - wanted) <= 1e-3 * spread + 1e-4 * np.abs(wanted)))
    if wanted.dtype.kind == "b":
        wanted = wanted.astype(np.int64)
    return float(np.mean(given.astype(str) == wanted.astype(given.dtype).astype(str)))
