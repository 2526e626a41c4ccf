"""Each fit starts a child process of about a second."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from sklearn.datasets import load_wine

from atmo.backends import train_child
from atmo.backends.base import Call, as_object
from atmo.backends.child import ChildLimits
from atmo.backends.onnx import OnnxBackend
from atmo.backends.train_child import _choose
from atmo.backends.training import TrainedModel, Trainer, _encode
from atmo.errors import RequestError, UserError
from tests.backends.graphs import Stored, TinyEmbedder

ROWS, CLASSES = load_wine(return_X_y=True)


class Store:
    """Keeps what is saved as files, and counts versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[TrainedModel] = []
        self.models: list[Stored] = []

    async def save(self, model: TrainedModel) -> Mapping[str, Any]:
        self.saved.append(model)
        version = str(1 + sum(one.name == model.name for one in self.models))
        path = self.folder / f"{model.name}-{version}.onnx"
        await trio.Path(path).write_bytes(await trio.Path(model.onnx_path).read_bytes())
        more = {"type": model.type, "config": model.config, "capabilities": model.capabilities}
        self.models.append(Stored(path, model.name, version, description=model.description, **more))  # type: ignore[arg-type]
        return {"name": model.name, "version": version}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def trainer(store: Store, tmp_path: Path) -> Trainer:
    (tmp_path / "work").mkdir()
    return Trainer(TinyEmbedder().embed, store.save, tmp_path / "work")


async def predict(store: Store, body: Mapping[str, Any]) -> dict[str, Any]:
    backend = OnnxBackend(lambda: store.models, TinyEmbedder())
    capability = (await backend.discover())[0]
    async with aclosing(backend.execute(Call(capability, body))) as parts:
        return as_object(await anext(parts))


async def test_a_classifier_is_fitted_saved_and_answers(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    names = [["barolo", "grignolino", "barbera"][i] for i in CLASSES]
    columns = [f"c{i}" for i in range(13)]
    body = {
        "model": "wine",
        "data": ROWS.tolist(),
        "labels": names,
        "feature_columns": columns,
        "capabilities": ["tasting"],
    }
    answer = await trainer.fit("classify", body)
    assert answer["metrics"].pop("compared").keys() == {"LogisticRegression", "RandomForestClassifier"}
    assert answer["metrics"]["accuracy"] > 0.95 > 0.5 > answer["metrics"]["baseline"]
    answer.pop("metrics")
    assert answer == {"object": "ml.fit", "model": "wine", "version": "1", "type": "classifier", "samples": 178}
    (model,) = store.saved
    assert model.capabilities == ("classification", "tasting")
    assert model.config["labels"] == ["barbera", "barolo", "grignolino"]
    assert "barbera, barolo, grignolino" in model.description
    assert list((tmp_path / "work").iterdir()) == []
    answer = await predict(store, {"data": ROWS[::40].tolist()})
    assert [p["label"] for p in answer["predictions"]] == names[::40]
    assert (await trainer.fit("classify", body | {"description": "Tells wines apart."}))["version"] == "2"
    assert store.saved[1].description == "Tells wines apart."
    row = dict(zip(columns, ROWS[0].tolist(), strict=True))
    assert (await predict(store, {"data": [row]}))["predictions"][0]["label"] == names[0]


def fit_here(folder: Path, rows: list[list[float]], labels: list[Any]) -> tuple[dict[str, Any], Stored]:
    """Does the child's work in this process, which is what starts in no time."""
    classes, indices = _encode(labels)
    np.savez(folder / "data.npz", x=np.array(rows, np.float32), y=indices)
    result = train_child.work({"classes": classes, "text": False}, folder)
    return result["metrics"], Stored(folder / "model.onnx", config=result["config"] | {"labels": classes})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([False] * 6 + [True] * 6, [False, True]), ([2.0] * 6 + [1] * 6, [2, 1]), (["é"] * 6 + ["ü"] * 6, ["é", "ü"])],
)
async def test_labels_come_back_as_they_were(store: Store, tmp_path: Path, labels: list[Any], expected: Any) -> None:
    metrics, model = fit_here(tmp_path, [[float(i)] for i in range(12)], labels)
    store.models.append(model)
    answer = await predict(store, {"data": [[0], [11]]})
    assert [p["label"] for p in answer["predictions"]] == expected
    assert metrics["folds"] == 5


def test_a_class_of_one_cannot_be_cross_validated(tmp_path: Path) -> None:
    metrics, _ = fit_here(tmp_path, [[0], [1], [5]], ["a", "a", "b"])
    assert metrics["accuracy"] is None
    assert "only one sample" in metrics["note"]


async def test_texts_are_classified_by_their_vectors(trainer: Trainer, store: Store) -> None:
    body = {"model": "letters", "texts": ["dddd", "dddh", "eeee", "eeei"] * 3, "labels": ["d", "d", "e", "e"] * 3}
    answer = await trainer.fit("classify", body)
    assert answer["metrics"]["accuracy"] == 1.0
    assert store.saved[0].config["input"] == "text"
    answer = await predict(store, {"input": ["ddd", "eie"]})
    assert [p["label"] for p in answer["predictions"]] == ["d", "e"]


async def test_an_anomaly_detector_is_fitted_and_answers(trainer: Trainer, store: Store) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3))
    answer = await trainer.fit("anomaly", {"model": "pump", "data": rows.tolist(), "contamination": 0.05})
    assert (answer["type"], answer["samples"]) == ("anomaly_detector", 300)
    assert answer["metrics"]["anomalies_in_training"] == 15
    answer = await predict(store, {"data": [[0, 0, 0], [9, 9, 9]]})
    assert answer["anomalies"] == [1]
    assert 0 < answer["results"][0]["score"] < answer["threshold"] < answer["results"][1]["score"] < 1


@pytest.mark.parametrize(
    ("operation", "body", "says"),
    [
        ("paint", {}, "Nothing can be fitted"),
        ("classify", {}, "'model' is missing"),
        ("classify", {"model": "builtin-x"}, "are taken"),
        ("classify", {"model": "a b"}, "letters, digits"),
        ("classify", {"model": "m", "data": [[1], [2]]}, "'labels' is missing"),
        ("classify", {"model": "m", "data": [[1], [2]], "labels": ["a"]}, "1 items for 2 rows"),
        ("classify", {"model": "m", "texts": ["a", ""], "labels": ["a", "b"]}, "Item 1 of 'texts' is empty"),
        ("classify", {"model": "m", "data": [[1], ["x"]], "labels": ["a", "b"]}, "Row 1, column 0"),
        ("classify", {"model": "m", "data": [[1]], "feature_columns": ["a", "b"]}, "1 columns, not 2"),
        ("anomaly", {"model": "m", "data": [[1]] * 7}, "at least 8 are needed"),
        ("anomaly", {"model": "m", "data": ["a"] * 9}, "not on texts"),
        ("anomaly", {"model": "m", "data": [[1]] * 9, "contamination": 0.7}, "between 0 and 0.5"),
        ("anomaly", {"model": "m", "data": [[1]] * 9, "backend": "magic"}, "'backend' can be"),
        ("anomaly", {"model": "m", "data": [[1]] * 9, "capabilities": "x"}, "'capabilities' must be a list"),
    ],
)
async def test_bad_requests(trainer: Trainer, store: Store, operation: str, body: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        await trainer.fit(operation, body)
    assert caught.value.status == 400
    assert says in caught.value.message
    assert store.saved == []


async def test_too_little_time_is_a_400(store: Store, tmp_path: Path) -> None:
    trainer = Trainer(TinyEmbedder().embed, store.save, tmp_path, ChildLimits(wall_s=0.01))
    with pytest.raises(RequestError) as caught:
        await trainer.fit("anomaly", {"model": "m", "data": [[1]] * 9})
    assert (caught.value.status, caught.value.code) == (400, "fit_failed")
    assert "took longer" in caught.value.message


async def test_the_queue_is_bounded(nursery: trio.Nursery, tmp_path: Path, store: Store) -> None:
    async def embed_forever(texts: Any) -> Any:
        await trio.sleep_forever()

    trainer = Trainer(embed_forever, store.save, tmp_path)
    body = {"model": "m", "texts": ["a", "b"], "labels": ["a", "b"]}
    for _ in range(5):
        nursery.start_soon(trainer.fit, "classify", body)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(RequestError) as caught:
        await trainer.fit("classify", body)
    assert caught.value.status == 429
    nursery.cancel_scope.cancel()


def test_a_forest_must_be_clearly_better() -> None:
    linear, forest = np.array([0.9, 0.9, 0.9]), np.array([0.9, 0.91, 0.9])
    assert _choose({"linear": linear, "forest": forest}) == "linear"
    assert _choose({"linear": linear, "forest": linear + 0.02}) == "forest"


async def test_a_work_folder_that_is_gone(store: Store, tmp_path: Path) -> None:
    trainer = Trainer(TinyEmbedder().embed, store.save, tmp_path / "gone")
    with pytest.raises(RequestError, match=r"is gone .*: start the node again") as caught:
        await trainer.fit("anomaly", {"model": "m", "data": [[float(i)] for i in range(9)]})
    assert (caught.value.status, caught.value.code) == (503, "storage_failed")


def refused_by_the_store(error: Exception) -> UserError:
    told = UserError("The model cannot be written.")
    told.__cause__ = error
    return told


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507),
        (refused_by_the_store(OSError(errno.EDQUOT, "Quota exceeded")), 507),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 503),
        (UserError("No such name."), 400),
    ],
)
async def test_a_store_that_cannot_keep_the_model(error: Exception, status: int, tmp_path: Path) -> None:
    async def save(model: TrainedModel) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        raise error

    trainer = Trainer(TinyEmbedder().embed, save, tmp_path)
    with pytest.raises(RequestError) as caught:
        await trainer.fit("anomaly", {"model": "m", "data": [[float(i)] for i in range(9)]})
    assert caught.value.status == status
