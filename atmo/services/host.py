"""Where the peer of a node lives: built when there is a mesh, connected where there is a socket."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from atmo.engine import Store
from atmo.errors import RemoteError, UserError, WireError, leaf_error
from atmo.gossip.records import Hardware
from atmo.identity import NodeId, Signer
from atmo.net.driver import PeerDriver
from atmo.net.interfaces import reachable_addresses
from atmo.net.offline import OfflinePort
from atmo.net.quic import Connection, Endpoint, VirtualPath, open_endpoint
from atmo.net.relayed import RelayPaths
from atmo.peer import Peer, PeerConfig
from atmo.peer.rules import apply_successions_untrusted
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayState
from atmo.storage.meshstate import MeshCredentials, MeshState
from atmo.trust.mesh import MeshTrust
from atmo.version import __version__
from atmo.wire.address import Address

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_CATALOG_S = 2.0  # a neighbour without models tells none


class MeshHost:
    """Holds the peer, if there is a mesh, and its shell; implements `services.mesh.Network`.

    Args:
        signer: The node's key.
        name: The node's name.
        state: What is kept over restarts.
        listen: Host and port of the settings.
        endpoint: The open socket, None on a home whose node does not run.
        nursery: Where the shell of the peer runs; with an endpoint only.
        load: Tells how many requests this machine is running.
        wall: Reads the wall clock, in Unix seconds.
        relays: At which others shall find this node.
    """

    def __init__(
        self,
        signer: Signer,
        name: str,
        state: MeshState,
        listen: Address | None,
        *,
        endpoint: Endpoint | None = None,
        nursery: trio.Nursery | None = None,
        load: Callable[[], int] = lambda: 0,
        wall: Callable[[], float] = time.time,
        relays: Sequence[RelayAddress] = (),
    ) -> None:
        self.wall = wall
        self._relays = relays
        self._relayed: RelayPaths | None = None
        self._signer = signer
        self._name = name
        self._state = state
        self._listen = listen
        self._endpoint = endpoint
        self._nursery = nursery
        self._load = load
        self.port: PeerDriver | OfflinePort | None = None
        self.on_attach: list[Callable[[PeerDriver], None]] = []

    def mesh(self) -> PeerDriver | OfflinePort | None:
        """Returns the peer's shell, None where there is no mesh."""
        return self.port

    def addresses(self) -> tuple[Address, ...]:
        """Returns where other machines reach this one."""
        return reachable_addresses(self._listen.host, self._listen.port) if self._listen else ()

    @asynccontextmanager
    async def connect(self, address: Address, node: NodeId) -> AsyncIterator[Connection]:
        """Connects to a stranger through the node's socket, or one opened for the purpose."""
        if self._endpoint is None:
            async with open_endpoint(self._signer, "::" if ":" in address.host else "0.0.0.0", 0) as endpoint:
                yield await endpoint.dial(address, node, _CONNECT_S)
            return
        async with _dialled(self._endpoint, address, node) as connection:
            yield connection

    @asynccontextmanager
    async def connect_relayed(self, url: str, node: NodeId) -> AsyncIterator[Connection]:
        """Connects to a stranger at a relay, likewise."""
        if self._endpoint is not None and self._relayed is not None:
            async with _dialled(self._endpoint, self._relayed.path(node, url), node) as connection:
                yield connection
            return
        try:
            async with open_endpoint(self._signer, "0.0.0.0", 0) as endpoint, trio.open_nursery() as nursery:
                relayed = RelayPaths(endpoint, self._signer)
                nursery.start_soon(relayed.run)
                async with _dialled(endpoint, relayed.path(node, url), node) as connection:
                    yield connection
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise leaf_error(group) from None  # the block's own: a relay that is not there raises nothing

    async def resume(self) -> None:
        """Starts the relays, and the peer of the mesh that this home belongs to, if any."""
        if self._endpoint is not None and self._nursery is not None:
            self._relayed = RelayPaths(self._endpoint, self._signer, self._relays)
            self._relayed.changed.append(self._moved)
            self._nursery.start_soon(self._relayed.run)
        credentials = await trio.to_thread.run_sync(self._state.credentials)
        if credentials:
            await self.attach(credentials)

    async def attach(self, credentials: MeshCredentials) -> None:
        """Starts the peer of a mesh.

        Raises:
            UserError: The credentials are damaged or out of date.
        """
        now = self.wall()
        try:
            trust = MeshTrust(credentials.genesis)
            apply_successions_untrusted(trust, await trio.to_thread.run_sync(self._state.successions))
            trust.admit_untrusted(now, self._signer.node_id, credentials.certificate, credentials.issuer_certificate)
        except WireError as error:
            raise UserError(
                f"This node's membership of its mesh does not count now: {error}.",
                "Set this machine's clock, or join again with another --home.",
            ) from error
        epoch = await trio.to_thread.run_sync(self._state.next_epoch, now)
        peer = Peer(PeerConfig(), self._signer, trust, epoch, os.urandom(16).hex())
        records = await trio.to_thread.run_sync(self._state.records)
        bans = await trio.to_thread.run_sync(self._state.bans)
        if self._endpoint is None or self._nursery is None:
            self.port = OfflinePort(peer)
            peer.load_records(self.port.now(), records)
            peer.load_bans(self.port.now(), bans)
            peer.drain()
            return
        driver = PeerDriver(self._endpoint, peer, self._keep, self._load, self.wall)
        peer.load_records(driver.now(), records)
        peer.load_bans(driver.now(), bans)
        hardware = await trio.to_thread.run_sync(this_hardware)
        peer.publish_node(driver.now(), self._name, self.addresses(), __version__, hardware)
        peer.publish_relay(driver.now(), self.home_relay())
        if self._relayed is not None:
            driver.use_relays(self._relayed)
        self.port = driver
        for callback in self.on_attach:
            callback(driver)
        await self._nursery.start(driver.run)

    def _moved(self, state: RelayState) -> None:
        """There is another home relay, or none: the mesh is told where to find this node."""
        if state.home is None:
            log.warning("no relay: %s", state.reason)
        else:
            log.info("found at the relay %s", state.home.url)
        if isinstance(self.port, PeerDriver):
            self.port.peer.publish_relay(self.port.now(), self.home_relay())
            self.port.kick()

    def home_relay(self) -> str | None:
        """Returns the URL of the relay at which this node is found, with the relay's id."""
        return self._relayed.home() if self._relayed is not None else None

    def relay(self) -> str | None:
        """Returns at which relay this node is found, or why at none; None where it has none."""
        if self._relayed is None or not self._relays:
            return None
        state = self._relayed.state
        return state.home.url if state.home else f"none: {state.reason}"

    async def _keep(self, batch: list[Store]) -> None:
        await trio.to_thread.run_sync(self._state.apply, batch)

    async def aclose(self) -> None:
        """Tells the neighbours that this node leaves, or keeps what an offline command changed."""
        if isinstance(self.port, PeerDriver):
            await self.port.leave()
        elif self.port:
            await self._keep(self.port.stores)

    async def wait_for_mesh(self, timeout_s: float) -> None:
        """Waits until there is a neighbour and models are known, for commands that need the mesh at once.

        Raises:
            RemoteError: There is no mesh, or nobody answered in time.
        """
        if not isinstance(self.port, PeerDriver):
            raise RemoteError("this node belongs to no mesh: join one with `atmo mesh join CODE`")
        driver = self.port
        changed = trio.Event()

        def look(_: object) -> None:
            changed.set()

        driver.observers.append(look)
        deadline = trio.current_time() + timeout_s
        while not (driver.peer.neighbours() and any(not model.local for model in driver.peer.models(driver.now()))):
            with trio.move_on_at(deadline) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                break
            if driver.peer.neighbours():
                deadline = min(deadline, trio.current_time() + _CATALOG_S)
            changed = trio.Event()
        driver.observers.remove(look)
        if not driver.peer.neighbours():
            raise RemoteError("no other node of the mesh answers: check that one runs and that UDP reaches it")


@asynccontextmanager
async def _dialled(endpoint: Endpoint, where: Address | VirtualPath, node: NodeId) -> AsyncIterator[Connection]:
    connection = await endpoint.dial(where, node, _CONNECT_S)
    try:
        yield connection
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 0.5):
            await connection.aclose("done")


def this_hardware() -> Hardware:
    """Describes this machine for its node record (docs/manifest.md)."""
    try:
        memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        memory_mb = 0
    return Hardware(memory_mb, os.cpu_count() or 0, platform.machine().lower(), None)
