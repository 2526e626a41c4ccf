"""This node on its LAN: what it says of itself there, and which of those it hears of it dials."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.net.driver import PeerDriver
from atmo.net.interfaces import Interface, lan_interfaces
from atmo.net.lan import Lan, discover
from atmo.net.lan_advert import VERSION, Advert
from atmo.peer import LinkLost, NodeGone
from atmo.services.host import MeshHost
from atmo.services.nearby import Nearby, NearbyConfig
from atmo.wire.address import Address

log = logging.getLogger(__name__)

_PAUSE_S = 0.5
"""Between two looks at what changed. Source: guess."""


@dataclass(slots=True)
class LanStats:
    """What there is, and a counter since start.

    Attributes:
        seen: Nodes of which there is an advert now, this one among them.
        mesh: Those of them that say they are of this node's mesh.
        dials: Links asked for because of an advert.
    """

    seen: int = field(default=0, metadata={"gauge": True})
    mesh: int = field(default=0, metadata={"gauge": True})
    dials: int = 0


class LanService:
    """Adverts a node and connects it with those of its mesh that are near.

    Args:
        node: Its id.
        name: For people.
        port: Of its UDP socket.
        host: Where its peer is, once it has a mesh.
        interfaces: Returns the interfaces to use; may block.
        config: Of dials.
    """

    def __init__(
        self,
        node: NodeId,
        name: str,
        port: int,
        host: MeshHost,
        interfaces: Callable[[], tuple[Interface, ...]],
        config: NearbyConfig | None = None,
    ) -> None:
        self.stats = LanStats()
        self._node = node
        self._name = name
        self._port = port
        self._host = host
        self._nearby = Nearby(config or NearbyConfig(), node)
        self._changed = trio.Event()
        self._lan = Lan(interfaces, self._wake)
        self._lan.tell(self._advert())
        host.on_attach.append(self._attach)
        if isinstance(host.port, PeerDriver):
            self._attach(host.port)

    async def run(self, stop: trio.Event) -> None:
        """Runs until `stop` is set, or it is cancelled; then says goodbye within a second."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._lan.run)
            nursery.start_soon(self._look_forever)
            await stop.wait()
            nursery.cancel_scope.cancel()

    @property
    def error(self) -> str:
        """Why there is no mDNS now, empty where there is."""
        heard = any(node != self._node for node in self._lan.adverts)
        return self._lan.error or ("" if heard else self._lan.complaint)

    def addresses(self, node: NodeId) -> tuple[Address, ...]:
        """Returns where a node is said to listen."""
        advert = self._lan.adverts.get(node)
        return advert.addresses if advert else ()

    def _attach(self, driver: PeerDriver) -> None:
        driver.links.nearby = self.addresses
        driver.observers.append(self._on_event)
        self._wake()

    def _on_event(self, event: Any) -> None:
        if isinstance(event, LinkLost | NodeGone):
            self._wake()

    def _wake(self) -> None:
        self._changed.set()

    async def _look_forever(self) -> None:
        while True:
            self._changed = trio.Event()
            due = self._look()
            await trio.sleep(_PAUSE_S)
            with trio.move_on_at(due):
                await self._changed.wait()

    def _look(self) -> float:
        """Says what is to be said, dials who is due; returns when to look again at the latest."""
        self._lan.tell(self._advert())
        adverts, driver = self._lan.adverts, self._host.port
        self.stats.seen, self.stats.mesh = len(adverts), 0
        if not isinstance(driver, PeerDriver):
            return math.inf
        peer, now = driver.peer, driver.now()
        known = self._lan.prefer = peer.known()
        mates = {node: advert for node, advert in adverts.items() if advert.mesh == peer.trust.mesh_id}
        self.stats.mesh = len(mates)
        wanted = self._wanted(driver, mates)
        wanted.sort(key=lambda node: node not in known)
        for node in self._nearby.due(now.mono, wanted, peer.linked(), mates):
            log.debug("dialling %s, which an advert says is near", node.short)
            self.stats.dials += 1
            peer.nearby(now, node, mates[node].addresses)
        driver.kick()
        return self._nearby.next_due(wanted)

    def _wanted(self, driver: PeerDriver, mates: Mapping[NodeId, Advert]) -> list[NodeId]:
        peer = driver.peer
        lonely = len(peer.neighbours()) < self._nearby.enough
        return [
            node
            for node, advert in mates.items()
            if node != self._node
            and advert.version == VERSION
            and advert.addresses
            and not peer.is_ready(node)
            and (lonely or not peer.is_present(node))
        ]

    def _advert(self) -> Advert:
        """Returns what this node says of itself now; of its mesh only while it is a member."""
        driver = self._host.port
        if driver is None or not driver.peer.trust.is_member(self._host.wall(), self._node):
            return Advert(self._node, self._name, self._port)
        trust = driver.peer.trust
        return Advert(self._node, self._name, self._port, trust.mesh_id, trust.genesis.name)


def node_lan(node: NodeId, name: str, listen: Address, host: MeshHost) -> LanService:
    """Returns the LAN of a node that listens at `listen`."""
    return LanService(node, name, listen.port, host, partial(lan_interfaces, listen.host))


async def look_around(seconds: float, own: str, mesh: str | None) -> dict[str, Any]:
    """Lists who says on this LAN that it is there.

    Args:
        seconds: For how long to listen.
        own: This node's id, empty where it has none yet.
        mesh: The id of its mesh, if any.

    Returns:
        `{meshes: [{id, name, yours, nodes}], nodes_without_mesh}`, a node being `{id, name, addresses, version, self}`.

    Raises:
        UserError: There is no network, or its mDNS cannot be used.
    """
    interfaces = await trio.to_thread.run_sync(lan_interfaces, "::")
    if not interfaces:
        raise UserError("This machine is on no network.", "Connect it, or join with `atmo mesh join CODE`.")
    lan = await discover(interfaces, seconds)
    if lan.error:
        raise UserError(f"This network cannot be searched by mDNS: {lan.error}.", "Join with `atmo mesh join CODE`.")
    meshes: dict[str, dict[str, Any]] = {}
    alone = []
    for advert in sorted(lan.adverts.values(), key=lambda advert: (advert.name.lower(), advert.node)):
        row = {
            "id": str(advert.node),
            "name": advert.name,
            "addresses": [str(address) for address in advert.addresses],
            "version": advert.version,
            "self": str(advert.node) == own,
        }
        if advert.mesh is None:
            alone.append(row)
            continue
        told = advert.mesh.hex()
        entry = meshes.setdefault(told, {"id": told, "name": advert.mesh_name, "yours": told == mesh, "nodes": []})
        entry["nodes"].append(row)
    rows = sorted(meshes.values(), key=lambda entry: (not entry["yours"], entry["name"].lower(), entry["id"]))
    return {"meshes": rows, "nodes_without_mesh": alone}
