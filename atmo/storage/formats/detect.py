"""From a file to its format."""

from __future__ import annotations

from pathlib import Path

from atmo.errors import UserError
from atmo.storage.formats import gguf, onnx, pickles, safetensors
from atmo.storage.formats.reader import Detected, FormatError, Reader

KNOWN = "ONNX (.onnx), GGUF (.gguf), safetensors, scikit-learn (.joblib, .pkl)"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = {".pt": "pytorch", ".pth": "pytorch"}


def detect(path: Path) -> Detected:
    """Finds out what a file is, by its content and, where that leaves a choice, by its name.

    Raises:
        UserError: There is no such file, it is no model that is known here, or it is not whole.
    """
    try:
        if not path.is_file():
            what = "is not a plain file" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}.", f"Name one model file: {KNOWN}.")
        with Reader(path) as reader:
            return _detect(path, reader)
    except FormatError as error:
        raise UserError(f"The file {path} {error}.", error.hint) from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.", "Check the path and its permissions.") from error


def _detect(path: Path, reader: Reader) -> Detected:
    start = reader.start(64)
    suffix = path.suffix.lower()
    if not start:
        raise FormatError("is empty")
    if start.startswith(gguf.MAGIC):
        return gguf.read(reader)
    if start.startswith(b"PK\x03\x04"):
        return pickles.read_zip(path)
    if pickles.looks_like_pickle(start):
        found = pickles.read_pickle(reader, path)
        return Detected("pytorch", ".pt", runs_code=True) if _SUFFIXES.get(suffix) == "pytorch" else found
    if safetensors.looks_like(reader):
        return safetensors.read(reader)
    if pickles.decompressor_for(start) is not None:
        return pickles.read_compressed(reader, path)
    if onnx.looks_like(reader):
        return onnx.read(reader)
    return _by_name(path, reader, suffix)


def _by_name(path: Path, reader: Reader, suffix: str) -> Detected:
    """The content says nothing: only the name can say what should be there."""
    if suffix == ".onnx":
        return onnx.read(reader)
    if suffix == ".safetensors":
        raise FormatError("is named .safetensors and does not begin like one, so it is damaged")
    if suffix in (".gguf", ".joblib", ".pkl", ".pickle", ".pt", ".pth"):
        raise FormatError(f"is named {suffix} and does not begin like one, so it is damaged")
    if reader.start(8) == _HDF5:
        raise UserError(
            f"{path} is a Keras (HDF5) file, which cannot be run here.", "Export it to ONNX and import that."
        )
    raise UserError(f"{path} is not a model that Atmosphere knows.", f"Known are: {KNOWN}.")
