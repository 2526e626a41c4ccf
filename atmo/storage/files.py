"""Files written whole or not at all, room on the disk, and copies that hash as they go."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from atmo.errors import UserError
from atmo.transfer.manifest import CHUNK_BYTES, ModelFile

Check = Callable[[int], None]
"""Told of the bytes done so far, once per chunk, in the worker thread; it may raise to stop the work."""

RESERVE_BYTES = 64 * 1024 * 1024
"""Room that stays free for the database and logs. Source: guess."""


def nothing(done: int) -> None:
    """The check that lets everything pass."""


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that, whatever happens, either the old or the new content is there."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def check_room(folder: Path, need_bytes: int) -> None:
    """Checks that `need_bytes` fit on the disk of `folder`.

    Raises:
        UserError: They do not.
    """
    free = shutil.disk_usage(folder).free
    if need_bytes > max(0, free - RESERVE_BYTES):
        raise no_room(folder, f"{need_bytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free")


def no_room(folder: Path, what: str) -> UserError:
    """Returns the error for a full disk."""
    return UserError(
        f"Not enough room in {folder}: {what}.",
        "Free some space, remove models (atmo model remove), or use another --home.",
    )


def as_user_error(error: OSError, doing: str) -> UserError:
    """Turns an error of the disk into one for a person."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_room(Path(error.filename or "the store"), f"{doing} found the disk full")
    return UserError(f"{doing} failed: {error.strerror or error}.", "Check the folder's permissions and the disk.")


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
