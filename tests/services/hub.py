"""A mesh in memory: real model services and transfer engines, linked by channels instead of sockets."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import trio

from atmo.clock import Now
from atmo.engine import Ask, CancelFetch, Emit, FetchChunk, Message, Misbehaved, Send
from atmo.errors import RemoteError
from atmo.gossip.catalog import digest, may_have
from atmo.gossip.records import DeprecationBody, ModelOffer, ModelRecord
from atmo.identity import NodeId, Signer
from atmo.net.ports import BulkPort, Handler, MeshPort
from atmo.peer import Advice
from atmo.services.models import ModelService
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.transfer.config import TransferConfig
from atmo.transfer.engine import TransferEngine
from atmo.transfer.requirements import Profile


class MemoryStream:
    """One end of a request; frames and raw bytes share one channel in each direction."""

    def __init__(self, node_id: NodeId, protocol: str, header: Mapping[str, Any], send: Any, receive: Any) -> None:
        self.node_id, self.protocol, self.header = node_id, protocol, header
        self._send, self._receive = send, receive

    async def send(self, body: bytes) -> None:
        await self._put(bytes(body))

    async def send_raw(self, data: bytes | bytearray | memoryview) -> None:
        await self._put(bytes(data))

    async def _put(self, data: bytes) -> None:
        try:
            await self._send.send(data)
        except trio.BrokenResourceError:
            raise RemoteError("the stream was reset") from None

    async def receive(self) -> bytes | None:
        try:
            return bytes(await self._receive.receive())
        except trio.EndOfChannel:
            return None

    async def receive_raw(self, count: int) -> bytes:
        data = await self.receive()
        if data is None or len(data) != count:
            raise RemoteError("the stream ended before")
        return data

    async def finish(self) -> None:
        await self._send.aclose()


class Hub:
    """Carries requests and records between nodes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.nodes: dict[NodeId, Node] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.advice: dict[tuple[NodeId, str, str], Advice] = {}
        self.in_vain: list[tuple[str, str]] = []
        self.before_answer: Callable[[Node, str], None] | None = None
        self.hold_answer: Callable[[Node, str], Awaitable[None]] | None = None

    def records(self) -> list[ModelOffer]:
        return [
            ModelOffer(node.id, node.name, record, False)
            for node in self.nodes.values()
            if (node.up or node.believed) and not node.secretive
            for record in node.published
        ]


class Node:
    """A node of the hub: a home, a model service, and the port it sees. Implements `MeshPort`."""

    def __init__(self, hub: Hub, folder: Path, name: str, lonely_s: float = 15.0, **service: Any) -> None:
        self.hub = hub
        self.name = name
        self.signer = Signer(name.encode().ljust(32, b"."))
        self.id = self.signer.node_id
        self.bulk: BulkPort | None = None
        self._up = True
        self.believed = False  # the others take it for alive although it is not
        self.dial_s = 0.0  # how long it takes them to find out that there is no way to it
        self.published: tuple[ModelRecord, ...] = ()
        self.secretive = False  # its catalog is told by a digest alone
        self.learnt: dict[NodeId, dict[bytes, ModelRecord]] = {}
        self.roles: tuple[str, ...] = ("edge",)
        self.profile = Profile()
        self.misbehaved: list[tuple[str, str]] = []
        self.handlers: dict[str, Handler] = {}
        self.database = Database(folder / name / "atmosphere.db")
        self.storage = ModelStorage(folder / name, self.database)
        self.transfer = TransferEngine(Random(name), TransferConfig(lonely_s=lonely_s))
        self.peer: Any = SimpleNamespace(
            want=self.transfer.want,
            cancel=self.transfer.cancel,
            share=self.transfer.share,
            unshare=self.transfer.unshare,
            may_serve=self.transfer.may_serve,
            served=self.transfer.served,
            rate_of=self.transfer.rate_of,
            holder_up=self.transfer.source_up,
            holder_left=self.transfer.source_left,
            chunk_done=self._chunk_done,
            chunk_failed=self._chunk_failed,
            accuse=lambda now, node, reason: self.transfer.accuse(node, reason),
            models=lambda now: [self._own(offer) for offer in [*hub.records(), *self._answered()]],
            publish_models=self._publish,
            node_id=self.id,
            is_ready=lambda node: hub.nodes[node].up,
            trust=SimpleNamespace(
                is_revoked=lambda node: False,
                is_member=lambda wall, node: node in hub.nodes,
                is_admin=lambda wall, node: "admin" in hub.nodes[node].roles,
            ),
            member=lambda node: None,
            known=lambda: frozenset(hub.nodes),
            standing=lambda now, node: frozenset(hub.nodes[node].roles) if node in hub.nodes else frozenset(),
            profile=lambda node: hub.nodes[node].profile,
            deprecations=lambda now: list(hub.advice.values()),
            publish_deprecation=self._publish_deprecation,
            large_catalogs=self._large_catalogs,
            learn_models=self._learn_models,
            addresses=tuple,
            relay_of=lambda node: None,
            name=lambda node: hub.nodes[node].name if node in hub.nodes else node.short,
        )
        port: MeshPort = self
        self.service = ModelService(self.storage, self.signer, name, lambda: port, **service)
        self._fetches: dict[tuple[str, NodeId, int], trio.CancelScope] = {}
        self._wake = trio.Event()
        hub.nodes[self.id] = self
        self.service.attach(port)
        hub.nursery.start_soon(self._keep_time)

    @property
    def up(self) -> bool:
        """Whether there is a way to it."""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        was, self._up = self._up, up
        for node in self.hub.nodes.values():
            if node is not self and was and not up:
                self.transfer.source_down(self.now(), node.id)  # its own links broke; the others find out
            elif node is not self and up and not was:
                node.transfer.link_up(node.now(), self.id)
                node.kick()

    def _own(self, offer: ModelOffer) -> ModelOffer:
        return ModelOffer(offer.node, offer.node_name, offer.record, offer.node == self.id)

    def _chunk_done(self, now: Now, fetch: FetchChunk, travelled: int | None = None) -> None:
        self.transfer.chunk_done(now, fetch.transfer, fetch.source, fetch.index, travelled)

    def _chunk_failed(self, now: Now, fetch: FetchChunk, reason: str, *, fatal: bool) -> None:
        self.transfer.chunk_failed(now, fetch.transfer, fetch.source, fetch.index, reason, fatal)

    def _publish(self, now: Now, records: Sequence[ModelRecord]) -> tuple[ModelRecord, ...]:
        self.published = tuple(records)
        return self.published

    def _publish_deprecation(self, now: Now, body: DeprecationBody, *, withdrawn: bool) -> None:
        key = (self.id, body.name, body.versions)
        self.hub.advice.pop(key, None)
        if not withdrawn:
            said = (body.name, body.versions, body.reason, body.replacement)
            self.hub.advice[key] = Advice(self.id, self.name, "admin" in self.roles, *said, int(now.wall))

    def _large_catalogs(self, name: str | None = None, capabilities: Collection[str] = ()) -> dict[NodeId, bytes]:
        others = (node for node in self.hub.nodes.values() if node.secretive and node.up and node is not self)
        found = {node.id: digest(node.published) for node in others}
        return {node: body.hash for node, body in found.items() if may_have(body, name, capabilities)}

    def _learn_models(self, now: Now, node: NodeId, models: Iterable[ModelRecord]) -> None:
        self.learnt.setdefault(node, {}).update((model.manifest, model) for model in models)

    def _answered(self) -> list[ModelOffer]:
        return [
            ModelOffer(node, self.hub.nodes[node].name, record, False)
            for node, models in self.learnt.items()
            for record in models.values()
        ]

    def now(self) -> Now:
        return Now(trio.current_time(), 0.0)

    def path(self, node: NodeId) -> None:
        return None

    def kick(self) -> None:
        while effects := self.transfer.drain():
            for effect in effects:
                match effect:
                    case FetchChunk():
                        self.hub.nursery.start_soon(self._fetch, effect)
                    case CancelFetch(transfer, source, index):
                        if scope := self._fetches.get((transfer, source, index)):
                            scope.cancel()
                    case Emit(event):
                        self.service.on_event(event)
                    case Send(target, message):
                        self._tell(target, message)
                    case Ask(contact, message):
                        self._tell(contact.node, message)
                    case Misbehaved(peer, reason):
                        self.misbehaved.append((self.peer.name(peer), reason))
        self._wake.set()

    def _tell(self, target: NodeId, message: Message) -> None:
        other = self.hub.nodes[target]
        if other.up:
            other.transfer.receive(self.now(), self.id, message)
            other.kick()
        else:
            self.transfer.failed(self.now(), target)

    async def _fetch(self, effect: FetchChunk) -> None:
        with trio.CancelScope() as scope:
            self._fetches[effect.transfer, effect.source, effect.index] = scope
            await self.service.fetch(effect)

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self.transfer.next_timer()):
                await self._wake.wait()
                continue
            self.transfer.handle_timer(self.now())
            self.kick()

    def handle(self, protocol: str, handler: Handler, *, members_only: bool = True) -> None:
        self.handlers[protocol] = handler

    def vanish(self) -> None:
        """The node dies: links break, its records expire."""
        self.up = False
        for node in self.hub.nodes.values():
            if node is not self:
                node.transfer.source_down(node.now(), self.id)
                node.kick()

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[MemoryStream]:
        other = self.hub.nodes[node]
        if not other.up:
            self.hub.in_vain.append((self.name, other.name))
            await trio.sleep(other.dial_s)
            raise RemoteError(f"there is no link to {other.name}")
        self.hub.requests.append((self.name, other.name, protocol))
        there, here_in = trio.open_memory_channel[bytes](math.inf)
        back, answers = trio.open_memory_channel[bytes](2)
        scope = trio.CancelScope()
        served = MemoryStream(self.id, protocol, header, back, here_in)
        self.hub.nursery.start_soon(self._serve, other, served, scope, back)
        try:
            yield MemoryStream(node, protocol, header, there, answers)
        finally:
            scope.cancel()
            answers.close()

    async def _serve(self, other: Node, stream: MemoryStream, scope: trio.CancelScope, back: Any) -> None:
        with scope, back:
            if self.hub.before_answer:
                self.hub.before_answer(other, stream.protocol)
            if self.hub.hold_answer:
                await self.hub.hold_answer(other, stream.protocol)
            if other.up:
                with suppress(RemoteError):
                    await other.handlers[stream.protocol](stream)
