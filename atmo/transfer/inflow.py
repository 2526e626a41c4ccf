"""How much of one download may be under way altogether: all its sources share one line.

The window of each source follows what that source sends. Where more sources serve a node than its line can take, all
of them would send into one queue, and the lines of those who wait there would do nothing for others meanwhile. So what
is asked for altogether is bounded in the same way, by the highest rate of the last seconds: some sources are then asked
for nothing, and serve somebody else. What is under way for long does not count: it waits at a slow source, not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from atmo.transfer.config import TransferConfig
from atmo.transfer.source import Source

HELD = 4
"""A fetch that takes so many times the usual latency is held up elsewhere than in this node's line. Source: guess."""


class Inflow:
    """What comes from all sources of one download.

    Args:
        config: Sizes and times.
    """

    def __init__(self, config: TransferConfig) -> None:
        self._config = config
        self._since = -math.inf
        self._bytes = 0
        self._peak = self._peak_before = 0.0
        self._peak_since = -math.inf

    def arrived(self, now: float, size: int) -> None:
        """So many bytes came."""
        config = self._config
        took = now - self._since
        if took >= config.inflow_sample_s:
            if now - self._peak_since >= config.latency_s:
                self._peak_before, self._peak, self._peak_since = self._peak, 0.0, now
            if took < math.inf:
                self._peak = max(self._peak, self._bytes / took)
            self._since, self._bytes = now, 0
        self._bytes += size

    def free_at(self, now: float, sources: Iterable[Source], size: int) -> float:
        """Returns when one more chunk of so many bytes may be asked for: `now`, or when an old fetch counts no more."""
        peak = max(self._peak, self._peak_before)
        if peak == 0.0:
            return now
        config, sources = self._config, list(sources)
        latencies = sorted(source.latency_s for source in sources if source.latency_s)
        latency_s = latencies[len(latencies) // 2] if latencies else 0.0
        fitting = peak * (config.inflow_gain * latency_s + config.queue_s) / max(size, 1)
        most = max(config.inflow_least, round(fitting))
        since = now - max(config.inflow_held_s, HELD * latency_s)
        counted = [fetch.asked_at for source in sources for fetch in source.under_way.values()]
        counted = sorted(asked_at for asked_at in counted if asked_at > since)
        return now if len(counted) < most else counted[-most] - since + now
