"""Where the peer of a node lives: built when there is a mesh, connected where there is a socket."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from blake3 import blake3

from atmo.engine import Store
from atmo.errors import RemoteError, UserError, WireError, leaf_error
from atmo.gossip.records import Hardware
from atmo.identity import NodeId, Signer
from atmo.net.bulk import Bulk
from atmo.net.bulk_config import BulkConfig
from atmo.net.driver import PeerDriver
from atmo.net.interface_changes import hosts_now, watch_interfaces
from atmo.net.interfaces import any_host, reachable_addresses
from atmo.net.natwatch import NatWatch
from atmo.net.offline import OfflinePort
from atmo.net.port_mapping import PortMapper, is_global, nothing_mapped
from atmo.net.quic import Connection, Endpoint, VirtualPath, open_endpoint
from atmo.net.relayed import RelayPaths
from atmo.net.tcp import TcpDoor
from atmo.net.udp import is_loopback
from atmo.peer import Peer, PeerConfig
from atmo.peer.rules import apply_successions_untrusted
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayState
from atmo.services.machine import this_hardware
from atmo.storage.meshstate import MeshCredentials, MeshState
from atmo.trust.mesh import MeshTrust
from atmo.version import __version__
from atmo.wire.address import CONTACT_ADDRESSES, Address

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
        tcp: Where TCP connections come in; None where models go over QUIC alone.
        bulk: The limits of these connections.
        stun: Hosts and ports of servers that tell this node where they see it.
        port_mapping: Whether routers are asked to let others in, unless only this machine reaches the socket.
        alone: Why this node has nothing to do with others, and what to do about it; None where it has.
        tells: Whether the mesh is told of this machine's hardware beside its name and addresses.
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
        tcp: TcpDoor | None = None,
        bulk: BulkConfig = BulkConfig(),
        stun: Sequence[tuple[str, int]] = (),
        port_mapping: bool = False,
        alone: tuple[str, str] | None = None,
        tells: bool = True,
    ) -> None:
        self._tells = tells
        self.alone = alone
        self.wall = wall
        self._tcp = tcp
        self._bulk_config = bulk
        self.bulk: Bulk | None = None
        self._relays = relays
        self._relayed: RelayPaths | None = None
        self._stun = stun
        self.nat: NatWatch | None = None
        self._port_mapping = port_mapping
        self.mapper: PortMapper | None = None
        self._hardware = Hardware()
        self._relay_said = ""
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
        """Returns where other machines reach this one.

        Few addresses go into contacts, so among the first are some of both IP versions, and where a router lets in.
        """
        own = self._own_addresses()
        mapped = self.mapper.external if self.mapper is not None else ()
        if not mapped:
            return own
        six = [address for address in own if ":" in address.host][: CONTACT_ADDRESSES // 2]
        four = [address for address in own if ":" not in address.host]
        return tuple(dict.fromkeys((*six, *mapped, *four, *own)))

    def _own_addresses(self) -> tuple[Address, ...]:
        return reachable_addresses(self._listen.host, self._listen.port) if self._listen else ()

    @asynccontextmanager
    async def connect(self, address: Address, node: NodeId) -> AsyncIterator[Connection]:
        """Connects to a stranger through the node's socket, or one opened for the purpose."""
        self._check_alone()
        if self._endpoint is None:
            async with open_endpoint(self._signer, any_host(), 0) as endpoint:
                yield await endpoint.dial(address, node, _CONNECT_S)
            return
        async with _dialled(self._endpoint, address, node) as connection:
            yield connection

    @asynccontextmanager
    async def connect_relayed(self, url: str, node: NodeId) -> AsyncIterator[Connection]:
        """Connects to a stranger at a relay, likewise."""
        self._check_alone()
        if self._endpoint is not None and self._relayed is not None:
            async with _dialled(self._endpoint, self._relayed.path(node, url), node) as connection:
                yield connection
            return
        try:
            async with open_endpoint(self._signer, any_host(), 0) as endpoint, trio.open_nursery() as nursery:
                relayed = RelayPaths(endpoint, self._signer)
                nursery.start_soon(relayed.run)
                async with _dialled(endpoint, relayed.path(node, url), node) as connection:
                    yield connection
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise leaf_error(group) from None  # the block's own: a relay that is not there raises nothing

    def _check_alone(self) -> None:
        if self.alone is not None:
            raise UserError(*self.alone)

    async def resume(self) -> None:
        """Starts the relays, what watches the NAT, and the peer of the mesh that this home belongs to, if any."""
        if self._endpoint is not None and self._nursery is not None:
            self._relayed = RelayPaths(self._endpoint, self._signer, self._relays)
            self._relayed.changed.append(self._moved)
            self._nursery.start_soon(self._relayed.run)
            self.nat = NatWatch(self._endpoint, self._own_addresses, self._stun, self._members)
            self._nursery.start_soon(self.nat.run)
            self._nursery.start_soon(watch_interfaces, self._addresses_changed)
            if self._port_mapping and not is_loopback(self._endpoint.local_address):
                self.mapper = self._new_mapper(self._endpoint.local_address)
                self._nursery.start_soon(self.mapper.run)
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
        scores = await trio.to_thread.run_sync(self._state.scores)
        if self._endpoint is None or self._nursery is None:
            self.port = OfflinePort(peer, *([" ".join(self.alone)] if self.alone is not None else []))
            peer.load_records(self.port.now(), records)
            peer.load_bans(self.port.now(), bans)
            peer.drain()
            return
        driver = PeerDriver(self._endpoint, peer, self._keep, self._load, self.wall)
        peer.load_records(driver.now(), records)
        peer.load_bans(driver.now(), bans)
        peer.load_scores(driver.now(), scores)
        if self._tells:
            self._hardware = await trio.to_thread.run_sync(this_hardware)
        peer.publish_node(driver.now(), self._name, self.addresses(), __version__, self._hardware)
        peer.publish_relay(driver.now(), self.home_relay())
        if self._relayed is not None:
            driver.use_relays(self._relayed)
        if self._tcp is not None:
            self.bulk = driver.bulk = Bulk(driver, self._tcp, self._bulk_config)
            self._nursery.start_soon(self.bulk.run)
        self.port = driver
        for callback in self.on_attach:
            callback(driver)
        await self._nursery.start(driver.run)
        if self.nat is not None:
            nat = self.nat
            driver.pathfinder.mapping = lambda: nat.report.mapping
            nat.hurry()

    def _members(self) -> list[Address]:
        """Returns where the other members of the mesh say that they listen."""
        if not isinstance(self.port, PeerDriver):
            return []
        views = self.port.peer.nodes(self.port.now())
        return [address for view in views if view.present and view.path != "self" for address in view.addresses]

    def _addresses_changed(self) -> None:
        """This machine is reached elsewhere now."""
        log.info("this machine's addresses changed: %s", ", ".join(map(str, self._own_addresses())))
        if self.mapper is not None:
            self.mapper.look_again()
        if self.nat is not None:
            self.nat.look_again()
        if self._relayed is not None:
            self._relayed.network_changed(hosts_now())
        self._tell_addresses()

    def _tell_addresses(self) -> None:
        """The mesh, and the other ends of links, are told where this node is reached now."""
        if isinstance(self.port, PeerDriver):
            self.port.peer.publish_node(self.port.now(), self._name, self.addresses(), __version__, self._hardware)
            self.port.addresses_changed()
            self.port.kick()

    def _new_mapper(self, listen: Address) -> PortMapper:
        secret = blake3(self._signer.seed, derive_key_context="atmosphere 2026 nonces of port mappings").digest()
        tcp = self._tcp is not None and self._tcp.port == listen.port
        return PortMapper(listen, tcp, secret, self._tell_addresses, self._may_be_told)

    def _may_be_told(self, address: Address) -> bool:
        """Says whether others can reach an address of the router: one of the internet, or one at which others saw this
        node; behind a second NAT it is neither.
        """
        return is_global(address) or (
            self.nat is not None and address.host in {public.host for public in self.nat.report.public}
        )

    def _moved(self, state: RelayState) -> None:
        """There is another home relay, or none: the mesh is told where to find this node."""
        if state.home is None:
            if state.reason != self._relay_said:
                log.warning("no relay: %s", state.reason)
                self._relay_said = state.reason
        else:
            log.info("found at the relay %s", state.home.url)
            self._relay_said = ""
        if isinstance(self.port, PeerDriver):
            self.port.peer.publish_relay(self.port.now(), self.home_relay())
            self.port.kick()

    def home_relay(self) -> str | None:
        """Returns the URL of the relay at which this node is found, with the relay's id."""
        return self._relayed.home() if self._relayed is not None else None

    @property
    def relay_state(self) -> RelayState | None:
        """Where this node can be found, None where it has no relays."""
        return self._relayed.state if self._relayed is not None and self._relays else None

    def relay(self) -> str | None:
        """Returns at which relay this node is found, or why at none; None where it has none."""
        state = self.relay_state
        if state is None:
            return None
        return state.home.url if state.home else f"none: {state.reason}"

    def tcp(self) -> str | None:
        """Returns at which port others get models over TCP, or why at none; None where nothing was tried."""
        if self._tcp is None:
            return None
        return f"none: {self._tcp.problem}" if self._tcp.port is None else str(self._tcp.port)

    def port_mapping(self) -> dict[str, Any]:
        """Returns what a router lets in, or why nothing."""
        if self.mapper is not None:
            return self.mapper.view()
        return nothing_mapped("only this machine reaches the node" if self._port_mapping else "switched off")

    @property
    def tcp_port(self) -> int | None:
        """The port on which bulk connections are taken, None where none are."""
        return self._tcp.port if self._tcp is not None else None

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
