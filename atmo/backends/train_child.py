"""The child process that fits a model on numbers and writes it as ONNX. Started by `training`.

A classifier of numeric rows is a logistic regression on standardised columns, or a random forest where cross-validation
says that it is clearly better: the simpler model needs fewer rows, is smaller, and answers faster. Of texts it is a
logistic regression on sentence vectors. An anomaly detector is an isolation forest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.backends.child_side import Refusal, serve

FOLDS = 5
CHECKED_ROWS = 5_000
"""Rows that cross-validation looks at; more change the figure little and cost minutes. Source: choice."""

CLEARLY = 0.005
"""How much more accurate a forest must be than a logistic regression, besides the standard error. Source: choice."""

TREES = 100
TREE_ROWS = 20_000
"""Rows that each tree of a forest is grown on: more make it larger and slower to fit, hardly better. Source: choice."""

ROWS_OF_LEAF = 5_000
"""A leaf keeps one row more for each this many: without it the file grows with the data. Source: choice."""

TEXT_C = 10.0
"""Weak regularisation: sentence vectors have length 1, so that the weights must be large. CLINC150,
ten utterances for each of 150 intents: 88.8 % right with 1, 90.2 with 10, 90.2 with 100.

Source: docs/measurements.md, "Routing by meaning".
"""

Rows = NDArray[np.float32]


def work(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Fits on `data.npz` in `folder` (x: float32[n, d], y: int64[n] of class indices); writes `model.onnx`."""
    with np.load(folder / "data.npz", allow_pickle=False) as data:
        x = data["x"]
        y = data.get("y")
    if y is None:
        return _fit_anomaly(x, request, folder)
    return _fit_classifier(x, y, request, folder)


def _fit_anomaly(x: Rows, request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from sklearn.ensemble import IsolationForest

    from atmo.backends import export

    forest = IsolationForest(n_estimators=TREES, contamination=request["contamination"], random_state=0)
    forest.fit(x)
    export.export(forest, x.shape[1], folder / "model.onnx", samples=x[:2_000])
    found = int((forest.predict(x) == -1).sum())
    config = {"estimator": "IsolationForest", "contamination": request["contamination"]}
    metrics = {"anomalies_in_training": found, "threshold": round(-float(forest.offset_), 6), "trees": TREES}
    return {"config": config | export.describe_scores(forest), "metrics": metrics}


def _fit_classifier(x: Rows, y: NDArray[np.int64], request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from atmo.backends import export

    classes: list[Any] = request["classes"]
    # Booleans stay indices: ONNX has no boolean classes, and the manifest's labels give them back.
    named = y if isinstance(classes[0], bool) else np.array(classes)[y]
    candidates = _text_candidates() if request["text"] else _numeric_candidates(len(y))
    metrics: dict[str, Any] = {"baseline": round(float(np.bincount(y).max() / len(y)), 4)}
    best = next(iter(candidates))
    scores = _cross_validate(candidates, x, y)
    if scores:
        best = _choose(scores)
        metrics |= {
            "accuracy": round(float(scores[best].mean()), 4),
            "accuracy_std": round(float(scores[best].std()), 4),
            "folds": len(scores[best]),
            "compared": {name: round(float(values.mean()), 4) for name, values in scores.items()},
        }
    else:
        metrics |= {"accuracy": None, "note": "A class has only one sample, so nothing could be held out to test on."}
    model = candidates[best]
    model.fit(x, named)
    export.export(model, x.shape[1], folder / "model.onnx", samples=x[:2_000])
    return {"config": {"estimator": best}, "metrics": metrics}


def _numeric_candidates(rows: int) -> dict[str, Any]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)),
        "RandomForestClassifier": RandomForestClassifier(
            TREES,
            max_samples=None if rows <= TREE_ROWS else TREE_ROWS / rows,
            min_samples_leaf=1 + rows // ROWS_OF_LEAF,
            random_state=0,
            n_jobs=1,
        ),
    }


def _text_candidates() -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    return {"LogisticRegression": LogisticRegression(C=TEXT_C, max_iter=1_000)}


def _cross_validate(candidates: Mapping[str, Any], x: Rows, y: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Returns the accuracy of each candidate on each fold, nothing where a class is too small to be split."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    if len(y) > CHECKED_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(len(y), CHECKED_ROWS, replace=False))
        x, y = x[chosen], y[chosen]
    counts = np.bincount(y)
    smallest = int(counts[counts > 0].min())
    if smallest < 2 or (counts > 0).sum() < 2:
        return {}
    folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=0)
    return {
        name: np.asarray(cross_val_score(model, x, y, cv=folds, error_score="raise"))
        for name, model in candidates.items()
    }


def _choose(scores: Mapping[str, NDArray[np.float64]]) -> str:
    names = list(scores)
    best = names[0]
    for name in names[1:]:
        gain = scores[name] - scores[best]
        if gain.mean() > max(CLEARLY, float(gain.std() / np.sqrt(len(gain)))):
            best = name
    return best


def main() -> None:
    """Runs the child."""
    serve(_guarded)


def _guarded(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return work(request, folder)
    except np.linalg.LinAlgError as error:
        raise Refusal(f"The data cannot be fitted: {error}.", "Look for columns with enormous values.") from error


if __name__ == "__main__":
    main()
