"""Transfers as people meet them: listed, paused, resumed, cancelled, patient, queued, and over restarts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import trio

from atmo.errors import StoppedError, UserError
from atmo.services import transfers as transfers_module
from atmo.services.downloads import Unobtainable
from atmo.services.progress import Progress, Report
from atmo.services.transfer import Wanted
from atmo.services.transfers import Transfers
from atmo.storage.database import Database
from atmo.storage.registry import LocalModel
from atmo.storage.transfers import Purpose, TransferTable
from atmo.transfer.names import parse_spec

IRIS = Wanted("iris", "1.0", bytes(32), 1_000)
ROSE = Wanted("rose", "2.0", bytes(32), 1_000)
MODEL = cast(LocalModel, object())


class Mesh:
    """Where models come from; what a try does is said by each test."""

    def __init__(self) -> None:
        self.tries: list[str] = []
        self.purposes: list[Purpose] = []
        self.discarded: list[str] = []
        self.held = True
        self.go_on = trio.Event()
        self.do: Callable[[Wanted, Report], Awaitable[LocalModel]] = self.wait

    async def attempt(self, wanted: Wanted, report: Report, purpose: Purpose) -> LocalModel:
        self.tries.append(wanted.name)
        self.purposes.append(purpose)
        return await self.do(wanted, report)

    async def wait(self, wanted: Wanted, report: Report) -> LocalModel:
        report(Progress("downloading", 400, 1_000, 50.0, ("attic",), 12.0))
        await self.go_on.wait()
        return MODEL

    def is_held(self, wanted: Wanted) -> bool:
        return self.held

    def discard(self, wanted: Wanted) -> None:
        self.discarded.append(str(wanted))


@pytest.fixture
def table(tmp_path: Path) -> TransferTable:
    return TransferTable(Database(tmp_path / "home" / "atmosphere.db"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers_module, "AGAIN_FIRST_S", 0.001)
    monkeypatch.setattr(transfers_module, "LOOK_S", 0.001)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(10):
        while not await true():
            await trio.sleep(0.002)


async def in_state(transfers: Transfers, state: str, name: str = "iris") -> None:
    async def there() -> bool:
        return any(row.name == name and row.state == state for row in await transfers.rows(over=True))

    await until(there)


async def test_a_pull_is_listed_with_how_far_it_is(table: TransferTable, nursery: trio.Nursery) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh, wall=lambda: 5.0)
    reports: list[Progress] = []
    nursery.start_soon(transfers.pull, IRIS, reports.append)
    await in_state(transfers, "running")
    await until(lambda: _true(bool(reports)))
    (row,) = await transfers.rows()
    assert (row.id, row.name, row.version, row.purpose, row.created_at) == (1, "iris", "1.0", "pull", 5.0)
    assert (row.bytes_done, row.bytes_total, row.percent, row.phase) == (400, 1_000, 40.0, "downloading")
    assert (row.rate_bytes_s, row.sources, row.eta_s) == (50.0, ("attic",), 12.0)
    assert row.to_json()["sources"] == ["attic"]
    mesh.go_on.set()
    await in_state(transfers, "done")
    assert await transfers.rows() == []
    (done,) = await transfers.rows(over=True)
    assert (done.percent, done.phase) == (100.0, "")
    (kept,) = await transfers.history()
    assert kept.took_s > 0


async def _true(value: bool) -> bool:
    await trio.lowlevel.checkpoint()
    return value


async def test_two_pulls_of_one_version_are_one_transfer(table: TransferTable, nursery: trio.Nursery) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh)
    left = trio.CancelScope()

    async def leave() -> None:
        with left:
            await transfers.pull(IRIS)

    nursery.start_soon(leave)
    await in_state(transfers, "running")
    nursery.start_soon(transfers.pull, Wanted("iris", "1.0.0", bytes(32), 1_000))
    await until(lambda: _true(len(mesh.tries) == 2))
    left.cancel()
    await trio.sleep(0.01)
    assert [row.state for row in await transfers.rows()] == ["running"]
    mesh.go_on.set()
    await in_state(transfers, "done")
    assert len(await transfers.rows(over=True)) == 1


async def test_what_is_paused_ends_with_a_clear_message_and_can_go_on(
    table: TransferTable, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh)
    errors: list[UserError] = []

    async def pull() -> None:
        try:
            await transfers.pull(IRIS)
        except StoppedError as error:
            errors.append(error)

    nursery.start_soon(pull)
    nursery.start_soon(pull)
    await until(lambda: _true(len(mesh.tries) == 2))
    (row,) = await transfers.pause("1")
    assert (row.state, row.bytes_done) == ("paused", 400)
    assert [error.message for error in errors] == ["The transfer of iris 1.0 was paused by another command."] * 2
    assert errors[0].hint == "What arrived is kept: `atmo model resume 1` goes on."
    assert mesh.discarded == []
    assert [row.state for row in await transfers.pause("iris")] == ["paused"]
    mesh.go_on.set()
    assert await transfers.pull(IRIS) is MODEL  # whoever pulls it wants it to go on
    assert [row.id for row in await transfers.rows(over=True)] == [1]


@pytest.mark.parametrize("keep", [False, True])
async def test_what_is_cancelled_is_deleted_unless_it_is_kept(
    table: TransferTable, nursery: trio.Nursery, keep: bool
) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh)
    stopped = trio.Event()

    async def pull() -> None:
        with pytest.raises(StoppedError, match="was cancelled by another command"):
            await transfers.pull(IRIS)
        stopped.set()

    nursery.start_soon(pull)
    await in_state(transfers, "running")
    (row,) = await transfers.cancel("iris@>=1", keep=keep)
    await stopped.wait()
    assert row.state == "cancelled"
    assert mesh.discarded == ([] if keep else ["iris 1.0"])
    with pytest.raises(UserError, match="No transfer 1 is under way"):
        await transfers.cancel("1")
    with pytest.raises(UserError, match="No transfer rose is under way"):
        await transfers.resume("rose")
    mesh.go_on.set()
    await transfers.pull(IRIS)
    assert [row.id for row in await transfers.rows(over=True)] == [1, 2]


async def test_ctrl_c_pauses_and_a_failure_is_told(table: TransferTable) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh)
    with trio.move_on_after(0.05):
        await transfers.pull(IRIS)
    (row,) = await transfers.rows()
    assert (row.state, row.reason, row.bytes_done) == ("paused", "Its pull was interrupted.", 400)

    async def fail(wanted: Wanted, report: Report) -> LocalModel:
        await trio.lowlevel.checkpoint()
        raise Unobtainable("iris 1.0: no holder is left.", "What has arrived is kept.")

    mesh.do = fail
    with pytest.raises(Unobtainable, match="no holder is left"):
        await transfers.pull(IRIS)
    (row,) = await transfers.rows()
    assert (row.state, row.reason) == ("failed", "iris 1.0: no holder is left.")
    found = await transfers.find(parse_spec("iris@>=1"))
    assert found is not None
    assert found.id == row.id
    assert await transfers.find(parse_spec("iris@>2")) is None
    assert await transfers.find(parse_spec("rose")) is None


async def test_a_patient_pull_waits_until_a_holder_is_back(table: TransferTable, nursery: trio.Nursery) -> None:
    mesh = Mesh()
    mesh.held = False
    transfers = Transfers(table, mesh)
    here = trio.Event()
    reports: list[Progress] = []

    async def come_back(wanted: Wanted, report: Report) -> LocalModel:
        await trio.lowlevel.checkpoint()
        if len(mesh.tries) < 3:
            report(Progress("downloading", 100 * len(mesh.tries), 1_000))
            raise Unobtainable("no holder is left")
        return MODEL

    async def pull() -> None:
        assert await transfers.pull(IRIS, reports.append, patient=True) is MODEL
        here.set()

    mesh.do = come_back
    nursery.start_soon(pull)
    await in_state(transfers, "waiting")
    (row,) = await transfers.rows()
    assert (row.reason, row.bytes_done) == ("no holder is left", 100)
    mesh.held = True
    with trio.fail_after(10):
        await here.wait()
    assert len(mesh.tries) == 3
    assert "waiting for holders" in {report.phase for report in reports}


async def test_patience_ends(table: TransferTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers_module, "PATIENCE_S", -1.0)
    mesh = Mesh()

    async def fail(wanted: Wanted, report: Report) -> LocalModel:
        await trio.lowlevel.checkpoint()
        raise Unobtainable("no holder is left")

    mesh.do = fail
    with trio.fail_after(10), pytest.raises(Unobtainable):
        await Transfers(table, mesh).pull(IRIS, patient=True)
    assert len(mesh.tries) == 1


async def test_others_queue_and_people_come_first(table: TransferTable, nursery: trio.Nursery) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh, at_once=1)
    gates = {name: trio.Event() for name in ("a", "b", "c")}

    async def one(wanted: Wanted, report: Report) -> LocalModel:
        await gates[wanted.name].wait()
        return MODEL

    mesh.do = one
    nursery.start_soon(transfers.pull, Wanted("a", "1", bytes(32), 10))
    await in_state(transfers, "running", "a")
    prefetch = Wanted("b", "1", bytes(32), 10)

    async def look_ahead() -> None:
        with pytest.raises(StoppedError):
            await transfers.pull(prefetch, patient=True, purpose="prefetch")

    nursery.start_soon(look_ahead)
    await in_state(transfers, "queued", "b")
    nursery.start_soon(transfers.pull, Wanted("c", "1", bytes(32), 10))
    await in_state(transfers, "queued", "c")
    await until(lambda: _true(transfers._gate.waiting == 2))
    await transfers.pause("b")  # one that queues can be paused, too
    nursery.start_soon(lambda: transfers.later(prefetch, "prefetch"))
    gates["a"].set()
    await in_state(transfers, "running", "c")
    gates["c"].set()
    await in_state(transfers, "done", "c")
    assert mesh.tries == ["a", "c"]


async def test_a_node_that_starts_goes_on_with_what_was_under_way(table: TransferTable) -> None:
    mesh, stop = Mesh(), trio.Event()
    async with trio.open_nursery() as nursery:
        before = Transfers(table, mesh)
        nursery.start_soon(before.run, stop)
        nursery.start_soon(before.pull, IRIS)
        await in_state(before, "running")
        assert (await before.later(ROSE)).state == "queued"
        await in_state(before, "running", "rose")
        assert (await before.later(ROSE)).state == "running"
        await before.pause("rose")
        stop.set()
        nursery.cancel_scope.cancel()
    assert [(row.name, row.state) for row in table.rows()] == [("iris", "running"), ("rose", "paused")]
    mesh.go_on.set()
    async with trio.open_nursery() as nursery:
        after = Transfers(table, mesh)
        nursery.start_soon(after.run, trio.Event())
        await in_state(after, "done")
        assert [row.state for row in await after.rows()] == ["paused"]
        await after.resume("rose")
        await in_state(after, "done", "rose")
        nursery.cancel_scope.cancel()


async def test_the_background_survives_failures_of_this_machine(table: TransferTable) -> None:
    mesh = Mesh()

    async def full(wanted: Wanted, report: Report) -> LocalModel:
        await trio.lowlevel.checkpoint()
        raise UserError("The disk is full.")

    mesh.do = full
    transfers = Transfers(table, mesh)
    assert (await transfers.later(IRIS)).state == "queued"  # nothing runs yet
    assert mesh.tries == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfers.run, trio.Event())
        await in_state(transfers, "failed")
        (row,) = await transfers.rows()
        assert row.reason == "The disk is full."
        mesh.do = mesh.wait
        await transfers.resume("iris")
        await in_state(transfers, "running")
        assert [row.state for row in await transfers.resume("1")] == ["running"]
        await transfers.cancel("1")
        nursery.cancel_scope.cancel()


async def test_what_a_person_wants_too_is_no_prefetch_any_more(table: TransferTable, nursery: trio.Nursery) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh)
    nursery.start_soon(lambda: transfers.pull(IRIS, patient=True, purpose="prefetch"))
    await in_state(transfers, "running")
    nursery.start_soon(transfers.pull, IRIS)
    await until(lambda: _true(len(mesh.tries) == 2))
    (row,) = await transfers.rows()
    assert (row.purpose, row.state) == ("pull", "running")
    mesh.go_on.set()
    await in_state(transfers, "done")


async def test_a_removed_model_ends_its_transfers(table: TransferTable, nursery: trio.Nursery) -> None:
    mesh = Mesh()
    transfers = Transfers(table, mesh)
    await transfers.later(IRIS)
    nursery.start_soon(transfers.pull, ROSE)
    await in_state(transfers, "running", "rose")
    await transfers.dropped(parse_spec("iris"))
    await transfers.dropped(parse_spec("rose"))
    assert [(row.name, row.state) for row in await transfers.rows(over=True)] == [
        ("iris", "cancelled"),
        ("rose", "running"),
    ]
    mesh.go_on.set()
    await in_state(transfers, "done", "rose")


async def test_how_far_a_transfer_is_is_noted_now_and_then(
    table: TransferTable, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers_module, "NOTE_S", 0.001)
    mesh = Mesh()
    nursery.start_soon(Transfers(table, mesh).pull, IRIS)

    async def noted() -> bool:
        await trio.lowlevel.checkpoint()
        return any(row.bytes_done == 400 and row.took_s > 0 for row in table.rows())

    await until(noted)
    mesh.go_on.set()


def test_a_table_that_is_full_forgets_what_is_over_first(table: TransferTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.storage.transfers.KEPT_MOST", 3)
    for number in range(6):
        row = table.open(f"m{number}", "1", bytes(32), "pull", 1, "queued", 0.0)
        table.note(row.id, "paused" if number == 0 else "done", "", 1, 0.0, 0.0)
    assert [row.name for row in table.rows()] == ["m0", "m3", "m4", "m5"]


async def test_a_transfer_goes_on_where_its_progress_cannot_be_noted(
    table: TransferTable, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers_module, "NOTE_S", 0.001)
    mesh, kept, tries = Mesh(), table.note, list[object]()
    transfers = Transfers(table, mesh)
    nursery.start_soon(transfers.pull, IRIS)
    await in_state(transfers, "running")

    def full(*said: object) -> None:
        tries.append(said)
        raise UserError("The disk is full.")

    monkeypatch.setattr(table, "note", full)
    await until(lambda: _true(len(tries) > 1))
    monkeypatch.setattr(table, "note", kept)
    mesh.go_on.set()
    await in_state(transfers, "done")
