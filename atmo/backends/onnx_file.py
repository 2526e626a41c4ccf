"""Whether an ONNX file of the store may be loaded: the check that import makes too, in the words of the backends."""

from __future__ import annotations

from pathlib import Path

from atmo.storage.formats.onnx_check import check_onnx
from atmo.storage.formats.protobuf import Walk
from atmo.storage.formats.reader import FormatError, Reader


class BadModelFile(ValueError):
    """The file cannot be run here; the message is a sentence without the file's name."""


def check_onnx_file(path: Path) -> None:
    """Checks that `path` is a whole ONNX model in one file that onnxruntime's own operators can run.

    Raises:
        BadModelFile: It is not.
        OSError: The file cannot be read.
    """
    try:
        with Reader(path) as reader:
            if not reader.size:
                raise FormatError("is empty")
            check_onnx(Walk(reader))
    except FormatError as error:
        raise BadModelFile(f"the file {error}") from error
