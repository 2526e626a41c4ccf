"""Runs pytest; on the whole suite it also demands 100 % branch coverage of everything below the no-I/O line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("peer", "gossip", "index", "transfer", "router", "reach", "engine", "trust", "wire", "identity")
MODULES = ("errors", "clock")
BELOW_THE_LINE = ",".join([*(f"atmo/{room}/*" for room in ROOMS), *(f"atmo/{module}.py" for module in MODULES)])
HARMLESS = ("-x", "-q", "-v", "-s", "-l", "-ra", "--tb=", "--durations=", "--color=", "--maxfail=", "--junitxml=")
"""Options that leave the choice of tests alone; any other argument makes a partial run."""


def main(arguments: list[str]) -> int:
    whole = all(argument.startswith(HARMLESS) for argument in arguments)
    pytest = [sys.executable, "-m", "pytest", *arguments]
    if not whole:
        return subprocess.call(pytest, cwd=Path.cwd() if ROOT in [Path.cwd(), *Path.cwd().parents] else ROOT)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "coverage")
        environment = os.environ | {"COVERAGE_FILE": str(data)}
        code = subprocess.call([*pytest, "--cov", "--cov-report="], cwd=ROOT, env=environment)
        return code or report(environment)


def report(environment: dict[str, str]) -> int:
    """Prints what the tests reached; returns 1 when a branch below the line was not."""
    coverage = [sys.executable, "-m", "coverage", "report"]
    total = subprocess.run([*coverage, "--format=total"], cwd=ROOT, env=environment, capture_output=True, text=True)
    options = [f"--include={BELOW_THE_LINE}", "--fail-under=100", "--precision=2", "--show-missing", "--skip-covered"]
    below = subprocess.run([*coverage, *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    if below.returncode != 0:
        print(f"{below.stdout}{below.stderr}\nBelow the no-I/O line every branch must be covered: see the lines above.")
        return 1
    print(f"Branch coverage: 100 % below the no-I/O line, {total.stdout.strip()} % of the whole product.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
