from __future__ import annotations

import bz2
import json
import lzma
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmo.errors import UserError
from atmo.storage.formats import Detected, FormatError, detect, pickles, protobuf
from atmo.storage.formats.reader import Reader
from tests.storage import samples


def write(folder: Path, data: bytes, name: str = "model.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_safetensors(tmp_path: Path) -> None:
    found = detect(write(tmp_path, samples.safetensors(metadata={"format": "pt"})))
    config = {"tensors": 1, "parameters": 1_000, "dtypes": ["U8"], "metadata": {"format": "pt"}}
    assert found == Detected("safetensors", ".safetensors", config=config)


@pytest.mark.parametrize("version", [2, 3])
def test_gguf(tmp_path: Path, version: int) -> None:
    found = detect(write(tmp_path, samples.gguf(version=version)))
    config = {"architecture": "llama", "name": "Tiny", "context_length": 2_048, "quantization": "Q4_K_M"}
    assert found == Detected("gguf", ".gguf", "llm", {**config, "parameters": 32}, ("chat",))
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
    assert found.config["opset"].keys() == {"ai.onnx"}
    labelled = detect(write(tmp_path, samples.onnx_plain(labels=[3, -1, 7])))
    assert labelled.config["classes"] == [3, -1, 7]


def test_weights_in_other_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights in other files"):
        detect(write(tmp_path, samples.onnx_plain(external=True)))


def test_onnx_operators_that_nobody_has_are_refused_with_a_way_out(tmp_path: Path) -> None:
    spin = field(1, field(4, b"Spin") + field(7, b"com.acme"))
    with pytest.raises(UserError, match=r"uses the custom operator com\.acme::Spin") as caught:
        detect(write(tmp_path, tiny_onnx(spin)))
    assert "standard operators" in caught.value.hint
    own = field(25, field(1, b"Spin") + field(10, b"com.acme"))
    assert detect(write(tmp_path, tiny_onnx(spin, own))).format == "onnx"


def test_weights_in_other_files_are_found_in_subgraphs(tmp_path: Path) -> None:
    inner = field(5, field(14, 1))
    outer = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, inner)))
    with pytest.raises(UserError, match="weights in other files") as caught:
        detect(write(tmp_path, tiny_onnx(outer)))
    assert "all weights inside" in caught.value.hint


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
    found = detect(path)
    assert (found.format, found.suffix, found.runs_code) == ("sklearn", ".joblib", True)
    assert (found.type, found.capabilities) == ("classifier", ("classification",))
    assert found.config["estimator"] == "LogisticRegression"
    assert found.config["labels"] == [0, 1]
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
    with pytest.raises(UserError, match="is not a plain file"):
        detect(tmp_path)


@pytest.mark.parametrize("pack", [zlib.compress, bz2.compress, lzma.compress])
def test_a_bomb_is_opened_piece_by_piece(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    size = 64 * 1024 * 1024
    path = write(tmp_path, pack(b"\x80\x04" + bytes(size) + b"."))
    tracemalloc.start()
    try:
        assert detect(path).format == "sklearn"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size


def test_compressed_text_is_no_model(tmp_path: Path) -> None:
    import gzip

    with pytest.raises(UserError, match="no pickle is inside"):
        detect(write(tmp_path, gzip.compress(b"text")))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    """One protocol buffer field: a number, or bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def tiny_onnx(graph: bytes, *more: bytes) -> bytes:
    return field(1, 8) + b"".join(more) + field(7, graph) + field(8, field(2, 17))


def test_onnx_by_hand(tmp_path: Path) -> None:
    packed = field(1, b"classlabels_ints") + field(8, varint(3) + varint(2**64 - 1))
    other = field(1, b"kernel") + field(8, varint(9))
    node = field(4, b"SVMClassifier") + field(5, other) + field(5, packed)
    fixed = varint(9 << 3 | 5) + b"\0\0\0\0" + varint(10 << 3 | 1) + b"\0" * 8
    odd_input = field(11, field(1, b"sequence") + field(2, field(4, b"")))
    shapeless = field(11, field(1, b"x") + field(2, field(1, field(1, 1))))
    initialized = field(5, field(8, b"w") + field(14, 0)) + field(11, field(1, b"w"))
    graph = field(1, node) + fixed + odd_input + shapeless + initialized + field(12, field(1, b"y"))
    found = detect(write(tmp_path, tiny_onnx(graph)))
    assert found.config == {
        "inputs": [{"name": "sequence"}, {"name": "x", "type": "float32"}],
        "outputs": [{"name": "y"}],
        "opset": {"ai.onnx": 17},
        "classes": [3, -1],
    }


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tiny_onnx(b"", field(99, b"x")), "not an ONNX model"),
        (field(1, 8) + field(8, b""), "cut short: an ONNX model has a graph"),
        (field(1, 8) + field(7, b""), "cut short: an ONNX model has a graph"),
        (tiny_onnx(b"\x0b"), "not a protocol buffer"),
        (tiny_onnx(b"\x00\x00"), "not a protocol buffer"),
        (tiny_onnx(b"\xff" * 11), "not a protocol buffer"),
        (tiny_onnx(field(1, b"x")[:-1] + b""), "cut short|not a protocol buffer"),
        (tiny_onnx(varint(1 << 3 | 2) + varint(50) + b"x"), "cut short: a part of it"),
    ],
)
def test_onnx_that_is_damaged(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        detect(write(tmp_path, data, "m.onnx"))


def test_onnx_with_too_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "FIELDS_MOST", 100)
    with pytest.raises(UserError, match="more than 100 fields"):
        detect(write(tmp_path, tiny_onnx(field(13, b"") * 200)))


def test_more_damaged_gguf(tmp_path: Path) -> None:
    def file(pairs: list[bytes], tensors: list[bytes] = []) -> bytes:  # noqa: B006
        return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)

    def key(name: str, kind: int, value: bytes) -> bytes:
        return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value

    wide = struct.pack("<Q", 1) + b"w" + struct.pack("<I", 9)
    for data, why in [
        (file([key("general.alignment", 4, struct.pack("<I", 3))]), "multiple of 8"),
        (file([key("list", 9, struct.pack("<IQ", 8, 2**40))]), "middle of its keys"),
        (file([key("list", 9, struct.pack("<IQ", 4, 2**40))]), "its head goes on"),
        (file([], [wide]), "9 dimensions"),
    ]:
        with pytest.raises(UserError, match=why):
            detect(write(tmp_path, data))
    assert detect(write(tmp_path, file([key("general.name", 4, struct.pack("<I", 7))]))).config == {}


def test_a_header_that_is_a_list(tmp_path: Path) -> None:
    text = b'{"__metadata__": 5}'
    assert detect(write(tmp_path, struct.pack("<Q", len(text)) + text)).config == {"tensors": 0}


def test_archives_that_point_outside(tmp_path: Path) -> None:
    data = bytearray(samples.torch_zip())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 42, len(data))
    with pytest.raises(UserError, match=r"damaged|cut short"):
        detect(write(tmp_path, bytes(data)))


def test_what_opens_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_OPENED_MOST_BYTES", 1_000)
    path = samples.joblib_file(tmp_path / "model.bin", 3)
    path.write_bytes(zlib.compress(b"\x80\x04" + bytes(100_000)))
    with pytest.raises(UserError, match="more than 64 GiB"):
        detect(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, bytes(200_000))
    with Reader(path) as reader:
        path.write_bytes(b"short")
        with pytest.raises(FormatError, match="shrank"):
            reader.at(100_000, 10)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, samples.safetensors())
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"Cannot read .*: Permission denied"):
        detect(path)


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
