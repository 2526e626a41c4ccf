from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atmo.backends.base import Call, Object, as_object
from atmo.backends.onnx import OPERATION_OF_TYPE, OnnxBackend
from atmo.backends.onnx_session import SessionCache
from atmo.backends.store import RUN_TYPES, why_not_run
from atmo.errors import RequestError
from atmo.router.capability import ANOMALY, CLASSIFY, EMBEDDINGS
from tests.backends.graphs import Stored, TinyEmbedder, distance, linear, model, save, shouting, tensor


def backend_of(*models: Stored) -> OnnxBackend:
    return OnnxBackend(lambda: list(models), TinyEmbedder())


async def run(backend: OnnxBackend, body: Mapping[str, Any], model: str = "") -> Object:
    offered = await backend.discover()
    capability = next(c for c in offered if model in ("", c.model, c.id))
    async with aclosing(backend.execute(Call(capability, body))) as parts:
        (only,) = [as_object(part) async for part in parts]
    return only


async def refused(backend: OnnxBackend, body: Mapping[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await run(backend, body)
    return caught.value


async def test_a_classifier_answers_with_labels_and_scores(tmp_path: Path) -> None:
    config = {"labels": ["red", "green", "blue"], "feature_columns": ["x", "y"]}
    backend = backend_of(Stored(save(linear(), tmp_path / "m.onnx"), config=config))
    (capability,) = await backend.discover()
    assert (capability.id, capability.operation, capability.model, capability.version) == (
        "onnx:m@1.0",
        CLASSIFY,
        "m",
        "1.0",
    )
    assert capability.description == "m: classifies rows of numbers with the columns x, y into red, green, blue."
    answer = await run(backend, {"data": [[5, 0], {"y": 5, "x": 0}][:1]})
    assert answer["object"] == "ml.classification"
    assert (answer["model"], answer["version"], answer["labels"]) == ("m", "1.0", ["red", "green", "blue"])
    (prediction,) = answer["predictions"]
    assert prediction["label"] == "red"
    assert prediction["score"] == prediction["scores"]["red"] == pytest.approx(0.9867, abs=1e-3)
    assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)
    answer = await run(backend, {"data": [{"y": 5, "x": 0}]})
    assert answer["predictions"][0]["label"] == "green"


async def test_logits_become_probabilities(tmp_path: Path) -> None:
    backend = backend_of(Stored(save(linear(softmax=False), tmp_path / "m.onnx")))
    answer = await run(backend, {"data": [[0, 1000]]})
    assert answer["predictions"][0] == {"label": 1, "score": 1.0, "scores": {"0": 0.0, "1": 1.0, "2": 0.0}}


async def test_one_score_means_two_classes(tmp_path: Path) -> None:
    backend = backend_of(
        Stored(save(linear(2, 1, softmax=False), tmp_path / "m.onnx"), config={"labels": [False, True]})
    )
    answer = await run(backend, {"data": [[100, 0], [-100, 0]]})
    assert [p["label"] for p in answer["predictions"]] == [True, False]
    assert list(answer["predictions"][0]["scores"]) == ["false", "true"]


async def test_texts_are_embedded_for_models_of_texts(tmp_path: Path) -> None:
    backend = backend_of(
        Stored(save(linear(4, 2), tmp_path / "m.onnx"), config={"input": "text", "labels": ["p", "q"]})
    )
    answer = await run(backend, {"input": ["dddd", "eeee"]})
    assert [p["label"] for p in answer["predictions"]] == ["p", "q"]
    assert (await refused(backend, {"input": [1]})).status == 400


async def test_an_anomaly_detector_with_higher_scores_for_anomalies(tmp_path: Path) -> None:
    stored = Stored(save(distance(), tmp_path / "m.onnx"), type="anomaly_detector", config={"threshold": 10})
    backend = backend_of(stored)
    assert (await backend.discover())[0].operation == ANOMALY
    answer = await run(backend, {"data": [[1, 1], [3, 4]], "action": "detect"})
    assert answer == {
        "object": "ml.anomaly",
        "model": "m",
        "version": "1.0",
        "results": [{"score": 2.0, "is_anomaly": False}, {"score": 25.0, "is_anomaly": True}],
        "threshold": 10.0,
        "anomalies": [1],
    }
    assert (await run(backend, {"data": [[1, 1]], "threshold": 1}))["anomalies"] == [0]
    assert (await refused(backend, {"data": [[1, 1]], "threshold": "x"})).param == "threshold"


async def test_lower_scores_can_be_the_anomalies(tmp_path: Path) -> None:
    config = {"threshold": 10, "score_direction": "lower_is_anomalous"}
    backend = backend_of(Stored(save(distance(), tmp_path / "m.onnx"), type="anomaly_detector", config=config))
    answer = await run(backend, {"data": [[1, 1], [3, 4]]})
    assert answer["anomalies"] == [0]
    assert answer["threshold"] == -10


async def test_a_detector_without_threshold_says_so(tmp_path: Path) -> None:
    backend = backend_of(Stored(save(distance(), tmp_path / "m.onnx"), type="anomaly_detector"))
    error = await refused(backend, {"data": [[1, 1]]})
    assert "'threshold'" in error.message


async def test_an_embedder_that_takes_strings(tmp_path: Path) -> None:
    stored = Stored(save(shouting(), tmp_path / "m.onnx"), type="embedder", name="abc")
    backend = backend_of(stored)
    assert [c.operation for c in await backend.discover()] == [EMBEDDINGS]
    answer = await run(backend, {"input": ["a a b", "c c c"]})
    vectors = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist() for item in answer["data"]]
    assert vectors == [[2, 1, 0], [0, 0, 3]]
    assert [item["index"] for item in answer["data"]] == [0, 1]


async def test_other_embedders_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = backend_of(Stored(save(linear(), tmp_path / "m.onnx"), type="embedder"))
    assert await backend.discover() == []
    assert "tokenizer" in caplog.text


async def test_every_version_is_offered_the_newest_first(tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "m.onnx")
    backend = backend_of(*(Stored(path, version=v) for v in ("1.9", "1.10", "1.10rc1", "weird")))
    assert [c.version for c in await backend.discover()] == ["1.10", "1.10rc1", "1.9", "weird"]
    assert (await run(backend, {"data": [[1, 2]]}, "onnx:m@1.9"))["version"] == "1.9"


async def test_other_formats_and_types_are_not_ours(tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "m.onnx")
    assert await backend_of(Stored(path, format="gguf"), Stored(path, type="router")).discover() == []


async def test_names_too_long_for_an_id_get_a_hash(tmp_path: Path) -> None:
    backend = backend_of(Stored(save(linear(), tmp_path / "m.onnx"), name="n" * 128))
    (capability,) = await backend.discover()
    assert len(capability.id) == len("onnx:") + 32


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([[1]], "Row 0 of 'data' has 1 columns, not 2"),
        ([[1, 2], [1, float("nan")]], "Row 1, column 1 (y) of 'data' is nan"),
        (["a text"], "takes rows of 2 numbers (x, y), not texts"),
    ],
)
async def test_bad_rows_are_a_400(tmp_path: Path, data: Any, says: str) -> None:
    stored = Stored(save(linear(), tmp_path / "m.onnx"), config={"feature_columns": ["x", "y"]})
    error = await refused(backend_of(stored), {"data": data})
    assert error.status == 400
    assert says in error.message


def custom() -> onnx.ModelProto:
    node = helper.make_node("Spin", ["X"], ["Y"], domain="com.acme")
    return model([node], [tensor("X", [None, 2])], [tensor("Y", [None, 2])], {}, domains=["com.acme"])


def unknown_operator() -> onnx.ModelProto:
    return model(
        [helper.make_node("NoSuchThing", ["X"], ["Y"])], [tensor("X", [None, 2])], [tensor("Y", [None, 2])], {}
    )


def two_inputs() -> onnx.ModelProto:
    ports = [tensor("A", [None, 2]), tensor("B", [None, 2])]
    return model([helper.make_node("Add", ["A", "B"], ["Y"])], ports, [tensor("Y", [None, 2])], {})


def image() -> onnx.ModelProto:
    port = tensor("X", [None, 3, 8, 8])
    return model([helper.make_node("Relu", ["X"], ["Y"])], [port], [tensor("Y", [None, 3, 8, 8])], {})


def fixed_batch() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["X"], ["Y"])], [tensor("X", [7, 2])], [tensor("Y", [7, 2])], {})


def wordless() -> onnx.ModelProto:
    node = helper.make_node("Cast", ["X"], ["Y"], to=TensorProto.BOOL)
    return model([node], [tensor("X", [None, 2])], [tensor("Y", [None, 2], TensorProto.BOOL)], {})


@pytest.mark.parametrize(
    ("make", "config", "says"),
    [
        (custom, {}, "custom operator com.acme::Spin"),
        (unknown_operator, {}, "cannot load it"),
        (two_inputs, {}, "takes 2 inputs (A, B)"),
        (image, {}, "not rows of floats"),
        (fixed_batch, {}, "fixed number of 7 rows"),
        (wordless, {}, "neither labels nor scores"),
        (linear, {"feature_columns": ["a"]}, "names 1 feature columns, its graph takes 2"),
        (linear, {"score_output": "nowhere"}, "score output 'nowhere'"),
    ],
)
async def test_what_cannot_run_is_not_offered_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, config: dict[str, Any], says: str
) -> None:
    good = Stored(save(linear(), tmp_path / "good.onnx"), name="good")
    backend = backend_of(Stored(save(make(), tmp_path / "m.onnx"), config=config), good)
    for _ in range(2):
        assert [c.model for c in await backend.discover()] == ["good"]
    assert caplog.text.count(says) == 1


async def test_missing_and_damaged_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(linear().SerializeToString()[:-30])
    backend = backend_of(Stored(path), Stored(tmp_path / "absent.onnx", name="absent"))
    assert await backend.discover() == []
    assert "cut short" in caplog.text
    assert "No such file" in caplog.text


async def test_a_model_found_bad_at_its_first_use_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr("atmo.backends.onnx.TRIED_BYTES", 0)
    backend = backend_of(Stored(save(unknown_operator(), tmp_path / "m.onnx")))
    assert len(await backend.discover()) == 1
    error = await refused(backend, {"data": [[1, 2]]})
    assert error.status == 503
    assert "Import a corrected version" in error.message
    assert await backend.discover() == []


async def test_a_failing_run_does_not_withdraw_the_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["X"], ["I"], to=TensorProto.INT64),
        helper.make_node("Gather", ["W", "I"], ["Y"], axis=0),
    ]
    weights = {"W": np.zeros(4, np.float32)}
    proto = model(nodes, [tensor("X", [None, 2])], [tensor("Y", [None, 2])], weights)
    backend = backend_of(Stored(save(proto, tmp_path / "m.onnx")))
    error = await refused(backend, {"data": [[1, 99]]})
    assert error.status == 500
    assert (await run(backend, {"data": [[1, 2]]}))["predictions"][0]["score"] == pytest.approx(0.5)


async def test_a_removed_model_is_a_404(tmp_path: Path) -> None:
    models = [Stored(save(linear(), tmp_path / "m.onnx"))]
    backend = OnnxBackend(lambda: models, TinyEmbedder())
    (capability,) = await backend.discover()
    models.clear()
    await backend.discover()
    with pytest.raises(RequestError) as caught:
        async with aclosing(backend.execute(Call(capability, {"data": [[1, 2]]}))) as parts:
            await anext(parts)
    assert caught.value.status == 404


async def test_nothing_is_kept_of_files_that_are_gone(tmp_path: Path) -> None:
    models: list[Stored] = []
    backend = OnnxBackend(lambda: models, TinyEmbedder())
    for number in range(4):
        good = Stored(save(linear(), tmp_path / f"good-{number}.onnx"))
        bad = Stored(save(custom(), tmp_path / f"bad-{number}.onnx"), name="bad")
        models[:] = [good, bad]
        assert [capability.model for capability in await backend.discover()] == ["m"]
        assert (len(backend._fine), len(backend._bad)) == (1, 1)
    models.clear()
    await backend.discover()
    assert (len(backend._fine), len(backend._bad)) == (0, 0)


def test_the_cache_lets_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = SessionCache(most=2)
    paths = [save(linear(), tmp_path / f"{i}.onnx") for i in range(3)]
    first = cache.load(paths[0])
    cache.load(paths[1])
    assert cache.load(paths[0]) is first
    cache.load(paths[2])
    assert [Path(key[0]).name for key in cache.loaded()] == ["0.onnx", "2.onnx"]
    small = SessionCache(most=5, most_bytes=1)
    for path in paths:
        small.load(path)
    assert len(small.loaded()) == 1


def test_what_a_store_holds_and_nobody_runs() -> None:
    assert set(RUN_TYPES["onnx"]) == set(OPERATION_OF_TYPE)
    assert why_not_run("onnx", "classifier") == ""
    assert why_not_run("gguf", "classifier") == "the type classifier"
    assert why_not_run("gguf", "llm") == ""
    assert why_not_run("safetensors", "classifier") == "the format safetensors"
    assert why_not_run("onnx", "regressor") == "the type regressor"
