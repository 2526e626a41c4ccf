"""How much memory this machine has, and how much of it is free; of a container, what it may use. Bytes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """Returns what the machine, or the container that this process is in, has."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = _number(_GROUP / "memory.max")
    return found if most is None else min(found, most)


def free_bytes() -> int:
    """Returns what can be had without pushing out others; all of it where the system does not tell."""
    free = _available()
    most, used = _number(_GROUP / "memory.max"), _number(_GROUP / "memory.current")
    if most is None or used is None:
        return free
    # Pages of files that were read count as used, and go when memory is wanted.
    return min(free, max(0, most - used + (_stat("inactive_file") or 0)))


def _available() -> int:
    with suppress(OSError, ValueError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1_024
    return total_bytes()


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(name: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in (_GROUP / "memory.stat").read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return None
