"""Runs format, lint, types and import contracts side by side; one line for each, details only of what failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CHECKS = {
    "types": ["mypy"],
    "format": ["ruff", "format", "--check"],
    "lint": ["ruff", "check"],
    "cancellation": ["flake8"],
    "imports": ["lint-imports"],
}


def run(name: str) -> tuple[int, str, float]:
    """Runs one check; returns its exit code, its output and its seconds."""
    started = time.monotonic()
    command = [*CHECKS[name], *(asynchronous_files() if name == "cancellation" else ())]
    result = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout.strip(), time.monotonic() - started


def asynchronous_files() -> list[str]:
    """Returns the files that flake8-async can say anything about: it takes a quarter of a second for each."""
    files = [path for room in ("atmo", "tests", "simulations", "tools") for path in (ROOT / room).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in files if "async " in path.read_text())


def main() -> int:
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = {name: pool.submit(run, name) for name in CHECKS}
        for name, future in results.items():
            code, output, seconds = future.result()
            print(
                f"{name:<13} {' '.join(CHECKS[name]):<21} {seconds:5.1f} s  {'ok' if code == 0 else 'FAILED'}",
                flush=True,
            )
            if code != 0:
                failed += 1
                print(f"\n{output}\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
