"""The GGUF models that are loaded: loaded when they are first asked, ended when nobody asks or memory is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from atmo.backends import memory
from atmo.backends.gguf_process import GgufDied, GgufProcess, GgufRefused, Order
from atmo.backends.onnx_session import FileKey
from atmo.errors import RequestError

log = logging.getLogger(__name__)

GIB = 1024**3
_BACK_OFF_S, _BACK_OFF_MOST_S = 1.0, 60.0
_DEATHS_MOST = 3
"""A file whose loads end the process so often in a row is not tried again. Source: guess."""


@dataclass(frozen=True, slots=True)
class RunnersConfig:
    """Bounds. Values without a source are choices.

    Attributes:
        share: Of the machine's memory that all loaded models together may take.
        spare_bytes: Memory that stays free whatever is loaded.
        idle_s: A model that nobody asked for so long is ended.
        look_s: How often is looked for such models.
        load_s: How long a load may take beside reading the file.
        read_bytes_s: How fast a file is read at least: a hard disk, with others at work.
        load_most_s: How long a load may take in all. Source: the pool's `max_wait_s`.
    """

    share: float = 0.8
    spare_bytes: int = GIB // 2
    idle_s: float = 600.0
    look_s: float = 30.0
    load_s: float = 30.0
    read_bytes_s: int = 40 * 1000**2
    load_most_s: float = 300.0


@dataclass(slots=True)
class _Runner:
    process: GgufProcess
    users: int = 0
    used_at: float = 0.0


@dataclass(slots=True)
class _Trouble:
    """Loads and runs of one file that ended badly, one after the other."""

    deaths: int = 0
    not_before: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the machine's memory is asked for; bytes."""

    total: Callable[[], int] = memory.total_bytes
    free: Callable[[], int] = memory.free_bytes


@dataclass(slots=True)
class RunnersStats:
    """What happened since the start.

    Attributes:
        loads: Processes that were started.
        ended_idle, ended_for_room: Processes that were ended because nobody asked, or others wanted the memory.
        died: Processes that ended by themselves.
    """

    loads: int = 0
    ended_idle: int = 0
    ended_for_room: int = 0
    died: int = 0


class Runners:
    """Keeps processes.

    Args:
        config: Bounds.
        machine: Its memory.
        clock: Monotonic seconds.
        changed: Called when a model was loaded or ended.

    Attributes:
        stats: What happened since the start.
        load_ms: How long the last load of each model took, until it was ready.
    """

    def __init__(
        self,
        config: RunnersConfig = RunnersConfig(),
        machine: Memory = Memory(),
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.stats = RunnersStats()
        self.load_ms: dict[FileKey, int] = {}
        self._machine = machine
        self._clock = clock
        self._changed = changed
        self._runners: dict[FileKey, _Runner] = {}
        self._trouble: dict[FileKey, _Trouble] = {}
        self._making = trio.Lock()

    @property
    def budget_bytes(self) -> int:
        """What all loaded models together may take."""
        return int(self._machine.total() * self.config.share)

    def loaded(self) -> dict[FileKey, GgufProcess]:
        """Returns the processes that are ready."""
        return {key: runner.process for key, runner in self._runners.items() if runner.process.is_ready}

    def why_not(self, key: FileKey) -> str:
        """Returns why a file is not loaded any more; empty where it is."""
        trouble = self._trouble.get(key)
        return trouble.why if trouble is not None else ""

    async def prepare(self, key: FileKey, order: Order) -> None:
        """Has a model loaded, as `lease` does."""
        async with self.lease(key, order):
            pass

    @asynccontextmanager
    async def lease(self, key: FileKey, order: Order) -> AsyncGenerator[GgufProcess, None]:
        """Gives the process of a model, which is loaded first where it is not, and is not ended meanwhile.

        Raises:
            RequestError: 503 where it cannot be loaded, or not now.
        """
        runner = await self._runner(key, order)
        runner.users += 1
        try:
            await self._wait(key, runner)
            yield runner.process
        finally:
            runner.users -= 1
            runner.used_at = self._clock()

    async def _runner(self, key: FileKey, order: Order) -> _Runner:
        found = self._runners.get(key)
        if found is not None and not found.process.ended:
            return found
        async with self._making:
            await self._bury()
            if (found := self._runners.get(key)) is not None:
                return found
            self._check_trouble(key, order)
            await self._make_room(order)
            try:
                process = await GgufProcess.start(order)
            except OSError as error:
                text = f"{order.label} cannot be started: {error.strerror}."
                raise RequestError(503, text, kind="server_error", code="model_unusable", retry_s=10) from error
            self.stats.loads += 1
            runner = self._runners[key] = _Runner(process, used_at=self._clock())
            return runner

    def _check_trouble(self, key: FileKey, order: Order) -> None:
        trouble = self._trouble.get(key)
        if trouble is None:
            return
        wait = trouble.not_before - self._clock()
        if trouble.why:
            raise _unusable(order, trouble.why)
        if wait > 0:
            text = f"{order.label} ended by itself a moment ago and is started again soon."
            raise RequestError(503, text, kind="server_error", code="model_restarting", retry_s=wait)

    async def _make_room(self, order: Order) -> None:
        """Ends models that nobody uses, the longest unused first, until another one fits.

        Raises:
            RequestError: It does not, whatever is ended.
        """
        need, budget = order.plan.need_bytes, self.budget_bytes
        while True:
            used = sum(runner.process.order.plan.need_bytes for runner in self._runners.values())
            free = min(budget - used, self._machine.free() - self.config.spare_bytes)
            if need <= free:
                return
            idle = [(runner.used_at, key) for key, runner in self._runners.items() if not runner.users]
            if not idle:
                busy = f", and {len(self._runners)} that are loaded are in use" if self._runners else ""
                text = (
                    f"{order.label} needs {need / GIB:.1f} GiB of memory and {max(0, free) / GIB:.1f} GiB are free on"
                    f" this machine{busy}. Try again later, or ask a smaller model."
                )
                raise RequestError(503, text, kind="server_error", code="out_of_memory", retry_s=30)
            await self._end(min(idle)[1])
            self.stats.ended_for_room += 1

    async def _wait(self, key: FileKey, runner: _Runner) -> None:
        if runner.process.is_ready:
            return
        order = runner.process.order
        within = min(self.config.load_most_s, self.config.load_s + order.facts.size / self.config.read_bytes_s)
        began = self._clock()
        failure: GgufRefused | GgufDied | None = None
        try:
            await runner.process.ready(within)
        except (GgufRefused, GgufDied) as error:
            failure = error
        if failure is not None:
            raise await self._failed(key, runner, failure) from failure
        self.load_ms[key] = int((self._clock() - began) * 1_000)
        self._trouble.pop(key, None)
        self._changed()

    async def _failed(self, key: FileKey, runner: _Runner, failure: GgufRefused | GgufDied) -> RequestError:
        """Notes why a load failed; of those who waited for it the first does."""
        order, first = runner.process.order, self._runners.get(key) is runner
        if isinstance(failure, GgufRefused):
            if first:
                self._trouble[key] = _Trouble(why=str(failure))
                await self._end(key)
            return _unusable(order, str(failure))
        if first:
            await self._died(key, f"loading it fails every time: its process {failure}")
        text = f"{order.label} could not be loaded: its process {failure}."
        return RequestError(503, text, kind="server_error", code="model_unusable", retry_s=_BACK_OFF_S)

    async def _died(self, key: FileKey, why: str) -> None:
        """Notes that a process ended by itself; after so many in a row its file is not tried again."""
        self.stats.died += 1
        trouble = self._trouble.setdefault(key, _Trouble())
        trouble.deaths += 1
        back_off = min(_BACK_OFF_MOST_S, _BACK_OFF_S * 2.0 ** (trouble.deaths - 1))
        trouble.not_before = self._clock() + back_off
        if trouble.deaths >= _DEATHS_MOST:
            trouble.why = why
        await self._end(key)

    async def _bury(self) -> None:
        """Forgets processes that ended by themselves after they were ready."""
        for key, runner in list(self._runners.items()):
            if runner.process.ended and runner.process.is_ready:
                log.warning("the process of %s %s", runner.process.order.label, runner.process.how_it_ended())
                self.stats.died += 1
                trouble = self._trouble.setdefault(key, _Trouble())
                trouble.not_before = self._clock() + _BACK_OFF_S
                await self._end(key)

    async def end(self, process: GgufProcess) -> None:
        """Ends a process that does not answer; the next request starts another."""
        for key, runner in list(self._runners.items()):
            if runner.process is process:
                log.warning("the process of %s is ended: it does not answer", process.order.label)
                await self._end(key)

    async def _end(self, key: FileKey) -> None:
        runner = self._runners.pop(key, None)
        if runner is not None:
            await runner.process.aclose()
            self._changed()

    async def tidy(self, here: set[FileKey]) -> None:
        """Ends models that nobody asked for a while, and those whose files are not in the store any more."""
        async with self._making:
            await self._bury()
            for key, runner in list(self._runners.items()):
                idle = self._clock() - runner.used_at >= self.config.idle_s
                if not runner.users and (idle or key not in here):
                    self.stats.ended_idle += 1
                    await self._end(key)
        for key in set(self._trouble) - here:
            self._trouble.pop(key, None)
        for key in set(self.load_ms) - here:
            self.load_ms.pop(key, None)

    async def aclose(self) -> None:
        """Ends all processes."""
        async with trio.open_nursery() as nursery:
            for key in list(self._runners):
                nursery.start_soon(self._end, key)


def _unusable(order: Order, why: str) -> RequestError:
    text = (
        f"{order.label} cannot run on this machine: {why.rstrip('.')}. Import a corrected version under the same name."
    )
    return RequestError(503, text, kind="server_error", code="model_unusable")
