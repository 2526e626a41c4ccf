"""A peer that is connected to nothing: how commands work on a home whose node does not run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from atmo.clock import Now
from atmo.engine import Store
from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.path_report import PathReport
from atmo.net.ports import BulkPort, Handler, RequestStream
from atmo.peer import Peer


class OfflinePort:
    """Implements `net.ports.MeshPort` without a network; what must be kept is in `stores` afterwards.

    Args:
        peer: Of the mesh.
        why: There is no network, and what to do about it.
    """

    def __init__(self, peer: Peer, why: str = "this node does not run: start it with `atmo node`") -> None:
        self.peer = peer
        self._why = why
        self.bulk: BulkPort | None = None
        self.stores: list[Store] = []

    def now(self) -> Now:
        """Returns the clocks, read once."""
        return Now(trio.current_time(), time.time())

    def kick(self) -> None:
        """Keeps what the peer wants kept; everything else needs a network."""
        self.stores += [effect for effect in self.peer.drain() if isinstance(effect, Store)]

    def path(self, node: NodeId) -> PathReport | None:
        """Returns None: there are no links."""

    async def flush(self) -> None:
        """Does nothing yet: whoever opened the home keeps `stores` before the command ends."""
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[RequestStream]:
        """Refuses: nobody is linked.

        Raises:
            RemoteError: Always.
        """
        await trio.lowlevel.checkpoint()
        raise RemoteError(self._why)
        yield  # type: ignore[unreachable]  # what makes this an async generator

    def handle(self, protocol: str, handler: Handler, *, members_only: bool = True) -> None:
        """Nobody asks a node that does not run."""
