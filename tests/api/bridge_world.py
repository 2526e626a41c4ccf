"""A node with a bridge over a small cache of HuggingFace's, and its HTTP face."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from atmo.api.bridge import create_bridge_app
from atmo.api.routing import Application
from atmo.identity import Signer
from atmo.services.bridge import BridgeService
from atmo.services.models import ModelService
from atmo.storage.bridge import Bridge
from atmo.storage.bridge_find import BridgePlaces
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from tests.api.face import in_process
from tests.storage import samples
from tests.storage.bridge_kit import NOW, bridge_of, gguf, hub_file, settle, sha256

MIB = 2**20
GGUF = gguf(5 * MIB + 48)
ETAG = f'"{sha256(GGUF)}"'
SIZE = len(GGUF)
TINY = "/v1/models/download/org/tiny:tiny.gguf"


@dataclass
class World:
    service: BridgeService
    bridge: Bridge
    models: ModelService
    blob: Path
    folder: Path

    def app(self, host: str = "127.0.0.1") -> Application:
        return create_bridge_app(self.service, "n" * 52, "kitchen", host, lambda: NOW)

    @asynccontextmanager
    async def client(self, host: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
        async with in_process(self.app(host)) as client:
            yield client


def make_world(tmp_path: Path) -> World:
    """Returns a node whose bridge has read everything."""
    blob = hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm" / "bad.pt").write_bytes(samples.torch_zip())
    storage = ModelStorage(tmp_path / "home", Database(tmp_path / "home" / "atmosphere.db"))
    models = ModelService(storage, Signer(b"kitchen".ljust(32, b".")), "kitchen", lambda: None)
    bridge = bridge_of(tmp_path, BridgePlaces(tmp_path / "farm", tmp_path / "hub"))
    settle(bridge)
    return World(BridgeService(models, bridge, 300, lambda: NOW), bridge, models, blob, tmp_path)
