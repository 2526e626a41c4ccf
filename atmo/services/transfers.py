"""Transfers: every download as a thing of its own, with an id, that is listed, paused, resumed and cancelled.

A transfer is pursued by whoever waits for it: a pull at a terminal, which ends with the first failure, or the node
itself, which is patient: it waits for holders that are gone, for days. Where nobody pursues it any more its state stays
in the table, so that a node that starts anew goes on with what it was at, and leaves alone what a person has paused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack

import trio

from atmo.errors import StoppedError, UserError
from atmo.services.catalog import parse
from atmo.services.downloads import Unobtainable
from atmo.services.gate import Gate
from atmo.services.progress import Meter, Progress, Report, beside, with_reports
from atmo.services.transfer import Fetching, Live, TransferRow, Wanted, shown
from atmo.storage.registry import LocalModel
from atmo.storage.transfers import GOING, OVER, Came, Purpose, State, StoredTransfer, TransferTable
from atmo.transfer.names import Spec

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Transfers at once; others queue. Source: guess; one of them fills the link, and the engine holds 16."""

PATIENCE_S = 7 * 86_400.0
"""A patient transfer in which nothing arrives for so long has failed. Source: guess; a holder that was off over a
holiday may still come back."""

LOOK_S = 2.0
"""How often a waiting transfer looks whether a holder is back. Source: guess; it costs a look at the catalog."""

AGAIN_FIRST_S, AGAIN_MOST_S = 5.0, 900.0
"""Between two tries that failed, doubling; after the longer time it tries even where no holder is known, as in a large
mesh the index may know one. Source: guess."""

NOTE_S = 10.0
"""How often the table learns how far a running transfer is. Source: guess; it is only shown, the journal decides."""

INTERRUPTED = "Its pull was interrupted."
"""Why a transfer is paused that nobody pursues any more, and that no command has paused."""

_RANKS: dict[Purpose, int] = {"pull": 0, "update": 1, "prefetch": 2}


class Transfers:
    """All transfers of this node.

    Args:
        table: Where they are kept.
        fetching: Downloads one version.
        at_once: How many run at a time.
        wall: Unix seconds.
    """

    def __init__(
        self, table: TransferTable, fetching: Fetching, at_once: int = AT_ONCE, wall: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._fetching = fetching
        self._wall = wall
        self._gate = Gate(at_once)
        self._live: dict[tuple[str, str], Live] = {}
        self._nursery: trio.Nursery | None = None
        self._stopping: Callable[[], bool] = lambda: False

    def limit(self, at_once: int) -> None:
        """Sets how many run at a time, before any does."""
        self._gate = Gate(at_once)

    @property
    def pursued(self) -> int:
        """How many transfers somebody pursues now."""
        return len(self._live)

    # --- pursuing -------------------------------------------------------------------------------------------------

    async def run(self, stop: trio.Event) -> None:
        """Goes on with what was under way when the node last ended, and pursues what is left to the node.

        Args:
            stop: Set before a node that ends cancels its tasks: what is under way then goes on at its next start.
        """
        self._stopping = stop.is_set
        rows = await trio.to_thread.run_sync(self._table.rows)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for row in rows:
                    if row.state in GOING:
                        nursery.start_soon(self._keep, _wanted(row), row.purpose)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def later(self, wanted: Wanted, purpose: Purpose = "pull") -> TransferRow:
        """Leaves a version to the node, which gets it in the background; where none runs, once one does."""
        live = self._live.get(wanted.key)
        row = await (self._open(wanted, purpose) if live is None or live.ending else self._row_of(live, purpose))
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, wanted, purpose)
        return self._shown(row)

    async def _keep(self, wanted: Wanted, purpose: Purpose) -> None:
        try:
            await self.pull(wanted, patient=True, purpose=purpose)
        except StoppedError as error:
            log.info("%s", error)
        except UserError as error:
            log.warning("a transfer has failed: %s", error)

    async def pull(
        self, wanted: Wanted, report: Report | None = None, *, patient: bool = False, purpose: Purpose = "pull"
    ) -> LocalModel:
        """Pursues a version until it is here; joins the transfer of it that is under way, or takes up one that was
        left.

        Args:
            wanted: Which.
            report: Told how far it is.
            patient: Wait for holders that are gone; otherwise the first failure ends it.
            purpose: Who wishes for it.

        Raises:
            Unobtainable: It cannot be had; what arrived is kept.
            StoppedError: Another command has paused or cancelled it.
            UserError: This machine is in the way, such as a full disk.
        """
        live = await self._join(wanted)
        scope = trio.CancelScope()
        live.scopes.add(scope)
        failure = ""
        try:
            with scope:
                await self._row_of(live, purpose)
                model = await self._pursue(live, report, patient, _RANKS[purpose])
                live.finished = True
                return model
            assert live.stopped is not None
            raise StoppedError(live.stopped[1].message, live.stopped[1].hint)
        except UserError as error:
            failure = error.message
            raise
        finally:
            live.scopes.discard(scope)
            if not live.scopes:
                with trio.CancelScope(shield=True):
                    await self._close(live, failure)

    async def _join(self, wanted: Wanted) -> Live:
        while True:
            live = self._live.get(wanted.key)
            if live is None:
                live = self._live[wanted.key] = Live(wanted)
                return live
            if not live.ending:
                return live
            await live.closed.wait()

    async def _close(self, live: Live, failure: str) -> None:
        """Notes how a transfer stands that nobody pursues any more."""
        live.closing = True
        try:
            if live.row is not None:
                await self._note(live, *self._outcome(live, failure))
        finally:
            del self._live[live.wanted.key]
            live.closed.set()

    def _outcome(self, live: Live, failure: str) -> tuple[State, str]:
        if live.finished:
            live.done_bytes = live.wanted.size_bytes
            return "done", ""
        if live.stopped is not None:
            return live.stopped[0], ""
        if failure:
            return "failed", failure
        return (live.state, live.reason) if self._stopping() else ("paused", INTERRUPTED)

    async def _pursue(self, live: Live, report: Report | None, patient: bool, rank: int) -> LocalModel:
        def told(progress: Progress) -> None:
            progress = live.take(progress)
            if report is not None:
                report(progress)

        failures = 0
        while True:
            before = live.done_bytes
            try:
                return await self._try_once(live, told, rank)
            except Unobtainable as error:
                if not patient:
                    raise
                problem = error
            failures = 0 if live.done_bytes > before else failures + 1
            await self._wait_for_holders(live, told, problem, min(AGAIN_FIRST_S * 2**failures, AGAIN_MOST_S))

    async def _try_once(self, live: Live, report: Report, rank: int) -> LocalModel:
        """Tries within one of the places; who follows a download that runs needs none."""
        async with AsyncExitStack() as stack:
            if not live.running:
                place, free = self._gate.place(rank), self._gate.has_room
                if not free:
                    await self._set(live, "queued", "")
                await with_reports(Meter("queued"), None if free else report, lambda: stack.enter_async_context(place))
            live.started()
            stack.callback(live.rested)
            await self._set(live, "running", "")
            purpose = live.row.purpose if live.row is not None else "pull"
            return await self._noting(live, lambda: self._fetching.attempt(live.wanted, report, purpose))

    async def _noting(self, live: Live, job: Callable[[], Awaitable[LocalModel]]) -> LocalModel:
        async def note() -> None:
            while True:
                await trio.sleep(NOTE_S)
                try:
                    await self._note(live, live.state, live.reason)
                except UserError as error:  # what arrives does not depend on it
                    log.warning("how far %s %s is is not noted: %s", live.wanted.name, live.wanted.version, error)

        return await beside(note, job)

    async def _wait_for_holders(self, live: Live, report: Report, problem: Unobtainable, pause_s: float) -> None:
        """Waits until another try may do better.

        Raises:
            Unobtainable: Nothing has arrived for `PATIENCE_S`.
        """
        if live.waits_since is None or live.done_bytes > live.waits_bytes:
            live.waits_since, live.waits_bytes = trio.current_time(), live.done_bytes
        if trio.current_time() - live.waits_since > PATIENCE_S:
            raise problem
        await self._set(live, "waiting", problem.message)
        meter = Meter("waiting for holders")
        meter.total, meter.done = live.wanted.size_bytes, live.done_bytes

        async def until_there() -> None:
            await trio.sleep(pause_s)
            with trio.move_on_after(AGAIN_MOST_S - pause_s):
                while not self._fetching.is_held(live.wanted):  # noqa: ASYNC110 - the catalog tells nobody of changes
                    await trio.sleep(LOOK_S)

        await with_reports(meter, report, until_there)

    # --- what people do with them ---------------------------------------------------------------------------------

    async def rows(self, *, over: bool = False) -> list[TransferRow]:
        """Returns the transfers that are not over, or all that are remembered."""
        rows = await trio.to_thread.run_sync(self._table.rows)
        return [self._shown(row) for row in rows if over or row.state not in OVER]

    async def history(self) -> list[StoredTransfer]:
        """Returns what is remembered of all transfers."""
        return await trio.to_thread.run_sync(self._table.rows)

    async def pause(self, which: str) -> list[TransferRow]:
        """Stops transfers until somebody resumes or pulls them; what arrived is kept.

        Args:
            which: The id of one, or `NAME[@RANGE]`.

        Raises:
            UserError: There is none that is not over.
        """

        def ended(row: StoredTransfer) -> StoppedError:
            return StoppedError(
                f"The transfer of {row.name} {row.version} was paused by another command.",
                f"What arrived is kept: `atmo model resume {row.id}` goes on.",
            )

        return await self._stop(await self._chosen(which), "paused", ended)

    async def cancel(self, which: str, *, keep: bool = False) -> list[TransferRow]:
        """Ends transfers for good and deletes what arrived, unless that is to be kept for a later pull.

        Raises:
            UserError: There is none that is not over.
        """

        def ended(row: StoredTransfer) -> StoppedError:
            return StoppedError(f"The transfer of {row.name} {row.version} was cancelled by another command.")

        chosen = await self._chosen(which)
        stopped = await self._stop(chosen, "cancelled", ended)
        if not keep:
            for row in chosen:
                await trio.to_thread.run_sync(self._fetching.discard, _wanted(row))
        return stopped

    async def resume(self, which: str) -> list[TransferRow]:
        """Has transfers go on that were paused or have failed; the node pursues them from now on.

        Raises:
            UserError: There is none that is not over.
        """
        return [
            self._shown(row) if row.key in self._live else await self.later(_wanted(row), row.purpose)
            for row in await self._chosen(which)
        ]

    async def dropped(self, spec: Spec) -> None:
        """Ends the transfers of a model that was removed, with what had arrived of it; those under way go on."""
        for row in _matching(spec, await self._open_rows()):
            if row.key not in self._live:
                await self._write(row.id, "cancelled", "The model was removed.", 0)

    async def find(self, spec: Spec) -> StoredTransfer | None:
        """Returns the newest version that a transfer which is not over wants of what a spec asks for."""
        rows = {row.version: row for row in await self._open_rows() if row.name == spec.name}
        best = spec.best(rows)
        return None if best is None else rows[best]

    async def _stop(
        self, rows: list[StoredTransfer], state: State, ended: Callable[[StoredTransfer], StoppedError]
    ) -> list[TransferRow]:
        for row in rows:
            live = self._live.get(row.key)
            if live is None:
                done = 0 if state == "cancelled" else row.bytes_done
                await self._write(row.id, state, "", done)
                continue
            live.stopped = state, ended(row)
            for scope in live.scopes:
                scope.cancel()
            await live.closed.wait()
        wanted = {row.id for row in rows}
        found = await trio.to_thread.run_sync(self._table.rows)
        return [self._shown(row) for row in found if row.id in wanted]

    async def _chosen(self, which: str) -> list[StoredTransfer]:
        rows = await self._open_rows()
        if which.isascii() and which.isdigit() and len(which) < 19:
            chosen = [row for row in rows if row.id == int(which)]
        else:
            chosen = []
        chosen = chosen or _matching(parse(which), rows)
        if not chosen:
            raise UserError(
                f"No transfer {which} is under way: there is none, or it is over.", "See `atmo model transfers --all`."
            )
        return chosen

    # --- the table ------------------------------------------------------------------------------------------------

    async def _open_rows(self) -> list[StoredTransfer]:
        rows = await trio.to_thread.run_sync(self._table.rows)
        return [row for row in rows if row.state not in OVER]

    async def _open(self, wanted: Wanted, purpose: Purpose) -> StoredTransfer:
        now = self._wall()
        return await trio.to_thread.run_sync(
            lambda: self._table.open(
                wanted.name, wanted.version, wanted.manifest, purpose, wanted.size_bytes, "queued", now
            )
        )

    async def _row_of(self, live: Live, purpose: Purpose) -> StoredTransfer:
        """Returns the row of a transfer; what a person wants, too, is no longer only the node's own wish."""
        async with live.opening:
            if live.row is None:
                live.begin(await self._open(live.wanted, purpose))
            elif purpose == "pull" != live.row.purpose:
                live.row = await self._open(live.wanted, purpose)
                await self._note(live, live.state, live.reason)
            assert live.row is not None
            return live.row

    async def _set(self, live: Live, state: State, reason: str) -> None:
        if (state, reason) != (live.state, live.reason):
            live.state, live.reason = state, reason
            await self._note(live, state, reason)

    async def _note(self, live: Live, state: State, reason: str) -> None:
        assert live.row is not None
        identity, came = live.row.id, (live.travelled.total, live.copied.total)
        await self._write(identity, state, reason, live.done_bytes, live.take_ran_s(), came)

    async def _write(
        self, number: int, state: State, reason: str, done: int, more_s: float = 0.0, came: Came | None = None
    ) -> None:
        await trio.to_thread.run_sync(self._table.note, number, state, reason, done, more_s, self._wall(), came)

    def _shown(self, row: StoredTransfer) -> TransferRow:
        return shown(row, self._live.get(row.key))


def _wanted(row: StoredTransfer) -> Wanted:
    return Wanted(row.name, row.version, row.manifest, row.bytes_total)


def _matching(spec: Spec, rows: Iterable[StoredTransfer]) -> list[StoredTransfer]:
    named = {row.version: row for row in rows if row.name == spec.name}
    return [named[version] for version in spec.matching(named)]
