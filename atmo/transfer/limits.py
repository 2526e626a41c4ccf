"""How fast this node may receive and send chunks: token buckets of one transfer and of the whole node.

A chunk may go as soon as nothing is owed, whatever its size, and is owed for afterwards: so a limit of a tenth of a
chunk a second works like any other. A rate of 0 is no limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from atmo.clock import Now

BURST_S = 1.0
"""A bucket that was not used for so long is full."""

LOOK_S = 60.0
"""Who waits for a bucket looks again after this: limits may change with the time of day."""

DAY_MIN = 24 * 60

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of each day in which other limits hold for the node.

    Attributes:
        from_min, to_min: Minutes since midnight; it goes over midnight where the second is not the later one.
        download_bytes_s, upload_bytes_s: Limits then, in bytes per second; 0 for none.
    """

    from_min: int
    to_min: int
    download_bytes_s: float = 0.0
    upload_bytes_s: float = 0.0

    def holds(self, minute: int) -> bool:
        """Says whether it holds at a minute of the day."""
        if self.from_min < self.to_min:
            return self.from_min <= minute < self.to_min
        return minute >= self.from_min or minute < self.to_min


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Models of less than `below_bytes` are fetched at `bytes_s` at most; 0 for no limit."""

    below_bytes: float
    bytes_s: float


SIZE_CLASSES = (SizeClass(10 * MB, 0.0), SizeClass(500 * MB, 5e6 / 8), SizeClass(math.inf, 2e6 / 8))
"""The classes of seed 001: under 10 MB no limit, up to 500 MB 5 Mbit/s, beyond 2 Mbit/s."""


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What limits there are; none by default.

    Attributes:
        download_bytes_s, upload_bytes_s: Of all transfers together, in bytes per second.
        transfer_bytes_s: Of each download.
        classes: Of each download by its size, the first that fits; `SIZE_CLASSES`, or none.
        hours: Other limits for parts of the day, the first that holds.
        utc_offset_s: What local time is ahead of UTC.
    """

    download_bytes_s: float = 0.0
    upload_bytes_s: float = 0.0
    transfer_bytes_s: float = 0.0
    classes: tuple[SizeClass, ...] = ()
    hours: tuple[Hours, ...] = ()
    utc_offset_s: int = 0


class Bucket:
    """What is owed or saved of one limit."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at = -math.inf

    def ready_at(self, now: float, bytes_s: float) -> float:
        """Returns when the next chunk may go: `now`, or later."""
        if bytes_s <= 0.0:
            return now
        self._fill(now, bytes_s)
        return now if self._level >= 0.0 else now - self._level / bytes_s

    def take(self, now: float, bytes_s: float, size: int) -> None:
        """A chunk goes."""
        if bytes_s > 0.0:
            self._fill(now, bytes_s)
            self._level -= size

    def _fill(self, now: float, bytes_s: float) -> None:
        self._level = min(self._level + (now - self._at) * bytes_s, BURST_S * bytes_s)
        self._at = now


class Limits:
    """The limits of a node.

    Args:
        config: What they are; may be replaced at any time.
    """

    def __init__(self, config: LimitsConfig) -> None:
        self.config = config
        self._down = Bucket()
        self._up = Bucket()

    def of_transfer(self, size_bytes: int) -> float:
        """Returns the limit of a download of this size, in bytes per second."""
        rates = [self.config.transfer_bytes_s]
        rates += [fits.bytes_s for fits in self.config.classes if size_bytes < fits.below_bytes][:1]
        return min((rate for rate in rates if rate > 0.0), default=0.0)

    def download_at(self, now: Now, own: Bucket, own_bytes_s: float) -> float:
        """Returns when a download that has a bucket of its own may ask for another chunk."""
        ready = max(self._down.ready_at(now.mono, self._hour(now)[0]), own.ready_at(now.mono, own_bytes_s))
        return min(ready, now.mono + LOOK_S)

    def asked(self, now: Now, own: Bucket, own_bytes_s: float, size: int) -> None:
        """A chunk is asked for."""
        self._down.take(now.mono, self._hour(now)[0], size)
        own.take(now.mono, own_bytes_s, size)

    def upload_at(self, now: Now) -> float:
        """Returns when the next chunk may be sent."""
        return self._up.ready_at(now.mono, self._hour(now)[1])

    def sent(self, now: Now, size: int) -> None:
        """A chunk is sent."""
        self._up.take(now.mono, self._hour(now)[1], size)

    def _hour(self, now: Now) -> tuple[float, float]:
        config = self.config
        if config.hours:
            minute = int((now.wall + config.utc_offset_s) // 60 % DAY_MIN)
            for hours in config.hours:
                if hours.holds(minute):
                    return hours.download_bytes_s, hours.upload_bytes_s
        return config.download_bytes_s, config.upload_bytes_s
