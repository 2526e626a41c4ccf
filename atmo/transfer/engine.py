"""The transfer engine: keeps every source of every download busy, and survives each of them.

It is told of wants, sources and outcomes, and answers with `FetchChunk` and `CancelFetch`. For each source it keeps
a window of fetches under way, as many as the source sends in about a second. A fetch that is late is taken back and the
source rests for a while; a source that sent wrong bytes is dropped for the transfer. What no source is asked for any
more goes to the next free one, and at the very end to two at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from atmo.clock import Now
from atmo.engine import CancelFetch, Effect, Emit, FetchChunk, Message, Misbehaved, Outbox
from atmo.identity import NodeId
from atmo.transfer.config import TransferConfig
from atmo.transfer.picker import Picker
from atmo.transfer.source import Source


@dataclass(slots=True)
class TransferStats:
    """Counters over all transfers.

    Attributes:
        chunks, bytes: Arrived and verified.
        asked_again: Chunks asked of a second source in the end game.
        cancelled: Fetches taken back, for whatever reason.
        late: Fetches that passed their deadline.
        failed: Fetches that a source did not fulfil.
        wrong: Chunks whose bytes were not what their name says.
        done, lost: Transfers that finished and that failed.
    """

    chunks: int = 0
    bytes: int = 0
    asked_again: int = 0
    cancelled: int = 0
    late: int = 0
    failed: int = 0
    wrong: int = 0
    done: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far a transfer is; `sources` are those that have sent something and are still there."""

    transfer: str
    bytes_done: int
    bytes_total: int
    sources: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class TransferDone:
    """Every chunk has arrived, verified."""

    transfer: str


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """The engine has given up; what arrived stays where it is."""

    transfer: str
    reason: str


class _Transfer:
    """One download."""

    def __init__(self, now: Now, sizes: Sequence[int], picker: Picker) -> None:
        self.sizes = sizes
        self.picker = picker
        self.sources: dict[NodeId, Source] = {}
        self.dropped: set[NodeId] = set()
        self.total = sum(sizes)
        self.done = sum(size for index, size in enumerate(sizes) if not picker.is_missing(index))
        self.moved_at = now.mono  # when something last arrived or a source came
        self.told_at = -math.inf
        self.look_again_at = math.inf  # when an idle source may get what another is slow with

    def progress(self, transfer: str) -> TransferProgress:
        active = tuple(node for node, source in self.sources.items() if source.delivered)
        return TransferProgress(transfer, self.done, self.total, active)


class TransferEngine:
    """All downloads of one node.

    Args:
        random: For the picker's choices among equals.
        config: Sizes and times.
    """

    def __init__(self, random: Random, config: TransferConfig = TransferConfig()) -> None:
        self.stats = TransferStats()
        self._random = random
        self._config = config
        self._transfers: dict[str, _Transfer] = {}
        self.out = Outbox()

    def want(
        self, now: Now, transfer: str, sizes: Sequence[int], have: Collection[int], sources: Iterable[NodeId]
    ) -> None:
        """Starts a download; one that is under way only gets the sources.

        Args:
            now: The clocks.
            transfer: Names it in effects and events.
            sizes: Of all chunks, in bytes.
            have: Indices that are already here and verified.
            sources: Nodes that have every chunk.
        """
        if transfer not in self._transfers:
            if len(self._transfers) >= self._config.transfers_most:
                self._emit_failed(transfer, f"{self._config.transfers_most} other transfers are under way")
                return
            self._transfers[transfer] = _Transfer(now, sizes, Picker(len(sizes), have, self._random))
        for node in sources:
            self._add(now, self._transfers[transfer], node, None)
        self._go_on(now, transfer)

    def source_up(self, now: Now, transfer: str, node: NodeId, chunks: Iterable[int] | None = None) -> None:
        """A node has the model's chunks, all of them or those given; a node that was dropped stays dropped."""
        state = self._transfers.get(transfer)
        if state is not None:
            self._add(now, state, node, chunks)
            self._go_on(now, transfer)

    def source_left(self, now: Now, transfer: str, node: NodeId) -> None:
        """A node does not have the model any more."""
        state = self._transfers.get(transfer)
        if state is not None and node in state.sources:
            self._remove(now, transfer, state, node)
            self._go_on(now, transfer)

    def source_down(self, now: Now, node: NodeId) -> None:
        """The link to a node is gone, for all transfers."""
        for transfer in list(self._transfers):
            self.source_left(now, transfer, node)

    def chunk_done(self, now: Now, transfer: str, source: NodeId, index: int) -> None:
        """A chunk from `source` is verified and stored. Also good for a fetch that was just taken back."""
        state = self._transfers.get(transfer)
        if state is None or not state.picker.is_missing(index):
            return
        self.stats.chunks += 1
        self.stats.bytes += state.sizes[index]
        state.done += state.sizes[index]
        state.moved_at = now.mono
        others = state.picker.arrived(index)
        if source in state.sources:
            state.sources[source].succeeded(now.mono, index, state.sizes[index])
        for other in others:
            if other != source:
                self._take_back(transfer, state.sources[other], other, index)
        self._go_on(now, transfer)

    def chunk_failed(self, now: Now, transfer: str, source: NodeId, index: int, reason: str, fatal: bool) -> None:
        """A fetch failed; `fatal` means that the source sent bytes that are not the chunk."""
        if fatal:
            self.stats.wrong += 1
            self.out.put(Misbehaved(source, reason))
        state = self._transfers.get(transfer)
        if state is None:
            return
        if fatal:
            if len(state.dropped) < self._config.sources_most * 4:
                state.dropped.add(source)
            if source in state.sources:
                state.sources[source].forget(index)
                state.picker.release(source, index)
                self._remove(now, transfer, state, source)
        elif source in state.sources and state.sources[source].forget(index):
            self.stats.failed += 1
            state.picker.release(source, index)
            state.sources[source].failed(now.mono)
        self._go_on(now, transfer)

    def cancel(self, now: Now, transfer: str) -> None:
        """Ends a download without any event; what arrived stays where it is."""
        state = self._transfers.pop(transfer, None)
        if state is not None:
            for node, source in state.sources.items():
                for index in list(source.under_way):
                    self._take_back(transfer, source, node, index)

    def accuse(self, node: NodeId, reason: str) -> None:
        """Counts against a node what the shell found wrong outside of chunks, such as a manifest that lies."""
        self.out.put(Misbehaved(node, reason))

    def receive(self, now: Now, source: NodeId, message: Message) -> None:
        """Transfers have no messages: chunks travel on request streams."""
        self.out.put(Misbehaved(source, f"the transfer engine knows no {type(message).__name__}"))

    def handle_timer(self, now: Now) -> None:
        """Takes back what is late, wakes sources that rested, gives up what has stalled."""
        for transfer, state in list(self._transfers.items()):
            for node, source in state.sources.items():
                for index in source.late(now.mono):
                    self.stats.late += 1
                    self._take_back(transfer, source, node, index)
                    state.picker.release(node, index)
                    source.failed(now.mono)
            if now.mono >= self._give_up_at(state):
                self.cancel(now, transfer)
                self._emit_failed(transfer, self._why_given_up(state))
            else:
                self._go_on(now, transfer)

    def next_timer(self) -> float:
        """Returns when the first deadline, end of a rest or giving up is due."""
        due = math.inf
        for state in self._transfers.values():
            sources = min((source.next_timer() for source in state.sources.values()), default=math.inf)
            due = min(due, self._give_up_at(state), state.look_again_at, sources)
        return due

    def drain(self) -> list[Effect]:
        """Returns and forgets the effects since the last call."""
        return self.out.drain()

    def progress(self, transfer: str) -> TransferProgress | None:
        """Returns how far a transfer is, None when it is not under way."""
        state = self._transfers.get(transfer)
        return None if state is None else state.progress(transfer)

    def _add(self, now: Now, state: _Transfer, node: NodeId, chunks: Iterable[int] | None) -> None:
        if node in state.dropped or (node not in state.sources and len(state.sources) >= self._config.sources_most):
            return
        state.picker.add_source(node, chunks)
        if node not in state.sources:
            state.sources[node] = Source(self._config)
            state.moved_at = now.mono

    def _remove(self, now: Now, transfer: str, state: _Transfer, node: NodeId) -> None:
        source = state.sources.pop(node)
        for index in list(source.under_way):
            self._take_back(transfer, source, node, index)
            state.picker.release(node, index)
        state.picker.remove_source(node)
        if not state.sources:
            state.moved_at = now.mono

    def _take_back(self, transfer: str, source: Source, node: NodeId, index: int) -> None:
        source.forget(index)
        self.stats.cancelled += 1
        self.out.put(CancelFetch(transfer, node, index))

    def _give_up_at(self, state: _Transfer) -> float:
        return state.moved_at + (self._config.stall_s if state.sources else self._config.lonely_s)

    def _why_given_up(self, state: _Transfer) -> str:
        if state.sources:
            return f"no holder has sent anything for {self._config.stall_s:.0f} s"
        return "no holder is left" + (f"; {len(state.dropped)} sent wrong bytes" if state.dropped else "")

    def _go_on(self, now: Now, transfer: str) -> None:
        """Ends the transfer when it is complete, otherwise asks for more."""
        state = self._transfers[transfer]
        if state.picker.missing == 0:
            self._emit_progress(now, transfer, state, 0.0)
            del self._transfers[transfer]
            self.stats.done += 1
            self.out.put(Emit(TransferDone(transfer)))
            return
        self._fill(now, transfer, state)
        self._emit_progress(now, transfer, state, self._config.progress_period_s)

    def _fill(self, now: Now, transfer: str, state: _Transfer) -> None:
        """Gives every rested source one chunk after the other, in turn, until windows or chunks run out."""
        state.look_again_at = math.inf
        ready = list(state.sources.items())
        while ready:
            ready = [(node, source) for node, source in ready if self._ask(now, transfer, state, node, source)]

    def _ask(self, now: Now, transfer: str, state: _Transfer, node: NodeId, source: Source) -> bool:
        if not source.is_free(now.mono):
            return False
        index = state.picker.pick(node)
        if index is None:
            index = self._pick_again(now, state, node)
            if index is None:
                return False
            self.stats.asked_again += 1
        source.started(now.mono, index, state.sizes[index])
        self.out.put(FetchChunk(transfer, node, index))
        return True

    def _pick_again(self, now: Now, state: _Transfer, node: NodeId) -> int | None:
        """In the end game gives an idle source what another is slow with, now or when the next one becomes slow."""
        if not state.picker.end_game:
            return None
        fetches = [pair for source in state.sources.values() for pair in source.under_way.items()]
        slow = {index for index, fetch in fetches if fetch.slow_at <= now.mono}
        index = state.picker.pick_again(node, self._config.again_most, slow)
        if index is None:
            coming = (fetch.slow_at for _, fetch in fetches if fetch.slow_at > now.mono)
            state.look_again_at = min(coming, default=math.inf)
        return index

    def _emit_progress(self, now: Now, transfer: str, state: _Transfer, period_s: float) -> None:
        if now.mono - state.told_at >= period_s:
            state.told_at = now.mono
            self.out.put(Emit(state.progress(transfer)))

    def _emit_failed(self, transfer: str, reason: str) -> None:
        self.stats.lost += 1
        self.out.put(Emit(TransferFailed(transfer, reason)))
