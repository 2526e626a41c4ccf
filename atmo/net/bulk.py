"""The fast path for chunks: TCP connections beside the QUIC link to a member, both ends of them.

One AEAD seal for each chunk instead of TLS: see docs/ARCHITECTURE.md. Keys come over the link, so that a connection
is as authenticated as the link is, and it ends with it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import trio

from atmo.identity import NodeId
from atmo.net.bulk_asker import Asker, Connect, Way
from atmo.net.bulk_config import BulkConfig, BulkStats
from atmo.net.bulk_frames import BULK
from atmo.net.bulk_holder import Holder
from atmo.net.driver import PeerDriver
from atmo.net.ports import ChunkService, Take
from atmo.net.tcp import TcpDoor, TcpStream, connect_tcp
from atmo.net.udp import to_address
from atmo.peer import LinkLost
from atmo.wire.address import Address


class Bulk:
    """Implements `net.ports.BulkPort` over the links of a driver.

    Args:
        driver: The peer's shell.
        door: Where connections come in.
        config: The limits.
        connect: Makes a TCP connection.

    Attributes:
        stats: Counts.
    """

    def __init__(
        self, driver: PeerDriver, door: TcpDoor, config: BulkConfig = BulkConfig(), connect: Connect = connect_tcp
    ) -> None:
        self.stats = BulkStats()
        self._door = door
        self._config = config
        links = _DriverLinks(driver)
        node = driver.peer.node_id
        self.holder = Holder(node, links, config, self.stats)
        self.asker = Asker(node, links, config, self.stats, connect)
        driver.handle(BULK, self.holder.give_ticket)
        driver.observers.append(self._on_event)

    def handle(self, service: ChunkService) -> None:
        """See `BulkPort`."""
        if self._door.listener is not None:
            self.holder.service = service

    async def fetch(self, node: NodeId, name: bytes, size: int, take: Take) -> bool:
        """See `BulkPort`."""
        return await self.asker.fetch(node, name, size, take)

    async def run(self) -> None:
        """Takes connections and closes those that are idle or late, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                if self._door.listener is not None:
                    nursery.start_soon(trio.serve_listeners, self._serve, [self._door.listener])
                while True:
                    await trio.sleep(self._config.rest_open_s / 2)
                    self.asker.close_idle()
                    self.holder.close_late()
        finally:
            self.asker.close_all()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            host = to_address(stream.socket.getpeername()).host
        except OSError:  # it is gone already
            stream.socket.close()
            return
        await self.holder.serve(TcpStream(stream.socket), host)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, LinkLost):
            self.holder.cut(event.node)
            self.asker.cut(event.node)


class _DriverLinks:
    """What both ends need of the driver."""

    def __init__(self, driver: PeerDriver) -> None:
        self._driver = driver
        self.now = driver.now
        self.request = driver.request

    def is_linked(self, node: NodeId) -> bool:
        """See `bulk_answers.Members`."""
        return self._driver.member_link(node) is not None

    def admits(self, node: NodeId) -> bool:
        """See `bulk_answers.Members`."""
        return self.is_linked(node) and self._driver.admits(node)

    def holding(self, node: NodeId) -> AbstractContextManager[None]:
        """Keeps the link to a node open for the block."""
        link = self._driver.member_link(node)
        return self._driver.holding(link) if link is not None else nullcontext()

    def way(self, node: NodeId) -> Way | None:
        """See `bulk_asker.Ways`."""
        link = self._driver.member_link(node)
        return link.connection if link is not None else None

    def announced(self, node: NodeId) -> tuple[Address, ...]:
        """See `bulk_asker.Ways`."""
        return self._driver.peer.addresses_of(node)
