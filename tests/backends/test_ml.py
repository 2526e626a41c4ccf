from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from atmo.backends.base import Call, Object, as_object
from atmo.backends.ml import BuiltinBackend, robust_scores
from atmo.errors import RequestError
from tests.backends.graphs import TinyEmbedder


async def run(operation: str, body: Mapping[str, Any]) -> Object:
    backend = BuiltinBackend(TinyEmbedder())
    capability = next(c for c in await backend.discover() if c.operation == operation)
    async with aclosing(backend.execute(Call(capability, body))) as parts:
        (only,) = [as_object(part) async for part in parts]
    return only


async def refused(operation: str, body: Mapping[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        await run(operation, body)
    assert caught.value.status == 400
    return caught.value.message


async def test_the_odd_row_is_found() -> None:
    rows = [[1.0, 10.0], [1.1, 10.2], [0.9, 9.9], [1.0, 10.1], [1.05, 55.0]]
    answer = await run("anomaly", {"data": rows})
    assert (answer["model"], answer["object"], answer["threshold"]) == ("builtin-anomaly", "ml.anomaly", 3.5)
    assert answer["anomalies"] == [4]
    assert [result["is_anomaly"] for result in answer["results"]] == [False] * 4 + [True]


async def test_threshold_and_share_can_be_chosen() -> None:
    rows = [[float(i)] for i in range(10)]
    assert (await run("anomaly", {"data": rows}))["anomalies"] == []
    assert (await run("anomaly", {"data": rows, "threshold": 1}))["anomalies"] == [0, 9]
    assert (await run("anomaly", {"data": rows, "contamination": 0.2}))["anomalies"] == [0, 9]


def test_constant_and_nearly_constant_columns_have_scores() -> None:
    assert robust_scores(np.ones((5, 2))).tolist() == [0] * 5
    scores = robust_scores(np.array([[1.0]] * 9 + [[2.0]]))
    assert scores.argmax() == 9
    assert np.isfinite(scores).all()
    assert scores[9] > 3.5


async def test_the_nearest_label_is_chosen() -> None:
    answer = await run("classify", {"input": ["dddd", "eeee"], "labels": ["d", "e"]})
    assert [p["label"] for p in answer["predictions"]] == ["d", "e"]
    assert answer["labels"] == ["d", "e"]
    assert answer["predictions"][0]["score"] > 0.99


@pytest.mark.parametrize(
    ("operation", "body", "says"),
    [
        ("anomaly", {"data": [[1], [2]]}, "at least 3"),
        ("anomaly", {"data": ["a"]}, "not texts"),
        ("anomaly", {"data": [[1], [2], [3]], "contamination": 0.9}, "between 0 and 0.5"),
        ("classify", {"data": [[1, 2]]}, "takes texts"),
        ("classify", {"input": "a"}, "at least two strings"),
    ],
)
async def test_bad_requests(operation: str, body: dict[str, Any], says: str) -> None:
    assert says in await refused(operation, body)
