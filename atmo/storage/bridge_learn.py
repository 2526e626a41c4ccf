"""What one file of another program is: read once, whole, through one descriptor, whatever happens to its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atmo.errors import UserError
from atmo.storage import hashing
from atmo.storage.bridge_find import Found, printable
from atmo.storage.bridge_read import Changed, key_of, open_plain, through
from atmo.storage.files import Check
from atmo.storage.formats import Detected, detect
from atmo.storage.formats.pickles import decompressor_for, looks_like_pickle
from atmo.transfer.manifest import ModelFile

HEADER_MOST_BYTES = 16 * 1024 * 1024
"""Of the JSON at the head of a safetensors file, which is read at once. Source: guess, ten times what is known."""

_DATA_SUFFIXES = (".gguf", ".onnx", ".safetensors")
_SUFFIXES = (*_DATA_SUFFIXES, ".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".h5", ".keras", ".ckpt", ".npz")
_CODE = "it is a pickle or an archive, which may run code when it is loaded"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What reading a file told.

    Attributes:
        reason: Why it is not offered; empty where it is, and for what never was a model.
        file: Its hashes, None where it is not offered.
        about: `format`, `type`, `config` and `capabilities` for its manifest; plain values.
    """

    reason: str
    file: ModelFile | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def learn(found: Found, travelling: Sequence[str], check: Check) -> Learnt:
    """Reads a file.

    Args:
        found: The file.
        travelling: The formats that may be offered.
        check: Told of the bytes done, may raise to stop.

    Raises:
        Changed: It is not the file that was found any more, is written to, or cannot be read now.
    """
    try:
        descriptor = open_plain(found.path)
        try:
            _check_same(found, descriptor)
            learnt = _read(found, through(descriptor), os.pread(descriptor, 64, 0), travelling, check)
            _check_same(found, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Changed(f"it cannot be read now: {error.strerror}") from error
    return learnt


def _check_same(found: Found, descriptor: int) -> None:
    if key_of(os.fstat(descriptor)) != found.key:
        raise Changed("it is being changed")


def _read(found: Found, path: Path, start: bytes, travelling: Sequence[str], check: Check) -> Learnt:
    suffix = Path(found.file_name).suffix.lower()
    if start.startswith(b"PK\x03\x04") or looks_like_pickle(start) or decompressor_for(start) is not None:
        return Learnt(_CODE if suffix in _SUFFIXES else "")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and HEADER_MOST_BYTES < length <= found.size_bytes:
        return Learnt(f"its header of {length} bytes is longer than {HEADER_MOST_BYTES}")
    try:
        detected = detect(path)
    except UserError as error:
        if suffix not in _SUFFIXES and not start.startswith(b"GGUF"):
            return Learnt("")
        return Learnt(_why(error, path, found.file_name, suffix))
    if detected.format not in travelling:
        return Learnt(f"its format is {detected.format}, which may run code when it is loaded")
    try:
        return Learnt("", hashing.hash_file(path, found.file_name, check), _about(detected))
    except UserError:
        raise Changed("it is being changed") from None


def _why(error: UserError, path: Path, name: str, suffix: str) -> str:
    if "is not a model" in error.message and suffix in _DATA_SUFFIXES:
        return f"it is named {suffix} and does not begin like one, so it is damaged"
    return printable(error.message.replace(str(path), name)).rstrip(".")


def _about(detected: Detected) -> dict[str, Any]:
    about: dict[str, Any] = {"format": detected.format, "type": detected.type, "config": dict(detected.config)}
    return {**about, "capabilities": list(detected.capabilities)}
