"""A few nodes in one process: real backends in real pools, linked by request streams in memory."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import numpy as np
import trio
from numpy.typing import NDArray

from atmo.backends.base import Backend, Call, Part, as_object
from atmo.backends.pool import BackendPool
from atmo.clock import Now
from atmo.errors import RemoteError, RequestError
from atmo.gateway.asking import Asking
from atmo.gateway.gateway import Gateway, GatewayConfig
from atmo.identity import NodeId, Signer
from atmo.net.ports import BulkPort, Handler, MeshPort, RequestStream
from atmo.peer import NodeView
from atmo.router.capability import CHAT, CLASSIFY, EMBEDDINGS, Capability
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.wire import codec, limits


def node_id(number: int) -> NodeId:
    """Returns the same node id for the same number."""
    return Signer(bytes([number]) * 32).node_id


async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeds by words: texts that share words are near. float32[n, 384]."""
    await trio.lowlevel.checkpoint()
    rows = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % 384] += 1
    return rows


def chunk(model: str, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """Returns one chunk of a streamed chat."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
    }


def completion(model: str, text: str) -> dict[str, Any]:
    """Returns a whole chat answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


class Echo(Backend):
    """A backend that answers a chat with its last message backwards, word by word."""

    recheck_s = 3_600.0

    def __init__(self, *capabilities: Capability, name: str = "echo") -> None:
        self.name = name
        self.offered = capabilities or (Capability("echo:echo", CHAT, "echo", general=True, backend="echo"),)
        self.calls: list[Call] = []
        self.cancelled = 0

    async def discover(self) -> Sequence[Capability]:
        return self.offered

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        self.calls.append(call)
        parts = self.answer(call)
        try:
            async for part in parts:
                yield part
        except (trio.Cancelled, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            await parts.aclose()

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        model = call.capability.model
        await trio.lowlevel.checkpoint()
        words = str(call.body["messages"][-1]["content"])[::-1].split(" ")
        if not call.stream:
            yield completion(model, " ".join(words))
            return
        yield chunk(model, {"role": "assistant", "content": ""})
        for word in words:
            await trio.lowlevel.checkpoint()
            yield chunk(model, {"content": word})
        yield chunk(model, {}, "stop")


class Lengths(Echo):
    """An embeddings backend: each text becomes its length and three constants."""

    def __init__(self, model: str = "lengths") -> None:
        super().__init__(
            Capability(f"len:{model}", EMBEDDINGS, model, backend="builtin", concurrency=4), name=f"len-{model}"
        )

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        await trio.lowlevel.checkpoint()
        given = call.body["input"]
        texts = given if isinstance(given, list) else [given]
        rows = [
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(struct.pack("<4f", len(str(text)), 0.5, 3, 4)).decode(),
            }
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        yield {"object": "list", "data": rows, "model": call.capability.model, "usage": usage}


class Signs(Echo):
    """A classifier of numbers by their sign."""

    def __init__(self, model: str = "signs", description: str = "") -> None:
        super().__init__(
            Capability(f"onnx:{model}", CLASSIFY, model, "1.0.0", description, backend="onnx"), name=f"signs-{model}"
        )

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        await trio.lowlevel.checkpoint()
        labels = ["negative" if row[0] < 0 else "positive" for row in call.body["data"]]
        yield {"object": "classification", "model": call.capability.model, "data": labels}


class Failing(Echo):
    """Fails with `error`, after `after` parts; with no error it never answers."""

    def __init__(self, *capabilities: Capability, error: Exception | None = None, after: int = 0) -> None:
        super().__init__(*capabilities, name="failing")
        self.error = error
        self.after = after

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        for number in range(self.after):
            yield chunk(call.capability.model, {"content": str(number)})
        if self.error is None:
            await trio.sleep_forever()
        else:
            await trio.lowlevel.checkpoint()
            raise self.error


class MemoryStream:
    """One end of a request stream in memory; implements `net.ports.RequestStream`."""

    def __init__(self, node: NodeId, protocol: str, header: Mapping[str, Any]) -> None:
        self.node_id = node
        self.protocol = protocol
        self.header = header
        self.other: MemoryStream | None = None
        self.sender, self.receiver = trio.open_memory_channel[bytes | None](8)
        self.broken = trio.Event()

    async def send(self, body: bytes) -> None:
        assert self.other is not None
        assert len(body) <= limits.FRAME_BYTES
        if self.broken.is_set():
            raise RemoteError("the stream was reset")
        await self.sender.send(body)

    async def receive(self) -> bytes | None:
        assert self.other is not None
        result: list[bytes | None] = []

        async def take(scope: trio.CancelScope) -> None:
            assert self.other is not None
            try:
                result.append(await self.other.receiver.receive())
            except trio.EndOfChannel:
                result.append(None)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, nursery.cancel_scope)
            await self.broken.wait()
            nursery.cancel_scope.cancel()
        if not result:
            raise RemoteError("the stream was reset")
        return result[0]

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        self.sender.close()

    async def send_raw(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def receive_raw(self, count: int) -> bytes:
        raise NotImplementedError

    def reset(self) -> None:
        self.broken.set()
        if self.other is not None:
            self.other.broken.set()


def stream_pair(asking: NodeId, serving: NodeId, header: Mapping[str, Any]) -> tuple[MemoryStream, MemoryStream]:
    """Returns the asking and the serving end of one request; the header crosses as bytes."""
    crossed = codec.decode_untrusted(codec.encode(dict(header)))
    here, there = MemoryStream(serving, "p", header), MemoryStream(asking, "p", crossed)
    here.other, there.other = there, here
    return here, there


class LoopPeer:
    """What the gateway asks of a peer: who offers what."""

    def __init__(self, net: LoopNet, node: NodeId) -> None:
        self.net = net
        self.node = node

    def offers(self, _now: Now) -> Offers:
        return Offers(
            Offer(node.id, node.name, capability, node.id == self.node, 0.001, node.load, "direct")
            for node in self.net.nodes.values()
            for capability in node.gateway.offered()
            if node.id not in self.net.dead
        )

    def nodes(self, _now: Now) -> list[NodeView]:
        return [NodeView(node, "", (), "direct", 0.001, 0.0, "", ()) for node in self.net.nodes]

    def linked(self) -> list[NodeId]:
        return [node for node in self.net.nodes if node != self.node]

    neighbours = linked


class LoopPort:
    """A mesh port between the nodes of one `LoopNet`."""

    def __init__(self, net: LoopNet, node: NodeId) -> None:
        self.net = net
        self.node = node
        self.bulk: BulkPort | None = None
        self.peer = cast(Any, LoopPeer(net, node))
        self.handlers: dict[str, Handler] = {}

    def now(self) -> Now:
        return Now(trio.current_time(), 0.0)

    def kick(self) -> None:
        """There are no effects."""

    def path(self, node: NodeId) -> None:
        """There are no connections."""

    def handle(self, protocol: str, handler: Handler) -> None:
        self.handlers[protocol] = handler

    @asynccontextmanager
    async def request(
        self, node: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[RequestStream]:
        if node in self.net.unreachable:
            raise RemoteError("there is no link to it")
        if node in self.net.silent:
            await trio.sleep(deadline_s)
            raise RemoteError("there is no way to it")
        here, there = stream_pair(self.node, node, header)
        self.net.streams.append(here)
        self.net.nursery.start_soon(_serve, self.net.nodes[node].port.handlers[protocol], there)
        try:
            with trio.fail_after(deadline_s):
                await trio.lowlevel.checkpoint()
                yield here
        except trio.TooSlowError:
            raise RemoteError("the deadline passed") from None
        finally:
            here.reset()


async def _serve(handler: Handler, stream: MemoryStream) -> None:
    try:
        await handler(stream)
    except RemoteError:
        stream.reset()
    else:
        await stream.finish()


@dataclass
class Node:
    """One node of the loop."""

    id: NodeId
    name: str
    pool: BackendPool
    gateway: Gateway
    port: LoopPort
    load: int = 0


@dataclass
class LoopNet:
    """Nodes that reach each other."""

    nursery: trio.Nursery
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    unreachable: set[NodeId] = field(default_factory=set)
    silent: set[NodeId] = field(default_factory=set)
    dead: set[NodeId] = field(default_factory=set)
    streams: list[MemoryStream] = field(default_factory=list)

    async def add(self, name: str, *backends: Backend, config: GatewayConfig | None = None, **options: Any) -> Node:
        """Starts a node; its id follows from its number."""
        number = len(self.nodes) + 1
        node = node_id(number)
        port = LoopPort(self, node)
        pool = BackendPool(backends)
        await self.nursery.start(pool.run)
        mesh = cast(Callable[[], MeshPort | None], lambda: port)
        gateway = Gateway(
            node,
            name,
            pool,
            options.pop("embed", embed),
            mesh,
            stored=options.pop("stored", list),
            config=config,
            random=Random(number),
            **options,
        )
        gateway.attach(port)
        self.nodes[node] = Node(node, name, pool, gateway, port)
        return self.nodes[node]


@asynccontextmanager
async def loop_net() -> AsyncIterator[LoopNet]:
    """Opens a net; everything in it ends with the block."""
    async with trio.open_nursery() as nursery:
        yield LoopNet(nursery)
        nursery.cancel_scope.cancel()


async def answer(node: Node, body: dict[str, Any], operation: str = CHAT, *, stream: bool = False) -> list[Any]:
    """Runs a request and returns all parts of its answer."""
    async with node.gateway.execute(operation, body, Asking(stream)) as execution:
        return [as_object(part) async for part in execution]


def chat(text: str = "hello there", **more: Any) -> dict[str, Any]:
    """Returns a chat's body."""
    return {"messages": [{"role": "user", "content": text}], **more}


def refused(status: int = 503) -> RequestError:
    """Returns an error that a backend may raise."""
    return RequestError(status, "no", kind="api_error", code="no")
