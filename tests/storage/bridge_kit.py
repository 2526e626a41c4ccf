"""Caches of other programs, as they lie on a disk."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from atmo.identity import Signer
from atmo.services.downloads import TRAVELLING
from atmo.storage.bridge import Bridge
from atmo.storage.bridge_find import BridgePlaces
from atmo.storage.database import Database
from tests.storage import samples

REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER_REVISION = "fedcba9876543210fedcba9876543210fedcba98"
NOW = 1_790_000_000.0


def gguf(tensor_bytes: int) -> bytes:
    """Returns a model of random numbers, the same each time."""
    whole = samples.gguf(tensor_bytes=tensor_bytes)
    return whole[:-tensor_bytes] + random.Random(tensor_bytes).randbytes(tensor_bytes)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hub_file(
    hub: Path, repository: str, name: str, data: bytes, *, revision: str = REVISION, blob: str | None = None
) -> Path:
    """Puts a file into HuggingFace's cache; returns the blob's path."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    path = folder / "blobs" / (sha256(data) if blob is None else blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    link = folder / "snapshots" / revision / name
    link.parent.mkdir(parents=True, exist_ok=True)
    up = "/".join([".."] * (2 + name.count("/")))
    link.symlink_to(f"{up}/blobs/{path.name}")
    return path


def ollama_file(
    store: Path, name: str, data: bytes, *, namespace: str = "library", registry: str = "registry.ollama.ai"
) -> Path:
    """Puts a model `NAME:TAG` into Ollama's store; returns the blob's path."""
    base, _, tag = name.partition(":")
    blob = store / "blobs" / f"sha256-{sha256(data)}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'0' * 64}", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{sha256(data)}", "size": len(data)},
    ]
    manifest = store / "manifests" / registry / namespace / base / (tag or "latest")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def bridge_of(home: Path, places: BridgePlaces, travelling: Sequence[str] = TRAVELLING) -> Bridge:
    """Returns a bridge with a database of its own in `home`; a second one of the same home knows what the first did."""
    return Bridge(Database(home / ".atmosphere.db"), Signer(b"bridge".ljust(32, b".")), "kitchen", places, travelling)


def settle(bridge: Bridge, now: float = NOW) -> int:
    """Looks, and reads all that is new; returns how many files that were."""
    bridge.scan(now)
    count = 0
    while bridge.work() is not None:
        count += 1
    return count


def offered(bridge: Bridge) -> dict[str, str]:
    """Returns the offers: name@version to source."""
    return {f"{model.name}@{model.version}": model.source for model in bridge.models()}
