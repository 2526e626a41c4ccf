"""Keeps the vectors of passages on disk, so that a restart does not embed a folder of documents again."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3

from atmo.backends.embedder import DIMENSIONS, Embedder, Vectors
from atmo.storage.files import write_atomically

KEY_BYTES = 16
MAX_FILE_BYTES = 16 * 1024 * 1024
"""Twice what the vectors of 10,000 passages take as float16."""

log = logging.getLogger(__name__)


class VectorCache:
    """The vectors of one folder's passages, keyed by text and model. All methods block.

    Args:
        path: The file; its folder is made when it is missing. What cannot be read or written is done without.
        embedder: Whose vectors they are; those of another model file are not found.
    """

    def __init__(self, path: Path, embedder: Embedder) -> None:
        self._path = path
        self._embedder = embedder
        self._rows: dict[bytes, Vectors] | None = None

    def known(self, texts: Sequence[str]) -> Vectors:
        """Returns the vectors of the first texts up to the first unknown one: float32[m, 384], m <= n."""
        if self._rows is None:
            self._rows = self._load()
        rows: list[Vectors] = []
        for key in self._keys(texts):
            row = self._rows.get(key)
            if row is None:
                break
            rows.append(row)
        return np.stack(rows) if rows else np.zeros((0, DIMENSIONS), np.float32)

    def save(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Replaces everything by these vectors, rounded to float16 (cosine with the original above 0.9999)."""
        keys = self._keys(texts)
        self._rows = dict(zip(keys, vectors, strict=True))
        buffer = io.BytesIO()
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        np.savez(buffer, keys=packed, vectors=vectors.astype(np.float16))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, buffer.getvalue(), 0o600)
        except OSError as error:
            log.warning("cannot keep vectors in %s: %s", self._path, error.strerror)

    def _keys(self, texts: Sequence[str]) -> list[bytes]:
        model = self._embedder.fingerprint()
        return [blake3(text.encode(errors="surrogatepass"), key=model).digest(KEY_BYTES) for text in texts]

    def _load(self) -> dict[bytes, Vectors]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                keys, vectors = arrays["keys"], arrays["vectors"].astype(np.float32)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            fits = keys.dtype == np.uint8 and keys.shape == (len(vectors), KEY_BYTES)
            if not fits or vectors.shape[1:] != (DIMENSIONS,) or not np.allclose(lengths, 1, atol=0.01):
                raise ValueError("it holds something else")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, np.exceptions.AxisError) as error:
            log.warning("the vectors in %s are made anew: %s", self._path, error)
            return {}
        return {key.tobytes(): row for key, row in zip(keys, vectors / lengths, strict=True)}
