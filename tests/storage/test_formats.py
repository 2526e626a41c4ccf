from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmo.errors import UserError
from atmo.storage.formats import Detected, detect
from tests.storage import samples


def write(folder: Path, data: bytes, name: str = "model.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_safetensors(tmp_path: Path) -> None:
    found = detect(write(tmp_path, samples.safetensors(metadata={"format": "pt"})))
    assert found == Detected("safetensors", ".safetensors", config={"tensors": 1, "metadata": {"format": "pt"}})


@pytest.mark.parametrize("version", [2, 3])
def test_gguf(tmp_path: Path, version: int) -> None:
    found = detect(write(tmp_path, samples.gguf(version=version)))
    config = {"architecture": "llama", "name": "Tiny", "context_length": 2_048}
    assert found == Detected("gguf", ".gguf", "llm", config, ("chat",))
    assert detect(write(tmp_path, samples.gguf("bert"))).type == "embedder"


def test_an_onnx_classifier_tells_its_classes(tmp_path: Path) -> None:
    found = detect(write(tmp_path, samples.onnx_classifier()))
    assert (found.format, found.type, found.capabilities) == ("onnx", "classifier", ("classify",))
    assert found.config["classes"] == ["setosa", "versicolor", "virginica"]
    assert found.config["inputs"] == [{"name": "X", "type": "float32", "shape": [None, 2]}]
    assert [output["name"] for output in found.config["outputs"]] == ["output_label", "output_probability"]


def test_an_onnx_model_tells_inputs_and_notes(tmp_path: Path) -> None:
    found = detect(write(tmp_path, samples.onnx_plain()))
    assert found.type == "model"
    assert found.config["inputs"] == [{"name": "x", "type": "float32", "shape": ["batch", 2]}]
    assert found.config["metadata"] == {"author": "me"}
    labelled = detect(write(tmp_path, samples.onnx_plain(labels=[3, -1, 7])))
    assert labelled.config["classes"] == [3, -1, 7]


def test_weights_in_other_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights in other files"):
        detect(write(tmp_path, samples.onnx_plain(external=True)))


def test_pytorch(tmp_path: Path) -> None:
    assert detect(write(tmp_path, samples.torch_zip())) == Detected(
        "pytorch", ".pt", config={"saved_as": "state"}, runs_code=True
    )
    script = detect(write(tmp_path, samples.torch_zip("code/data.pkl")))
    assert script.config == {"saved_as": "TorchScript"}
    assert detect(write(tmp_path, samples.TORCH_LEGACY)).format == "pytorch"
    assert detect(write(tmp_path, pickle.dumps([1, 2]), "old.pth")).format == "pytorch"


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_joblib_plain_and_compressed(tmp_path: Path, compress: object) -> None:
    path = samples.joblib_file(tmp_path / "model.bin", compress)
    assert detect(path) == Detected("sklearn", ".joblib", runs_code=True)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        detect(path)


def test_a_pickle_is_recognised_and_not_executed(tmp_path: Path) -> None:
    evil = b"\x80\x03cos\nsystem\nX\x04\x00\x00\x00echo\x85R."
    assert detect(write(tmp_path, evil)).format == "sklearn"


WHOLE = {
    "safetensors": samples.safetensors(),
    "gguf": samples.gguf(),
    "onnx": samples.onnx_classifier(),
    "pytorch": samples.torch_zip(),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_anywhere_is_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    data = WHOLE[kind]
    suffix = {"pytorch": ".pt"}.get(kind, f".{kind}")
    for size in {0, 1, 2, 3, 5, 9, 20, len(data) // 3, len(data) // 2, len(data) - 33, len(data) - 1}:
        with pytest.raises(UserError, match=r"cut short|damaged|empty|not JSON|not a protocol buffer|not an ONNX"):
            detect(write(tmp_path, data[:size], f"model{suffix}"))


def test_bytes_that_no_tensor_owns(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tensor owns"):
        detect(write(tmp_path, samples.safetensors() + b"more"))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"{not json", "not JSON"),
        (b'{"w": 5}', "damaged entry"),
        (b'{"w": {"dtype": "F32", "shape": [], "data_offsets": [5, 2]}}', "damaged entry"),
        (b'{"w": {"dtype": "F32", "shape": [], "data_offsets": [0, 999]}}', "cut short"),
        (b"{" * 100_000, "not JSON"),
    ],
)
def test_damaged_safetensors_headers(tmp_path: Path, header: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        detect(write(tmp_path, struct.pack("<Q", len(header)) + header + b"data"))


@pytest.mark.parametrize(
    ("at", "code", "value", "why"),
    [
        (4, "<I", 9, "version 9"),
        (8, "<Q", 2**40, "absurd"),
        (24, "<Q", 2**50, "longer than the file"),
        (24 + 8 + 20, "<I", 77, "value type"),
    ],
)
def test_damaged_gguf_heads(tmp_path: Path, at: int, code: str, value: int, why: str) -> None:
    data = bytearray(samples.gguf())
    struct.pack_into(code, data, at, value)
    with pytest.raises(UserError, match=why):
        detect(write(tmp_path, bytes(data)))


def test_what_is_no_model(tmp_path: Path) -> None:
    for data, name, why in [
        (b"hello world, this is text", "notes.txt", "not a model that Atmosphere knows"),
        (b"garbage garbage garbage", "model.gguf", "named .gguf"),
        (b"garbage garbage garbage", "model.safetensors", "named .safetensors"),
        (b"garbage garbage garbage", "model.onnx", "protocol buffer|ONNX|cut short"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 50, "model.h5", "Keras"),
        (samples.torch_zip("other.txt"), "x.pt", "not one that PyTorch saved"),
        (b"\x1f\x8b not gzip at all", "model.joblib", "does not decompress"),
        (b"", "empty.onnx", "is empty"),
    ]:
        with pytest.raises(UserError, match=why):
            detect(write(tmp_path, data, name))
    with pytest.raises(UserError, match="does not exist"):
        detect(tmp_path / "nothing.onnx")
    with pytest.raises(UserError, match="is a folder"):
        detect(tmp_path)


def test_compressed_text_is_no_model(tmp_path: Path) -> None:
    import gzip

    with pytest.raises(UserError, match="no pickle is inside"):
        detect(write(tmp_path, gzip.compress(b"text")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([*WHOLE]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=9))),
)
def test_damage_anywhere_ends_in_a_user_error_or_a_detection(
    tmp_path: Path, kind: str, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(WHOLE[kind])
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    try:
        found = detect(write(tmp_path, bytes(data), "m.onnx"))
    except UserError:
        return
    json.dumps(dict(found.config))
