"""The access log: one line for each request, when it has ended. Never prompts, answers or secrets.

It has a logger and a handler of its own, so that the lines stand alone and can be fed to whatever reads JSON by lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _ascii
from pathlib import Path
from typing import Any, TextIO

from atmo.api.account import Account, Observer
from atmo.errors import UserError
from atmo.gateway.tracing import trace_id

LOGGER = "atmo.access"
TEXT_CHARS = 128
"""Of what a client or another node names."""

FILE_BYTES = 64 * 1024 * 1024
"""A log file of that size is put aside, and the oldest of `FILES` such is deleted: some 150,000 requests each."""

FILES = 4

log = logging.getLogger(LOGGER)


def access_log(where: bool | Path, out: TextIO | None = None) -> Observer | None:
    """Opens the log; returns what is to be told of each request, None where the log is off.

    Args:
        where: True for standard error: lines for people on a terminal, else JSON. Or a file, which gets JSON.
        out: In place of standard error.

    Raises:
        UserError: The file cannot be written.
    """
    close_access_log()
    if where is False:
        return None
    stream = out or sys.stderr
    log.addHandler(_file(where) if isinstance(where, Path) else Lines(stream))
    log.propagate = False
    log.setLevel(logging.INFO)
    write = text_line if where is True and stream.isatty() else json_line

    def observe(account: Account) -> None:
        log.info(write(account))

    return observe


def close_access_log() -> None:
    """Closes the log, if it is open."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


class Lines(logging.Handler):
    """Writes each line as it stands, at once: a log that is read after a crash has the last request.

    Args:
        out: Where to.
    """

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line; what goes wrong is told as `logging` does, and no request hears of it."""
        try:
            self._out.write(f"{record.msg}\n")
            self._out.flush()
        except (OSError, ValueError):
            self.fail(record)
        else:
            self._failing = False

    def fail(self, record: logging.LogRecord) -> None:
        """Tells of a trouble once while it lasts: where a disk is full, nothing should fill it further."""
        if not self._failing:
            self.handleError(record)
        self._failing = True


class FileLines(Lines):
    """The same in a file, which is put aside when it is large.

    Args:
        path: Of the file.
        most: Bytes that it may have.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, most: int = FILE_BYTES) -> None:
        super().__init__(path.open("a", encoding="utf-8"))
        self._path = path
        self._most = most
        self._left = most - path.stat().st_size

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        size = len(record.msg) + 1
        if size > self._left:
            try:
                self._put_aside()
            except OSError:
                self.fail(record)
            self._left = self._most
        self._left -= size
        super().emit(record)

    def _put_aside(self) -> None:
        """Renames `log` to `log.1`, that to `log.2`, and so on."""
        for number in range(FILES - 1, -1, -1):
            older = self._path.with_name(f"{self._path.name}.{number}") if number else self._path
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        aside, self._out = self._out, self._path.open("a", encoding="utf-8")
        with suppress(OSError):  # of a full disk
            aside.close()

    def close(self) -> None:
        """Closes the file."""
        with suppress(OSError):
            self._out.close()
        super().close()


def _file(path: Path) -> logging.Handler:
    try:
        return FileLines(path)
    except OSError as error:
        hint = "Give another file as `access_log`, or true for standard error."
        raise UserError(f"{path}: the access log cannot be written: {error.strerror}.", hint) from error


def row_of(account: Account) -> dict[str, Any]:
    """Returns what is told of a request, beside its time; what does not apply is left out."""
    row: dict[str, Any] = {
        "id": account.request_id,
        "method": account.method,
        "path": account.path[:TEXT_CHARS],
        "status": account.status,
        "outcome": account.outcome,
        "duration_ms": _ms(account.duration_s),
    }
    if account.error:
        row["error"] = account.error[:TEXT_CHARS]
    if account.first_byte_s is not None:
        row["first_byte_ms"] = _ms(account.first_byte_s)
    if account.operation:
        row["operation"] = account.operation
        row["model"] = account.model[:TEXT_CHARS]
    if account.node:
        row["node"] = account.node[:TEXT_CHARS]
        row["mesh_path"] = account.mesh_path
        row["queue_ms"] = _ms(account.queue_s)
        row["attempts"] = account.attempts
        row["prompt_tokens"] = account.prompt_tokens
        row["completion_tokens"] = account.completion_tokens
        row["cost"] = round(account.cost, 8)
    if account.key:
        row["key"] = account.key
    if account.trace:
        row["trace"] = trace_id(account.trace)
    return row


def json_line(account: Account) -> str:
    """Returns a request's line as JSON; ASCII, so no name of another node can do anything to a terminal."""
    row = row_of(account)
    fields = [f'"{name}":{_ascii(row[name]) if type(row[name]) is str else row[name]}' for name in row]
    return f'{{"time":"{_time()}",{",".join(fields)}}}'  # a third of what `json.dumps` takes


def text_line(account: Account) -> str:
    """Returns a request's line for people: `12:00:01 POST /v1/embeddings 200 answered 8 ms minilm on kitchen ...`."""
    row: Mapping[str, Any] = row_of(account)
    words = [_time()[11:19], row["method"], row["path"], str(row["status"]), row["outcome"]]
    words.append(f"{row['duration_ms']:g} ms")
    if "model" in row:
        words.append(row["model"] or "-")
    if "node" in row:
        words += ["on", row["node"], f"({row['mesh_path']})", f"queue {row['queue_ms']:g} ms"]
        words += [f"first {row['first_byte_ms']:g} ms"] if "first_byte_ms" in row else []
        words.append(f"tokens {row['prompt_tokens']}+{row['completion_tokens']}")
        if row["cost"]:
            words.append(f"${row['cost']:g}")
    words += [f"{name}={row[name]}" for name in ("error", "key", "id", "trace") if name in row]
    return "".join(char if " " <= char <= "~" else "?" for char in " ".join(words))


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 2)


def _time() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
