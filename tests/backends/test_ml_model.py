from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atmo.backends.ml_model import (
    Plan,
    anomaly_answer,
    classification_answer,
    generated_description,
    plan_model,
    read_anomalies,
    read_classes,
)
from atmo.backends.onnx_file import BadModelFile
from atmo.backends.onnx_session import Port, Signature

X = Port("X", "tensor(float)", (None, 2))
LABEL = Port("label", "tensor(int64)", (None,))
SCORES = Port("scores", "tensor(float)", (None, 1))
SAMPLES = Port("score_samples", "tensor(float)", (None, 1))
MAPS = Port("probs", "seq(map(string,tensor(float)))", ())


def plan(*outputs: Port, **config: Any) -> Plan:
    return plan_model(Signature((X,), outputs), config)


@pytest.mark.parametrize(
    ("outputs", "config", "chosen"),
    [
        ((LABEL, SCORES, SAMPLES), {}, "scores"),
        ((LABEL, SCORES, SAMPLES), {"threshold": -0.5}, "score_samples"),
        ((LABEL, SCORES, SAMPLES), {"score_output": "score_samples"}, "score_samples"),
        ((LABEL, MAPS), {}, "probs"),
        ((LABEL,), {}, ""),
    ],
)
def test_which_output_holds_the_scores(outputs: tuple[Port, ...], config: dict[str, Any], chosen: str) -> None:
    assert plan(*outputs, **config).score_output == chosen


def test_doubles_are_fed_as_doubles() -> None:
    wide = plan_model(
        Signature((Port("X", "tensor(double)", (None, None)),), (LABEL,)), {"feature_columns": ["a", "b"]}
    )
    assert wide.width == 2
    assert wide.feeds(np.ones((1, 2), np.float32))["X"].dtype == np.float64


def test_maps_of_probabilities_name_the_classes() -> None:
    values = [np.array(["b", "a"]), [{"a": 0.2, "b": 0.8}, {"a": 0.9, "b": 0.1}]]
    chosen, labels, scores = read_classes(plan(Port("label", "tensor(string)", (None,)), MAPS), {}, values)
    assert (chosen, labels) == (["b", "a"], ["a", "b"])
    assert scores is not None
    assert scores.tolist() == [[0.2, 0.8], [0.9, 0.1]]


def test_labels_without_scores() -> None:
    chosen, labels, scores = read_classes(plan(LABEL), {}, [np.array([[1], [0], [1]])])
    assert (chosen, labels, scores) == ([1, 0, 1], [0, 1], None)
    answer = classification_answer("m", "1", chosen, labels, scores)
    assert answer["predictions"][0] == {"label": 1, "score": None, "scores": {}}
    chosen, labels, _ = read_classes(plan(LABEL), {"labels": ["no", "yes"]}, [np.array([1, 0, 7])])
    assert chosen == ["yes", "no", 7]


def test_scores_that_do_not_fit_the_labels() -> None:
    two = Port("scores", "tensor(float)", (None, 3))
    with pytest.raises(BadModelFile, match="3 scores for 2 labels"):
        read_classes(plan(two), {"labels": ["a", "b"]}, [np.ones((1, 3))])
    chosen, _, scores = read_classes(plan(LABEL, two), {"labels": ["a", "b"]}, [np.array([1]), np.ones((1, 3))])
    assert (chosen, scores) == (["b"], None)


@pytest.mark.parametrize("raw", [np.ones((1, 2, 2)), np.ones((0, 2)), np.array([[np.nan, 1]])])
def test_scores_of_odd_shapes(raw: Any) -> None:
    with pytest.raises(BadModelFile):
        read_classes(plan(Port("scores", "tensor(float)", (None, 2))), {}, [raw])


def test_what_scores_mean_can_be_said() -> None:
    port = Port("scores", "tensor(float)", (None, 2))
    _, _, scores = read_classes(plan(port), {"scores": "logits"}, [np.array([[0.5, 0.5]])])
    assert scores is not None
    assert scores.tolist() == [[0.5, 0.5]]
    _, _, scores = read_classes(plan(port), {"scores": "probability"}, [np.array([[0.5, 0.7]])])
    assert scores is not None
    assert scores.tolist() == [[0.5, 0.7]]


def test_a_detector_of_labels_alone() -> None:
    scores, threshold = read_anomalies(plan(LABEL), {}, [np.array([[1], [-1]])])
    assert anomaly_answer("m", "1", scores, threshold)["anomalies"] == [1]


def test_scikit_learn_scores_need_no_threshold() -> None:
    scores, threshold = read_anomalies(plan(LABEL, SCORES), {}, [np.array([1, -1]), np.array([[0.2], [-0.1]])])
    assert (scores.tolist(), threshold) == ([-0.2, 0.1], 0.0)


@pytest.mark.parametrize(
    ("raw", "says"), [(np.ones((2, 3)), "3 scores for each row"), (np.array([np.inf]), "not finite")]
)
def test_bad_anomaly_scores(raw: Any, says: str) -> None:
    with pytest.raises(BadModelFile, match=says):
        read_anomalies(plan(SCORES), {"threshold": 1}, [raw])


def test_descriptions() -> None:
    config = {"labels": ["a", True], "feature_columns": ["bytes_in"]}
    text = "m: classifies rows of numbers with the columns bytes in into a, true for net monitoring."
    assert generated_description("m", "classifier", config, ["net_monitoring"]) == text
    assert generated_description("m", "anomaly_detector", {"labels": 3, "feature_columns": "x"}) == (
        "m: finds anomalies in rows of numbers."
    )
    assert generated_description("m", "classifier", {"input": "text"}) == "m: classifies texts."
