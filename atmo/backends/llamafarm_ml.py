"""LlamaFarm's fitted detectors and classifiers in the shapes of this node's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from atmo.backends.base import Call, Object
from atmo.backends.ml_data import MAX_ROWS, invalid, parse_number, parse_texts
from atmo.backends.openai_shapes import BadAnswer
from atmo.backends.upstream import Upstream
from atmo.errors import RequestError
from atmo.router.capability import ANOMALY, CLASSIFY, Capability
from atmo.wire import limits

CONCURRENCY = 2
DEFAULT_KIND = "isolation_forest"
"""Source: LlamaFarm's own default of `backend`."""

MAX_MODELS = 64
MAX_NAME_CHARS = limits.NAME_CHARS - len("llamafarm:classifier:")
MAX_LABELS = 1_000
SHOWN_LABELS = 30

_FILE = re.compile(r"(?P<name>.+)_(?P<kind>isolation_forest|one_class_svm|local_outlier_factor|autoencoder)\.\w+")
_KIND = re.compile(r"[a-z0-9_]{1,64}")
_LABEL_KEYS = ("label", "prediction", "predicted_label", "class")
_SCORE_KEYS = ("score", "confidence", "probability")
_SCORES_KEYS = ("all_scores", "scores", "probabilities")
"""Versions of LlamaFarm name the parts of a prediction differently."""


def detectors(body: Any) -> list[tuple[str, str]]:
    """Returns the name and backend of each saved detector, the first of each name."""
    found: dict[str, str] = {}
    for row in _rows(body):
        match = _FILE.fullmatch(str(row.get("filename", "")))
        name = row.get("model_name") or row.get("name") or (match["name"] if match else None)
        kind = row.get("backend")
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            kind = match["kind"] if match else DEFAULT_KIND
        if isinstance(name, str) and name and name.isprintable() and len(name) <= MAX_NAME_CHARS:
            found.setdefault(name, kind)
    return list(found.items())[:MAX_MODELS]


def detector_capability(name: str, kind: str) -> Capability:
    """Returns the capability of one detector."""
    text = f"{name} on LlamaFarm: finds anomalies in rows of data, by {kind}.".replace("_", " ")
    return _capability("anomaly", name, ANOMALY, text)


def classifiers(body: Any) -> list[Capability]:
    """Returns the capabilities of the saved classifiers."""
    found = []
    for row in _rows(body)[:MAX_MODELS]:
        name, labels = row.get("name"), row.get("labels")
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > MAX_NAME_CHARS:
            continue
        words = [word for word in labels if isinstance(word, str) and word] if isinstance(labels, list) else []
        into = f" into {', '.join(words[:SHOWN_LABELS])}" if words else ""
        found.append(_capability("classifier", name, CLASSIFY, f"{name} on LlamaFarm: classifies texts{into}."))
    return found


async def detect(upstream: Upstream, call: Call, kind: str) -> Object:
    """Runs one detection: a result for each row.

    Raises:
        RequestError: 400, the rows are none; or LlamaFarm refused or failed.
    """
    rows = _data(call.body)
    model = {"model": call.capability.model, "backend": kind or DEFAULT_KIND}
    body: Object = model | {"data": rows}
    threshold = parse_number(call.body, "threshold", None, 0, 1e30)
    if threshold is not None:
        body["threshold"] = threshold
    answer = await _loaded(upstream, call, "anomaly/score", body, model)
    try:
        results = _results(answer, "data", len(rows))
        scored = [{"score": _number(row.get("score")), "is_anomaly": row.get("is_anomaly") is True} for row in results]
    except BadAnswer as error:
        raise upstream.failed(error) from error
    summary = answer.get("summary")
    said = summary.get("threshold") if isinstance(summary, Mapping) else None
    return {
        "object": "ml.anomaly",
        "model": call.capability.model,
        "version": "",
        "results": scored,
        "threshold": said if _is_number(said) else threshold,
        "anomalies": [index for index, row in enumerate(scored) if row["is_anomaly"]],
    }


async def classify(upstream: Upstream, call: Call) -> Object:
    """Runs one classification: a prediction for each text.

    Raises:
        RequestError: 400, the texts are none; or LlamaFarm refused or failed.
    """
    texts = parse_texts(call.body)
    model = {"model": call.capability.model}
    answer = await _loaded(upstream, call, "classifier/predict", model | {"texts": texts}, model)
    try:
        predictions = [_prediction(row) for row in _results(answer, "results", len(texts))]
    except BadAnswer as error:
        raise upstream.failed(error) from error
    labels = dict.fromkeys(label for row in predictions for label in (*row["scores"], row["label"]))
    return {
        "object": "ml.classification",
        "model": call.capability.model,
        "version": "",
        "predictions": predictions,
        "labels": list(labels),
    }


async def _loaded(upstream: Upstream, call: Call, what: str, body: Mapping[str, Any], model: Mapping[str, Any]) -> Any:
    """Runs a request on a fitted model, which is loaded from disk first where it is not in memory."""
    try:
        return await upstream.answer(f"/v1/ml/{what}", body, call.trace)
    except RequestError as error:
        # "not fitted" comes with 400, "not found" with 404; what the runtime refuses comes with 500 or 502.
        if error.status not in (400, 404, 502) or not re.search("fit|load|not found", error.message, re.IGNORECASE):
            raise
    await upstream.answer(f"/v1/ml/{what.partition('/')[0]}/load", model, call.trace)
    return await upstream.answer(f"/v1/ml/{what}", body, call.trace)


def _data(body: Mapping[str, Any]) -> list[Any]:
    param = "data" if body.get("data") is not None else "input"
    data = body.get(param)
    rows = [data] if isinstance(data, Mapping) else data
    if not isinstance(rows, list) or not rows:
        raise invalid(f"'{param}' must be a list of rows with at least one row.", param)
    if len(rows) > MAX_ROWS:
        raise invalid(f"'{param}' has {len(rows)} rows; at most {MAX_ROWS} fit one request. Send it in parts.", param)
    if not all(isinstance(row, list | Mapping) for row in rows):
        raise invalid(f"'{param}' must be a list of rows, each a list of numbers or an object.", param)
    return rows


def _prediction(row: Mapping[str, Any]) -> Object:
    label = next((row[key] for key in _LABEL_KEYS if isinstance(row.get(key), str)), None)
    if label is None:
        raise BadAnswer("gave a prediction without a label")
    scores: Mapping[str, Any] = next((row[key] for key in _SCORES_KEYS if isinstance(row.get(key), Mapping)), {})
    by_label = {str(name): _number(score) for name, score in list(scores.items())[:MAX_LABELS]}
    given = next((row[key] for key in _SCORE_KEYS if isinstance(row.get(key), int | float)), by_label.get(label))
    return {"label": label, "score": None if given is None else _number(given), "scores": by_label}


def _results(answer: Any, key: str, count: int) -> Sequence[Mapping[str, Any]]:
    rows = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(rows, list) or len(rows) != count or not all(isinstance(row, Mapping) for row in rows):
        got = f"{len(rows)} results" if isinstance(rows, list) else "no results"
        raise BadAnswer(f"gave {got} for {count} rows")
    return rows


def _number(value: Any) -> float:
    if not _is_number(value):
        raise BadAnswer("gave a score that is no number")
    return float(value)


def _is_number(value: Any) -> bool:
    # An integer of hundreds of digits is no float.
    return type(value) in (int, float) and -1e300 < value < 1e300


def _rows(body: Any) -> list[Mapping[str, Any]]:
    rows = body.get("data") if isinstance(body, Mapping) else None
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _capability(kind: str, name: str, operation: str, description: str) -> Capability:
    return Capability(
        id=f"llamafarm:{kind}:{name}",
        operation=operation,
        model=name,
        description=description[:1_024],
        concurrency=CONCURRENCY,
        backend="llamafarm",
    )
