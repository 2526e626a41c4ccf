"""How far a long job is: bytes, rate over a moving window, time left."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import trio

from atmo.errors import AtmoError

T = TypeVar("T")

WINDOW_S = 5.0
"""The rate is that of the last seconds. Source: guess, steady enough to read."""

PERIOD_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """One report.

    Attributes:
        phase: What is being done: `reading`, `converting`, `looking in the index`, `looking`, `checking`,
            `downloading`, `verifying`, `done`, or `here already` when there was nothing to do.
        bytes_done, bytes_total: Of this phase.
        rate_bytes_s: Over the last seconds.
        sources: Names of the nodes that are sending.
        eta_s: Seconds left at this rate, None while it is not known.
        travelled_bytes: Of a download: what came over the network, which is less than the model where deltas did.
        copied_bytes: Of a download: what other models on this machine had already.
    """

    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    rate_bytes_s: float = 0.0
    sources: tuple[str, ...] = ()
    eta_s: float | None = None
    travelled_bytes: int = 0
    copied_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the same as plain values."""
        return {**asdict(self), "sources": list(self.sources)}


Report = Callable[[Progress], None]


class Meter:
    """Counts the bytes of a job; written by one thread, read by another.

    Attributes:
        phase, done, total, sources: As in `Progress`.
        travelled, copied: `travelled_bytes` and `copied_bytes` there.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.done = 0
        self.total = 0
        self.sources: tuple[str, ...] = ()
        self.travelled = 0
        self.copied = 0
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, phase: str, total: int, done: int = 0) -> None:
        """Starts the next phase; what is done already does not count as speed."""
        self.phase, self.total, self.done = phase, total, done
        self._samples.clear()

    def read(self, now: float) -> Progress:
        """Takes a sample at monotonic second `now`."""
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[0][0] < now - WINDOW_S:
            self._samples.popleft()
        (then, before), done = self._samples[0], self._samples[-1][1]
        rate = (done - before) / (now - then) if now > then else 0.0
        eta = max(0, self.total - done) / rate if rate > 0 and self.total else None
        return Progress(self.phase, done, self.total, rate, self.sources, eta, self.travelled, self.copied)


async def with_reports(meter: Meter, report: Report | None, job: Callable[[], Awaitable[T]]) -> T:
    """Runs `job`, reporting a few times a second and at its end; its `AtmoError`s come out as they are, in no group."""
    if report is None:
        return await job()

    async def reported() -> T:
        result = await job()
        report(meter.read(trio.current_time()))
        return result

    return await beside(lambda: _report_regularly(meter, report), reported)


async def beside(other: Callable[[], Awaitable[object]], job: Callable[[], Awaitable[T]]) -> T:
    """Runs `job`, and `other` beside it for no longer; the `AtmoError`s of `job` come out as they are, in no group."""
    failure: AtmoError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        try:
            result = await job()
        except AtmoError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _report_regularly(meter: Meter, report: Report) -> None:
    while True:
        report(meter.read(trio.current_time()))
        await trio.sleep(PERIOD_S)


class Latest:
    """Passes reports on and keeps the latest.

    Args:
        report: Told of each; None for nobody.

    Attributes:
        progress: The latest.
    """

    def __init__(self, report: Report | None) -> None:
        self.progress = Progress("")
        self._report = report

    def __call__(self, progress: Progress) -> None:
        self.progress = progress
        if self._report is not None:
            self._report(progress)

    def travel(self) -> dict[str, int]:
        """Returns what travelled and what was copied, as plain values."""
        return {name: getattr(self.progress, name) for name in ("travelled_bytes", "copied_bytes")}


def done(phase: str, size_bytes: int, travelled_bytes: int = 0, copied_bytes: int = 0) -> Progress:
    """Returns the last report of a job: all of it is there."""
    return Progress(phase, size_bytes, size_bytes, 0.0, (), 0.0, travelled_bytes, copied_bytes)
