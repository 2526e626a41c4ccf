"""What travels between two versions of a model of 20 layers: shared chunks, and deltas where chunks differ.

Models are safetensors files with random weights, made for the run: 256 MB of them, 1 GB with `--full`. Shares are the
same in every round; speeds are medians of one thread. Progress goes to stderr.
"""

from __future__ import annotations

import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atmo.storage import delta
from atmo.storage.comparison import travel_of
from atmo.storage.hashing import hash_file
from atmo.transfer.manifest import ChunkPlace, Manifest

ROUNDS = 5
LAYERS, HIDDEN = 20, 1_024
SIZE_BYTES, FULL_BYTES = 256 * 10**6, 10**9
GROWN_BYTES = 137
SPEED_CHUNKS = 32
PATH = "model.safetensors"

PEERS = {
    "zstd --patch-from -3": {"one_layer_percent": 4.6, "moved_float32_percent": 93},
    "bsdiff4": {"one_layer_percent": 4.8},
    "fastcdc 64 KiB": {"one_layer_percent": 5.2, "moved_float32_percent": 100},
    "fixed chunks 1 MiB": {"one_layer_percent": 6.3, "moved_float32_percent": 100},
}
"""The same changes in a file of 100 MB. Source: ../shared/measurements.md."""

AIMS = {
    "one_layer_percent": "at most the layer's own",
    "one_layer_deltas_percent": "at most the layer's own",
    "grown_header_percent": "under 1",
    "moved_float32_percent": "at most 52",
    "moved_float16_percent": "at most 23",
}

Floats = npt.NDArray[np.float32]


class Weights:
    """A model whose weights are made anew whenever they are asked for.

    Args:
        size_bytes: About its size in float32.
        kind: `F32`, `F16` or `BF16`.
        changed: A layer with other weights.
        moved: All weights moved by this share of themselves.
        note: In the header.
    """

    def __init__(self, size_bytes: int, kind: str, changed: int = -1, moved: float = 0.0, note: str = "") -> None:
        self.kind, self._changed, self._moved, self._note = kind, changed, moved, note
        wide = max(1, (size_bytes // LAYERS // 4 - 2 * HIDDEN) // HIDDEN // 8)
        each = {
            "attn_norm": 1,
            "down": 2 * wide,
            "ffn_norm": 1,
            "k": wide,
            "o": wide,
            "q": wide,
            "up": 2 * wide,
            "v": wide,
        }
        self.shapes = {
            f"model.layers.{layer}.{name}.weight": (rows, HIDDEN)
            for layer in range(LAYERS)
            for name, rows in each.items()
        }

    def tensors(self) -> Iterator[bytes]:
        """Yields the bytes of each tensor."""
        for number, (name, shape) in enumerate(self.shapes.items()):
            changed = name.startswith(f"model.layers.{self._changed}.")
            random = np.random.default_rng([number, changed])
            values = random.standard_normal(shape, np.float32) * np.float32(0.02)
            if self._moved:
                values *= 1 + np.float32(self._moved) * random.standard_normal(shape, np.float32)
            yield self._packed(values)

    def _packed(self, values: Floats) -> bytes:
        if self.kind == "BF16":
            bits = values.view(np.uint32)
            return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
        return values.astype({"F32": np.float32, "F16": np.float16}[self.kind]).tobytes()

    def write(self, path: Path) -> None:
        """Writes the file."""
        width, at, header = 4 if self.kind == "F32" else 2, 0, {}
        for name, shape in self.shapes.items():
            size = width * shape[0] * shape[1]
            header[name] = {"dtype": self.kind, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps({"__metadata__": {"note": self._note}, **header}).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.writelines(self.tensors())


class Model:
    """A model on disk with its manifest."""

    def __init__(self, path: Path, weights: Weights) -> None:
        weights.write(path)
        self._path = path
        file = hash_file(path, PATH)
        self.manifest = Manifest("bench", "1", "llm", PATH, "safetensors", file.size_bytes, file.sha256, (file,))
        self.places = {place.hash: place for place in self.manifest.chunk_places()}

    def read(self, name: bytes) -> bytes:
        """Returns a chunk by its hash."""
        place = self.places[name]
        with self._path.open("rb", buffering=0) as file:
            file.seek(place.offset)
            return file.read(place.size)


def run(full: bool = False) -> dict[str, Any]:
    """Makes pairs of versions and measures what travels between them."""
    size = FULL_BYTES if full else SIZE_BYTES
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Weights(size, "F32")
        layer = sum(rows * columns for rows, columns in base.shapes.values()) * 4 / LAYERS
        old = Model(Path(folder) / "old", base)
        whole = old.manifest.size_bytes
        figures |= {"model_mb": whole / 1e6, "chunks": len(old.places), "layer_percent": 100 * layer / whole}
        for name, weights in {
            "one_layer": Weights(size, "F32", changed=7),
            "grown_header": Weights(size, "F32", note="n" * GROWN_BYTES),
        }.items():
            print(f"{name}: {size / 1e6:.0f} MB", file=sys.stderr)
            without, deltas = shares(old, Model(Path(folder) / "new", weights))
            figures |= {f"{name}_percent": without, f"{name}_deltas_percent": deltas}
        for kind, label in (("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")):
            print(f"moved {label}: {size / 1e6:.0f} MB", file=sys.stderr)
            old = Model(Path(folder) / "old", Weights(size, kind))
            new = Model(Path(folder) / "new", Weights(size, kind, moved=1e-3))
            figures[f"moved_{label}_percent"] = shares(old, new)[1]
            figures |= speeds(old, new, label)
    return {"figures": {name: round(value, 3) for name, value in figures.items()}, "peers": PEERS, "aims": AIMS}


def shares(old: Model, new: Model) -> tuple[float, float]:
    """Returns what travels without and with deltas, in percent of the model."""

    def read(name: bytes) -> bytes:
        return (new if name in new.places else old).read(name)

    travel = travel_of(new.manifest, replace(old.manifest, version="0"), read)
    whole = new.manifest.size_bytes
    return (
        100 * sum(file.whole_bytes for file in travel.files) / whole,
        100 * sum(file.delta_bytes for file in travel.files) / whole,
    )


def speeds(old: Model, new: Model, label: str) -> dict[str, float]:
    """Returns how fast deltas are made and undone, in bytes of chunks."""
    pairs = [
        (new.read(here.hash), old.read(there.hash)) for here, there in zip(largest(new), largest(old), strict=True)
    ]
    total = sum(len(chunk) for chunk, _ in pairs) / 1e6
    made, undone = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        deltas = [delta.encode(chunk, base) for chunk, base in pairs]
        made.append(total / (time.perf_counter() - began))
        began = time.perf_counter()
        for small, (chunk, base) in zip(deltas, pairs, strict=True):
            assert small is not None
            assert delta.decode_untrusted(small, base, len(chunk)) == chunk
        undone.append(total / (time.perf_counter() - began))
    return {f"encode_{label}_mb_s": statistics.median(made), f"decode_{label}_mb_s": statistics.median(undone)}


def largest(model: Model) -> list[ChunkPlace]:
    places = sorted(model.manifest.chunk_places(), key=lambda place: (-place.size, place.offset))
    return places[:SPEED_CHUNKS]
