from __future__ import annotations

import ctypes
import platform
import sys

import pytest

from atmo.storage.idle import idle_reads

_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}  # Source: Linux, syscall tables, ioprio_get


def priority() -> int:
    """Returns the class of this thread's reads."""
    return int(ctypes.CDLL(None).syscall(_GET[platform.machine()], 1, 0)) >> 13


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in _GET, reason="Linux tells, others do not")
def test_reads_are_idle_within_the_block_alone() -> None:
    before = priority()
    with idle_reads():
        assert priority() == 3
    assert priority() == before


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with idle_reads():
        pass
