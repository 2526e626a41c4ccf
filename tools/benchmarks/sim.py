"""The simulator: 1,000 full peers, how much faster than real time they run, and what they take of memory."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from atmo.sim.scenario import Stage
from atmo.sim.scenarios.broadcast import Broadcast

NODES, SETTLE_S, SLICE_S, SLICES = 1_000, 150.0, 20.0, 5

PEERS = {
    "SWIM alone": {"idle_times_real_time_ratio": 57},
    "trio tasks": {"idle_times_real_time_ratio": 2},
}
"""The same number of nodes with one small protocol on an event heap (35 to 79 times real time), and with a trio task a
node under MockClock (1.2 to 2.9). Source: ../shared/measurements.md."""

AIMS = {"idle_times_real_time_ratio": "at least 10", "idle_traffic_bytes": "under 2,048 a second"}


def run() -> dict[str, Any]:
    """Builds a mesh, lets it settle, and measures it at rest in slices."""
    stage = Stage(Broadcast(nodes=NODES))
    world = stage.world
    print(f"Building {NODES} nodes takes minutes", file=sys.stderr)
    began = time.process_time()
    nodes = stage.build()
    build_s = time.process_time() - began
    world.run(SETTLE_S)
    settle_s = time.process_time() - began - build_s
    speeds, costs = [], []
    before = world.stats.wire_bytes
    for _ in range(SLICES):
        inputs, began = world.stats.inputs, time.process_time()
        world.run(SLICE_S)
        spent_s = time.process_time() - began
        speeds.append(SLICE_S / spent_s)
        costs.append(spent_s / max(1, world.stats.inputs - inputs) * 1e6)
    figures = {
        "nodes": NODES,
        "build_s": round(build_s, 1),
        "settle_times_real_time_ratio": round(SETTLE_S / settle_s, 2),
        "idle_times_real_time_ratio": round(statistics.median(speeds), 2),
        "input_us": round(statistics.median(costs), 1),
        "idle_traffic_bytes": round((world.stats.wire_bytes - before) / len(nodes) / (SLICE_S * SLICES)),
        "resident_mb": round(resident_kib() / 1024),
    }
    return {"figures": figures, "peers": PEERS, "aims": AIMS}


def resident_kib() -> int:
    """Returns the resident memory of this process, 0 where that is unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
