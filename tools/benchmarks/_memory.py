"""How much memory a process has; 0 where the system does not tell."""

from __future__ import annotations

from pathlib import Path


def memory_mb(pid: int | str = "self", *, peak: bool = False) -> float:
    """Returns the resident memory of a process, or its peak since it began or called `forget_peak`."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(wanted)), 0.0)


def forget_peak() -> None:
    """Has this process's peak of memory begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
