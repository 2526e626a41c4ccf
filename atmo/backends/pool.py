"""All backends of this machine behind one door: what can run here now, and running it within its limits."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import trio

from atmo.backends.base import Backend, Call, Head, Object, Part
from atmo.backends.closing import close_parts
from atmo.backends.exposure import Hints
from atmo.errors import RequestError
from atmo.identity import NodeId
from atmo.router.capability import Capability, tellable

log = logging.getLogger(__name__)

MAX_IGNORED = 32
"""Fields that an answer's head names as not honoured."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Limits of the pool. Values without a source are choices.

    Attributes:
        first_discovery_s: How long `run` waits for all backends together before it reports ready; the late ones
            are announced when they answer.
        discover_s: After this a discovery counts as failed, and its backend as away.
        max_waiting: Requests that may wait for one capability; the next one is refused with 429. Half of the places
            are kept for this machine's own clients.
        max_waiting_per_node: Of one other node, for one capability.
        max_wait_s: How long a request waits for its turn before it is refused with 503.
        close_s: How long a call gets to clean up when it is given up, and the backends together at the end.
        max_capabilities: Capabilities of one backend; what it offers beyond is left out.
        max_running: Requests that run at once, of all capabilities, save those that have others do their work.
        max_queued: Requests that wait for their turn, of all capabilities; half of the places are kept likewise.
    """

    first_discovery_s: float = 2.0
    discover_s: float = 10.0
    max_waiting: int = 32
    max_waiting_per_node: int = 8
    max_wait_s: float = 300.0
    close_s: float = 1.0
    max_capabilities: int = 256
    max_running: float = math.inf
    max_queued: float = math.inf


@dataclass(slots=True)
class _Slot:
    """One backend with what is known of it."""

    backend: Backend
    capabilities: tuple[Capability, ...] = ()
    away: bool = False
    wake: trio.Event = field(default_factory=trio.Event)
    first: trio.Event = field(default_factory=trio.Event)
    checked: trio.Event = field(default_factory=trio.Event)
    checks_begun: int = 0
    checks_done: int = 0


@dataclass(frozen=True, slots=True)
class BackendState:
    """How a backend is, as far as its last check tells.

    Attributes:
        name: Of the backend.
        state: `starting` before its first check has ended, `ready`, or `away` where that failed.
        capabilities: How many it offers.
        models: Of those that have to be loaded, which are.
    """

    name: str
    state: str
    capabilities: int
    models: tuple[Object, ...] = ()


class BackendPool:
    """Discovers what the backends offer, keeps it current, and runs calls within each capability's concurrency.

    Args:
        backends: Who can run something, with distinct names. Where two offer a capability of the same id, the
            earlier one wins.
        config: Limits.
        hints: What the owner says of all capabilities.
    """

    def __init__(
        self, backends: Sequence[Backend], config: PoolConfig = PoolConfig(), hints: Hints | None = None
    ) -> None:
        self.in_flight = 0
        self._hints = hints or Hints()
        self._running = trio.CapacityLimiter(config.max_running)
        self._queue = self._queue_of_others = 0
        self._config = config
        self._slots = {backend.name: _Slot(backend) for backend in backends}
        assert len(self._slots) == len(backends), "two backends share a name"
        self._table: dict[str, tuple[Backend, Capability]] = {}
        self._capabilities: list[Capability] = []
        self._gates: dict[str, trio.CapacityLimiter] = {}
        self._waiting: dict[str, Counter[NodeId]] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._announced: list[Capability] = []
        self._ready = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watches the backends until cancelled. Reports started when all have answered once or time is up."""
        try:
            async with trio.open_nursery() as nursery:
                for slot in self._slots.values():
                    nursery.start_soon(self._watch, slot)
                with trio.move_on_after(self._config.first_discovery_s):
                    for slot in self._slots.values():
                        await slot.first.wait()
                self._ready = True
                self._announce()
                task_status.started()
        finally:
            with trio.move_on_after(self._config.close_s, shield=True):
                await self._close()

    def capabilities(self) -> list[Capability]:
        """Returns what this machine can run now, in the order of the backends."""
        return self._capabilities

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return sum(gate.statistics().tasks_waiting for gate in self._gates.values())

    def states(self) -> list[BackendState]:
        """Returns how each backend is."""
        return [
            BackendState(
                name,
                "away" if slot.away else "ready" if slot.first.is_set() else "starting",
                len(slot.capabilities),
                tuple(slot.backend.loads()),
            )
            for name, slot in self._slots.items()
        ]

    def on_change(self, callback: Callable[[], None]) -> None:
        """Has `callback` run after the set of capabilities changed."""
        self._callbacks.append(callback)

    def refresh(self, name: str) -> None:
        """Has the backend `name` checked again now; unknown names are ignored, for a backend may be switched off."""
        if name in self._slots:
            self._slots[name].wake.set()

    async def refreshed(self, name: str) -> None:
        """Has the backend `name` checked again and returns when a check that began after this call has ended."""
        slot = self._slots.get(name)
        if slot is None:
            return
        target = slot.checks_begun + 1
        slot.wake.set()
        while slot.checks_done < target:
            await slot.checked.wait()

    async def execute(self, call: Call, asker: NodeId | None = None) -> AsyncGenerator[Part, None]:
        """Runs one call when it is its turn. Closing the generator, or cancelling its user, stops the work.

        The turn lasts until the generator ends or is closed, also while its user does something else with a part.

        Args:
            call: What to run.
            asker: The other node that wants it; None for a client of this machine.

        Raises:
            RequestError: 404 when the capability is not offered any more, 429 when too many wait for it, 503
            when its turn did not come in time, or what the backend says.
        """
        found = self._table.get(call.capability.id)
        if found is None:
            raise _gone(call.capability)
        backend, capability = found
        turn = object()
        self.in_flight += 1
        came = trio.current_time()
        try:
            places = await self._enter(backend, capability, turn, asker)
            try:
                call = replace(call, capability=capability)
                await backend.prepare(call)
                call.begun(Head(trio.current_time() - came, backend.ignored(call)[:MAX_IGNORED]))
                parts = backend.execute(call)
                try:
                    async for part in parts:
                        yield part  # noqa: ASYNC119 - whoever executes closes the generator
                finally:
                    await close_parts(parts, self._config.close_s)  # noqa: ASYNC102 - it shields itself
            except RequestError as error:
                if error.status == 404 or error.status >= 502:
                    self.refresh(backend.name)
                raise
            finally:
                places.close()
        finally:
            self.in_flight -= 1

    async def _enter(self, backend: Backend, capability: Capability, turn: object, asker: NodeId | None) -> ExitStack:
        """Waits for a place of the capability and one of the machine, in that order; returns what lets go of both."""
        gates = [self._gate(capability)] if backend.delegates else [self._gate(capability), self._running]
        deadline = trio.current_time() + self._config.max_wait_s
        with ExitStack() as places:
            for gate in gates:
                await self._take(gate, capability, turn, asker, deadline)
                places.callback(gate.release_on_behalf_of, turn)
            return places.pop_all()

    def _gate(self, capability: Capability) -> trio.CapacityLimiter:
        limit = max(1, capability.concurrency)
        gate = self._gates.get(capability.id)
        if gate is None:
            gate = self._gates[capability.id] = trio.CapacityLimiter(limit)
        gate.total_tokens = limit
        return gate

    async def _take(
        self, gate: trio.CapacityLimiter, capability: Capability, turn: object, asker: NodeId | None, deadline: float
    ) -> None:
        try:
            gate.acquire_on_behalf_of_nowait(turn)
        except trio.WouldBlock:
            self._check_queue(capability, gate, asker)
        else:
            return
        with self._queued(capability, asker), trio.move_on_at(deadline):
            await gate.acquire_on_behalf_of(turn)
            return
        message = f"{capability.model} was busy for {self._config.max_wait_s:.0f} s. Try again later."
        raise RequestError(503, message, kind="server_error", code="busy")

    def _check_queue(self, capability: Capability, gate: trio.CapacityLimiter, asker: NodeId | None) -> None:
        waiting = gate.statistics().tasks_waiting
        full = waiting >= self._config.max_waiting or self._queue >= self._config.max_queued
        if asker is not None:
            full = full or self._queue_of_others >= self._config.max_queued / 2
            others = self._waiting.get(capability.id, Counter())
            full = full or others.total() >= self._config.max_waiting // 2
            full = full or others[asker] >= self._config.max_waiting_per_node
        if full:
            message = (
                f"The queue of {capability.model} on this machine is full: {capability.concurrency} running,"
                f" {waiting} waiting. Try again in a moment, or let another model answer with model 'auto'."
            )
            raise RequestError(429, message, kind="rate_limit_error", code="queue_full")

    @contextmanager
    def _queued(self, capability: Capability, asker: NodeId | None) -> Iterator[None]:
        """Counts a request that waits for its turn, and whose it is where it is another node's."""
        others = self._waiting.setdefault(capability.id, Counter()) if asker is not None else Counter[NodeId]()
        self._queue += 1
        if asker is not None:
            self._queue_of_others += 1
            others[asker] += 1
        try:
            yield
        finally:
            self._queue -= 1
            if asker is not None:
                self._queue_of_others -= 1
                others[asker] -= 1
                if not others[asker]:
                    del others[asker]
                if not others:
                    self._waiting.pop(capability.id, None)

    async def _watch(self, slot: _Slot) -> None:
        while True:
            slot.wake = trio.Event()
            slot.checks_begun += 1
            await self._check(slot)
            slot.checks_done = slot.checks_begun
            slot.first.set()
            slot.checked.set()
            slot.checked = trio.Event()
            with trio.move_on_after(slot.backend.recheck_s):
                await slot.wake.wait()

    async def _check(self, slot: _Slot) -> None:
        name = slot.backend.name
        try:
            with trio.fail_after(self._config.discover_s):
                found = tuple(await slot.backend.discover())
        except Exception:
            # Whatever a runner does to us, the others go on; the log has the reason once per absence.
            if not slot.away:
                log.exception("backend %s is treated as away", name)
            slot.away = True
            found = ()
        else:
            if slot.away:
                log.info("backend %s is back", name)
            slot.away = False
        if len(found) > self._config.max_capabilities:
            log.warning("backend %s offers %d capabilities, the first %d count", name, len(found), self._most)
            found = found[: self._most]
        told = tuple(one for one in map(tellable, found) if one is not None)
        unfit, found = len(found) - len(told), tuple(map(self._hints.on, told))
        if found != slot.capabilities:
            if unfit:
                log.warning("backend %s offers %d capabilities with names that cannot be printed", name, unfit)
            slot.capabilities = found
            self._rebuild()

    @property
    def _most(self) -> int:
        return self._config.max_capabilities

    def _rebuild(self) -> None:
        table: dict[str, tuple[Backend, Capability]] = {}
        for slot in self._slots.values():
            for capability in slot.capabilities:
                if capability.id in table:
                    log.warning("%s is offered twice, the one of %s is left out", capability.id, slot.backend.name)
                else:
                    table[capability.id] = (slot.backend, capability)
        self._table = table
        self._capabilities = [capability for _, capability in table.values()]
        self._gates = {key: gate for key, gate in self._gates.items() if key in table}
        if self._ready:
            self._announce()

    def _announce(self) -> None:
        now = self.capabilities()
        if now != self._announced:
            self._announced = now
            for callback in list(self._callbacks):
                callback()

    async def _close(self) -> None:
        for slot in self._slots.values():
            await slot.backend.aclose()


def _gone(capability: Capability) -> RequestError:
    message = f"{capability.model} is not offered by this machine any more. See /v1/models for what is there now."
    return RequestError(404, message, code="model_not_found", param="model")


FOREVER = math.inf
"""`recheck_s` of a backend that changes only when it is told to look again."""
