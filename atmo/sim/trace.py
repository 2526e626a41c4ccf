"""What happened in a world, in order: hashed always, written to a file on demand, read again for a replay.

A trace is one line of JSON (`TraceHead`), then entries of fixed size in which names are numbers, all of it compressed.
A number is told before its first use. The digest is over the entries alone.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from blake3 import blake3

from atmo.errors import UserError
from atmo.version import __version__

FORMAT: Final = "atmo-trace"
VERSION: Final = 1

NOBODY: Final = 0xFFFF_FFFF
"""In place of a node that the world does not have."""

_ENTRY: Final = struct.Struct("<dBIIII")
_NAME: Final = 0
_BLOCK = 4_096
_LONGEST_NAME = 4_096

KINDS: Final = ("name", "message", "up", "down", "dial failed", "timer", "chunk", "start", "stop", "deed")
MESSAGE, UP, DOWN, DIAL_FAILED, TIMER, CHUNK, START, STOP, DEED = range(1, len(KINDS))


@dataclass(frozen=True, slots=True)
class TraceHead:
    """How to make the same world again.

    Attributes:
        scenario: Its name, or the path of the file that holds it.
        settings: The values of its fields.
        atmosphere: The version of the software.
    """

    scenario: str
    settings: dict[str, Any]
    atmosphere: str = __version__


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened to a node.

    Attributes:
        time_s: Virtual seconds.
        kind: One of `KINDS`.
        node: Its name.
        other: The other node's name, `-` where there is none.
        detail: Such as the message's type.
        size: Bytes, where it has a size.
    """

    time_s: float
    kind: str
    node: str
    other: str
    detail: str
    size: int

    def __str__(self) -> str:
        size = f" ({self.size} bytes)" if self.size else ""
        return f"{self.time_s:.6f} {self.node} {self.kind} {self.detail} {self.other}{size}".replace("  ", " ")


class Sink(Protocol):
    """Where a trace is written to."""

    def write(self, block: bytes, /) -> int:
        """Takes the next bytes."""

    def close(self) -> None:
        """Nothing follows."""


class Trace:
    """Takes what happens.

    Args:
        file: Where it is written, too; None for nowhere.
    """

    def __init__(self, file: Sink | None = None) -> None:
        self._file = file
        self._hash = blake3()
        self._parts: list[bytes] = []
        self._names: dict[str, int] = {}
        self.count = 0

    def number(self, name: str) -> int:
        """Returns the number of a name."""
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = len(self._names)
            text = name.encode()[:_LONGEST_NAME]
            self._parts.append(_ENTRY.pack(0.0, _NAME, number, len(text), 0, 0) + text)
        return number

    def note(self, time: float, kind: int, node: int, other: int, detail: str, size: int = 0) -> None:
        """Takes one thing that happened; nodes by the numbers of their names."""
        number = self._names.get(detail)
        if number is None:
            number = self.number(detail)
        parts = self._parts
        parts.append(_ENTRY.pack(time, kind, node, other, number, size))
        self.count += 1
        if len(parts) >= _BLOCK:
            self._flush()

    def digest(self) -> str:
        """Returns a hash of all that happened so far."""
        self._flush()
        return self._hash.hexdigest(16)

    def close(self) -> None:
        """Writes what is still to be written."""
        self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        block = b"".join(self._parts)
        self._parts.clear()
        self._hash.update(block)
        if self._file is not None:
            self._file.write(block)


def open_trace(path: Path, head: TraceHead) -> Sink:
    """Begins a trace file.

    Raises:
        UserError: It cannot be written.
    """
    try:
        file = gzip.open(path, "wb", compresslevel=1)  # noqa: SIM115 - closed by the trace
        file.write(json.dumps({"format": FORMAT, "version": VERSION, **asdict(head)}).encode() + b"\n")
    except OSError as error:
        raise UserError(f"The trace {path} cannot be written: {error.strerror or error}.") from error
    return file


class TraceReader:
    """Reads a trace file.

    Args:
        path: Of the file.

    Attributes:
        path: Of the file.
        head: How the world was made.

    Raises:
        UserError: It is no trace, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        try:
            self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed by `close`
            line = self._file.readline(1 << 20)
            head = json.loads(line)
        except OSError as error:
            raise UserError(f"{path} is no trace that can be read: {error.strerror or error}.") from error
        except (ValueError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is no trace of `atmo sim run`.") from error
        self.head = _head_of(path, head)

    def entries(self) -> Iterator[Entry]:
        """Yields what happened; an entry cut short by a crash ends it.

        Raises:
            UserError: The file is broken.
        """
        names: dict[int, str] = {NOBODY: "-"}
        try:
            while len(raw := self.read(_ENTRY.size)) == _ENTRY.size:
                time, kind, node, other, detail, size = _ENTRY.unpack(raw)
                if kind == _NAME:
                    names[node] = self.read(min(other, _LONGEST_NAME)).decode(errors="replace")
                else:
                    yield Entry(time, KINDS[kind], names[node], names[other], names[detail], size)
        except (KeyError, IndexError) as error:
            raise UserError(f"The trace {self.path} is broken.") from error

    def entry_at(self, offset: int) -> Entry | None:
        """Returns what happened at or after a byte of the entries, None at their end."""
        return next((entry for entry in self.entries() if self._offset > offset), None)

    def read(self, count: int) -> bytes:
        """Returns the next bytes of the entries, fewer at their end.

        Raises:
            UserError: The file is broken.
        """
        try:
            data = self._file.read(count)
        except EOFError:  # the end of the file is missing: its writer was killed
            data = b""
        except (OSError, zlib.error) as error:
            raise UserError(f"The trace {self.path} is broken.") from error
        self._offset += len(data)
        return data

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _head_of(path: Path, head: Any) -> TraceHead:
    match head:
        case {"format": "atmo-trace", "version": int(version)} if version != VERSION:
            raise UserError(f"{path} is a trace of version {version}, this program reads version {VERSION}.")
        case {"format": "atmo-trace", "scenario": str(scenario), "settings": dict(settings), "atmosphere": str(made)}:
            if made != __version__:
                raise UserError(
                    f"{path} was made by Atmosphere {made}, this is {__version__}, which may act otherwise."
                )
            return TraceHead(scenario, settings, made)
    raise UserError(f"{path} is no trace of `atmo sim run`.")
