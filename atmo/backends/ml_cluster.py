"""What clients send to `/v1/ml/cluster` and what they get: rows or texts, and to which group each belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.backends.ml_data import invalid
from atmo.backends.ml_model import Plan
from atmo.backends.onnx_file import BadModelFile

MIN_ROWS = 3
MAX_CLUSTERS = 1_000
AUTO_CLUSTERS = 10
"""The most that are tried where the request does not say how many. Source: choice."""


def parse_k(body: Mapping[str, Any], rows: int) -> int | None:
    """Reads `k`: how many groups, None where that is to be found.

    Raises:
        RequestError: 400.
    """
    k = body.get("k")
    if rows < MIN_ROWS:
        raise invalid(f"'data' has {rows} rows; at least {MIN_ROWS} are needed to tell groups apart.", "data")
    if k in (None, "auto"):
        return None
    most = min(MAX_CLUSTERS, rows - 1)
    if isinstance(k, bool) or not isinstance(k, int) or not 2 <= k <= most:
        raise invalid(f"'k' must be 'auto' or a whole number from 2 to {most} for {rows} rows.", "k")
    return k


def read_clusters(plan: Plan, values: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Reads a clusterer's outputs.

    Returns:
        (int64[n] of groups, float64[n] of distances to their centres).

    Raises:
        BadModelFile: The outputs are not a group and the distances to all centres for each row.
    """
    raw_labels, raw_distances = plan.split(values)
    if raw_labels is None or raw_distances is None:
        raise BadModelFile("it does not give a group and distances for each row")
    labels, table = np.asarray(raw_labels).reshape(-1), np.asarray(raw_distances, np.float64)
    if labels.dtype.kind != "i" or table.ndim != 2 or len(table) != len(labels) or not np.isfinite(table).all():
        raise BadModelFile("it does not give a group and distances for each row")
    if ((labels < 0) | (labels >= table.shape[1])).any():
        raise BadModelFile("it gives a group that has no centre")
    return labels.astype(np.int64), np.take_along_axis(table, labels.reshape(-1, 1).astype(np.int64), 1).reshape(-1)


def cluster_answer(
    model: str, version: str, labels: Sequence[int], distances: Sequence[float], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the body of a clustering.

    Args:
        model, version: Who answers.
        labels: The group of each row.
        distances: Of each row to the centre of its group.
        about: `k`, `silhouette` (from -1 to 1, higher is clearer; None where it is not known) and `centers`.
    """
    k = int(about["k"])
    answer = {
        "object": "ml.clustering",
        "model": model,
        "version": version,
        "k": k,
        "clusters": [int(label) for label in labels],
        "distances": [float(f"{distance:.6g}") for distance in distances],
        "sizes": np.bincount(np.asarray(labels, np.int64), minlength=k).tolist(),
        "silhouette": about.get("silhouette"),
    }
    return answer | ({"centers": about["centers"]} if about.get("centers") else {})
