"""The peer that clients are run against: a real `atmo node`, with models that llama.cpp runs from its store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.processes import NodeProcess, wait_for

ROOT = Path(__file__).resolve().parents[2]
CHAT = "tiny-chat"
EMBEDDER = "tiny-embedder"
FULL = 4
"""Requests that the peer runs and lets wait; it refuses the next one with 429."""

CONTEXT = 32_768
"""Tokens: `ENDLESS` answers take long enough for whoever holds a place with them."""

ENDLESS = {"grammar": 'root ::= "a" root', "max_tokens": CONTEXT - 256}
"""Fields of a chat that has the model go on until nobody listens."""


def write_models(folder: Path) -> dict[str, Path]:
    """Writes a language model and an embedder with random weights; returns their files by name."""
    kinds = {CHAT: ("--context", str(CONTEXT)), EMBEDDER: ("--kind", "embedding")}
    for name, options in kinds.items():
        maker = [sys.executable, str(ROOT / "tools/make_gguf.py"), *options, str(folder / f"{name}.gguf")]
        subprocess.run(maker, check=True, capture_output=True)
    return {name: folder / f"{name}.gguf" for name in kinds}


@contextmanager
def running_peer(folder: Path) -> Iterator[NodeProcess]:
    """Runs a peer that offers both models."""
    home = folder / "peer"
    home.mkdir()
    limits = {"max_concurrent_requests": FULL // 2, "max_queue_depth": FULL // 2}
    (home / "config.json").write_text(json.dumps(limits))
    with NodeProcess(home, "peer") as node:
        for name, path in write_models(folder).items():
            node.atmo("model", "import", str(path), "--name", name, "--yes")
        wait_for(lambda: {CHAT, EMBEDDER} <= set(offered(node)), 60)
        yield node


def offered(node: NodeProcess) -> list[str]:
    """Returns the names of the models that the peer can run now."""
    rows = httpx.get(f"{node.url}/models", trust_env=False).json()["data"]
    return [row["id"] for row in rows if row.get("status", "available") == "available"]


def in_flight(node: NodeProcess) -> int:
    """Returns how many requests the peer runs or lets wait."""
    count = httpx.get(f"{node.url}/health", trust_env=False).json()["in_flight"]
    assert isinstance(count, int)
    return count
