"""Memory that is free goes back to the system: a node is a guest on a machine that has other work."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from itertools import chain, repeat

import trio

PAUSES_S = (2.0, 6.0, 20.0)
"""The first times: a start, and the embedding of what is offered after it, need some 60 MB more than what stays."""

EVERY_S = 300.0
"""From then on. Source: guess; it takes some 10 ms of one thread."""


async def run_trimming() -> None:
    """Gives free memory back from time to time, until cancelled."""
    await trio.sleep(PAUSES_S[0])
    gc.collect()
    gc.freeze()  # what is here now stays for good: looking through it takes 0.1 s each time
    trim = _trimmer()
    if trim is None:
        return
    await trio.to_thread.run_sync(trim, 0)
    for pause_s in chain(PAUSES_S[1:], repeat(EVERY_S)):
        await trio.sleep(pause_s)
        await trio.to_thread.run_sync(trim, 0)


def _trimmer() -> Callable[[int], int] | None:
    """Returns glibc's `malloc_trim`; None where the system has another allocator, which does so by itself."""
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return trim
