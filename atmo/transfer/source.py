"""What the transfer engine knows of one source of one transfer: its window, its rate, its deadlines, its rests."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atmo.transfer.config import TransferConfig

_RATE_GAIN = 0.25  # Source: guess, quicker than the 1/8 of RFC 6298 because chunks are few


@dataclass(frozen=True, slots=True)
class Fetch:
    """One chunk asked of one source.

    Attributes:
        asked_at: Monotonic second at which it was asked for.
        slow_at: Monotonic second from which it is slower than this source usually is.
        deadline: Monotonic second at which it is taken back.
        size: In bytes.
    """

    asked_at: float
    slow_at: float
    deadline: float
    size: int


class Source:
    """One source of one transfer.

    Args:
        config: Sizes and times.

    Attributes:
        under_way: Its fetches by chunk index.
        window: How many of them it may have.
        rests_until: Monotonic second before which nothing is asked of it; minus infinity when it does not rest.
        delivered: It has sent something.
        rate: Bytes per second, smoothed; 0 while it is not known.
        open: It serves this node now.
        advice: The set of chunks that it may be asked for, at once if need be, as it knows its line; -1 for all.
        slow: It sends far less than the other sources do.
    """

    def __init__(self, config: TransferConfig) -> None:
        self.under_way: dict[int, Fetch] = {}
        self.window = config.window_start
        self.rests_until = -math.inf
        self.delivered = False
        self.rate = 0.0
        self.open = True
        self.advice = -1
        self.slow = False
        self._config = config
        self._failures = 0
        self._sample_since = 0.0
        self._sample_bytes = 0
        self._latency = math.inf  # the least seen since `_latency_since`
        self._latency_before = math.inf  # the least seen in the time before that
        self._latency_since = -math.inf

    @property
    def latency_s(self) -> float:
        """The least time that a fetch took lately, transmission included; 0 while it is not known."""
        least = min(self._latency, self._latency_before)
        return 0.0 if least == math.inf else least

    def pace(self, now: float) -> float:
        """Returns how many bytes a second come at most, as what is under way for long shows; 0 while nothing does."""
        waits = [fetch.size / (now - fetch.asked_at) for fetch in self.under_way.values() if fetch.asked_at < now]
        known = [self.rate] if self.rate > 0.0 else []
        return min(waits + known, default=0.0)

    def is_free(self, now: float) -> bool:
        """Says whether it may be asked for another chunk; ends a rest that is over."""
        self.end_rest(now)
        window = self.window if self.advice < 0 else max(self.window, self.advice.bit_count())
        room = len(self.under_way) < (1 if self.slow else min(window, self._config.window_most))
        return self.open and self.rests_until == -math.inf and room

    def end_rest(self, now: float) -> None:
        """Ends a rest that is over."""
        if self.rests_until <= now:
            self.rests_until = -math.inf

    def started(self, now: float, index: int, size: int) -> None:
        """It was asked for a chunk; what waits before it counts into the deadline."""
        config = self._config
        if not self.under_way:
            self._sample_since, self._sample_bytes = now, 0
        slow_s, allowed_s = config.again_first_s, config.first_deadline_s
        if self.rate > 0:
            waiting = size + sum(fetch.size for fetch in self.under_way.values())
            expected_s = max(waiting / self.rate, self.latency_s)
            slow_s = max(config.again_margin * expected_s, config.again_least_s)
            allowed_s = max(config.deadline_margin * expected_s, config.deadline_least_s)
        allowed_s = min(allowed_s * 2.0 ** min(self._failures, 10), config.deadline_most_s)
        self.under_way[index] = Fetch(now, now + slow_s, now + allowed_s, size)

    def succeeded(self, now: float, index: int, size: int) -> None:
        """A chunk arrived: learn the rate and the latency, and fit the window to their product."""
        fetch = self.under_way.pop(index, None)
        if fetch is not None:
            self._learn_latency(now, now - fetch.asked_at)
        self._failures = 0
        self.delivered = True
        self._sample_bytes += size
        took = now - self._sample_since
        if took >= self._config.rate_sample_s:
            sample = self._sample_bytes / took
            self.rate = sample if self.rate == 0 else self.rate + _RATE_GAIN * (sample - self.rate)
            self._sample_since, self._sample_bytes = now, 0
        self.window = min(self.window + 1, self._config.window_most)
        if self.rate > 0:
            fitting = self.rate * (self._config.latency_gain * self.latency_s + self._config.queue_s) / max(size, 1)
            self.window = min(self.window, max(1, round(fitting)))

    def _learn_latency(self, now: float, latency_s: float) -> None:
        if now - self._latency_since >= self._config.latency_s:
            self._latency_before, self._latency, self._latency_since = self._latency, math.inf, now
        self._latency = min(self._latency, latency_s)

    def failed(self, now: float) -> None:
        """A fetch failed or was late: ask less of it, and later. What fails during a rest belongs to that failure."""
        if self.rests_until > now:
            return
        rest_s = min(self._config.rest_first_s * 2.0 ** min(self._failures, 20), self._config.rest_most_s)
        self.window = max(1, self.window // 2)
        self.rests_until = now + rest_s
        self._failures += 1

    def forget(self, index: int) -> bool:
        """A fetch is no longer under way; says whether it was."""
        return self.under_way.pop(index, None) is not None

    def late(self, now: float) -> list[int]:
        """Returns the fetches past their deadline."""
        return [index for index, fetch in self.under_way.items() if fetch.deadline <= now]

    def next_timer(self) -> float:
        """Returns when a fetch is late or a rest ends, whichever is first."""
        rest_ends = self.rests_until if self.rests_until > -math.inf else math.inf
        return min(rest_ends, min((fetch.deadline for fetch in self.under_way.values()), default=math.inf))
