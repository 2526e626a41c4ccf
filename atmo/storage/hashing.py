"""Hashes of whole files, and the names of their chunks, in one pass.

SHA-256 cannot be split over threads; it runs in one of its own beside reading, naming and writing, all of which let
other threads run meanwhile. What that costs: docs/measurements.md, "Hashing for import".
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Final

from blake3 import blake3

from atmo.errors import UserError
from atmo.storage import cutting, layout
from atmo.storage.cutting import Span
from atmo.storage.files import Check, nothing
from atmo.transfer.manifest import CHUNK_BYTES, ModelFile

_BUFFERS: Final = 4
"""Chunks in memory at a time, so that neither thread waits for the other at each of them. Source: guess."""

Fill = Callable[[memoryview], int | None]
Write = Callable[[memoryview], None]


def copy_hashed(source: Path, target: Path, path: str, check: Check = nothing) -> ModelFile:
    """Copies a file, naming its chunks on the way, and syncs the copy.

    Args:
        source: What to copy.
        target: Must not exist.
        path: The file's path in its manifest.
        check: Called once per chunk.

    Raises:
        UserError: The source changed while it was read, or is no plain file.
        OSError: Reading or writing failed.
    """
    with target.open("xb", buffering=0) as writer:
        file = _hash(source, path, None, check, lambda part: _write_all(writer.write, part))
        os.fsync(writer.fileno())
    return file


def hash_file(source: Path, path: str, check: Check = nothing, model: Path | None = None) -> ModelFile:
    """Names the chunks of a file where it lies.

    Args:
        source: The file.
        path: The file's path in its manifest.
        check: Called once per chunk.
        model: The ONNX model whose external data the file may be.

    Raises:
        UserError: The file changed while it was read, or is no plain file.
        OSError: Reading failed.
    """
    return _hash(source, path, model, check, _keep_nothing)


def _keep_nothing(part: memoryview) -> None:
    """Where nothing is copied."""


def _hash(source: Path, path: str, model: Path | None, check: Check, write: Write) -> ModelFile:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise UserError(f"{source} is not a plain file.", "Name one model file.")
        spans = cutting.plan(before.st_size, layout.read(source, model))
        file = _name_chunks(_chunks(lambda buffer: os.readv(descriptor, [buffer]), spans), path, check, write)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or file.size_bytes != after.st_size:
        raise UserError(f"{source} changed while it was being read.", "Try again when nothing writes to it.")
    return file


def _name_chunks(chunks: Iterable[memoryview], path: str, check: Check, write: Write) -> ModelFile:
    whole, names, sizes, done = hashlib.sha256(), bytearray(), bytearray(), 0
    with ThreadPoolExecutor(1, "sha256") as beside:
        under_way: deque[Future[None]] = deque()
        for chunk in chunks:
            under_way.append(beside.submit(whole.update, chunk))
            names += blake3(chunk).digest()
            write(chunk)
            sizes += struct.pack(">I", len(chunk))
            done += len(chunk)
            check(done)
            if len(under_way) == _BUFFERS - 1:
                under_way.popleft().result()
    return ModelFile(path, done, whole.digest(), cutting.MOST_BYTES, bytes(names), bytes(sizes))


def _chunks(read_into: Fill, spans: Iterable[Span]) -> Iterator[memoryview]:
    """Yields the chunks of a file, each good until `_BUFFERS` - 1 more are asked for; stops where the file does."""
    ring = cycle([memoryview(bytearray(cutting.MOST_BYTES)) for _ in range(_BUFFERS)])
    for span in spans:
        left, held = span.size, memoryview(b"")
        while left:
            buffer = next(ring)
            buffer[: len(held)] = held
            have = len(held) + _fill(read_into, buffer[len(held) : min(left, len(buffer))])
            cut = cutting.find_cut(buffer[:have]) if span.by_content else have
            if not cut:
                return
            yield buffer[:cut]
            held = buffer[cut:have]
            left -= cut


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


def _fill(read_into: Fill, buffer: memoryview) -> int:
    """Reads until the buffer is full or the file ends: chunks must not depend on how the system cuts reads."""
    size = 0
    while size < len(buffer) and (got := read_into(buffer[size:])):
        size += got
    return size


def _write_all(write: Callable[[memoryview], int | None], data: memoryview) -> None:
    while len(data):
        data = data[write(data) or 0 :]
