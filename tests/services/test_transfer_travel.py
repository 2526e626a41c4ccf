"""What travelled for a transfer adds up over its tries and over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from atmo.errors import UserError
from atmo.services.downloads import Unobtainable
from atmo.services.progress import Progress, Report
from atmo.services.transfer import Sum, Wanted
from atmo.services.transfers import Transfers
from atmo.storage.database import Database
from atmo.storage.registry import LocalModel
from atmo.storage.transfers import TransferTable
from tests.services.test_transfers import MODEL, Mesh

WANTED = Wanted("m", "1.0", bytes(32), 1_000)


def test_a_count_that_begins_anew_is_added() -> None:
    added = Sum()
    for count, total in ((0, 0), (5, 5), (5, 5), (9, 9), (0, 9), (4, 13), (3, 16)):
        added.take(count)
        assert added.total == total


async def test_what_travelled_in_all_tries_is_told_and_kept(tmp_path: Path) -> None:
    mesh, table = Mesh(), TransferTable(Database(tmp_path / "home" / "atmosphere.db"))

    async def breaks_off(wanted: Wanted, report: Report) -> LocalModel:
        await trio.lowlevel.checkpoint()
        report(Progress("downloading", 400, 1_000, travelled_bytes=100, copied_bytes=200))
        raise Unobtainable("All are gone.")

    async def goes_on(wanted: Wanted, report: Report) -> LocalModel:
        await trio.lowlevel.checkpoint()
        report(Progress("downloading", 400, 1_000))
        report(Progress("downloading", 1_000, 1_000, travelled_bytes=50))
        return MODEL

    mesh.do = breaks_off
    with pytest.raises(UserError, match="All are gone"):
        await Transfers(table, mesh).pull(WANTED)
    (row,) = table.rows()
    assert (row.travelled_bytes, row.copied_bytes) == (100, 200)
    mesh.do, reports = goes_on, list[Progress]()
    again = Transfers(table, mesh)
    await again.pull(WANTED, reports.append, purpose="update")
    assert (reports[-1].travelled_bytes, reports[-1].copied_bytes) == (150, 200)
    (shown,) = await again.rows(over=True)
    assert (shown.state, shown.travelled_bytes, shown.copied_bytes) == ("done", 150, 200)
    assert mesh.purposes == ["pull", "pull"], "what a person wished for stays a person's wish"
