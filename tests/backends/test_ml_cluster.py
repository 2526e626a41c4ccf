"""Groups: what is asked for, how many are found, and the answers of fitted and of built-in models."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atmo.backends import cluster_child
from atmo.backends.base import Call, as_object
from atmo.backends.ml_children import ChildrenBackend
from atmo.backends.ml_cluster import cluster_answer, parse_k, read_clusters
from atmo.backends.ml_model import Plan
from atmo.backends.onnx import OnnxBackend
from atmo.backends.onnx_file import BadModelFile
from atmo.backends.onnx_session import Port
from atmo.backends.training import Trainer
from atmo.errors import RequestError
from atmo.router.capability import CLUSTER
from tests.backends.graphs import Stored, TinyEmbedder
from tests.backends.test_training import Store

RANDOM = np.random.default_rng(0)
BLOBS = np.concatenate([RANDOM.normal(at, 0.1, (20, 2)) for at in ((0, 0), (5, 0), (0, 5))]).astype(np.float32)
PLAN = Plan(Port("X", "tensor(float)", (None, 2)), 2, False, (), "label", "scores")


def group(folder: Path, x: NDArray[np.float32], **order: Any) -> dict[str, Any]:
    """Does the child's work in this process."""
    np.savez(folder / "data.npz", x=x)
    return cluster_child.work({"k": None, "text": False, "save": False} | order, folder)


def as_sets(labels: list[int]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(np.array(labels) == label).tolist()) for label in set(labels)}


THREE = {frozenset(range(20)), frozenset(range(20, 40)), frozenset(range(40, 60))}


@pytest.mark.parametrize(
    ("k", "rows", "words"),
    [(1, 10, "from 2 to 9"), (10, 10, "from 2 to 9"), (True, 10, "whole number"), ("three", 10, "auto"), (2, 2, "3")],
)
def test_k_that_is_none(k: Any, rows: int, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse_k({"k": k}, rows)


def test_k() -> None:
    assert (parse_k({}, 3), parse_k({"k": "auto"}, 3), parse_k({"k": 2}, 3)) == (None, None, 2)


def test_how_many_groups_there_are_is_found(tmp_path: Path) -> None:
    found = group(tmp_path, BLOBS)
    assert as_sets(found["labels"]) == THREE
    assert found["silhouette"] > 0.9
    assert sorted(np.round(found["centers"]).tolist()) == [[0, 0], [0, 5], [5, 0]]


def test_how_many_groups_there_are_is_told(tmp_path: Path) -> None:
    assert len(set(group(tmp_path, BLOBS, k=5)["labels"])) == 5


def test_columns_count_alike_whatever_their_units(tmp_path: Path) -> None:
    wide = BLOBS * np.array([1e6, 1], np.float32)
    assert as_sets(group(tmp_path, wide)["labels"]) == THREE


def test_vectors_of_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    found = group(tmp_path, BLOBS, text=True)
    assert as_sets(found["labels"]) == THREE
    assert found["centers"] == []


def test_rows_that_are_all_the_same(tmp_path: Path) -> None:
    found = group(tmp_path, np.ones((5, 2), np.float32))
    assert (found["labels"], found["silhouette"], found["k"]) == ([0] * 5, None, 1)


def test_fewer_different_rows_than_groups(tmp_path: Path) -> None:
    rows = np.array([[0], [0], [5], [5]], np.float32)
    assert as_sets(group(tmp_path, rows, k=3)["labels"]) == {frozenset({0, 1}), frozenset({2, 3})}


def test_many_rows_are_judged_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_child, "SCORED_ROWS", 30)
    assert as_sets(group(tmp_path, BLOBS)["labels"]) == THREE


def test_centres_that_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_child, "CENTRES_BYTES", 8)
    found = group(tmp_path, BLOBS)
    assert "centers" not in cluster_answer("m", "1", found["labels"], found["distances"], found)


@pytest.mark.parametrize(
    "values",
    [
        [None, np.zeros((1, 2))],
        [np.array([0.5]), np.zeros((1, 2))],
        [np.array([0]), np.zeros(2)],
        [np.array([0]), np.array([[np.nan, 1]])],
        [np.array([2]), np.zeros((1, 2))],
        [np.array([-1]), np.zeros((1, 2))],
    ],
)
def test_outputs_that_are_none(values: list[Any]) -> None:
    with pytest.raises(BadModelFile):
        read_clusters(PLAN, values)


async def test_a_clusterer_is_fitted_saved_and_answers(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    store = Store(tmp_path)
    trainer = Trainer(TinyEmbedder().embed, store.save, tmp_path / "work")
    fitted = await trainer.fit("cluster", {"model": "segments", "data": BLOBS.tolist()})
    assert (fitted["type"], fitted["samples"], fitted["metrics"]["k"]) == ("clusterer", 60, 3)
    assert sorted(fitted["metrics"]["sizes"]) == [20, 20, 20]
    backend = OnnxBackend(lambda: store.models, TinyEmbedder())
    (capability,) = await backend.discover()
    assert capability.operation == CLUSTER
    async with aclosing(backend.execute(Call(capability, {"data": BLOBS[::20].tolist()}))) as parts:
        answer = as_object(await anext(parts))
    assert (answer["object"], answer["k"], len(set(answer["clusters"])), sum(answer["sizes"])) == (
        "ml.clustering",
        3,
        3,
        3,
    )
    assert max(answer["distances"]) < 1


async def test_texts_without_a_fitted_model() -> None:
    backend = ChildrenBackend(TinyEmbedder())
    capability = (await backend.discover())[0]
    texts = ["dddd", "dddh", "dd", "eeee", "eeei", "ee"]
    async with aclosing(backend.execute(Call(capability, {"texts": texts, "k": 2}))) as parts:
        answer = as_object(await anext(parts))
    assert as_sets(answer["clusters"]) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}
    assert "centers" not in answer


async def test_a_model_of_another_kind_is_left_out(tmp_path: Path) -> None:
    backend = OnnxBackend(lambda: [Stored(tmp_path / "none.onnx", type="clusterer")], TinyEmbedder())
    assert await backend.discover() == []
