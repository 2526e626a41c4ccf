"""Reading from the disk only when nobody else wants to."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = {"x86_64": 251, "aarch64": 30, "riscv64": 30}  # Source: Linux, syscall tables, ioprio_set
_THREAD, _CLASS_SHIFT, _NONE, _IDLE = 1, 13, 0, 3  # Source: linux/ioprio.h


@contextmanager
def idle_reads() -> Iterator[None]:
    """Gives the calling thread's reads the idle priority until the block ends; does nothing but on Linux.

    The processor's priority stays: a thread that starves while it holds the interpreter's lock would stop the others.
    """
    _set(_IDLE)
    try:
        yield
    finally:
        _set(_NONE)


def _set(priority: int) -> None:
    number = _NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None:  # its result does not matter: without it reads are as urgent as all others
        ctypes.CDLL(None).syscall(number, _THREAD, 0, priority << _CLASS_SHIFT)
