"""Real model files, made small."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def safetensors(size: int = 1_000, metadata: dict[str, str] | None = None, fill: bytes = b"\x01") -> bytes:
    """One tensor of `size` bytes."""
    header: dict[str, Any] = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + (fill * size)[:size]


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(architecture: str = "llama", tensor_bytes: int = 128, version: int = 3) -> bytes:
    """One float32 tensor, and keys of several types, strings in arrays among them."""
    keys = [
        _text("general.architecture") + struct.pack("<I", 8) + _text(architecture),
        _text("general.file_type") + struct.pack("<II", 4, 15),
        _text("general.name") + struct.pack("<I", 8) + _text("Tiny"),
        _text(f"{architecture}.context_length") + struct.pack("<II", 4, 2_048),
        _text("tokens") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("b"),
        _text("scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 1, 2),
        _text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 0, 3) + b"abc",
        _text("pi") + struct.pack("<If", 6, 3.14),
    ]
    tensor = _text("w") + struct.pack("<IQQIQ", 2, 4, tensor_bytes // 16, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(keys)) + b"".join(keys) + tensor
    return head + b"\0" * (-len(head) % 32) + b"\1" * tensor_bytes


def onnx_classifier() -> bytes:
    """A scikit-learn classifier of three species, converted."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    features = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]] * 5, np.float32)
    model = LogisticRegression().fit(features, ["setosa", "versicolor", "virginica"] * 5)
    return bytes(to_onnx(model, features[:1]).SerializeToString())


def onnx_plain(external: bool = False, labels: list[int] | None = None) -> bytes:
    """A matrix product, or a classifier with integer labels."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    if external:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = "location", "weights.bin"
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    if labels is not None:
        node = helper.make_node("LinearClassifier", ["x"], ["y"], domain="ai.onnx.ml", classlabels_ints=labels)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weights]))
    note = model.metadata_props.add()
    note.key, note.value = "author", "me"
    return bytes(model.SerializeToString())


def torch_zip(name: str = "archive/data.pkl", pickle_data: bytes = b"\x80\x02}q\x00.") -> bytes:
    """An archive as `torch.save` writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, pickle_data)
        archive.writestr("archive/data/0", b"\1" * 100)
    return out.getvalue()


TORCH_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"storages follow"


def joblib_file(path: Path, compress: Any = 0) -> Path:
    """A fitted estimator, saved by joblib."""
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), path, compress=compress)
    return path
