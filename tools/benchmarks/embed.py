"""The built-in embedder: one 12-token sentence on one thread, batches, load time, memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from atmo.backends.embedder import Embedder

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "which machine in the mesh can run this model today"
WARM_UP, RUNS, BATCH, BATCHES = 20, 400, 256, 4

PEERS = {
    "PyTorch": {"sentence_p50_ms": 18.6, "sentence_p99_ms": 21.7, "resident_mb": 896},
    "ORT float32": {"sentence_p50_ms": 7.1, "sentence_p99_ms": 11, "resident_mb": 188},
    "ORT int8": {"sentence_p50_ms": 3.3, "sentence_p99_ms": 5.5, "resident_mb": 92},
}
"""The same model on a busy 2-core 2.5 GHz x86-64 machine, 11 tokens, one thread."""

FRESH = """
import time
started = time.perf_counter()
from atmo.backends.embedder import Embedder
Embedder().embed_now(["which machine in the mesh can run this model today"])
print((time.perf_counter() - started) * 1e3)
status = open("/proc/self/status").read() if __import__("os").path.exists("/proc/self/status") else ""
print(next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")), 0))
"""


def run() -> dict[str, Any]:
    """Measures in this process, and load time and memory in a fresh one."""
    embedder = Embedder()
    tokens = embedder.count_tokens(SENTENCE)
    # The last words differ so that no text is remembered; each is one token.
    texts = [f"{SENTENCE.removesuffix(' today')} {number}" for number in range(1, 1 + WARM_UP + RUNS)]
    times_ms = []
    for text in texts:
        started = time.perf_counter()
        embedder.embed_now([text])
        times_ms.append((time.perf_counter() - started) * 1e3)
    times_ms = sorted(times_ms[WARM_UP:])
    print(f"{RUNS} sentences of {tokens} tokens done, batches follow", file=sys.stderr)
    rates = []
    for batch in range(BATCHES):
        fresh = [f"{number} {SENTENCE.removesuffix(' today')}" for number in range(batch * BATCH, (batch + 1) * BATCH)]
        started = time.perf_counter()
        embedder.embed_now(fresh)
        rates.append(BATCH / (time.perf_counter() - started))
    load_ms, resident_kib = _fresh_process()
    figures = {
        "sentence_tokens": tokens,
        "sentence_p50_ms": round(statistics.median(times_ms), 2),
        "sentence_p99_ms": round(times_ms[int(len(times_ms) * 0.99)], 2),
        "batch_sentences_per_s": round(statistics.median(rates)),
        "load_ms": round(load_ms),
        "resident_mb": round(resident_kib / 1024),
    }
    return {"figures": figures, "peers": PEERS, "aims": {"sentence_p50_ms": "under 8 ms"}}


def _fresh_process() -> tuple[float, float]:
    """Returns milliseconds from the first import to the first vector, and KiB resident then (0 where unknown)."""
    result = subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, capture_output=True, text=True, check=True)
    load_ms, resident_kib = map(float, result.stdout.split())
    return load_ms, resident_kib
