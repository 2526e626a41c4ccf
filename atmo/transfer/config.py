"""Sizes and times of transfers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """Sizes and times of transfers.

    Attributes:
        window_start: Fetches under way at a source of unknown rate. Source: docs/measurements.md.
        window_most: The most of them; bounds memory at both ends. Source: guess.
        queue_s: A window holds what the source sends in this time. Source: libtorrent's `request_queue_time` is 3 s
            with 16 KiB blocks; chunks are larger, so that taking one back costs more.
        rate_sample_s: Least time over which a rate is measured, so that chunks arriving together count together.
        first_deadline_s: For a fetch at a source of unknown rate: 1 MiB at 35 kB/s. Source: guess.
        deadline_least_s, deadline_most_s: Bounds of deadlines. Source: guess.
        deadline_margin: How many times the expected time a fetch may take. Source: guess; RFC 6298 adds 4 deviations.
        rest_first_s, rest_most_s: How long a source rests after a failure; doubles with each further one.
        again_most: How many sources are asked for one chunk in the end game. Source: guess.
        again_margin, again_least_s: In the end game a chunk is asked again of an idle source when it has taken this
            many times the expected time, at least this long: earlier it would mostly cost bytes. Source: guess.
        again_first_s: The same for a source of unknown rate. Source: guess.
        stall_s: A transfer with sources in which nothing arrives for this time has failed. Source: guess.
        lonely_s: A transfer without any source for this time has failed. Source: guess; holders come back from a change
            of network within seconds, from a restart within a minute.
        transfers_most, sources_most: Bounds of the engine's memory.
        progress_period_s: Least time between two `TransferProgress` of one transfer.
    """

    window_start: int = 2
    window_most: int = 8
    queue_s: float = 1.0
    rate_sample_s: float = 0.1
    first_deadline_s: float = 30.0
    deadline_least_s: float = 5.0
    deadline_most_s: float = 120.0
    deadline_margin: float = 4.0
    rest_first_s: float = 1.0
    rest_most_s: float = 30.0
    again_most: int = 2
    again_margin: float = 2.0
    again_least_s: float = 0.5
    again_first_s: float = 2.0
    stall_s: float = 300.0
    lonely_s: float = 60.0
    transfers_most: int = 16
    sources_most: int = 64
    progress_period_s: float = 0.25
