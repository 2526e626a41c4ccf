"""Nodes without an HTTP face, over real sockets on loopback: mesh and model services, each with a home of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from atmo.identity import Signer
from atmo.net.driver import PeerDriver
from atmo.net.quic import open_endpoint
from atmo.net.tcp import open_tcp
from atmo.relay.address import RelayAddress
from atmo.services.host import MeshHost
from atmo.services.joining import PROTOCOL
from atmo.services.mesh import MeshService
from atmo.services.models import ModelService
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.meshstate import MeshState
from atmo.wire.address import Address


@dataclass
class Machine:
    """One node's services."""

    host: MeshHost
    service: MeshService
    models: ModelService
    signer: Signer
    database: Database
    storage: ModelStorage

    def on_disk(self) -> list[str]:
        """Returns the keys of the records that a kill now would leave."""
        return [key for key, _ in self.database.kv_items("record/")]

    @property
    def driver(self) -> PeerDriver:
        assert isinstance(self.host.port, PeerDriver)
        return self.host.port


@asynccontextmanager
async def machine(
    tmp_path: Path,
    name: str,
    *,
    online: bool = True,
    listen: Address | None = None,
    wall: Callable[[], float] = time.time,
    relays: Sequence[RelayAddress] = (),
    use_tcp: bool = True,
) -> AsyncIterator[Machine]:
    signer = Signer(name.encode().ljust(32, b"."))
    home = tmp_path / name
    home.mkdir(exist_ok=True)
    database = Database(home / "atmosphere.db")
    state = MeshState(database)
    storage = ModelStorage(home, database)

    def build(host: MeshHost) -> Machine:
        service = MeshService(signer, name, state, database, host, host.mesh)
        models = ModelService(storage, signer, name, host.mesh)

        def attach(driver: PeerDriver) -> None:
            driver.handle(PROTOCOL, service.serve_join, members_only=False)
            driver.fetch = models.fetch
            driver.observers.append(models.on_event)
            models.attach(driver)
            service.attach(driver)

        host.on_attach.append(attach)
        return Machine(host, service, models, signer, database, storage)

    try:
        if not online:
            offline = build(MeshHost(signer, name, state, listen, wall=wall))
            await offline.host.resume()
            yield offline
            await offline.host.aclose()
            return
        port = listen.port if listen else 0
        async with (
            open_endpoint(signer, "127.0.0.1", port) as endpoint,
            open_tcp(endpoint.local_address) as tcp,
            trio.open_nursery() as nursery,
        ):
            online_machine = build(
                MeshHost(
                    signer,
                    name,
                    state,
                    endpoint.local_address,
                    endpoint=endpoint,
                    nursery=nursery,
                    wall=wall,
                    relays=relays,
                    tcp=tcp if use_tcp else None,
                )
            )
            await online_machine.host.resume()
            yield online_machine
            await online_machine.host.aclose()
            nursery.cancel_scope.cancel()
    finally:
        database.close()


async def names_seen(m: Machine, wanted: set[str]) -> None:
    with trio.fail_after(10):
        while {row["name"] for row in m.service.nodes() if row["path"]} != wanted:
            await trio.sleep(0.02)
