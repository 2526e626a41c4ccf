"""The child process starts in about a second, so only what needs the child runs in one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pytest
import sklearn
import trio
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

from atmo.backends import convert_child, export
from atmo.backends.child import ChildLimits, run_child
from atmo.backends.child_side import Refusal
from atmo.backends.convert import convert
from atmo.backends.ml_model import plan_model
from atmo.backends.onnx_session import SessionCache
from atmo.errors import UserError
from tests.backends.graphs import Stored

X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X).astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]


async def failure(path: Path, target: Path, **limits: Any) -> str:
    with pytest.raises(UserError) as caught:
        await convert(path, target, **limits)
    assert not target.exists()
    assert [entry.name for entry in target.parent.iterdir() if entry.name.startswith(".convert")] == []
    return str(caught.value)


async def test_a_pipeline_gives_the_same_answers_as_onnx(tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, NAMES)
    joblib.dump(estimator, tmp_path / "m.joblib", compress=3)
    model = await convert(tmp_path / "m.joblib", tmp_path / "m.onnx")
    assert (model.type, model.n_features, model.threshold) == ("classifier", 4, None)
    assert model.capabilities == ("classification",)
    assert model.classes == ("setosa", "versicolor", "virginica")
    assert model.config["estimator"] == "LogisticRegression"
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    labels, probabilities = session.run(None, {"X": X})
    assert labels.tolist() == estimator.predict(X).tolist()
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-4)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.joblib", "m.onnx"]


def test_isolation_forest_scores_are_exact(tmp_path: Path) -> None:
    forest = IsolationForest(n_estimators=40, contamination=0.1, max_features=0.6, max_samples=100, random_state=0).fit(
        X
    )
    made = convert_child.describe(forest, "", tmp_path)
    assert made["type"] == "anomaly_detector"
    assert made["config"]["threshold"] == pytest.approx(forest.offset_)
    assert made["config"]["score_output"] == "score_samples"
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    label, samples = session.run(["label", "score_samples"], {"X": X})
    np.testing.assert_allclose(samples.ravel(), forest.score_samples(X), atol=1e-6)
    assert (label.ravel() == forest.predict(X)).all()


@pytest.mark.filterwarnings("ignore")  # as the child does
def test_margins_and_column_names_are_told(tmp_path: Path) -> None:
    estimator = LinearSVC().fit(X, Y)
    estimator.feature_names_in_ = np.array(["a", "b", "c", "d"], dtype=object)
    config = convert_child.describe(estimator, "1.5", tmp_path)["config"]
    assert config["feature_columns"] == ["a", "b", "c", "d"]
    assert (config["labels"], config["scores"], config["sklearn_version"]) == ([0, 1, 2], "logits", "1.5")


ESTIMATORS = [
    RandomForestClassifier(5), HistGradientBoostingClassifier(max_iter=3), SVC(), KNeighborsClassifier(),
    GridSearchCV(LogisticRegression(), {"C": [1]}), CalibratedClassifierCV(LinearSVC()), LinearRegression(),
    OneClassSVM(), LocalOutlierFactor(novelty=True), make_pipeline(StandardScaler(), IsolationForest(n_estimators=5)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # as the child does
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_what_converts(tmp_path: Path, estimator: Any) -> None:
    made = convert_child.describe(estimator.fit(X, Y), "", tmp_path)
    assert made["config"]["agreement"] >= export.AGREEMENT
    stored = Stored(tmp_path / "model.onnx", type=made["type"], config=made["config"])
    if made["type"] == "regressor":
        return
    plan = plan_model(SessionCache().load(stored.path).signature, stored.config)
    assert (plan.width, plan.input.name) == (4, "X")


async def test_truncated_and_absent_files(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "m.joblib")
    data = (tmp_path / "m.joblib").read_bytes()
    (tmp_path / "m.joblib").write_bytes(data[: len(data) // 2])
    assert "m.joblib: It cannot be read; it is truncated" in await failure(tmp_path / "m.joblib", tmp_path / "m.onnx")
    assert "No such file" in await failure(tmp_path / "absent.pkl", tmp_path / "m.onnx")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x05K", b"PK\x03\x04junk", bytes(64), b"\x1f\x8b\x08broken"])
def test_what_is_no_pickle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.pkl").write_bytes(data)
    with pytest.raises(Refusal, match="cannot be read"):
        convert_child._read(tmp_path / "m.pkl", joblib, sklearn)


def test_a_file_of_another_scikit_learn(tmp_path: Path) -> None:
    data = pickle.dumps(LogisticRegression().fit(X, Y), protocol=0)
    (tmp_path / "m.pkl").write_bytes(data.replace(b"LogisticRegression", b"LogisticGone"))
    with pytest.raises(Refusal, match="another version of scikit-learn"):
        convert_child._read(tmp_path / "m.pkl", joblib, sklearn)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"model": 1}, "holds a dict, not a scikit-learn estimator"),
        (LogisticRegression(), "is not fitted"),
        (StandardScaler().fit(X), "StandardScaler does not predict"),
        (KMeans(2, random_state=0).fit(X), "KMeans does not predict"),
    ],
)
def test_what_is_no_fitted_estimator(value: Any, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        convert_child._check(value, export)


def test_texts_and_several_outputs_are_refused() -> None:
    texts = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["one two", "three four"], [0, 1])
    with pytest.raises(Refusal, match="texts are not converted"):
        convert_child._width(texts, export)
    several = DecisionTreeClassifier().fit(X, np.stack([Y, Y], axis=1))
    with pytest.raises(Refusal, match="several outputs"):
        convert_child._classes(several)


@pytest.mark.filterwarnings("ignore")
def test_an_estimator_without_onnx_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="EllipticEnvelope cannot be converted") as caught:
        convert_child.describe(EllipticEnvelope().fit(X), "", tmp_path)
    assert "IsolationForest" in caught.value.hint


def test_an_unfaithful_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "AGREEMENT", 1.1)
    with pytest.raises(Refusal, match=r"agrees with the original on 100.0% of sample rows only"):
        convert_child.describe(LogisticRegression().fit(X, Y), "", tmp_path)


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


async def test_a_pickle_that_runs_commands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Touch(str(tmp_path / "pwned"))))
    assert "posix.system" in await failure(tmp_path / "m.pkl", tmp_path / "m.onnx")
    assert not (tmp_path / "pwned").exists()


class Mapped:
    """Becomes the bytes of a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return np.memmap, (str(self.path), "uint8", "r", 0, (3,))


@pytest.mark.parametrize("save", [joblib.dump, lambda value, path: path.write_bytes(pickle.dumps(value))])
async def test_a_pickle_that_reads_another_file_is_refused(tmp_path: Path, save: Callable[[Any, Path], object]) -> None:
    (tmp_path / "identity.key").write_bytes(b"key")
    estimator = LogisticRegression().fit(X, Y)
    estimator.classes_ = Mapped(tmp_path / "identity.key")
    save(estimator, tmp_path / "m.joblib")
    assert "memmap" in await failure(tmp_path / "m.joblib", tmp_path / "m.onnx")


async def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.joblib")
    assert "m.joblib is no file" in await failure(tmp_path / "m.joblib", tmp_path / "m.onnx")


async def test_time_memory_and_death_of_the_child(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "m.joblib")
    path = tmp_path / "m.joblib"
    text = await failure(path, tmp_path / "m.onnx", deadline_s=0.05)
    assert "took longer than 0 s and was stopped" in text
    assert "Export the model to ONNX" in text
    text = await failure(path, tmp_path / "m.onnx", memory_bytes=300 * 1024**2)
    assert "needs more than 0.3 GiB of memory" in text


async def test_a_module_that_is_no_child(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ended with code 1 and gave no result"):
        await run_child("atmo.backends.nothing_there", {}, tmp_path, ChildLimits(), "Trying")


async def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "m.joblib")
    with trio.move_on_after(0.2) as scope:
        await convert(tmp_path / "m.joblib", tmp_path / "m.onnx")
    assert scope.cancelled_caught
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.joblib"]
