"""The endpoint beside LiteLLM's proxy, one worker each, before an upstream that does nothing: delay, rate, CPU, memory.

Every process is a real one on loopback. Each round measures all of them in turns, so that they meet the same machine;
figures are medians of rounds. Overhead is the delay through a gateway less that of the upstream itself in the same
round. CPU time is all of a gateway's threads, as the kernel counts it. Progress goes to stderr.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _gateway_load import ask, chat, connect, embed, held_streams, latencies_ms, load, streams
from _gateway_processes import LITELLM, SERVED, Served, joined, litellm, node, served, upstream
from _memory import memory_mb

ROUNDS = 5
IDLE_EACH = 8
"""Streams of one model at once, which is what a node takes."""

AIMS = {
    "overhead_p50_ms": "under 2, a fifth of LiteLLM's",
    "overhead_p99_ms": "under 6",
    "at_32_per_s": "10 times LiteLLM's",
    "stream_cpu_ms": "a tenth of LiteLLM's",
    "paced_stream_cpu_ms": "a tenth of LiteLLM's",
    "mesh_hop_p50_ms": "under 4",
    "idle_streams_resident_mb": "under 300",
    "beside_idle_streams_most_ms": "none starves",
    "memory_grown_percent": "under 5",
    "start_s": "under 1.5",
    "idle_resident_mb": "under 160",
}


@dataclass(frozen=True)
class Size:
    """How much is measured: requests, streams, seconds to settle."""

    requests: int = 600
    loaded: int = 3_000
    streams: int = 30
    paced: int = 10
    idle: int = 1_000
    starts: int = 5
    settle_s: float = 12.0
    first: int = 4_000
    last: int = 20_000


QUICK = Size(50, 100, 3, 2, 50, 1, 0.5, 100, 200)
FULL = Size(first=20_000, last=200_000)


def run(quick: bool = False, full: bool = False, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures everything.

    Args:
        quick: A moment only and without LiteLLM: whether all of it works.
        full: Memory after 200,000 requests against that after 20,000; otherwise 20,000 against 4,000.
        rounds: Of which medians are taken.
    """
    size = QUICK if quick else FULL if full else Size()
    with tempfile.TemporaryDirectory(prefix="gateway-") as name, ExitStack() as stack:
        folder = Path(name)
        behind = stack.enter_context(upstream())
        figures = _alone(folder, size)
        here = node(stack, folder, "here", behind)
        gateways = {"here": served(here), "hop": served(joined(stack, folder, here))}
        peers: dict[str, Any] = {} if quick else _peers(stack, folder, behind, gateways)
        say("warming up")
        for gateway in gateways.values():
            latencies_ms(gateway.port, chat(SERVED[0]), size.requests // 4)
            streams(gateway.port, chat(SERVED[0], stream=True), 2)
        measured = []
        for number in range(1 if quick else rounds):
            say(f"round {number + 1}")
            measured.append(_round(behind, gateways, size))
        medians = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        for key, value in medians.items():
            who, _, figure = key.rpartition(" ")
            (figures if who == "here" else peers[who])[figure] = round(value, 3)
        say("idle streams")
        figures |= _idle_streams(gateways["here"], size)
        say(f"memory after {size.first} and {size.last} requests")
        figures |= _growth(gateways["here"], size)
    return {"figures": figures, "peers": {LITELLM_NAME: peers.pop(LITELLM_NAME, {})} if peers else {}, "aims": AIMS}


LITELLM_NAME = f"LiteLLM {LITELLM[1]}"


def say(text: str) -> None:
    """Tells a person who waits."""
    sys.stderr.write(f"gateway: {text}\n")
    sys.stderr.flush()


def _alone(folder: Path, size: Size) -> dict[str, float]:
    """Measures a node that has nothing to do: how long it takes to start, and what it holds."""
    say("starts")
    with ExitStack() as stack:
        process = node(stack, folder, "alone")
        time.sleep(size.settle_s)  # what is made once for a home is made
        taken = []
        for _ in range(size.starts):
            process.stop()
            began = time.monotonic()
            process.launch()
            while not (process.home / "run" / "node.json").exists():
                time.sleep(0.002)
            taken.append(time.monotonic() - began)
        process.wait_until_ready()
        time.sleep(size.settle_s)
        bare = memory_mb(served(process).pid)
        with connect(served(process).port) as taken_socket:
            ask(taken_socket, embed("Which machine can run this?"))
        time.sleep(size.settle_s)
        loaded = memory_mb(served(process).pid)
    return {
        "start_s": round(statistics.median(taken), 3),
        "bare_resident_mb": round(bare, 1),
        "idle_resident_mb": round(loaded, 1),
    }


def _peers(stack: ExitStack, folder: Path, behind: Served, gateways: dict[str, Served]) -> dict[str, Any]:
    """Starts LiteLLM's proxy where it can be installed."""
    say("LiteLLM's proxy starts")
    try:
        gateways[LITELLM_NAME], start_s = stack.enter_context(litellm(folder, behind))
    except (OSError, subprocess.SubprocessError) as error:
        say(f"LiteLLM is left out: {error}")
        return {}
    time.sleep(5.0)
    return {
        LITELLM_NAME: {"start_s": round(start_s, 1), "idle_resident_mb": round(memory_mb(gateways[LITELLM_NAME].pid))}
    }


def _round(behind: Served, gateways: dict[str, Served], size: Size) -> dict[str, float]:
    """Measures every gateway once, by turns."""
    request = chat(SERVED[0])
    found: dict[str, float] = {}
    direct = latencies_ms(behind.port, request, size.requests)
    for name, gateway in gateways.items():
        few = size.requests if name != LITELLM_NAME else size.requests // 2
        taken = latencies_ms(gateway.port, request, few)
        overhead = {f"p{percent}": _percentile(taken, percent) - _percentile(direct, percent) for percent in (50, 99)}
        if name == "hop":
            found["here mesh_hop_p50_ms"] = overhead["p50"] - found["here overhead_p50_ms"]
            continue
        found |= {f"{name} overhead_{key}_ms": value for key, value in overhead.items()}
        loaded = size.loaded if name != LITELLM_NAME else size.loaded // 8
        found[f"{name} at_32_per_s"], _ = load(gateway.port, [chat(model) for model in SERVED], 32, loaded)
        for kind, words, count in (("", "all at once", size.streams), ("paced_", "a chunk at a time", size.paced)):
            began = gateway.cpu_s()
            streams(gateway.port, chat(SERVED[0], words, stream=True), count)
            found[f"{name} {kind}stream_cpu_ms"] = (gateway.cpu_s() - began) * 1e3 / count
    return found


def _idle_streams(gateway: Served, size: Size) -> dict[str, float]:
    """Holds many streams open; meanwhile others are served."""
    requests = [chat(f"m{10 + number // IDLE_EACH}", "held", stream=True) for number in range(size.idle)]
    with held_streams(gateway.port, requests):
        rate, taken = load(gateway.port, [chat(model) for model in SERVED], 8, size.requests)
        resident = memory_mb(gateway.pid)
    return {
        "idle_streams_resident_mb": round(resident, 1),
        "beside_idle_streams_per_s": round(rate),
        "beside_idle_streams_most_ms": round(max(taken), 2),
    }


def _growth(gateway: Served, size: Size) -> dict[str, float]:
    requests = [chat(model) for model in SERVED]
    load(gateway.port, requests, 32, size.first)
    before = memory_mb(gateway.pid)
    load(gateway.port, requests, 32, size.last - size.first)
    after = memory_mb(gateway.pid)
    return {
        f"after_{size.first}_resident_mb": round(before, 1),
        f"after_{size.last}_resident_mb": round(after, 1),
        "memory_grown_percent": round((after / before - 1) * 100, 2),
    }


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
