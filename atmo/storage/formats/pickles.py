"""Pickles: joblib and pickle files of scikit-learn, and PyTorch's. Looked at, never loaded."""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from atmo.storage.formats.estimator import about_estimator, about_state
from atmo.storage.formats.reader import Detected, FormatError, Reader

_PROTOCOLS = range(2, 6)
_TORCH_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")  # Source: torch/serialization.py, MAGIC_NUMBER
_STOP = b"."
_OPENED_MOST_BYTES = 64 * 1024**3
_BLOCK_BYTES = 1024 * 1024
"""Read at a time, and made of it at a time: 16 KiB of bzip2 can stand for gigabytes."""
_LOOKED_AT_MOST_BYTES = 32 * 1024 * 1024
"""Of what is compressed, so much is kept in memory to look at. Source: guess; larger estimators tell nothing."""

_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {  # Source: joblib/compressor.py
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"]\x00": lzma.LZMADecompressor,
    **{b"x" + level: zlib.decompressobj for level in (b"\x01", b"\x5e", b"\x9c", b"\xda", b"3")},
}


def looks_like_pickle(start: bytes) -> bool:
    """Says whether bytes begin a pickle of protocol 2 to 5."""
    return len(start) > 2 and start[0] == 0x80 and start[1] in _PROTOCOLS


def decompressor_for(start: bytes) -> Any:
    """Returns a new decompressor for compressed bytes, None where they are none that joblib writes."""
    return next((make() for magic, make in _DECOMPRESSORS.items() if start.startswith(magic)), None)


def read_pickle(reader: Reader, path: Path) -> Detected:
    """Tells PyTorch's pickles from others, looks at the last byte, and at what it would build. joblib mixes arrays into
    its pickles, so only loading one, as the conversion does in its own process, can find every cut.

    Raises:
        FormatError: It is cut short.
    """
    if reader.start(64)[2:].startswith(_TORCH_MAGIC):
        return Detected("pytorch", ".pt", runs_code=True)
    if reader.end(1) != _STOP:
        raise FormatError("is cut short: a pickle ends with a stop mark and this does not")
    with path.open("rb") as file:
        return _sklearn(file)


def _sklearn(stream: BinaryIO) -> Detected:
    kind, config, capabilities = about_estimator(stream)
    return Detected("sklearn", ".joblib", kind, config, capabilities, runs_code=True)


def read_compressed(reader: Reader, path: Path) -> Detected:
    """Decompresses all of it, keeping only what is small enough to look at, and checks that a whole pickle is inside.

    Raises:
        FormatError: It is cut short or damaged, or something else is inside.
    """
    unpack = decompressor_for(reader.start(8))
    first, last, total, kept = b"", b"", 0, io.BytesIO()
    with path.open("rb") as file:
        for opened in _opened(unpack, file):
            total += len(opened)
            if total > _OPENED_MOST_BYTES:
                raise FormatError("decompresses to more than 64 GiB")
            first = (first + opened)[:64] if len(first) < 64 else first
            if total <= _LOOKED_AT_MOST_BYTES:
                kept.write(opened)
            last = opened[-1:] or last
    if not looks_like_pickle(first):
        raise FormatError("is compressed and no pickle is inside")
    if not unpack.eof or last != _STOP:
        raise FormatError("is cut short: its compressed stream has no end")
    kept.seek(0)
    return _sklearn(kept)


def _opened(unpack: Any, file: BinaryIO) -> Iterator[bytes]:
    """Yields what a compressed stream holds, in pieces of at most `_BLOCK_BYTES`."""
    opened, rest = b"", b""
    while not unpack.eof:
        full = len(opened) == _BLOCK_BYTES  # there may be more of the last block
        block = rest if rest or full else file.read(_BLOCK_BYTES)
        if not block and not full:
            return
        try:
            opened = unpack.decompress(block, _BLOCK_BYTES)
        except (zlib.error, lzma.LZMAError, OSError, EOFError):
            raise FormatError("is damaged: it does not decompress") from None
        rest = getattr(unpack, "unconsumed_tail", b"")  # of zlib; the others keep it
        yield opened


def read_zip(path: Path) -> Detected:
    """Checks the archive that PyTorch writes: a folder with `data.pkl`, and every entry within the file.

    Raises:
        FormatError: It is cut short, damaged, or another kind of archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            state = _about_archive(archive)
            wrong = [entry.filename for entry in archive.infolist() if entry.header_offset >= archive.start_dir]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError):
        raise FormatError("is cut short: it begins as a zip archive and has no directory at its end") from None
    if wrong:
        raise FormatError("is damaged: entries of its archive lie outside of it")
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        raise FormatError("is a zip archive, but not one that PyTorch saved")
    kind = "TorchScript" if any("/code/" in f"/{name}" for name in names) else "state"
    return Detected("pytorch", ".pt", config={"saved_as": kind, **state}, runs_code=True)


def _about_archive(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Looks at the pickle of the archive, if it is one of a bounded size that is stored as PyTorch stores it."""
    for entry in archive.infolist():
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= _LOOKED_AT_MOST_BYTES
        if stored and f"/{entry.filename}".endswith("/data.pkl"):
            with archive.open(entry) as file:
                return about_state(io.BytesIO(file.read(_LOOKED_AT_MOST_BYTES)))
    return {}
