"""A large mesh of a few: real peers without delays, with model services and gateways on them, in real time.

The census is three members, so all think that the mesh is large: records are near, and the index knows the rest.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio

from atmo.backends.pool import BackendPool
from atmo.clock import Now
from atmo.config.settings import Settings
from atmo.engine import CancelFetch, Effect, Emit, FetchChunk
from atmo.errors import RemoteError
from atmo.gateway.gateway import Gateway
from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.identity import NodeId
from atmo.net.ports import BulkPort, Handler
from atmo.node.terms import terms_of
from atmo.peer import Peer, PeerConfig
from atmo.peer.scale import ScaleConfig
from atmo.services.models import ModelService
from atmo.services.scout import Scout
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from tests.gateway.world import Echo, embed
from tests.peer.kit import Side, Table
from tests.services.hub import MemoryStream
from tests.trust.kit import signer

CONFIG = PeerConfig(scale=ScaleConfig(census=3, hysteresis=0.3), hyparview=HyParViewConfig(active=3, active_least=2))
TICK_S = 0.02


class WideTable(Table):
    """Peers whose observers hear of what they tell."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.answering = True
        self.performers: dict[NodeId, Callable[[Effect], None]] = {}

    def _perform(self, side: Side, effect: Effect) -> None:
        super()._perform(side, effect)
        if perform := self.performers.get(side.id):
            perform(effect)


class WideNode:
    """A node of the mesh: its services, and the port that they see. Implements `MeshPort`.

    Its mode means what it does in a running node; where it is standalone, nothing of it is attached to the mesh.
    """

    def __init__(self, net: WideNet, side: Side, name: str, folder: Path, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(name)
        rules = self.settings.rules
        self.net = net
        self.side = side
        self.name = name
        self.bulk: BulkPort | None = None
        self.handlers: dict[str, Handler] = {}
        self.backend = Echo()
        self.backend.offered = ()
        self.pool = BackendPool([self.backend])
        self.scout = Scout(self.mesh)
        self.database = Database(folder / name / "atmosphere.db")
        storage = ModelStorage(folder / name, self.database)
        self.models = ModelService(storage, side.signer, name, self.mesh, scout=self.scout)
        self.gateway = Gateway(
            side.id,
            name,
            self.pool,
            embed,
            self.mesh if rules.mesh else lambda: None,
            stored=lambda: self.models.rows("mesh" if rules.routes_away else "local"),
            seek=self.scout.find,
            terms=terms_of(self.settings, self.mesh),
        )
        self.models.tells = rules.announces
        self._fetches: dict[tuple[str, NodeId, int], trio.CancelScope] = {}
        net.table.performers[side.id] = self._perform
        if rules.mesh:
            self.models.attach(self)
            self.gateway.attach(self)

    @property
    def peer(self) -> Peer:
        return self.side.peer

    @peer.setter
    def peer(self, _: Peer) -> None:
        raise AttributeError("a node keeps its peer")

    def mesh(self) -> WideNode:
        return self

    def now(self) -> Now:
        return self.net.table.now

    def path(self, node: NodeId) -> None:
        return None

    def kick(self) -> None:
        self.net.table.settle()

    def handle(self, protocol: str, handler: Handler) -> None:
        self.handlers[protocol] = handler

    def _perform(self, effect: Effect) -> None:
        match effect:
            case FetchChunk():
                self.net.nursery.start_soon(self._fetch, effect)
            case CancelFetch(transfer, source, index):
                if scope := self._fetches.get((transfer, source, index)):
                    scope.cancel()
            case Emit(event):
                self.models.on_event(event)
                self.scout.on_event(event)

    async def _fetch(self, effect: FetchChunk) -> None:
        with trio.CancelScope() as scope:
            self._fetches[effect.transfer, effect.source, effect.index] = scope
            await self.models.fetch(effect)

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[MemoryStream]:
        self.peer.reach(self.now(), node)
        self.kick()
        other = self.net.nodes.get(node)
        if other is None or not self.peer.is_ready(node):
            raise RemoteError("there is no way to it")
        if protocol not in other.handlers:
            raise RemoteError(f"it does not speak {protocol}")
        there, here_in = trio.open_memory_channel[bytes](math.inf)
        back, answers = trio.open_memory_channel[bytes](2)
        scope = trio.CancelScope()
        served = MemoryStream(self.side.id, protocol, header, back, here_in)
        self.net.nursery.start_soon(self._serve, other, served, scope, back)
        try:
            yield MemoryStream(node, protocol, header, there, answers)
        finally:
            scope.cancel()
            answers.close()

    async def _serve(self, other: WideNode, stream: MemoryStream, scope: trio.CancelScope, back: Any) -> None:
        with scope, back:
            await other.handlers[stream.protocol](stream)

    async def offers(self, *capabilities: Any) -> None:
        """Runs these from now on, and tells the mesh."""
        self.backend.offered = capabilities
        await self.pool.refreshed(self.backend.name)
        if self.settings.rules.mesh:
            self.peer.publish_capabilities(self.now(), self.gateway.offered())
            self.kick()

    def knows(self, other: WideNode) -> bool:
        """Says whether the records of another node's models and capabilities are here."""
        directory = self.peer._directory
        return any(directory.models_of(other.side.id)) or any(directory.capabilities_of(other.side.id))


class WideNet:
    """The mesh.

    Attributes:
        nodes: By id, in the order in which they came.
    """

    def __init__(self, nursery: trio.Nursery, folder: Path, count: int, settings: Sequence[Settings] = ()) -> None:
        self.nursery = nursery
        self.table = WideTable()
        sides = [self.table.add(signer(f"node {number}"), f"n{number}") for number in range(count)]
        for one, two in pairwise(sides):
            self.table.link(one, two, spread_s=0.5)
        self.table.advance(45)
        said = dict(enumerate(settings))
        self.nodes = {side.id: WideNode(self, side, f"n{at}", folder, said.get(at)) for at, side in enumerate(sides)}

    async def run(self) -> None:
        """Lets time pass as it does."""
        before = trio.current_time()
        while True:
            await trio.sleep(TICK_S)
            now = trio.current_time()
            self.table.advance(now - before)
            before = now

    def settle(self, seconds: float = 15.0) -> None:
        """Lets time pass at once: what was told reaches the index, and links that nobody needs end."""
        self.table.advance(seconds)

    def strangers_of(self, *others: WideNode) -> list[WideNode]:
        """Returns the nodes that know nothing of what these have, and makes sure that they are not linked with them."""
        found = []
        for node in self.nodes.values():
            if node not in others and not any(node.knows(other) for other in others):
                found.append(node)
                for other in others:
                    self.table.cut(node.side.id, other.side.id)
        self.table.settle()
        return found


@asynccontextmanager
async def wide_net(folder: Path, count: int = 8, settings: Sequence[Settings] = ()) -> AsyncIterator[WideNet]:
    """Opens such a mesh; everything ends with the block.

    Args:
        folder: Where the nodes keep things.
        count: Of nodes.
        settings: Of the first nodes.
    """
    async with trio.open_nursery() as nursery:
        net = WideNet(nursery, folder, count, settings)
        for node in net.nodes.values():
            await nursery.start(node.pool.run)
        nursery.start_soon(net.run)
        yield net
        nursery.cancel_scope.cancel()
    for node in net.nodes.values():
        node.database.close()
