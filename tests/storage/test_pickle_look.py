"""Pickles are looked at and never loaded: what they tell, and that hostile ones tell nothing."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from atmo.storage.formats import detect, pickle_look
from atmo.storage.formats.estimator import about_estimator, about_state
from atmo.storage.formats.pickle_look import look
from atmo.storage.formats.pickle_values import Global, Made, Unclear, values_of
from tests.storage import samples

ROWS = np.arange(60.0).reshape(20, 3)
NAMES = ["setosa", "versicolor"] * 10


def saved(value: Any, how: str, folder: Path) -> Path:
    path = folder / "model.bin"
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(value, protocol=int(how[-1])))
    else:
        joblib.dump(value, path, compress=3 if how == "compressed" else 0)
    return path


@pytest.mark.parametrize("how", ["joblib", "compressed", "pickle 2", "pickle 3", "pickle 4", "pickle 5"])
@pytest.mark.parametrize("labels", [NAMES, np.array(NAMES, dtype=object), [3, -1] * 10, [True, False] * 10])
def test_a_classifier_tells_its_class_and_its_labels(tmp_path: Path, how: str, labels: Any) -> None:
    found = detect(saved(LogisticRegression().fit(ROWS, labels), how, tmp_path))
    assert (found.format, found.type, found.capabilities) == ("sklearn", "classifier", ("classification",))
    assert found.config["estimator"] == "LogisticRegression"
    assert found.config["labels"] == sorted(set(labels))
    assert found.config["n_features"] == 3
    assert found.config["sklearn_version"]


def test_other_estimators_and_those_within(tmp_path: Path) -> None:
    detector = detect(saved(IsolationForest(n_estimators=5).fit(ROWS), "joblib", tmp_path))
    assert (detector.type, detector.capabilities) == ("anomaly_detector", ("anomaly_detection",))
    forest = RandomForestRegressor(n_estimators=3).fit(ROWS, ROWS[:, 0])
    assert detect(saved(forest, "pickle 5", tmp_path)).type == "regressor"
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, NAMES)
    search = GridSearchCV(pipe, {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(ROWS, NAMES)
    found = detect(saved(search, "joblib", tmp_path))
    assert (found.type, found.config["estimator"]) == ("classifier", "LogisticRegression")
    assert found.config["labels"] == ["setosa", "versicolor"]
    assert found.config["n_features"] == 3
    scaler = detect(saved(StandardScaler().fit(ROWS), "joblib", tmp_path))
    assert (scaler.type, scaler.capabilities) == ("model", ())


def test_named_columns(tmp_path: Path) -> None:
    model = LogisticRegression().fit(ROWS, NAMES)
    model.feature_names_in_ = np.array(["length", "width", "depth"], dtype=object)
    found = detect(saved(model, "joblib", tmp_path))
    assert found.config["feature_columns"] == ["length", "width", "depth"]


def test_nothing_that_a_pickle_names_is_called(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = b"\x80\x03cos\nsystem\nX" + struct.pack("<I", len(f"touch {mark}")) + f"touch {mark}".encode() + b"\x85R."
    found = look(io.BytesIO(evil))
    assert isinstance(found, Made)
    assert isinstance(found.of, Global)
    assert (found.of.module, found.of.name) == ("os", "system")
    assert about_estimator(io.BytesIO(evil)) == ("model", {}, ())
    assert not mark.exists()


def test_plain_values_of_every_protocol() -> None:
    value = {
        "a": [1, -70_000, 2**70, 1.5, None, True, "text", b"bytes", "x" * 300, b"y" * 300],
        "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        7: {"inner": bytearray(b"z")},
    }
    for protocol in (2, 3, 4, 5):
        found = look(io.BytesIO(pickle.dumps(value, protocol=protocol)))
        assert found["a"][:7] == value["a"][:7]  # type: ignore[index]
        assert found["t"] == value["t"]
    old = look(io.BytesIO(pickle.dumps({"a": [1, -70_000, 2**70, 1.5, None, True, "text"]}, protocol=0)))
    assert old == {"a": [1, -70_000, 2**70, 1.5, None, True, "text"]}
    sets = look(io.BytesIO(pickle.dumps([{1, 2}, frozenset({3})], protocol=4)))
    assert sets == [[1, 2], [3]]


def test_what_is_long_is_skipped() -> None:
    assert look(io.BytesIO(pickle.dumps(["x" * 100_000, 5], protocol=4))) == [None, 5]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b".",
        b"0.",
        b"\xff.",
        b"(lp0",
        b"e.",
        b"s.",
        b"h\x05.",
        b"o.",
        b"(o.",
        b"\x93.",
        b"K\x01K\x02\x93.",
        b"Iabc\n.",
        b"Fabc\n.",
        b"]" + b"X\xff\xff\xff\x7f",
        b"\x8d" + b"\xff" * 8,
        b"T\xff\xff\xff\xff.",
        b"\x82\x01.",
        b"\x97.",
        b"(K\x01d.",
        b"c" + b"m" * 5_000,
    ],
)
def test_damaged_pickles_are_unclear(data: bytes) -> None:
    with pytest.raises(Unclear):
        look(io.BytesIO(data))
    assert about_estimator(io.BytesIO(data)) == ("model", {}, ())
    assert about_state(io.BytesIO(data)) == {}


def array_of(shape: bytes, dtype: bytes) -> bytes:
    """A pickle with an array as joblib writes it, whose bytes are missing."""
    return (
        b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(X\x05\x00\x00\x00shape"
        + shape
        + b"X\x05\x00\x00\x00dtypecnumpy\ndtype\n"
        + dtype
        + b"\x85Rub"
    )


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (b"J\xff\xff\xff\xff\x85", b"X\x02\x00\x00\x00i8"),
        (b"K\x05", b"X\x02\x00\x00\x00i8"),
        (b"\x8a\x07\xff\xff\xff\xff\xff\xff\x00\x85", b"X\x02\x00\x00\x00i8"),
        (b"\x8a\x05\xff\xff\xff\xff\x00\x85", b"X\x09\x00\x00\x00U99999999"),
        (b"K\x05\x85", b"X\x02\x00\x00\x00i8"),
        (b"K\x05\x85", b"X\x01\x00\x00\x00?"),
        (b"K\x05\x85", b"K\x01"),
        (b"K\x05\x85", b"]" * 5_000 + b"a" * 4_999),
        (b"K\x05\x85", b")" + b"2\x86" * 60),
    ],
)
def test_arrays_that_lie(shape: bytes, dtype: bytes) -> None:
    with pytest.raises(Unclear):
        look(io.BytesIO(array_of(shape, dtype) + b"."))


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    many = pickle.dumps(list(range(1_000)), protocol=4)
    monkeypatch.setattr(pickle_look, "STEPS_MOST", 500)
    with pytest.raises(Unclear, match="too many"):
        look(io.BytesIO(many))
    monkeypatch.setattr(pickle_look, "STEPS_MOST", 5_000)
    monkeypatch.setattr(pickle_look, "KEPT_MOST_BYTES", 100)
    with pytest.raises(Unclear, match="too much text"):
        look(io.BytesIO(pickle.dumps([str(number) for number in range(100)], protocol=4)))
    monkeypatch.setattr(pickle_look, "KEPT_MOST_BYTES", 10_000)
    nested = b"".join(array_of(b"K\x05\x85", b"X\x01\x00\x00\x00O").replace(b"\x01\x00\x00\x00O", b"\x02\x00\x00\x00O8")
                      for _ in range(8))  # fmt: skip
    with pytest.raises(Unclear, match="nested"):
        look(io.BytesIO(nested))


@given(st.binary(max_size=200))
def test_any_bytes_are_either_looked_at_or_unclear(data: bytes) -> None:
    with contextlib.suppress(Unclear):
        values_of(look(io.BytesIO(data)))
    about_estimator(io.BytesIO(data))
    about_state(io.BytesIO(data))


WHOLE = pickle.dumps(LogisticRegression().fit(ROWS, NAMES), protocol=5)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_pickle_with_one_wrong_byte(at: int, byte: int) -> None:
    about_estimator(io.BytesIO(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]))


def test_a_pytorch_archive_tells_how_large_its_state_is(tmp_path: Path) -> None:
    rebuild = "ctorch._utils\n_rebuild_tensor_v2\n"

    def tensor(rows: int, columns: int) -> bytes:
        shape = f"(K{chr(rows)}K{chr(columns)}t".encode("latin-1")
        return rebuild.encode() + b"(X\x07\x00\x00\x00storageQK\x00" + shape + b"tR"

    state = b"\x80\x02}(X\x01\x00\x00\x00a" + tensor(3, 4) + b"X\x01\x00\x00\x00b" + tensor(5, 2) + b"u."
    assert about_state(io.BytesIO(state)) == {"tensors": 2, "parameters": 22}
    path = tmp_path / "net.pt"
    path.write_bytes(samples.torch_zip(pickle_data=state))
    assert detect(path).config == {"saved_as": "state", "tensors": 2, "parameters": 22}


def test_a_compressed_archive_is_not_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("archive/data.pkl", bytes(range(256)))
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(byte ^ 0x5A for byte in data[60:90]) + data[90:])
    assert detect(path).config == {"saved_as": "state"}
