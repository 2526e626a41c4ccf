"""Small ONNX graphs for tests, made with the `onnx` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Stored:
    """A model of the store, as the backends see it."""

    path: Path
    name: str = "m"
    version: str = "1.0"
    type: str = "classifier"
    format: str = "onnx"
    capabilities: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""


class TinyEmbedder:
    """Embeds by counting letters: real vectors, no model file."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), 4), np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                out[row, ord(letter) % 4] += 1
        return np.asarray(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9), np.float32)


def linear(width: int = 2, classes: int = 3, softmax: bool = True) -> onnx.ModelProto:
    """X[N, width] -> scores[N, classes]: class i is the i-th column."""
    weights = np.eye(width, classes, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["X", "W"], ["logits"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    out = "scores" if softmax else "logits"
    return model(nodes, [tensor("X", [None, width])], [tensor(out, [None, classes])], {"W": weights})


def distance() -> onnx.ModelProto:
    """X[N, 2] -> error[N]: the squared length, higher is more anomalous."""
    nodes = [helper.make_node("ReduceSumSquare", ["X", "axes"], ["error"], keepdims=0)]
    return model(nodes, [tensor("X", [None, 2])], [tensor("error", [None])], {"axes": np.array([1], np.int64)})


def shouting() -> onnx.ModelProto:
    """text[N] -> vectors[N, 3]: how often 'a', 'b' and 'c' stand alone in each text."""
    node = helper.make_node("StringSplit", ["text"], ["words", "counts"], delimiter=" ")
    count = helper.make_node(
        "TfIdfVectorizer",
        ["words"],
        ["vectors"],
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1, 2],
        pool_strings=["a", "b", "c"],
    )
    strings = helper.make_tensor_value_info("text", TensorProto.STRING, [None])
    return model([node, count], [strings], [tensor("vectors", [None, 3])], {}, opset=20)


def tensor(name: str, shape: Sequence[int | None], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, NDArray[Any]],
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path
