"""Files written whole or not at all, room on the disk, and what a person is told when the disk fails."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from atmo.errors import UserError

Check = Callable[[int], None]
"""Told of the bytes done so far, once per chunk, in the worker thread; it may raise to stop the work."""

RESERVE_BYTES = 64 * 1024 * 1024
"""Room that stays free for the database and logs. Source: guess."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a file cannot grow."""


def nothing(done: int) -> None:
    """The check that lets everything pass."""


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Writes all of `data` at an offset.

    Raises:
        OSError: The disk is full or fails.
    """
    while len(data):
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes a file so that after a crash there is the old one or the new one, whole: write, fsync, rename, fsync."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
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
    if error.errno in FULL:
        return no_room(Path(error.filename or "the store"), f"{doing} found the disk full")
    return UserError(f"{doing} failed: {error.strerror or error}.", "Check the folder's permissions and the disk.")
