"""Finding and reading chunks, wherever on this machine they lie: always verified before anybody gets them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from atmo.errors import AtmoError
from atmo.storage import files, sharing
from atmo.transfer.manifest import ModelFile, chunk_hash
from atmo.wire import limits

Data = bytes | memoryview
Place = tuple[Path, int, int]
"""Where a chunk lies: file, offset, size in bytes."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
"""A named pipe that took a file's place must not hold the thread."""


class MissingChunk(AtmoError):
    """No file here has the chunk."""


class CorruptChunk(AtmoError):
    """A file here should have the chunk, and its bytes are others."""


class ChunkSource(Protocol):
    """Something that knows where chunks lie."""

    def find(self, name: bytes) -> Iterable[Place]:
        """Returns the places where the chunk of that BLAKE3 hash should be; called from worker threads."""


class ChunkReader:
    """Reads chunks from all sources that it has been given, the first that has the right bytes.

    Args:
        warn: Told of each place that has other bytes than it should.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._sources: tuple[ChunkSource, ...] = ()

    def add(self, source: ChunkSource) -> None:
        """Asks this source, too, from now on."""
        with self._lock:
            self._sources = (*self._sources, source)

    def drop(self, source: ChunkSource) -> None:
        """Asks this source no more; it need not be one."""
        with self._lock:
            self._sources = tuple(other for other in self._sources if other is not source)

    def find(self, name: bytes) -> Iterator[Place]:
        """Yields where the chunk should be, by all sources."""
        for source in self._sources:
            for path, offset, size in source.find(name):
                if 0 < size <= limits.CHUNK_BYTES and offset >= 0:
                    yield path, offset, size

    def read(self, name: bytes) -> tuple[bytes, Path]:
        """Returns the chunk, verified, and the file that it was read from.

        Raises:
            MissingChunk: It is not here, or its file was just removed.
            CorruptChunk: It should be here and the disk says otherwise.
        """
        data, path = self._read(name, None)
        return bytes(data), path

    def read_into(self, name: bytes, room: memoryview) -> Path:
        """As `read`, into `room`; places that say another size are left out. Returns the file."""
        return self._read(name, room)[1]

    def _read(self, name: bytes, room: memoryview | None) -> tuple[Data, Path]:
        corrupt = ""
        for _ in range(2):  # a download that becomes a model moves its files: the second time they are found there
            vanished = False
            for path, offset, size in self.find(name):
                if room is not None and len(room) != size:
                    continue
                try:
                    data = _pread(path, size, offset, room)
                except FileNotFoundError:
                    vanished = True
                    continue
                except OSError as error:
                    corrupt = f"{path} cannot be read: {error.strerror}"
                else:
                    if chunk_hash(data) == name:
                        return data, path
                    corrupt = f"{path} is damaged between bytes {offset} and {offset + size}"
                self._warn(f"{corrupt}; see `atmo model verify`, or pull or import it again")
            if not vanished or corrupt:
                break
        raise CorruptChunk(corrupt) if corrupt else MissingChunk(f"chunk {name.hex()[:16]} is not here")

    def put(self, name: bytes, size: int, target: int, to: int) -> int | None:
        """Puts a chunk that is here into another file: shared where the file system can, else copied; verified there.

        Args:
            name: BLAKE3 hash.
            size: In bytes; places that say another are left out.
            target: Descriptor, readable and writable.
            to: Offset in it.

        Returns:
            How many of its bytes are shared, None where no place has the chunk.

        Raises:
            OSError: The target cannot be written.
        """
        for path, offset, found in self.find(name):
            if found != size:
                continue
            try:
                source = os.open(path, _OPEN)
            except OSError:
                continue
            try:
                shared = sharing.put_range(source, offset, target, to, size)
            except OSError as error:
                if error.errno in files.FULL or error.errno == errno.EROFS:
                    raise
                continue
            finally:
                os.close(source)
            if chunk_hash(os.pread(target, size, to)) == name:
                return shared
            self._warn(f"{path} is damaged between bytes {offset} and {offset + size}; see `atmo model verify`")
        return None

    def merge(self, path: Path, file: ModelFile, origin: Path) -> int:
        """Lets a file share the blocks of chunks that are elsewhere here, too, where the file system can.

        Args:
            path: Of the file, that nobody else writes.
            file: What it is.
            origin: What it was copied from; its blocks are shared where no others are.

        Returns:
            How many bytes are shared.

        Raises:
            OSError: It cannot be opened.
        """
        target = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return self._merge(self._runs(file), target) or self._merge([(origin, 0, 0, file.size_bytes)], target)
        finally:
            os.close(target)

    def _merge(self, runs: Iterable[tuple[Path, int, int, int]], target: int) -> int:
        total = 0
        for path, at, to, size in runs:
            merged: int | None = 0
            with suppress(OSError):  # the source is gone
                source = os.open(path, _OPEN)
                try:
                    merged = sharing.merge_range(source, at, target, to, size)
                finally:
                    os.close(source)
            if merged is None:
                break
            total += merged
        return total

    def _runs(self, file: ModelFile) -> Iterator[tuple[Path, int, int, int]]:
        """Yields what a file has in common with others, joined to long ranges: other file, offset there, here, size."""
        path, at, to, run, end = Path(), 0, 0, 0, 0
        for name, size in zip(file.chunks, file.chunk_sizes, strict=True):
            found = [(path, offset) for path, offset, there in self.find(name) if there == size]
            if run and (path, at + run) in found:
                run += size
            else:
                if run:
                    yield path, at, to, run
                (path, at), to, run = (found[0], end, size) if found else ((path, 0), 0, 0)
            end += size
        if run:
            yield path, at, to, run


def _pread(path: Path, size: int, offset: int, room: memoryview | None) -> Data:
    descriptor = os.open(path, _OPEN)
    try:
        if room is None:
            return os.pread(descriptor, size, offset)
        return room[: os.preadv(descriptor, [room], offset)]
    finally:
        os.close(descriptor)
