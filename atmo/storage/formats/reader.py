"""Reading the heads of a file without ever running over its end."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_BLOCK_BYTES = 64 * 1024


class FormatError(Exception):
    """The file is not what it seems, not whole, or cannot be used here.

    Args:
        message: Completes the sentence "the file ...".
        hint: What to do about it.
    """

    def __init__(self, message: str, hint: str = "Copy or download it again, then import it.") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Detected:
    """What a file is.

    Attributes:
        format: As manifests say it: `onnx`, `gguf`, `safetensors`, `pytorch`, `sklearn`.
        suffix: The usual suffix of such files.
        type: The kind of model as far as the file tells: `classifier`, `embedder`, `llm`, else `model`.
        config: What the file says of itself, for the manifest.
        capabilities: Guessed from it.
        runs_code: Loading it can execute code.
    """

    format: str
    suffix: str
    type: str = "model"
    config: Mapping[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    runs_code: bool = False


class Reader:
    """Random access to a file whose size is fixed when it is opened.

    Args:
        path: The file.
        most_bytes: Only so much of its start is looked at, as if it ended there.

    Attributes:
        size: In bytes.
    """

    def __init__(self, path: Path, most_bytes: int = 2**63) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = min(os.fstat(self._descriptor).st_size, most_bytes)
        self._block = b""
        self._block_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def at(self, offset: int, count: int) -> bytes:
        """Returns exactly `count` bytes from `offset`.

        Raises:
            FormatError: The file ends before.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise FormatError(f"is cut short: it has {self.size} bytes and should have at least {offset + count}")
        start = offset - self._block_at
        if start < 0 or start + count > len(self._block):
            self._block = os.pread(self._descriptor, max(count, _BLOCK_BYTES), offset)
            self._block_at, start = offset, 0
        found = self._block[start : start + count]
        if len(found) != count:
            raise FormatError("shrank while it was being read")
        return found

    def block(self, offset: int, end: int) -> tuple[bytes, int, int]:
        """Returns bytes in memory, and where in them those from `offset` begin and end: one at least, none after `end`.

        Raises:
            FormatError: The file ends before.
        """
        start = offset - self._block_at
        if not 0 <= start < len(self._block):
            self.at(offset, 1)
            start = 0
        return self._block, start, min(len(self._block), start + end - offset)

    def start(self, count: int) -> bytes:
        """Returns up to `count` bytes from the start."""
        return self.at(0, min(count, self.size))

    def end(self, count: int) -> bytes:
        """Returns up to `count` bytes before the end."""
        count = min(count, self.size)
        return self.at(self.size - count, count)

    def number(self, offset: int, code: str) -> int:
        """Returns the little-endian integer of one `struct` code at `offset`."""
        value = struct.unpack("<" + code, self.at(offset, struct.calcsize("<" + code)))[0]
        return int(value)
