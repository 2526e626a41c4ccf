from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmo.storage import layout
from atmo.storage.layout import Part
from tests.storage import samples


def write(folder: Path, data: bytes, name: str = "model.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def safetensors(entries: Any, data: bytes = bytes(100)) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [1], "data_offsets": [begin, end]}


def onnx(external: dict[str, dict[str, str]] | None = None) -> bytes:
    """A model of three initializers: raw, floats, and none that is packed; or of external ones."""
    from onnx import TensorProto, helper

    raw = helper.make_tensor("raw", TensorProto.FLOAT, [25], b"\x01" * 100, raw=True)
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [30], [0.5] * 30)
    texts = TensorProto(name="texts", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])
    tensors = [raw, floats, texts]
    for name, said in (external or {}).items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        for key, value in said.items():
            pair = tensor.external_data.add()
            pair.key, pair.value = key, value
        tensors.append(tensor)
    graph = helper.make_graph([helper.make_node("Identity", ["raw"], ["y"])], "g", [], [], tensors)
    return bytes(helper.make_model(graph).SerializeToString())


def test_safetensors(tmp_path: Path) -> None:
    data = safetensors({"__metadata__": {"a": "b"}, "two": entry(40, 100), "none": entry(40, 40), "one": entry(0, 40)})
    start = len(data) - 100
    assert layout.read(write(tmp_path, data)) == [
        Part(start, start + 40, "one"),
        Part(start + 40, start + 100, "two"),
    ]


def test_gguf(tmp_path: Path) -> None:
    data = samples.gguf(tensor_bytes=128)
    assert layout.read(write(tmp_path, data)) == [Part(len(data) - 128, len(data), "w")]


def test_a_gguf_tensor_goes_on_to_the_next(tmp_path: Path) -> None:
    """Whatever its type is."""
    heads = b"".join(
        struct.pack("<Q1sIQIQ", 1, name, 1, 10, kind, offset)
        for name, kind, offset in ((b"b", 39, 64), (b"a", 0, 0), (b"c", 2, 96))
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, 3, 0) + heads
    data = head + bytes(-len(head) % 32) + bytes(100)
    start = len(data) - 100
    assert layout.read(write(tmp_path, data)) == [
        Part(start, start + 64, "a"),
        Part(start + 64, start + 96, "b"),
        Part(start + 96, start + 100, "c"),
    ]


def test_onnx(tmp_path: Path) -> None:
    data = onnx()
    raw, floats = data.index(b"\x01" * 100), data.index(struct.pack("<f", 0.5) * 30)
    found = layout.read(write(tmp_path, data))
    assert found == sorted([Part(raw, raw + 100, "raw"), Part(floats, floats + 120, "floats")])


def test_external_data_of_onnx(tmp_path: Path) -> None:
    model = write(
        tmp_path,
        onnx(
            {
                "b": {"location": "weights/model.onnx_data", "offset": "4096", "length": "100"},
                "a": {"location": "model.onnx_data", "length": "4096", "checksum": "abc"},
                "elsewhere": {"location": "other", "offset": "0", "length": "100"},
                "whole": {"location": "model.onnx_data"},
            }
        ),
        "model.onnx",
    )
    data = write(tmp_path, b"\x08" + bytes(4_195), "model.onnx_data")
    assert layout.read(data, model) == [Part(0, 4_096, "a"), Part(4_096, 4_196, "b")]
    assert layout.read(data) == []
    assert layout.read(data, write(tmp_path, b"garbage", "other.onnx")) == []


@pytest.mark.parametrize("number", ["-1", "1e3", "٣", "9" * 17, ""])
def test_external_data_at_no_number(tmp_path: Path, number: str) -> None:
    said = {"location": "data", "offset": number, "length": "10"}
    assert layout.read(write(tmp_path, bytes(99), "data"), write(tmp_path, onnx({"a": said}), "model.onnx")) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        b"PK\x03\x04 an archive",
        safetensors({"a": entry(0, 60), "b": entry(40, 100)}),
        safetensors({"a": entry(0, 101)}),
        safetensors({"a": entry(0, 2**70)}),
        safetensors({"a": entry(60, 40)}),
        safetensors({"a": entry(-1, 40)}),
        safetensors({"a": entry(0.5, 40)}),
        safetensors({"a": []}),
        struct.pack("<Q", 4) + b"{no}" + bytes(100),
        struct.pack("<Q", 10_000) + b"{" * 10_000,
        struct.pack("<Q", layout.JSON_MOST_BYTES + 1) + b"{" * (layout.JSON_MOST_BYTES + 1),
        struct.pack("<Q", 10**6) + b"{}",
        samples.gguf()[:-200],
        b"GGUF" + struct.pack("<IQQ", 3, layout.TENSORS_MOST + 1, 0) + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(100),
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"a", 1, 10, 0, 2**40) + bytes(100),
        onnx()[:-30],
        b"\x08\x07\x3a\x05\x2a\x7f\x01\x02\x03",
    ],
)
def test_what_lies_or_is_unknown_has_no_layout(tmp_path: Path, data: bytes) -> None:
    assert layout.read(write(tmp_path, data)) == []


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "TENSORS_MOST", 2)
    three = {name: entry(at, at + 1) for at, name in enumerate("abc")}
    assert layout.read(write(tmp_path, safetensors(three))) == []
    assert layout.read(write(tmp_path, onnx())) == []


def test_too_many_fields_or_too_long_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ONNX_FIELDS_MOST", 5)
    monkeypatch.setattr(layout, "GGUF_HEAD_MOST_BYTES", 100)
    assert layout.read(write(tmp_path, onnx())) == []
    assert layout.read(write(tmp_path, samples.gguf())) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        layout.read(tmp_path / "none")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.sampled_from(["safetensors", "gguf", "onnx"]), st.integers(0, 2**32), st.integers(1, 6))
def test_damage_never_fails(tmp_path: Path, kind: str, seed: int, count: int) -> None:
    data = bytearray({"safetensors": samples.safetensors(90), "gguf": samples.gguf(), "onnx": onnx()}[kind])
    random = Random(seed)
    for _ in range(count):
        data[random.randrange(len(data))] = random.randrange(256)
    path = write(tmp_path, bytes(data))
    found = layout.read(path)
    ends = [0, *(part.end for part in found)]
    assert all(before <= part.start < part.end for before, part in zip(ends, found, strict=False))
    assert ends[-1] <= path.stat().st_size
