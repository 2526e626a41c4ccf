"""A node of its own to attack: `tools/torture http`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from torture_attack import Broken, Target, attack
from torture_http import ATTACKS

START_S = 60.0


@contextmanager
def node(folder: Path) -> Iterator[Target]:
    """Runs a node for the block.

    Raises:
        Broken: It does not start.
    """
    home, log = folder / "home", folder / "node.log"
    ports = ("--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--no-lan", "--no-port-mapping")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ATMO_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "atmo", "--home", str(home), "node", "--name", "attacked", *ports],
            stdout=out,
            stderr=out,
            env=kept | {"ATMO_DISCOVER": "false", "ATMO_BRIDGE": "0"},
        )
    try:
        deadline = time.monotonic() + START_S
        while not (home / "run" / "node.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"the node does not start: {log.read_text(errors='replace')[-2_000:]}")
            time.sleep(0.05)
        info = json.loads((home / "run" / "node.json").read_text())
        yield Target(int(info["http"].rpartition(":")[2]), info["pid"])
        text = log.read_text(errors="replace")
        if process.poll() is not None or "Traceback" in text:
            raise Broken(f"the node ended or failed: {text[-2_000:]}")
    finally:
        process.terminate()
        process.wait()


def run(folder: Path, rounds: int) -> None:
    """Attacks a node in all ways, so many times in a row.

    Raises:
        Broken: It did not stand it.
    """
    with node(folder) as target:
        for number in range(1, rounds + 1):
            for name, (how, _, amount) in ATTACKS.items():
                began = time.monotonic()
                try:
                    seen = trio.run(attack, target, how, amount)
                except Broken as error:
                    raise Broken(f"{name}: {error}") from error
                print(f"{number:>3} {name:<14}{time.monotonic() - began:>6.1f} s  {seen}", flush=True)
    print(f"\nThe node answered others all the time, in {rounds} rounds of {len(ATTACKS)} attacks.")
