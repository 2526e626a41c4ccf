"""A download under way: preallocated files and a journal of the chunks that are in them.

The folder `partial/<manifest id>/` holds `manifest` (sealed), `journal` and `data/`. The journal is append-only, one
four-byte index per verified chunk. It is a hint, never believed: on opening, each chunk it names is hashed again, so
neither a kill at any instant nor a power cut that reorders writes can pass off wrong bytes as right ones.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from atmo.errors import UserError
from atmo.storage import files, hashing
from atmo.storage.files import Check, nothing
from atmo.transfer.manifest import ChunkPlace, Manifest, chunk_hash

MANIFEST, JOURNAL, DATA = "manifest", "journal", "data"
Put = Callable[[bytes, int, int, int], int | None]
"""Puts a chunk that is elsewhere on this machine into a file: hash, size, descriptor, offset; see `ChunkReader.put`."""

_ENTRY = struct.Struct(">I")


def put_nothing(name: bytes, size: int, target: int, to: int) -> None:
    """The source of chunks that has none."""


class PartialDownload:
    """One open download; its methods are for worker threads, any number at a time.

    Args:
        folder: Made when it is missing, continued when it is not.
        sealed: The sealed manifest.
        manifest: The same, opened.
        check: Called with the bytes found whole while a former run's chunks are hashed again and others are copied.
        put: Asked for each chunk that is missing; what it has need not be downloaded.

    Attributes:
        have: Indices of the chunks that are verified and written.
        copied_bytes: Of chunks that were found elsewhere on this machine when it was opened.
        shared_bytes: What takes no room of its own of them.

    Raises:
        UserError: There is not enough room, or the disk fails.
    """

    def __init__(
        self, folder: Path, sealed: bytes, manifest: Manifest, check: Check = nothing, put: Put = put_nothing
    ) -> None:
        self.folder = folder
        self.sealed = sealed
        self.manifest = manifest
        self.places: list[ChunkPlace] = list(manifest.chunk_places())
        self.have: set[int] = set()
        self.copied_bytes = 0
        self.shared_bytes = 0
        self._indices: dict[bytes, list[int]] = {}
        self._lock = threading.Condition()
        self._writers = 0
        self._closed = False
        self._data: list[int] = []
        self._journal = -1
        try:
            self._open(check)
            self._copy_known(check, put)
            for descriptor, file in zip(self._data, manifest.files, strict=True):
                _allocate(descriptor, file.size_bytes)
        except OSError as error:
            self.close()
            raise files.as_user_error(error, f"Preparing the download in {folder}") from error
        except BaseException:
            self.close()
            raise

    @property
    def bytes_done(self) -> int:
        """Bytes of the chunks that are here."""
        return sum(self.places[index].size for index in list(self.have))

    @property
    def complete(self) -> bool:
        """Says whether every chunk is here."""
        return len(self.have) == len(self.places)

    @property
    def staged(self) -> Path:
        """What becomes the model when all is here: the single file, or the folder of all."""
        data = self.folder / DATA
        return data / self.manifest.file if len(self.manifest.files) == 1 else data

    def write(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Verifies a chunk and writes it; False when the bytes are not the chunk.

        Raises:
            UserError: The disk is full or fails, or the download was closed meanwhile.
        """
        place = self.places[index]
        if len(data) != place.size or chunk_hash(data) != place.hash:
            return False
        with self._lock:
            if self._closed:
                raise UserError("This download has been stopped.", "Pull the model again to continue it.")
            self._writers += 1
        try:
            files.write_at(self._data[place.file], memoryview(data), place.offset)
            with self._lock:
                if index not in self.have:
                    os.write(self._journal, _ENTRY.pack(index))
                    self.have.add(index)
        except OSError as error:
            raise files.as_user_error(error, f"Writing to {self.folder}") from error
        finally:
            with self._lock:
                self._writers -= 1
                self._lock.notify_all()
        return True

    def find(self, name: bytes) -> list[tuple[Path, int, int]]:
        """Returns where the chunk of that BLAKE3 hash lies, of those that have arrived: file, offset, size."""
        with self._lock:
            if not self._indices:
                for index, place in enumerate(self.places):
                    self._indices.setdefault(place.hash, []).append(index)
        found = [self.places[index] for index in self._indices.get(name, ()) if index in self.have]
        data = self.folder / DATA
        return [(data / self.manifest.files[place.file].path, place.offset, place.size) for place in found]

    def wrong_file(self, check: Check = nothing) -> str | None:
        """Compares each file's SHA-256 with the manifest; returns the path of the first that differs.

        What was written goes to the disk meanwhile: the one costs a core, the other the disk.
        """
        with ThreadPoolExecutor(1, "sync") as beside:
            synced = beside.submit(self.sync)
            wrong = self._wrong_file(check)
            synced.result()
        return wrong

    def _wrong_file(self, check: Check) -> str | None:
        done = 0
        for file in self.manifest.files:
            before = done
            found = hashing.sha256_of(self.folder / DATA / file.path, lambda here, before=before: check(before + here))  # type: ignore[misc]
            if found != file.sha256:
                return file.path
            done += file.size_bytes
        return None

    def sync(self) -> None:
        """Makes what was written survive a power cut."""
        for descriptor in self._data:
            os.fsync(descriptor)

    def close(self) -> None:
        """Waits for the writes under way and closes the files; what is written stays for the next time."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(lambda: self._writers == 0)
            descriptors, self._data = [*self._data, self._journal], []
            self._journal = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, check: Check) -> None:
        data = self.folder / DATA
        data.mkdir(parents=True, exist_ok=True)
        paths = [data / file.path for file in self.manifest.files]
        files.check_room(self.folder, self.manifest.size_bytes - sum(_allocated(path) for path in paths))
        if not (self.folder / MANIFEST).exists():
            files.write_atomically(self.folder / MANIFEST, self.sealed)
        for file, path in zip(self.manifest.files, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            _extend(self._data[-1], file.size_bytes)
        self._journal = os.open(
            self.folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self._resume(check)

    def _resume(self, check: Check) -> None:
        size = os.fstat(self._journal).st_size
        os.ftruncate(self._journal, size - size % _ENTRY.size)
        entries = os.pread(self._journal, _ENTRY.size * (4 * len(self.places) + 4), 0)
        done = 0
        for index in sorted({index for (index,) in _ENTRY.iter_unpack(entries)}):
            if index < len(self.places):
                place = self.places[index]
                if chunk_hash(os.pread(self._data[place.file], place.size, place.offset)) == place.hash:
                    self.have.add(index)
                    done += place.size
                check(done)

    def _copy_known(self, check: Check, put: Put) -> None:
        """Takes the chunks that are elsewhere on this machine, without a second copy where the file system can."""
        done = self.bytes_done
        for index, place in enumerate(self.places):
            if index not in self.have:
                shared = put(place.hash, place.size, self._data[place.file], place.offset)
                if shared is not None:
                    with self._lock:
                        os.write(self._journal, _ENTRY.pack(index))
                        self.have.add(index)
                    self.copied_bytes += place.size
                    self.shared_bytes += shared
                    done += place.size
                    check(done)


def _allocated(path: Path) -> int:
    try:
        return min(path.stat().st_blocks * 512, path.stat().st_size)
    except FileNotFoundError:
        return 0


def _extend(descriptor: int, size: int) -> None:
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)


def _allocate(descriptor: int, size: int) -> None:
    """Gives a file its blocks where the file system can, so that it cannot run out of room later.

    Comes after what is shared with other files: room that was given first would stay taken on btrfs.
    """
    if size and hasattr(os, "posix_fallocate"):
        with contextlib.suppress(NotImplementedError):
            os.posix_fallocate(descriptor, 0, size)
