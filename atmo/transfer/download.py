"""One download: keeps every source busy, and survives each of them.

For each source it keeps a window of fetches under way, as many as the source sends within its latency and a little
more. A fetch that is late is taken back and the source rests for a while; a source that sent wrong bytes is dropped.
What no source is asked for any more goes to the next free one, and at the very end to two at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from atmo.clock import Now
from atmo.engine import CancelFetch, Emit, FetchChunk
from atmo.identity import NodeId
from atmo.transfer.common import Common
from atmo.transfer.events import TransferProgress
from atmo.transfer.inflow import Inflow
from atmo.transfer.limits import Bucket
from atmo.transfer.meter import Meter
from atmo.transfer.picker import Picker
from atmo.transfer.source import Source


class Download:
    """One download.

    Args:
        now: The clocks.
        name: Names it in effects and events.
        sizes: Of all chunks, in bytes.
        have: Indices that are already here and verified.
        common: What the engine's parts share.
        patient: It waits for sources for ever.

    Attributes:
        picker: Its chunks.
        sources: Who is asked.
        dropped: Who sent wrong bytes.
        paused: Nothing is asked for.
    """

    def __init__(
        self, now: Now, name: str, sizes: Sequence[int], have: Collection[int], common: Common, *, patient: bool
    ) -> None:
        self.name = name
        self.picker = Picker(len(sizes), have, common.random)
        self.sources: dict[NodeId, Source] = {}
        self.dropped: dict[NodeId, None] = {}
        self.paused = False
        self.patient = patient
        self._common = common
        self._sizes = sizes
        self._total = sum(sizes)
        self._largest = max(sizes, default=0)
        self._done = sum(size for index, size in enumerate(sizes) if not self.picker.is_missing(index))
        self._meter = Meter()
        self._inflow = Inflow(common.config)
        self._bucket = Bucket()
        self._bytes_s = common.limits.of_transfer(self._total)
        self._moved_at = now.mono  # when something last arrived or a source came
        self._told_at = -math.inf
        self._due = math.inf  # no deadline and no end of a rest is before
        self._again_at = math.inf  # when an idle source may get what another is slow with
        self._limited_until = math.inf  # when a limit, or the line, lets another chunk go
        self._judge_at = math.inf

    # --- sources --------------------------------------------------------------------------------------------------

    def add(self, now: Now, node: NodeId, has: int | None, *, is_open: bool = True) -> None:
        """A node has the set `has`, or all chunks where it is None; a new source serves this node now or not.

        Who was dropped stays dropped, and who sent wrong bytes elsewhere is taken only where there is nobody else.
        """
        source = self.sources.get(node)
        if source is None:
            avoided = self.sources and self._common.scores.avoids(now, node)
            if node in self.dropped or avoided or len(self.sources) >= self._common.config.sources_most:
                return
            source = self.sources[node] = Source(self._common.config)
            source.open = is_open
            self._moved_at = now.mono
        if has is None:
            self.picker.add_source(node)
        else:
            self.picker.set_source(node, has)

    def gained(self, now: Now, node: NodeId, chunks: int) -> None:
        """A source has these chunks as well."""
        if node in self.sources:
            self.picker.gained(node, chunks)
            self.ask(now, (node,))

    def slot(self, now: Now, node: NodeId, *, is_open: bool, advice: int) -> None:
        """A source serves this node from now on, or no longer does, and says what to ask for."""
        source = self.sources.get(node)
        if source is not None:
            source.open, source.advice = is_open, advice
            self.ask(now, (node,))

    def remove(self, now: Now, node: NodeId) -> None:
        """A node is no source any more; what was asked of it is free again."""
        source = self.sources.pop(node, None)
        if source is None:
            return
        for index in list(source.under_way):
            self._take_back(source, node, index)
            self.picker.release(node, index)
        self.picker.remove_source(node)
        if not self.sources:
            self._moved_at = now.mono
        self.fill(now)

    def is_slow(self, node: NodeId) -> bool:
        """Says whether a source sends far less than the others do."""
        return node in self.sources and self.sources[node].slow

    # --- chunks ---------------------------------------------------------------------------------------------------

    def arrived(self, now: Now, node: NodeId, index: int, travelled: int | None = None) -> int:
        """A chunk is verified and stored; returns its size, 0 where it was here already.

        Also good for a fetch that was just taken back. Rates and limits are those of what travelled for it.
        """
        if not self.picker.is_missing(index):
            return 0
        size = self._sizes[index]
        sent = size if travelled is None else travelled
        self._common.limits.asked(now, self._bucket, self._bytes_s, sent - size)  # it was taken for a whole one
        self._done += size
        self._moved_at = now.mono
        self._meter.add(now.mono, size)
        self._inflow.arrived(now.mono, sent)
        others = self.picker.arrived(index)
        if node in self.sources:
            self.sources[node].succeeded(now.mono, index, sent)
        for other in others:
            if other != node:
                self._take_back(self.sources[other], other, index)
        self.ask(now, sorted(self.sources, key=lambda node: len(self.sources[node].under_way)))  # none starves
        return size

    def failed(self, now: Now, node: NodeId, index: int) -> bool:
        """A source did not fulfil a fetch; says whether it was under way."""
        source = self.sources.get(node)
        if source is None or not source.forget(index):
            return False
        self.picker.release(node, index)
        source.failed(now.mono)
        self._due = min(self._due, source.rests_until)
        self.fill(now)
        return True

    def drop(self, now: Now, node: NodeId, index: int) -> None:
        """A node sent wrong bytes: it is no source of this download any more."""
        if node in self.sources and self.sources[node].forget(index):
            self.picker.release(node, index)
        if len(self.dropped) < self._common.config.sources_most * 4:
            self.dropped[node] = None
        self.remove(now, node)

    # --- the whole of it ------------------------------------------------------------------------------------------

    def pause(self, now: Now) -> None:
        """Takes everything back and asks for nothing more."""
        self.paused = True
        self.take_all_back()
        self.tell(now, 0.0)

    def resume(self, now: Now) -> None:
        """The counterpart of `pause`."""
        self.paused = False
        self._moved_at = now.mono
        self.fill(now)
        self.tell(now, 0.0)

    def take_all_back(self) -> None:
        """Takes back all fetches."""
        for node, source in self.sources.items():
            for index in list(source.under_way):
                self._take_back(source, node, index)
                self.picker.release(node, index)

    def handle_timer(self, now: Now) -> None:
        """Takes back what is late, wakes sources that rested, lets idle ones help."""
        if now.mono >= self._due:
            for node, source in self.sources.items():
                for index in source.late(now.mono):
                    self._common.stats.late += 1
                    self._common.scores.failed(now, node)
                    self._take_back(source, node, index)
                    self.picker.release(node, index)
                    source.failed(now.mono)
                source.end_rest(now.mono)
            self.fill(now)
            self._due = min((source.next_timer() for source in self.sources.values()), default=math.inf)
        elif now.mono >= min(self._again_at, self._limited_until):
            self.fill(now)
        if now.mono >= self._judge_at:
            self._judge(now)

    def next_timer(self) -> float:
        """Returns a monotonic second before which nothing is due."""
        return min(self._due, self._again_at, self._limited_until, self._judge_at, self.give_up_at())

    def give_up_at(self) -> float:
        """Returns when it has failed if nothing comes until then."""
        if self.patient or self.paused:
            return math.inf
        config = self._common.config
        return self._moved_at + (config.stall_s if self.sources else config.lonely_s)

    def why_given_up(self) -> str:
        """Returns what to tell people."""
        if self.sources:
            return f"no holder has sent anything for {self._common.config.stall_s:.0f} s"
        return "no holder is left" + (f"; {len(self.dropped)} sent wrong bytes" if self.dropped else "")

    def progress(self, now: Now) -> TransferProgress:
        """Returns how far it is."""
        active = tuple(node for node, source in self.sources.items() if source.delivered)
        rate = self._meter.rate(now.mono)
        left_s = (self._total - self._done) / rate if rate > 0.0 else None
        return TransferProgress(
            self.name, self._done, self._total, active, rate, left_s, self.paused, not self.sources and not self.paused
        )

    def tell(self, now: Now, period_s: float) -> None:
        """Tells how far it is, unless that was told within this time."""
        if now.mono - self._told_at >= period_s:
            self._told_at = now.mono
            self._common.out.put(Emit(self.progress(now)))

    # --- asking ---------------------------------------------------------------------------------------------------

    def fill(self, now: Now) -> None:
        """Gives every source that is free chunks, in turn; those that proved reliable come first."""
        self._again_at = self._limited_until = math.inf
        scores = self._common.scores
        self.ask(now, sorted(self.sources, key=lambda node: -scores.value(now, node)))

    def ask(self, now: Now, nodes: Iterable[NodeId]) -> None:
        """Gives each of these sources one chunk after the other, in turn, until windows or chunks run out."""
        if self.paused:
            return
        ready = deque((node, self.sources[node]) for node in nodes if node in self.sources)
        while ready:
            node, source = ready.popleft()
            if not source.is_free(now.mono):
                continue
            if self._is_limited(now):
                return
            if self._ask(now, node):
                ready.append((node, source))

    def _is_limited(self, now: Now) -> bool:
        """Says whether nothing may be asked for now, and notes until when."""
        set_at = self._common.limits.download_at(now, self._bucket, self._bytes_s)
        ready_at = max(set_at, self._inflow.free_at(now.mono, self.sources.values(), self._largest))
        if ready_at > now.mono:
            self._limited_until = min(self._limited_until, ready_at)
            return True
        return False

    def _ask(self, now: Now, node: NodeId) -> bool:
        common, source = self._common, self.sources[node]
        index = self.picker.pick(node, source.advice)
        if index is None:
            index = self._pick_again(now, node)
            if index is None:
                return False
            common.stats.asked_again += 1
        size = self._sizes[index]
        common.limits.asked(now, self._bucket, self._bytes_s, size)
        source.started(now.mono, index, size)
        self._due = min(self._due, source.under_way[index].deadline)
        self._judge_at = min(self._judge_at, now.mono + common.config.slow_look_s)
        common.out.put(FetchChunk(self.name, node, index))
        return True

    def _pick_again(self, now: Now, node: NodeId) -> int | None:
        """In the end game gives an idle source what another is slow with, now or when the next one becomes slow."""
        if not self.picker.end_game:
            return None
        fetches = [pair for source in self.sources.values() for pair in source.under_way.items()]
        slow = {index for index, fetch in fetches if fetch.slow_at <= now.mono}
        index = self.picker.pick_again(node, self._common.config.again_most, slow)
        if index is None:
            coming = (fetch.slow_at for _, fetch in fetches if fetch.slow_at > now.mono)
            self._again_at = min(self._again_at, min(coming, default=math.inf))
        return index

    def _judge(self, now: Now) -> None:
        """Notes who sends far less than the others do: it is asked for one chunk at a time."""
        config = self._common.config
        paces = {node: pace for node, source in self.sources.items() if (pace := source.pace(now.mono)) > 0.0}
        median = sorted(paces.values())[len(paces) // 2] if len(paces) >= config.slow_among else 0.0
        for node, source in self.sources.items():
            source.slow = node in paces and paces[node] < config.slow_share * median
        is_busy = any(source.under_way for source in self.sources.values())
        self._judge_at = now.mono + config.slow_look_s if is_busy else math.inf

    def _take_back(self, source: Source, node: NodeId, index: int) -> None:
        source.forget(index)
        self._common.stats.cancelled += 1
        self._common.out.put(CancelFetch(self.name, node, index))
