"""Memory that is free goes back to the system: a node is a guest on a machine that has other work."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

import trio

FIRST_S = 2.0
"""After the start, which needs some 40 MB more than what stays."""

EVERY_S = 300.0
"""Source: guess; it takes some 10 ms of one thread."""


async def run_trimming() -> None:
    """Gives free memory back from time to time, until cancelled."""
    await trio.sleep(FIRST_S)
    gc.collect()
    gc.freeze()  # what is here now stays for good: looking through it takes 0.1 s each time
    trim = _trimmer()
    while trim is not None:
        await trio.to_thread.run_sync(trim, 0)
        await trio.sleep(EVERY_S)


def _trimmer() -> Callable[[int], int] | None:
    """Returns glibc's `malloc_trim`; None where the system has another allocator, which does so by itself."""
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return trim
