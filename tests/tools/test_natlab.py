"""The NAT lab's command line; what it plays needs root and takes minutes: `tools/natlab` itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def natlab(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "natlab_main.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [("--kinds", "moon"), ("--pairs", "port"), ("--pairs", "port:port:port")])
def test_what_is_no_pair_of_kinds_is_said(arguments: tuple[str, str]) -> None:
    done = natlab(*arguments)
    assert done.returncode == 2
    assert "is no pair of none, full, address, port, symmetric, double, blocked" in done.stderr


def test_the_help_says_how_to_use_it() -> None:
    done = natlab("--help")
    assert done.returncode == 0
    assert "--tries" in done.stdout
