"""Manifests for tests."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from atmo.identity import Signer
from atmo.transfer.manifest import Manifest, ModelFile, chunk_hash
from atmo.wire import limits

SIGNER = Signer(b"publisher".ljust(32, b"."))
SMALL_CHUNK = 64 * 1024


def file_of(path: str, data: bytes, chunk_bytes: int = SMALL_CHUNK) -> ModelFile:
    """Describes bytes as a file of a model."""
    parts = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    hashes = b"".join(chunk_hash(part) for part in parts)
    return ModelFile(path, len(data), hashlib.sha256(data).digest(), chunk_bytes, hashes)


def sized_file(path: str, data: bytes, sizes: Sequence[int]) -> ModelFile:
    """Describes bytes as a file of a model, cut into chunks of these sizes."""
    ends = list(accumulate(sizes))
    hashes = b"".join(chunk_hash(data[end - size : end]) for size, end in zip(sizes, ends, strict=True))
    packed = struct.pack(f">{len(sizes)}I", *sizes)
    return ModelFile(path, len(data), hashlib.sha256(data).digest(), limits.CHUNK_BYTES, hashes, packed)


def manifest_of(
    data: bytes | dict[str, bytes] = b"x" * 200_000, chunk_bytes: int = SMALL_CHUNK, **said: Any
) -> Manifest:
    """Describes one or several files as a model."""
    contents = data if isinstance(data, dict) else {"model.onnx": data}
    files = tuple(file_of(path, content, chunk_bytes) for path, content in contents.items())
    fields: dict[str, Any] = {
        "name": "iris",
        "version": "1.0.0",
        "type": "classifier",
        "file": files[0].path,
        "format": "onnx",
        "size_bytes": sum(file.size_bytes for file in files),
        "checksum_sha256": files[0].sha256,
        "files": files,
    }
    return Manifest(**(fields | said))
