"""One transfer: which version it wants, how it stands, and what people are shown of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import trio

from atmo.errors import StoppedError
from atmo.services.progress import Progress, Report
from atmo.storage.registry import LocalModel
from atmo.storage.transfers import Purpose, State, StoredTransfer
from atmo.transfer.names import version_key


@dataclass(frozen=True, slots=True)
class Wanted:
    """One version of a model that somebody wants.

    Attributes:
        name, version: Of the model.
        manifest: The id of the manifest that was chosen.
        size_bytes: Of all its files.
    """

    name: str
    version: str
    manifest: bytes
    size_bytes: int

    @property
    def key(self) -> tuple[str, str]:
        """The same for all manifests of one version."""
        return self.name, version_key(self.version)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Fetching(Protocol):
    """What transfers need of the models."""

    async def attempt(self, wanted: Wanted, report: Report, purpose: Purpose) -> LocalModel:
        """Downloads it from whoever has it.

        Raises:
            Unobtainable: It cannot be had now; what arrived is kept.
            UserError: This machine is in the way.
        """

    def is_held(self, wanted: Wanted) -> bool:
        """Says whether a node that is believed to live has it."""

    def discard(self, wanted: Wanted) -> None:
        """Deletes what arrived of it; blocks."""


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One transfer, for people.

    Attributes:
        id, name, version, purpose, state, reason, created_at: As in `StoredTransfer`.
        bytes_done, bytes_total, percent: How far it is.
        phase, rate_bytes_s, sources, eta_s: As in `Progress`, of one that is under way.
        travelled_bytes, copied_bytes: As in `StoredTransfer`.
    """

    id: int
    name: str
    version: str
    purpose: str
    state: str
    reason: str
    bytes_done: int
    bytes_total: int
    percent: float
    created_at: float
    phase: str = ""
    rate_bytes_s: float = 0.0
    sources: tuple[str, ...] = ()
    eta_s: float | None = None
    travelled_bytes: int = 0
    copied_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        return {**asdict(self), "sources": list(self.sources)}


class Sum:
    """Adds up a count that begins anew with each try."""

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def take(self, count: int) -> None:
        """The try has come so far; a smaller count is another try's."""
        self.total += count - self._last if count >= self._last else count
        self._last = count


class Live:
    """A transfer that somebody pursues now.

    Attributes:
        wanted: Which version.
        opening: Held while its row is looked up or made.
        row: Its row when it was begun, None before.
        scopes: Of those who pursue it; cancelled when it is stopped.
        running: How many of them are within a try.
        state, reason: As in `StoredTransfer`, now.
        done_bytes: How many have arrived, as far as is known.
        travelled, copied: How much travelled and was copied, as in `StoredTransfer`.
        progress: The newest report.
        waits_since, waits_bytes: When it first waited after something arrived, and how much had arrived by then.
        finished: The model is here.
        stopped: The state that a command gave it, and the error for those who wait.
        closed: Set when nobody pursues it any more and its row says so.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.opening = trio.Lock()
        self.row: StoredTransfer | None = None
        self.scopes: set[trio.CancelScope] = set()
        self.running = 0
        self.ran_s = 0.0
        self.since: float | None = None
        self.state: State = "queued"
        self.reason = ""
        self.done_bytes = 0
        self.travelled = Sum()
        self.copied = Sum()
        self.progress: Progress | None = None
        self.waits_since: float | None = None
        self.waits_bytes = 0
        self.finished = False
        self.stopped: tuple[State, StoppedError] | None = None
        self.closing = False
        self.closed = trio.Event()

    @property
    def ending(self) -> bool:
        return self.closing or self.stopped is not None

    def begin(self, row: StoredTransfer) -> None:
        """Goes on from what is known of it."""
        self.row, self.done_bytes = row, row.bytes_done
        self.travelled.total, self.copied.total = row.travelled_bytes, row.copied_bytes

    def take(self, progress: Progress) -> Progress:
        """Notes how a try goes; returns the same with what travelled and was copied in all tries."""
        self.travelled.take(progress.travelled_bytes)
        self.copied.take(progress.copied_bytes)
        progress = replace(progress, travelled_bytes=self.travelled.total, copied_bytes=self.copied.total)
        self.progress = progress
        if progress.phase == "downloading":
            self.done_bytes = max(self.done_bytes, progress.bytes_done)
        elif progress.phase == "verifying":
            self.done_bytes = self.wanted.size_bytes
        return progress

    def started(self) -> None:
        if not self.running:
            self.since = trio.current_time()
        self.running += 1

    def rested(self) -> None:
        self.running -= 1
        if not self.running and self.since is not None:
            self.ran_s += trio.current_time() - self.since
            self.since = None

    def take_ran_s(self) -> float:
        """Returns for how long it has been running since the last call."""
        if self.since is not None:
            now = trio.current_time()
            self.ran_s, self.since = self.ran_s + now - self.since, now
        ran, self.ran_s = self.ran_s, 0.0
        return ran


def shown(row: StoredTransfer, live: Live | None) -> TransferRow:
    """Returns a transfer for people: what its row says, and what is known of it if somebody pursues it."""
    if live is None or live.row is None or live.row.id != row.id:
        live = None
    state, reason, done = (
        (row.state, row.reason, row.bytes_done) if live is None else (live.state, live.reason, live.done_bytes)
    )
    done = min(done, row.bytes_total)
    told = TransferRow(
        id=row.id,
        name=row.name,
        version=row.version,
        purpose=row.purpose,
        state=state,
        reason=reason,
        bytes_done=done,
        bytes_total=row.bytes_total,
        percent=round(100.0 * done / row.bytes_total, 1) if row.bytes_total else 0.0,
        created_at=row.created_at,
        travelled_bytes=row.travelled_bytes if live is None else live.travelled.total,
        copied_bytes=row.copied_bytes if live is None else live.copied.total,
    )
    if live is None or live.progress is None or state != "running":
        return told
    now = live.progress
    return replace(told, phase=now.phase, rate_bytes_s=now.rate_bytes_s, sources=now.sources, eta_s=now.eta_s)
