"""The bridge: a GGUF file from HuggingFace's cache to another node, and over HTTP, without a copy of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from _memory import memory_mb

from tests.e2e.processes import NodeProcess, join, wait_for, write_gguf

SMALL_BYTES, FULL_BYTES = 256 * 10**6, 2 * 10**9
HASH_S = 600.0
_REVISION = "0123456789abcdef0123456789abcdef01234567"
_MODEL = "org/tiny:tiny.gguf"


def run(full: bool = False) -> dict[str, Any]:
    """Measures two nodes on loopback; fails where a hash is not the blob's name.

    Args:
        full: With 2 GB, otherwise with 256 MB.
    """
    with tempfile.TemporaryDirectory(prefix="bridge-", dir=os.environ.get("ATMO_BENCH_DIR")) as folder:
        return {"figures": _measure(Path(folder), FULL_BYTES if full else SMALL_BYTES), "peers": {}}


def _measure(root: Path, size: int) -> dict[str, float]:
    blob = _cache(root / "hub", size)
    size = blob.stat().st_size
    bridged = {"ATMO_BRIDGE": "1", "HOME": str(root), "HF_HUB_CACHE": str(root / "hub"), "OLLAMA_MODELS": str(root)}
    hidden = (root / "hub").rename(root / "hidden")
    holder = NodeProcess(root / "holder", "holder", variables={**bridged, "MODEL_BRIDGE_HTTP_PORT": "0"})
    reader = NodeProcess(root / "reader", "reader")
    figures: dict[str, float] = {}
    try:
        with holder, reader:
            hidden.rename(root / "hub")
            figures["read_once_mb_s"] = _offered(holder, size)
            holder.atmo("mesh", "create", "home")
            join(holder, reader)
            wait_for(lambda: any(row["name"] == _MODEL for row in reader.json("model", "list", "--mesh")), 60)
            began = time.monotonic()
            reader.atmo("model", "pull", _MODEL)
            figures["pull_mb_s"] = size / 1e6 / (time.monotonic() - began)
            got = next(path for path in (reader.home / "models").iterdir() if path.suffix == ".gguf")
            _check(got, blob)
            got.unlink()
            figures |= _over_http(root, holder, blob)
            figures["holder_resident_most_mb"] = memory_mb(holder.info["pid"], peak=True)
            holder.stop()
            holder.start()
            wait_for(lambda: holder.ask("status")["bridge"]["offered"] == 1, 2.0)  # nothing was read again
    finally:
        for node in (holder, reader):
            node.kill()
    return figures


def _cache(hub: Path, size: int) -> Path:
    """Writes a model of random numbers into a cache as HuggingFace's programs lay it out; returns the blob."""
    folder = hub / "models--org--tiny"
    (folder / "blobs").mkdir(parents=True)
    write_gguf(folder / "blobs" / "new", size)
    blob = (folder / "blobs" / "new").rename(folder / "blobs" / _sha256(folder / "blobs" / "new"))
    snapshot = folder / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "tiny.gguf").symlink_to(f"../../blobs/{blob.name}")
    return blob


def _offered(node: NodeProcess, size: int, seconds: float = HASH_S) -> float:
    """Has the node look, and waits until the model is offered; returns MB/s since then."""
    began = time.monotonic()
    node.ask("bridge/scan", {})
    wait_for(lambda: node.ask("status")["bridge"]["offered"] == 1, seconds)
    return size / 1e6 / (time.monotonic() - began)


def _over_http(root: Path, node: NodeProcess, blob: Path) -> dict[str, float]:
    url = f"{node.info['http']}/v1/models/download/{_MODEL}"
    target, size = root / "got.gguf", blob.stat().st_size
    figures: dict[str, float] = {}
    commands = {
        "curl": ["curl", "-sSf", "-o", str(target), url],
        "aria2": ["aria2c", "-x4", "-s4", "-q", "--no-conf", "-d", str(root), "-o", target.name, url],
    }
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            continue
        began = time.monotonic()
        subprocess.run(command, check=True)
        figures[f"http_{name}_mb_s"] = size / 1e6 / (time.monotonic() - began)
        _check(target, blob)
        if name == "curl":
            os.truncate(target, size // 3)
            subprocess.run([*command[:2], "-C", "-", *command[2:]], check=True)
            _check(target, blob)
        target.unlink()
    return figures


def _check(path: Path, blob: Path) -> None:
    found = _sha256(path)
    assert found == blob.name, f"the SHA-256 of {path} is {found}, the blob's name is {blob.name}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
