"""The audit log: what happened to models on this machine, a line of JSON each, in `audit.jsonl` of the home.

Each line holds its number and a BLAKE3 hash over the line before it and its own content, so that no line can be
changed, taken out or put in without breaking the chain. What a chain cannot show is an end that was cut off: keep the
head that `atmo audit --verify` prints somewhere else, and compare.

An event is first kept in the database, in the very transaction that makes it happen, and then moved to the file: a kill
between the two, or a full disk, loses none and writes none twice. A full file becomes `audit-NUMBER.jsonl`, named after
its first line; the oldest of these are deleted, the chain goes on over them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from atmo.errors import UserError
from atmo.storage import files
from atmo.storage.database import Database

What = Literal["download", "import", "load", "unload", "removal", "eviction", "repair", "consent", "cut"]

FILE = "audit.jsonl"
SEGMENT_BYTES = 1024 * 1024
"""A file of the log is full beyond that: about 3,000 lines. Source: guess."""

SEGMENTS_MOST = 16
"""Full files that are kept. Source: guess; 50,000 events are years of a busy node."""

LINE_BYTES = 16 * 1024
"""Longer than any line that is written here: six texts of `TEXT_CHARS`, each character escaped as two of `\\uXXXX`."""

TEXT_CHARS = 150
"""Of one field; longer ones are cut. Source: names have at most 128, hashes 64."""

WAITING_MOST = 10_000
"""Events that wait in the database while the file cannot be written; then the oldest are lost. Source: guess."""

USER = "user"
"""Who wishes for what a person does here; what a node does by itself has the node's name."""

START = "0" * 64
_SEGMENT = re.compile(r"audit-([0-9]{1,18})\.jsonl")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a model.

    Attributes:
        what: The kind of event; `cut` notes that a torn line was cut off after a kill.
        who: At whose wish: `user`, or the name of a node.
        name, version: Of the model.
        source: Where the model came from: a node's name or a file; the publisher's name for a consent.
        hash: Of the content, as `sha256:...`; the publisher's node id for a consent.
        outcome: `ok`, else what went wrong; of a consent what was decided.
    """

    what: What
    who: str = "node"
    name: str = ""
    version: str = ""
    source: str = ""
    hash: str = ""
    outcome: str = "ok"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log.

    Attributes:
        number: From 1, without gaps.
        at: When it happened, ISO 8601, UTC.
        id: Random; tells whether a waiting event has been written.
        event: What happened.
        before: Hash of the line before, `START` for the first.
        chain: Hash of this line.
    """

    number: int
    at: str
    id: str
    event: Event
    before: str
    chain: str

    def to_json(self) -> dict[str, str | int]:
        """Returns it as the line shows it."""
        head: dict[str, str | int] = {"number": self.number, "at": self.at, "id": self.id}
        return head | asdict(self.event) | {"before": self.before, "chain": self.chain}

    def line(self) -> bytes:
        """Returns the line, with its end."""
        return json.dumps(self.to_json()).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class ChainState:
    """What `verify_chain` found.

    Attributes:
        entries: How many lines are sound.
        first: Number of the first that is kept; above 1 where older files were deleted. 0 where there is none.
        head: Chain hash of the last line; keep it elsewhere to notice a cut end.
        problems: What is wrong, for people; empty where the chain holds.
    """

    entries: int
    first: int
    head: str
    problems: tuple[str, ...]


def link(number: int, at: str, identity: str, event: Event, before: str) -> Entry:
    """Makes the line that follows the one whose chain hash is `before`."""
    content = json.dumps([number, at, identity, asdict(event)], sort_keys=True).encode()
    return Entry(number, at, identity, event, before, blake3(bytes.fromhex(before) + content).hexdigest())


class AuditLog:
    """The writing end; one process at a time, any thread.

    Args:
        home: The folder of the file.
        database: Of the same home.
        warn: Told where the file cannot be written.
        wall: Returns Unix seconds.
    """

    def __init__(self, home: Path, database: Database, warn: Callable[[str], None], wall: Callable[[], float]) -> None:
        self._home = home
        self._path = home / FILE
        self._database = database
        self._warn = warn
        self._wall = wall
        self._lock = threading.Lock()
        self._last: Entry | None = None
        self._written: set[str] = set()
        self._opened = False
        self._left = (0, 0)
        """Inode and size of the file as it was left: where it is another now, somebody has cut or replaced it."""
        self.flush()

    def note(self, run: sqlite3.Connection, event: Event) -> None:
        """Keeps an event within a transaction; call `flush` after it."""
        text = json.dumps({key: _cut(value) for key, value in asdict(event).items()})
        run.execute(
            "INSERT INTO audit_waiting (id, at, event) VALUES (?, ?, ?)",
            (secrets.token_hex(8), _iso(self._wall()), text),
        )
        run.execute(
            "DELETE FROM audit_waiting WHERE number <= (SELECT MAX(number) FROM audit_waiting) - ?", (WAITING_MOST,)
        )

    def record(self, event: Event) -> None:
        """Keeps an event and writes it.

        Raises:
            UserError: The database cannot be written.
        """
        with self._database.transaction() as run:
            self.note(run, event)
        self.flush()

    def flush(self) -> None:
        """Moves the events that wait to the file; those that cannot be written wait further, with a warning."""
        with self._lock:
            rows: list[tuple[Any, ...]] = []
            try:
                rows = self._database.query("SELECT number, id, at, event FROM audit_waiting ORDER BY number")
                if rows and not (self._opened and self._left == _look_of(self._path)):
                    self._open()
                for _, identity, at, text in rows:
                    if identity not in self._written:
                        self._append(at, identity, Event(**json.loads(text)))
                if rows:
                    with self._database.transaction() as run:
                        run.execute("DELETE FROM audit_waiting WHERE number <= ?", (rows[-1][0],))
                    self._written.clear()
            except OSError as error:
                self._warn(f"the audit log {self._path} cannot be written: {error.strerror}; {len(rows)} events wait")
            except UserError as error:
                self._warn(f"the audit log's database cannot be written: {error}")

    def _open(self) -> None:
        """Finds the end of the chain; what follows the last sound line is cut off, with a note in the chain."""
        if segments := _segments(self._home):
            self._take(_sound_lines(_read_whole(segments[-1]))[0])
        data = _read_whole(self._path)
        entries, end = _sound_lines(data)
        rest = data[end:]
        if len(rest) > LINE_BYTES:
            self._path.replace(self._path.with_name(f"{FILE}.damaged-{secrets.token_hex(4)}"))
            files.sync_folder(self._home)
            self._warn(f"the audit log {self._path} is damaged: it is moved aside, a new one begins")
        else:
            self._take(entries)
            if rest:
                os.truncate(self._path, end)
        self._opened, self._left = True, _look_of(self._path)
        if rest:
            text = f"{len(rest)} bytes that are no line were taken away"
            self._append(_iso(self._wall()), secrets.token_hex(8), Event("cut", outcome=text))

    def _take(self, entries: list[Entry]) -> None:
        if entries:
            if self._last is None or entries[-1].number > self._last.number:  # else an end was cut off: the gap shows
                self._last = entries[-1]
            self._written |= {entry.id for entry in entries}

    def _append(self, at: str, identity: str, event: Event) -> None:
        before = self._last
        entry = link(before.number + 1 if before else 1, at, identity, event, before.chain if before else START)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, entry.line()) != len(entry.line()):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                self._opened = False  # whatever is there now is looked at anew
                raise
        finally:
            os.close(descriptor)
        if not size:
            files.sync_folder(self._home)
        self._last = entry
        self._written.add(identity)
        if size + len(entry.line()) > SEGMENT_BYTES:
            self._rotate()
        self._left = _look_of(self._path)

    def _rotate(self) -> None:
        first = next(read_file(self._path)).number
        self._path.replace(self._home / f"audit-{first}.jsonl")
        files.sync_folder(self._home)
        for old in _segments(self._home)[:-SEGMENTS_MOST]:
            old.unlink()


def read(home: Path) -> Iterator[Entry]:
    """Yields the sound lines of a home's log, oldest first; also while a node writes it.

    Raises:
        UserError: A file cannot be read.
    """
    for path in (*_segments(home), home / FILE):
        try:
            yield from read_file(path)
        except FileNotFoundError:
            continue  # rotated meanwhile, or never written
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}.", "Check its permissions.") from error


def read_file(path: Path) -> Iterator[Entry]:
    """Yields the sound lines of one file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES):
            if (entry := _parse_untrusted(line)) is not None:
                yield entry


def verify_chain(home: Path) -> ChainState:
    """Checks that no line was changed, taken out or put in.

    Raises:
        UserError: A file cannot be read.
    """
    problems: list[str] = []
    entries, first, last = 0, 0, None
    for path in (*_segments(home), home / FILE):
        try:
            data = path.open("rb")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}.", "Check its permissions.") from error
        with data:
            for index, line in enumerate(iter(lambda: data.readline(LINE_BYTES), b""), 1):  # noqa: B023 - used up within
                if path.name == FILE and len(line) < LINE_BYTES and not line.endswith(b"\n"):
                    break  # being written
                entry = _parse_untrusted(line)
                problem = _problem(entry, last)
                if problem and len(problems) < 100:
                    problems.append(f"{path.name} line {index}: {problem}")
                if entry is not None:
                    entries, first, last = entries + 1, first or entry.number, entry
    return ChainState(entries, first, last.chain if last else START, tuple(problems))


def _problem(entry: Entry | None, last: Entry | None) -> str:
    if entry is None:
        return "is no line of the log, or was changed"
    if last is None:
        return "" if entry.number > 1 or entry.before == START else "does not begin the chain"
    if entry.number != last.number + 1:
        return f"has the number {entry.number} after {last.number}"
    return "" if entry.before == last.chain else f"does not follow line number {last.number}"


def _parse_untrusted(line: bytes) -> Entry | None:
    """Returns the entry of a line, None where it is none or its own hash is wrong."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
        event = Event(**{field.name: found[field.name] for field in fields(Event)})
        number, at, identity, before, chain = (found[key] for key in ("number", "at", "id", "before", "chain"))
        if type(number) is not int or not all(
            isinstance(text, str) for text in (at, identity, before, chain, *asdict(event).values())
        ):
            return None
        entry = link(number, at, identity, event, before)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if entry.chain == chain and entry.line() == line else None


def _sound_lines(data: bytes) -> tuple[list[Entry], int]:
    """Returns the entries of a file and where the last sound line ends."""
    entries, end, at = [], 0, 0
    for line in data.splitlines(keepends=True):
        at += len(line)
        if (entry := _parse_untrusted(line)) is not None:
            entries.append(entry)
            end = at
    return entries, end


def _read_whole(path: Path) -> bytes:
    """Returns a file of the log, nothing where it is missing; of one that nobody here wrote only so much."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(2 * SEGMENT_BYTES)


def _look_of(path: Path) -> tuple[int, int]:
    """Returns a file's inode and size, zeros where there is none."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return 0, 0
    return about.st_ino, about.st_size


def _segments(home: Path) -> list[Path]:
    """Returns the full files, oldest first."""
    found = [(int(match[1]), path) for path in home.glob("audit-*.jsonl") if (match := _SEGMENT.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _iso(now: float) -> str:
    return datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"
