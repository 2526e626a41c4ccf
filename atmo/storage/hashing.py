"""Hashes of whole files, and copies that name their chunks as they go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from atmo.errors import UserError
from atmo.storage.files import Check, nothing
from atmo.transfer.manifest import CHUNK_BYTES, ModelFile


def copy_hashed(source: Path, target: Path, path: str, check: Check = nothing) -> ModelFile:
    """Copies a file, naming its chunks on the way, and syncs the copy.

    Args:
        source: What to copy.
        target: Must not exist.
        path: The file's path in its manifest.
        check: Called once per chunk.

    Raises:
        UserError: The source changed while it was read.
        OSError: Reading or writing failed.
    """
    whole, names, done = hashlib.sha256(), bytearray(), 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        before = os.fstat(reader.fileno())
        while done <= before.st_size and (size := _fill(reader.readinto, buffer)):
            part = buffer[:size]
            whole.update(part)
            names += blake3(part).digest()
            _write_all(writer.write, part)
            done += size
            check(done)
        after = os.fstat(reader.fileno())
        os.fsync(writer.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or done != after.st_size:
        raise UserError(f"{source} changed while it was being read.", "Try again when nothing writes to it.")
    return ModelFile(path, done, whole.digest(), CHUNK_BYTES, bytes(names))


def sha256_of(path: Path, check: Check = nothing) -> bytes:
    """Returns a file's SHA-256."""
    whole, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as reader:
        while size := reader.readinto(buffer):
            whole.update(buffer[:size])
            done += size
            check(done)
    return whole.digest()


def _fill(read_into: Callable[[memoryview], int | None], buffer: memoryview) -> int:
    """Reads until the buffer is full or the file ends: chunks must not depend on how the system cuts reads."""
    size = 0
    while size < len(buffer) and (got := read_into(buffer[size:])):
        size += got
    return size


def _write_all(write: Callable[[memoryview], int | None], data: memoryview) -> None:
    while len(data):
        data = data[write(data) or 0 :]
