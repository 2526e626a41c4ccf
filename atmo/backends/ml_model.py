"""From the graph and the manifest of a model to the answer that a client reads.

Keys of the manifest's `config` that matter here, all optional:

- `input`: `numeric` (default), or `text`: the model takes MiniLM sentence vectors and requests carry texts.
- `feature_columns`: names of the columns, in order; then rows may also be objects.
- `labels`: the classes in the order of the score columns; strings, whole numbers, or true and false.
- `scores`: `probability` or `logits`, what the scores of a classifier are; without it they are looked at.
- `score_output`: which output of the graph holds the scores.
- `threshold`: of an anomaly detector, in the units of that output.
- `score_direction`: `lower_is_anomalous` as scikit-learn has it, or `higher_is_anomalous`.

The sign convention of answers: **a higher score is more anomalous, and a row is an anomaly when its score is above the
threshold**. Scores of a graph in which lower is more anomalous are negated, and its threshold with them; so the `-0.5`
of a scikit-learn isolation forest reads 0.5 in answers, and its scores lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.backends.ml_data import Label
from atmo.backends.onnx_file import BadModelFile
from atmo.backends.onnx_session import Array, Port, Signature, as_strings

Scores = NDArray[np.float64]

LOWER, HIGHER = "lower_is_anomalous", "higher_is_anomalous"
_NUMERIC = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_MAPS = ("seq(map(string,tensor(float)))", "seq(map(int64,tensor(float)))")
_LABELS = ("tensor(int64)", "tensor(string)", "tensor(int32)")


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run one graph for its manifest's type.

    Attributes:
        input: The graph's one input.
        width: Columns that it takes, None where any number will do.
        text: Requests carry texts, which are embedded first.
        columns: Names of the columns, or empty.
        label_output: Name of the output with labels, or empty.
        score_output: Name of the output with scores, or empty.
        outputs: The outputs to ask for, in the order in which the `read_` functions take them.
    """

    input: Port
    width: int | None
    text: bool
    columns: tuple[str, ...]
    label_output: str
    score_output: str

    @property
    def outputs(self) -> list[str]:
        return [name for name in (self.label_output, self.score_output) if name]

    def feeds(self, rows: NDArray[np.float32]) -> dict[str, Array]:
        """Returns the graph's input for float32[n, d]."""
        return {self.input.name: rows.astype(_NUMERIC[self.input.type], copy=False)}

    def split(self, values: Sequence[Any]) -> tuple[Any, Any]:
        """Returns (labels, scores) of a run's outputs, None for what the graph does not give."""
        named = dict(zip(self.outputs, values, strict=True))
        return named.get(self.label_output), named.get(self.score_output)


def plan_model(signature: Signature, config: Mapping[str, Any]) -> Plan:
    """Finds the input, the labels and the scores of a classifier or an anomaly detector.

    Raises:
        BadModelFile: The graph takes or gives something that cannot be served; the message says what.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(port.name for port in signature.inputs)[:120]
        raise BadModelFile(f"its graph takes {len(signature.inputs)} inputs ({names}); one table of numbers is served")
    taken = signature.inputs[0]
    if taken.type not in _NUMERIC or len(taken.shape) != 2:
        raise BadModelFile(f"its input {taken.name} is {taken.type} {list(taken.shape)}, not rows of floats")
    if taken.shape[0] not in (None, 1):
        raise BadModelFile(f"its input {taken.name} has a fixed number of {taken.shape[0]} rows")
    columns = feature_columns(config)
    width = taken.shape[1] or len(columns) or None
    if columns and width != len(columns):
        raise BadModelFile(f"its manifest names {len(columns)} feature columns, its graph takes {width}")
    wanted = config.get("score_output")
    label = next((port.name for port in signature.outputs if port.type in _LABELS and port.name != wanted), "")
    score = _score_output(signature, config)
    if not label and not score:
        raise BadModelFile("its graph gives neither labels nor scores")
    return Plan(taken, width, config.get("input") == "text", columns, label, score)


def plan_embedder(signature: Signature) -> tuple[Port, Port, int | None] | None:
    """Returns (input, output, dimensions) of a graph that turns strings into vectors, None where it is another kind."""
    if len(signature.inputs) != 1 or signature.inputs[0].type != "tensor(string)":
        return None
    taken = signature.inputs[0]
    for port in signature.outputs:
        if port.type in _NUMERIC and len(port.shape) == 2 and len(taken.shape) in (1, 2):
            return taken, port, port.shape[1]
    return None


def feed_strings(port: Port, texts: Sequence[str]) -> dict[str, Array]:
    """Returns the graph's input for texts, as object[n] or object[n, 1]."""
    strings = as_strings(texts)
    return {port.name: strings.reshape(-1, 1) if len(port.shape) == 2 else strings}


def feature_columns(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the manifest's column names, or none where they are not a list of names."""
    value = config.get("feature_columns")
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return ()


def _score_output(signature: Signature, config: Mapping[str, Any]) -> str:
    named = config.get("score_output")
    if named is not None:
        if any(port.name == named for port in signature.outputs):
            return str(named)
        raise BadModelFile(f"its manifest names the score output {str(named)[:60]!r}, which its graph does not have")
    found = [port.name for port in signature.outputs if port.type in _NUMERIC or port.type in _MAPS]
    wanted = ("score_samples", "scores") if "threshold" in config else ("scores", "score_samples")
    for name in (*wanted, *found):
        if name in found:
            return name
    return ""


def config_labels(config: Mapping[str, Any]) -> list[Label]:
    """Returns the manifest's class labels, or none where it has no such list."""
    value = config.get("labels")
    if isinstance(value, list | tuple) and all(isinstance(label, str | int | float) for label in value):
        return list(value)
    return []


def read_classes(
    plan: Plan, config: Mapping[str, Any], values: Sequence[Any]
) -> tuple[list[Label], list[Label], Scores | None]:
    """Reads a classifier's outputs.

    Returns:
        (label of each row, all labels, float64[n, k] of probabilities in the order of all labels, or None where the
        graph gives labels alone).

    Raises:
        BadModelFile: The outputs are not what a classifier gives.
    """
    raw_labels, raw_scores = plan.split(values)
    labels = config_labels(config)
    scores = None
    if raw_scores is not None:
        scores, names = _score_table(raw_scores)
        labels = labels or names or list(range(scores.shape[1]))
        scores = _as_probabilities(scores, str(config.get("scores", "")))
        if scores.shape[1] != len(labels) and raw_labels is None:
            raise BadModelFile(f"it gives {scores.shape[1]} scores for {len(labels)} labels")
        if scores.shape[1] != len(labels):
            scores = None
    if raw_labels is None:
        assert scores is not None
        return [labels[index] for index in scores.argmax(axis=1)], labels, scores
    chosen = [_label(value, labels) for value in np.asarray(raw_labels).reshape(-1).tolist()]
    return chosen, labels or sorted(set(chosen), key=str), scores


def _label(value: Any, labels: Sequence[Label]) -> Label:
    if value in labels:
        return labels[list(labels).index(value)]
    if isinstance(value, int) and 0 <= value < len(labels):
        return labels[value]
    return value if isinstance(value, str | int | float) else str(value)


def _score_table(raw: Any) -> tuple[Scores, list[Label]]:
    if isinstance(raw, list):
        names = list(raw[0]) if raw and isinstance(raw[0], dict) else []
        return np.array([[row[name] for name in names] for row in raw], dtype=np.float64), names
    scores = np.asarray(raw, dtype=np.float64)
    scores = scores.reshape(-1, 1) if scores.ndim == 1 else scores
    if scores.ndim != 2 or scores.size == 0:
        raise BadModelFile(f"its scores have the shape {list(scores.shape)}, not rows by classes")
    return scores, []


def _as_probabilities(scores: Scores, kind: str) -> Scores:
    if not np.isfinite(scores).all():
        raise BadModelFile("it gives scores that are not finite numbers")
    likely = bool((scores >= -1e-6).all() and (scores <= 1 + 1e-6).all())
    if scores.shape[1] == 1:
        one = (
            scores
            if kind == "probability" or (likely and kind != "logits")
            else 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        )
        return np.clip(np.hstack([1 - one, one]), 0, 1)
    likely = likely and bool(np.allclose(scores.sum(axis=1), 1, atol=1e-3))
    if kind == "probability" or (likely and kind != "logits"):
        return np.clip(scores, 0, 1)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def read_anomalies(plan: Plan, config: Mapping[str, Any], values: Sequence[Any]) -> tuple[Scores, float]:
    """Reads an anomaly detector's outputs.

    Returns:
        (float64[n] of scores, threshold), in the convention of answers: higher is more anomalous.

    Raises:
        BadModelFile: The outputs are not one score for each row, or no threshold is known.
    """
    raw_labels, raw_scores = plan.split(values)
    if raw_scores is None:
        return (np.asarray(raw_labels).reshape(-1) == -1).astype(np.float64), 0.5
    scores = np.asarray(raw_scores, dtype=np.float64)
    if scores.size != len(scores):
        raise BadModelFile(f"it gives {scores.size // max(1, len(scores))} scores for each row, not one")
    if not np.isfinite(scores).all():
        raise BadModelFile("it gives scores that are not finite numbers")
    lower = config.get("score_direction", LOWER if plan.label_output else HIGHER) == LOWER
    threshold = config.get("threshold")
    if not isinstance(threshold, int | float):
        if not (lower and plan.label_output):
            raise BadModelFile("its manifest has no 'threshold' in its config")
        threshold = 0.0
    sign = -1.0 if lower else 1.0
    return sign * scores.reshape(-1), sign * float(threshold)


def classification_answer(
    model: str, version: str, chosen: Sequence[Label], labels: Sequence[Label], scores: Scores | None
) -> dict[str, Any]:
    """Returns the body of a classification: a prediction for each row, and all labels in the order of the scores."""
    predictions: list[dict[str, Any]] = []
    for row, label in enumerate(chosen):
        if scores is None:
            predictions.append({"label": label, "score": None, "scores": {}})
            continue
        by_label = {label_text(name): round(float(score), 6) for name, score in zip(labels, scores[row], strict=True)}
        predictions.append({"label": label, "score": by_label.get(label_text(label)), "scores": by_label})
    return {
        "object": "ml.classification",
        "model": model,
        "version": version,
        "predictions": predictions,
        "labels": list(labels),
    }


def anomaly_answer(model: str, version: str, scores: Scores, threshold: float) -> dict[str, Any]:
    """Returns the body of an anomaly detection: a result for each row, and the indices of the anomalies."""
    found = scores > threshold
    return {
        "object": "ml.anomaly",
        "model": model,
        "version": version,
        "results": [
            {"score": round(float(score), 6), "is_anomaly": bool(is_anomaly)}
            for score, is_anomaly in zip(scores, found, strict=True)
        ],
        "threshold": round(threshold, 6),
        "anomalies": [int(index) for index in np.flatnonzero(found)],
    }


def label_text(label: Label) -> str:
    """Returns a label as a key of a JSON object: `true` rather than Python's `True`."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def generated_description(name: str, kind: str, config: Mapping[str, Any], capabilities: Sequence[str] = ()) -> str:
    """Returns what a model does, in one sentence made of its manifest."""
    labels = ", ".join(label_text(label) for label in config_labels(config)[:30])
    columns = ", ".join(feature_columns(config)[:30])
    verbs = {
        "classifier": "classifies",
        "anomaly_detector": "finds anomalies in",
        "clusterer": "groups",
        "forecaster": "forecasts",
    }
    what = verbs.get(kind, "embeds")
    of = "texts" if kind == "embedder" or config.get("input") == "text" else "rows of numbers"
    of = "how a series of numbers goes on" if kind == "forecaster" else of
    with_columns = f" with the columns {columns}" if columns else ""
    into = f" into {labels}" if labels and kind == "classifier" else ""
    purpose = f" for {', '.join(capabilities)}" if capabilities else ""
    return f"{name}: {what} {of}{with_columns}{into}{purpose}.".replace("_", " ")
