"""Reading files that other programs own: nothing but plain files is opened, and no byte leaves unverified."""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from atmo.errors import AtmoError
from atmo.transfer.manifest import ChunkPlace, chunk_hash

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Changed(AtmoError):
    """The file is not the one that was hashed: changed, replaced or gone."""


def key_of(status: os.stat_result) -> str:
    """Returns what tells one content of a file from another without reading it."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def mtime_of(key: str) -> float:
    """Returns when a file with that key was last written, in Unix seconds."""
    return int(key.rsplit(":", 1)[1]) / 1e9


def plain_key(path: Path) -> str | None:
    """Returns the key of a plain file, None where there is none; links are not followed."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return key_of(status) if stat.S_ISREG(status.st_mode) else None


def open_plain(path: Path) -> int:
    """Opens a plain file for reading: a link is not followed, a FIFO not waited for, a device not touched.

    Raises:
        Changed: There is no plain file.
        OSError: It cannot be opened.
    """
    if plain_key(path) is None:
        raise Changed(f"{path} is no plain file any more")
    descriptor = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Changed(f"{path} is no plain file any more")
    return descriptor


def through(descriptor: int) -> Path:
    """Returns a path by which what opens paths reads the very file that is open, whatever happens to its name."""
    return Path(f"/dev/fd/{descriptor}")


class VerifiedFile:
    """An open file of which only chunks with the right BLAKE3 hash come out. For worker threads.

    Args:
        path: The file.
        places: Its chunks in order.
        key: What the file was when it was hashed, None where its owner is the store.

    Raises:
        Changed: It is another file, or there is none.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, places: Sequence[ChunkPlace], key: str | None = None) -> None:
        self._path = path
        self._places = places
        self._key = key
        self._descriptor = open_plain(path)
        try:
            self._check()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; further use is an error."""
        os.close(self._descriptor)

    def index_at(self, offset: int) -> int:
        """Returns which chunk a byte is in."""
        return bisect_right(self._places, offset, key=lambda place: place.offset) - 1

    def offset_of(self, index: int) -> int:
        """Returns where a chunk begins."""
        return self._places[index].offset

    def chunk(self, index: int) -> bytes:
        """Returns one chunk.

        Raises:
            Changed: The file was written to, or its bytes are not those of the chunk.
            OSError: The disk fails.
        """
        place = self._places[index]
        self._check()
        data = os.pread(self._descriptor, place.size, place.offset)
        self._check()
        if len(data) != place.size or chunk_hash(data) != place.hash:
            raise Changed(f"{self._path} has other bytes than it had, from byte {place.offset} on")
        return data

    def _check(self) -> None:
        if self._key is not None and key_of(os.fstat(self._descriptor)) != self._key:
            raise Changed(f"{self._path} was written to since it was hashed")


def holds_chunk(path: Path, place: ChunkPlace, key: str) -> bool:
    """Says whether a file still has a chunk where it was."""
    try:
        with VerifiedFile(path, [place], key) as file:
            file.chunk(0)
    except (OSError, Changed):
        return False
    return True
