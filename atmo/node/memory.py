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


_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def share_one_heap() -> None:
    """Has all threads allocate from one heap, as they mostly hold Python's lock anyway; for the start of a process.

    Otherwise each has one of its own, which together keep 30 MB more when a node is idle (docs/measurements.md).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


async def run_trimming() -> None:
    """Gives free memory back from time to time, until cancelled."""
    await trio.sleep(PAUSES_S[0])
    gc.collect()
    gc.freeze()  # what is here now stays for good: looking through it takes 0.1 s each time
    trim = _of_glibc("malloc_trim")
    if trim is None:
        return
    await trio.to_thread.run_sync(trim, 0)
    for pause_s in chain(PAUSES_S[1:], repeat(EVERY_S)):
        await trio.sleep(pause_s)
        await trio.to_thread.run_sync(trim, 0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Returns a function of glibc; None where the system has another allocator."""
    if sys.platform != "linux":
        return None
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found
