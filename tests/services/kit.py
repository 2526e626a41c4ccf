"""A mesh in memory for tests of the services, and models to move in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import trio

from atmo.services.serve import CHUNK_PROTOCOL, DELTA_PROTOCOL
from atmo.transfer.manifest import CHUNK_BYTES
from tests.services.hub import Hub, Node
from tests.storage import samples


def model_file(folder: Path, chunks: int = 12, seed: int = 1) -> Path:
    """A safetensors file of about `chunks` MiB of random bytes."""
    whole = samples.safetensors(chunks * CHUNK_BYTES, fill=b"\0")
    path = folder / f"weights-{chunks}-{seed}.safetensors"
    path.write_bytes(whole[: -chunks * CHUNK_BYTES] + Random(seed).randbytes(chunks * CHUNK_BYTES))
    return path


@asynccontextmanager
async def mesh(folder: Path, *names: str, **service: Any) -> AsyncIterator[list[Node]]:
    """A mesh that ends with the block."""
    async with trio.open_nursery() as nursery:
        hub = Hub(nursery)
        yield [Node(hub, folder, name, **service) for name in names]
        nursery.cancel_scope.cancel()


def chunk_requests(hub: Hub, asker: str) -> dict[str, int]:
    """Returns how often a node asked each other one for a chunk, as it is or as a delta."""
    protocols = (CHUNK_PROTOCOL, DELTA_PROTOCOL)
    asked = [other for who, other, protocol in hub.requests if who == asker and protocol in protocols]
    return {name: asked.count(name) for name in set(asked)}
