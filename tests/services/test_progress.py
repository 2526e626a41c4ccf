from __future__ import annotations

import pytest
import trio

from atmo.errors import UserError
from atmo.services.progress import Meter, Progress, with_reports


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter("downloading")
    meter.begin("downloading", 1_000)
    for second in range(20):
        meter.done = second * 10 if second < 10 else 100 + (second - 10) * 50
        report = meter.read(float(second))
    assert (report.rate_bytes_s, report.bytes_done) == (50.0, 550)
    assert report.eta_s == 9.0
    assert report.to_json() == {
        "phase": "downloading",
        "bytes_done": 550,
        "bytes_total": 1_000,
        "rate_bytes_s": 50.0,
        "sources": [],
        "eta_s": 9.0,
        "travelled_bytes": 0,
        "copied_bytes": 0,
    }


def test_what_was_there_before_is_not_speed() -> None:
    meter = Meter("checking")
    meter.begin("downloading", 1_000, 900)
    assert meter.read(0.0) == Progress("downloading", 900, 1_000)
    meter.done = 910
    assert meter.read(1.0).rate_bytes_s == 10.0


async def test_errors_come_out_as_they_are() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise UserError("no")

    reports: list[Progress] = []
    with pytest.raises(UserError):
        await with_reports(Meter("looking"), reports.append, fail)
    with pytest.raises(UserError):
        await with_reports(Meter("looking"), None, fail)
    assert reports[0] == Progress("looking")


async def test_reports_come_while_the_job_runs(autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> str:
        await trio.sleep(1.1)
        return "done"

    reports: list[Progress] = []
    assert await with_reports(Meter("looking"), reports.append, work) == "done"
    assert len(reports) >= 5
