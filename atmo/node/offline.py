"""What every node has, running or not: the opened home and the services on it."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from atmo.config.mode import STANDALONE
from atmo.config.settings import Settings, load_settings
from atmo.errors import UserError
from atmo.identity import Signer
from atmo.net.bulk_config import BulkConfig
from atmo.net.driver import PeerDriver
from atmo.net.interfaces import any_host
from atmo.net.quic import Endpoint, open_endpoint
from atmo.net.tcp import TcpDoor
from atmo.services.care import Care
from atmo.services.clock import PROTOCOL as CLOCK
from atmo.services.clock import ClockService
from atmo.services.host import MeshHost
from atmo.services.joining import PROTOCOL as JOIN
from atmo.services.keys import KeyService
from atmo.services.machine import this_profile
from atmo.services.mesh import MeshService
from atmo.services.models import ModelService
from atmo.services.publishing import Publishing
from atmo.services.scout import Scout
from atmo.services.topology import PROTOCOL as TOPOLOGY
from atmo.services.topology import TopologyService
from atmo.services.versions import Versions
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.home import Home
from atmo.storage.meshstate import MeshState
from atmo.version import __version__
from atmo.wire.address import Address

NAME_KEY = "node/name"
"""Under which name the node last ran, so that commands on the resting home know it too."""

_OFFLINE_LOCK_S = 5.0
_OFFLINE_LINKS_S = 10.0


@dataclass(frozen=True, slots=True)
class Services:
    """What a person can ask of a node, whether or not it runs."""

    mesh: MeshService
    models: ModelService
    versions: Versions
    publishing: Publishing
    care: Care
    topology: TopologyService
    clock: ClockService
    scout: Scout
    keys: KeyService
    status: Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OpenHome:
    """What a home holds, opened."""

    home: Home
    signer: Signer
    database: Database
    state: MeshState
    storage: ModelStorage


def open_home(stack: ExitStack, path: Path, wait_s: float) -> OpenHome:
    """Opens and locks a home until `stack` unwinds; blocks the thread.

    Raises:
        UserError: Another process holds it for longer than `wait_s`, or it is damaged.
    """
    home = Home(path)
    home.prepare()
    stack.enter_context(home.lock(wait_s))
    signer = home.load_signer()
    database = Database(home.database_path)
    stack.callback(database.close)
    return OpenHome(home, signer, database, MeshState(database), ModelStorage(path, database))


@asynccontextmanager
async def open_offline(home: Path, *, network: bool = False) -> AsyncIterator[Services]:
    """Opens a home whose node does not run.

    Args:
        home: The folder.
        network: The command needs other nodes: take part in the mesh until it is done.

    Raises:
        UserError: The home is in use or damaged.
    """
    settings = load_settings(home)
    with ExitStack() as stack:
        opened = await trio.to_thread.run_sync(open_home, stack, home, _OFFLINE_LOCK_S)
        name = await trio.to_thread.run_sync(opened.database.kv_get, NAME_KEY)
        settings = replace(settings, name=name.decode()) if name else settings
        member = await trio.to_thread.run_sync(opened.state.credentials) is not None
        if network and member and (reason := alone(settings)):
            raise UserError(*reason)
        if network and member:
            async with open_endpoint(opened.signer, any_host(), 0) as endpoint, trio.open_nursery() as nursery:
                host = build_host(opened, settings, endpoint, nursery, tcp=TcpDoor())
                async with open_services(opened, settings, host) as services:
                    await host.wait_for_mesh(_OFFLINE_LINKS_S)
                    yield services
                nursery.cancel_scope.cancel()
        else:
            port = settings.listen.port
            listen = Address(await trio.to_thread.run_sync(listen_host, settings), port) if port else None
            host = MeshHost(opened.signer, settings.name, opened.state, listen, alone=alone(settings))
            async with open_services(opened, settings, host) as services:
                yield services


def build_host(
    opened: OpenHome,
    settings: Settings,
    endpoint: Endpoint | None,
    nursery: trio.Nursery,
    load: Callable[[], int] = lambda: 0,
    wall: Callable[[], float] = time.time,
    tcp: TcpDoor | None = None,
    port_mapping: bool = False,
) -> MeshHost:
    """Returns the place of a peer that is connected through `endpoint`, and over TCP where there is a `tcp`."""
    if endpoint is None:
        return MeshHost(opened.signer, settings.name, opened.state, None, wall=wall, alone=alone(settings))
    return MeshHost(
        opened.signer,
        settings.name,
        opened.state,
        endpoint.local_address,
        endpoint=endpoint,
        nursery=nursery,
        load=load,
        wall=wall,
        relays=settings.relays,
        tcp=tcp,
        bulk=BulkConfig(clear_on_lan=settings.transfer.clear_on_lan),
        stun=settings.stun,
        port_mapping=port_mapping,
        tells=settings.rules.announces,
    )


@asynccontextmanager
async def open_services(opened: OpenHome, settings: Settings, host: MeshHost) -> AsyncIterator[Services]:
    """Builds the services of a node and resumes its mesh."""
    scout = Scout(host.mesh)
    opened.storage.limits = settings.storage
    models = ModelService(
        opened.storage, opened.signer, settings.name, host.mesh, convert=_convert, scout=scout, policy=settings.trust
    )
    models.transfers.limit(settings.transfer.at_once)
    models.tells = settings.rules.announces
    mesh = MeshService(opened.signer, settings.name, opened.state, opened.database, host, host.mesh, host.wall)

    versions = Versions(models, opened.storage.decisions, settings.auto_update)
    publishing = Publishing(models, opened.storage, opened.signer, host.mesh)
    care = Care(models, opened.storage, host.mesh)
    topology = TopologyService(opened.signer.node_id, settings.name, host.mesh)
    clock = ClockService(host.mesh, host.wall)
    keys = await trio.to_thread.run_sync(KeyService, opened.database, host.wall)

    def attach(driver: PeerDriver) -> None:
        driver.handle(JOIN, mesh.serve_join, members_only=False)
        driver.handle(TOPOLOGY, topology.serve)
        driver.handle(CLOCK, clock.serve)
        driver.fetch = models.fetch
        driver.observers.append(models.on_event)
        driver.observers.append(mesh.on_event)
        driver.observers.append(scout.on_event)
        driver.observers.append(versions.on_event)
        driver.peer.set_limits(driver.now(), settings.transfer.limits_at(time.localtime().tm_gmtoff))
        if settings.rules.announces:
            driver.peer.publish_profile(driver.now(), this_profile(settings.interests, settings.storage))
        publishing.attach(driver)
        models.attach(driver)
        mesh.attach(driver)

    host.on_attach.append(attach)
    await host.resume()

    def status() -> dict[str, Any]:
        return {
            "node_id": str(opened.signer.node_id),
            "name": settings.name,
            "version": __version__,
            "mode": settings.mode,
            "mesh": mesh.mesh(),
            "models": len(models.rows("local")),
        }

    try:
        yield Services(mesh, models, versions, publishing, care, topology, clock, scout, keys, status)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
            await host.aclose()


def alone(settings: Settings) -> tuple[str, str] | None:
    """Returns why the node has nothing to do with others, and what to do about it; None where it has."""
    if settings.rules.mesh:
        return None
    words, key = ("This node is standalone", "mode")
    if settings.mode != STANDALONE:
        words, key = ("The mesh is switched off on this node", "mesh.enabled")
    return f"{words}: it talks to no other one.", f"`atmo config show` tells where {key} is set."


async def _convert(source: Path, target: Path) -> Any:
    from atmo.backends.convert import convert

    return await convert(source, target)


def listen_host(settings: Settings) -> str:
    """Resolves the host of `--listen`, which may be a name; `::` is all of IPv4 where there is no IPv6.

    Raises:
        UserError: It is no name or address of this machine.
    """
    host, port = settings.listen
    if host == "::":
        return any_host()
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UserError(f"{host}: no such host: {error.strerror}.", "Give another --listen HOST:PORT.") from error
    return str(info[4][0])
