"""Asking a node what models it has: the protocol `atmo/models/1`, for catalogs that are too large to be told.

The question is the header, the answer one frame. A question is answered by pages; `skip` asks for the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import trio

from atmo.errors import RemoteError, WireError
from atmo.gossip.catalog import digest
from atmo.gossip.records import ModelRecord
from atmo.identity import NodeId
from atmo.net.ports import MeshPort, RequestStream
from atmo.wire import codec, limits
from atmo.wire.address import Address
from atmo.wire.schema import Most, from_wire_untrusted, pack, to_wire, unpack_untrusted
from atmo.wire.versions import parse_range

log = logging.getLogger(__name__)

PROTOCOL = "atmo/models/1"

PAGE_MODELS = 256
"""Models of one answer. Source: choice, a few tens of kilobytes; with all their fields full it is still one frame."""

PAGE_BYTES = 512 * 1024
PAGES_MOST = 16
"""Pages that are asked of one node for one question. Source: guess; what a node remembers of another is as much."""

NODES_MOST = 8
"""Nodes that are asked for one question. Source: guess."""

ASK_S = 5.0
"""For all pages of one node. Source: guess; a person waits."""

ANSWER_EVERY_S, ANSWERS_AT_ONCE = 0.1, 2 * PAGES_MOST
"""A node that asks faster, after so many questions at once, is told that this node is busy: a page takes 10 ms of the
loop to make. Source: measured with 256 models on a page; a node asks for 16 pages in a row at most."""

ASKERS_MOST = 1_024
"""Nodes of whom it is known how much they asked. Source: guess."""

ANSWERING_MOST = 16
"""Questions that are answered at once; more are told that this node is busy. Source: guess."""

REMEMBERED = 1_024
"""Questions that were answered in full and are not asked again until the catalog changes; nodes that did not answer.
Source: guess."""

K = TypeVar("K")
Text32 = Annotated[str, Most(32)]
Name = Annotated[str, Most(limits.NAME_CHARS)]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """MODEL_REQUEST: which models are wanted. What is left out stands against nothing.

    Attributes:
        name: Of the model.
        versions: A range of PEP 440, of that name.
        capabilities: That one model has all of.
        max_size_bytes: Larger ones are not wanted; 0 means no limit.
        format: Such as `gguf`.
        skip: So many that fit were told by earlier answers.
    """

    name: Name | None = None
    versions: Annotated[str, Most(64)] = ""
    capabilities: Annotated[tuple[Name, ...], Most(16)] = ()
    max_size_bytes: Annotated[int, Most(2**53)] = 0
    format: Text32 | None = None
    skip: Annotated[int, Most(2**32)] = 0


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """MODEL_OFFER: what the node has of it, and how to get it: by `atmo/manifest/1` and chunks, from where it says.

    Attributes:
        hash: Of the catalog, as in its digest: pages of different ones do not belong together.
        total: Models that fit, on all pages.
        models: One page of them, by name, the newest version first.
        addresses: Where the node takes connections, QUIC and TCP on the same port.
        relay: URL of the relay at which it is found, too.
    """

    hash: Annotated[bytes, Most(32)]
    total: Annotated[int, Most(2**32)]
    models: Annotated[tuple[ModelRecord, ...], Most(PAGE_MODELS)]
    addresses: Annotated[tuple[Address, ...], Most(limits.ADDRESSES)] = ()
    relay: Annotated[str, Most(512)] | None = None


class Offers:
    """Answers questions about this node's models, and asks others.

    Args:
        mesh: Returns the running peer, None where there is none.
    """

    def __init__(self, mesh: Callable[[], MeshPort | None]) -> None:
        self._mesh = mesh
        self._models: tuple[ModelRecord, ...] = ()
        self._by_name: dict[str, list[ModelRecord]] = {}
        self._by_capability: dict[str, list[ModelRecord]] = {}
        self._hash: bytes | None = None
        self._answering = trio.CapacityLimiter(ANSWERING_MOST)
        self._answered: dict[tuple[NodeId, bytes, ModelRequest], None] = {}
        self._in_vain: dict[NodeId, None] = {}  # whose last answer was none, or of another catalog
        self._owed: dict[NodeId, float] = {}  # until when a node has asked in advance

    # --- answering ------------------------------------------------------------------------------------------------

    def tell(self, models: Sequence[ModelRecord]) -> None:
        """Takes over what this node has for others, in the order in which it is told."""
        self._models = tuple(models)
        self._hash = None
        self._by_name, self._by_capability = {}, {}
        for model in models:
            self._by_name.setdefault(model.name, []).append(model)
            for capability in model.capabilities:
                self._by_capability.setdefault(capability, []).append(model)

    async def serve(self, stream: RequestStream) -> None:
        """Answers one question.

        Raises:
            WireError: It is none.
        """
        request = from_wire_untrusted(ModelRequest, dict(stream.header))
        if not self._may_ask(stream.node_id):
            await stream.send(codec.encode({"error": "busy"}))
            return
        try:
            self._answering.acquire_nowait()
        except trio.WouldBlock:
            await stream.send(codec.encode({"error": "busy"}))
            return
        try:
            await stream.send(codec.encode(to_wire(self.answer(request))))
        finally:
            self._answering.release()

    def _may_ask(self, node: NodeId) -> bool:
        now = trio.current_time()
        until = max(now, self._owed.pop(node, now))
        admitted = until < now + ANSWERS_AT_ONCE * ANSWER_EVERY_S
        self._owed[node] = until + ANSWER_EVERY_S * admitted
        if len(self._owed) > ASKERS_MOST:
            del self._owed[next(iter(self._owed))]
        return admitted

    def answer(self, request: ModelRequest) -> ModelAnswer:
        """Returns a page of what fits a question.

        Raises:
            WireError: Its range is none.
        """
        fitting = self._fitting(request)
        page: list[ModelRecord] = []
        room = PAGE_BYTES
        for model in fitting[request.skip : request.skip + PAGE_MODELS]:
            room -= len(pack(model))
            if page and room < 0:
                break
            page.append(model)
        if self._hash is None:
            self._hash = digest(self._models).hash
        mesh = self._mesh()
        addresses = mesh.peer.addresses() if mesh else ()
        relay = mesh.peer.relay_of(mesh.peer.node_id) if mesh else None
        return ModelAnswer(self._hash, len(fitting), tuple(page), addresses[: limits.ADDRESSES], relay)

    def _fitting(self, request: ModelRequest) -> Sequence[ModelRecord]:
        if request.versions and request.name is None:
            raise WireError("a range of versions without a name")
        try:
            wanted = parse_range(request.versions)
        except ValueError as error:
            raise WireError(str(error)) from error
        capabilities = set(request.capabilities)
        models: Sequence[ModelRecord] = self._models
        if request.name is not None:
            models = self._by_name.get(request.name, ())
        elif capabilities:
            models = min((self._by_capability.get(name, []) for name in capabilities), key=len)
        return [
            model
            for model in models
            if capabilities.issubset(model.capabilities)
            and (not request.max_size_bytes or model.size_bytes <= request.max_size_bytes)
            and request.format in (None, model.format)
            and (not request.versions or wanted.contains(model.version, prereleases=True))
        ]

    # --- asking ---------------------------------------------------------------------------------------------------

    async def seek(self, request: ModelRequest) -> None:
        """Asks those with large catalogs who may have what is wanted; what they say is known to the peer then.

        Who does not answer in time is left out, and asked after all others the next time, as filters that say yes to
        everything would keep the honest ones from being asked. A question that was answered is not asked again for as
        long as the catalog is the same.
        """
        mesh = self._mesh()
        if mesh is None:
            return
        nodes = mesh.peer.large_catalogs(request.name, request.capabilities)
        asked = [node for node, name in nodes.items() if (node, name, request) not in self._answered]
        ready = sorted(asked, key=lambda node: (node in self._in_vain, not mesh.peer.is_ready(node)))
        async with trio.open_nursery() as nursery:
            for node in ready[:NODES_MOST]:
                nursery.start_soon(self._ask, mesh, node, nodes[node], request)

    async def _ask(self, mesh: MeshPort, node: NodeId, catalog: bytes, request: ModelRequest) -> None:
        complete = False
        try:
            with trio.fail_after(ASK_S):
                complete = await self._ask_pages(mesh, node, catalog, request)
        except (RemoteError, trio.TooSlowError) as error:
            log.info("%s does not tell which models it has: %s", mesh.peer.name(node), error)
        except WireError as error:
            mesh.peer.accuse(mesh.now(), node, f"an answer on its models that is none: {error}")
            mesh.kick()
        else:
            if complete:
                _note(self._answered, (node, catalog, request))
        self._in_vain.pop(node, None)
        if not complete:
            _note(self._in_vain, node)

    async def _ask_pages(self, mesh: MeshPort, node: NodeId, catalog: bytes, request: ModelRequest) -> bool:
        """Returns whether all of it was told, of the catalog that was asked about."""
        told = 0
        for _ in range(PAGES_MOST):
            answer = await ask(mesh, node, replace(request, skip=told))
            mesh.peer.learn_models(mesh.now(), node, answer.models)
            told += len(answer.models)
            if answer.hash != catalog:
                return False
            if not answer.models or told >= answer.total:
                return True
        return True


def _note(known: dict[K, None], key: K) -> None:
    known[key] = None
    while len(known) > REMEMBERED:
        del known[next(iter(known))]


async def ask(mesh: MeshPort, node: NodeId, request: ModelRequest) -> ModelAnswer:
    """Asks one node for one page.

    Raises:
        RemoteError: It is not there, or refuses.
        WireError: What it says is no answer.
    """
    async with mesh.request(node, PROTOCOL, to_wire(request), ASK_S) as stream:
        data = await stream.receive()
    if data is None:
        raise RemoteError("it ended the request without an answer")
    match codec.decode_untrusted(data, limits.FRAME_BYTES):
        case {"error": str() as reason}:
            raise RemoteError(f"it refuses: {reason[:100]}")
    return unpack_untrusted(ModelAnswer, data, limits.FRAME_BYTES)
