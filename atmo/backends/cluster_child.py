"""The child process that finds groups among rows, and writes what it found as ONNX. Started by `training`.

k-means, on standardised columns where the rows are numbers. How many groups there are is told, or found by the mean
silhouette. Source: P. Rousseeuw, "Silhouettes", Journal of Computational and Applied Mathematics 20 (1987).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.backends.child_side import serve
from atmo.backends.ml_cluster import AUTO_CLUSTERS

STARTS = 10
"""Random starts of which the best counts. Source: scikit-learn's default before version 1.4."""

SCORED_ROWS = 2_000
"""Rows by which the number of groups is chosen: the silhouette compares all with all. Source: choice."""

CENTRES_BYTES = 1024 * 1024
"""Centres that are told; more would not fit in the result. Source: choice."""

Rows = NDArray[np.float32]


def work(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Groups `data.npz` in `folder` (x: float32[n, d]).

    The request: `k` (null to find it), `text` (rows are sentence vectors), and `save`, whether `model.onnx` is written
    instead of the groups being told.
    """
    with np.load(folder / "data.npz", allow_pickle=False) as data:
        x = data["x"]
    k, score, tried = _choose(_sample(x), request["k"], text=request["text"])
    best = _fit(x, k, text=request["text"])
    about: dict[str, Any] = {"k": k, "silhouette": None if score is None else round(score, 4)}
    if request["save"]:
        from atmo.backends import export

        export.export(best, x.shape[1], folder / "model.onnx", samples=x[:2_000])
        sizes = np.bincount(best.predict(x), minlength=k).tolist()
        return {"config": about, "metrics": about | {"sizes": sizes, "inertia": _figure(best[-1].inertia_)} | tried}
    labels = best.predict(x)
    distances = best.transform(x)[np.arange(len(x)), labels]
    centres = [] if request["text"] else _centres(best)
    return about | {"labels": labels.tolist(), "distances": [_figure(one) for one in distances], "centers": centres}


def _sample(x: Rows) -> Rows:
    if len(x) <= SCORED_ROWS:
        return x
    return x[np.sort(np.random.default_rng(0).choice(len(x), SCORED_ROWS, replace=False))]


def _choose(x: Rows, wanted: int | None, *, text: bool) -> tuple[int, float | None, dict[str, Any]]:
    """Returns how many groups there are, how clear they are, and what was tried."""
    distinct = len(np.unique(x, axis=0))
    if distinct < 2:
        return 1, None, {}
    counts = [min(wanted, distinct)] if wanted else list(range(2, 1 + max(2, min(AUTO_CLUSTERS, distinct - 1))))
    scores = {count: _silhouette(_fit(x, count, text=text), x) for count in counts}
    known = {count: score for count, score in scores.items() if score is not None}
    chosen = max(known, key=lambda count: known[count]) if known else counts[0]
    tried = {str(count): round(score, 4) for count, score in known.items()}
    return chosen, scores[chosen], {"compared": tried} if len(counts) > 1 else {}


def _fit(x: Rows, k: int, *, text: bool) -> Any:
    from sklearn.cluster import KMeans
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    means = KMeans(k, n_init=STARTS, random_state=0)
    return make_pipeline(means).fit(x) if text else make_pipeline(StandardScaler(), means).fit(x)


def _silhouette(model: Any, x: Rows) -> float | None:
    from sklearn.metrics import silhouette_score

    labels = model.predict(x)
    if not 1 < len(np.unique(labels)) < len(x):
        return None
    scaled = x if len(model.steps) == 1 else model[0].transform(x)
    return float(silhouette_score(scaled, labels))


def _centres(model: Any) -> list[list[float]]:
    """Returns the centres in the units of the rows, nothing where they are too many."""
    centres = model[0].inverse_transform(model[-1].cluster_centers_)
    return [] if centres.nbytes > CENTRES_BYTES else [[_figure(one) for one in centre] for centre in centres]


def _figure(value: Any) -> float:
    return float(f"{float(value):.6g}")


def main() -> None:
    """Runs the child."""
    serve(work)


if __name__ == "__main__":
    main()
