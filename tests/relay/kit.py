"""Relays and their clients, over streams in memory and a clock that jumps, or over loopback sockets."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from atmo.identity import NodeId, Signer
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayClient, RelayClientConfig, RelayState
from atmo.relay.protocol import ClientHandshake
from atmo.relay.server import Relay, RelayConfig, bind, serve_relay

ALICE, BOB, CAROL = (Signer(bytes([number]) * 32) for number in (1, 2, 3))
HOST = "10.0.0.1"
DEADLINE_S = 5.0


async def until(condition: Callable[[], object], seconds: float = 100.0) -> None:
    """Waits for something that no event tells of."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


class Harbour:
    """Relays by their URLs, in memory. `down` ones refuse connections; killing one cuts all its connections."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.relays: dict[str, Relay] = {}
        self._killed: dict[str, trio.Event] = {}
        self.dials: list[str] = []

    def open(self, url: str, signer: Signer | None = None, config: RelayConfig = RelayConfig()) -> Relay:
        """Starts a relay."""
        relay = Relay(signer or Signer(url.encode().ljust(32)[:32]), config)
        self.relays[url] = relay
        self._killed[url] = trio.Event()
        self._nursery.start_soon(self._until_killed, self._killed[url], relay.keep)
        return relay

    def kill(self, url: str) -> None:
        """Ends a relay as a power cut would."""
        self._killed[url].set()
        del self.relays[url]

    async def connect(self, address: RelayAddress) -> trio.abc.Stream:
        """What a client dials with."""
        await trio.lowlevel.checkpoint()
        self.dials.append(address.url)
        relay = self.relays.get(address.url)
        if relay is None:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        work = partial(relay.attend, theirs, HOST)
        self._nursery.start_soon(self._until_killed, self._killed[address.url], work)
        return ours

    async def _until_killed(self, killed: trio.Event, work: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await killed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await work()
            nursery.cancel_scope.cancel()


@dataclass
class Node:
    """A client and all that it was told."""

    signer: Signer
    got: list[tuple[NodeId, bytes, str]] = field(default_factory=list)
    absent: list[tuple[NodeId, str]] = field(default_factory=list)
    states: list[RelayState] = field(default_factory=list)
    client: RelayClient = field(init=False)

    def use(self, harbour: Harbour, *urls: str, config: RelayClientConfig = RelayClientConfig()) -> RelayClient:
        """Makes the client."""
        self.client = RelayClient(
            self.signer,
            [RelayAddress.parse_untrusted(url) for url in urls],
            lambda source, data, relay: self.got.append((source, data, relay.url)),
            absent=lambda node, relay: self.absent.append((node, relay.url)),
            changed=self.states.append,
            config=config,
            connect=harbour.connect,
            rng=random.Random(1),
        )
        return self.client

    @property
    def home(self) -> str | None:
        """The URL of its home relay."""
        return self.client.state.home.url if self.client.state.home else None


@asynccontextmanager
async def harbour() -> AsyncIterator[tuple[Harbour, trio.Nursery]]:
    """A place for relays, and a nursery for clients; both end with the block."""
    async with trio.open_nursery() as nursery:
        yield Harbour(nursery), nursery
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw(stream: trio.abc.Stream, most: int = 1 << 20) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket of a client that obeys nothing else."""
    async with trio.open_nursery() as nursery:
        yield await wrap_client_stream(nursery, stream, "relay", "/", max_message_size=most)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


async def prove(socket: WebSocketConnection, signer: Signer) -> None:
    """Goes through the handshake."""
    handshake = ClientHandshake(signer, bytes(32))
    await socket.send_message(handshake.answer_untrusted(await socket.get_message()))
    handshake.finish_untrusted(await socket.get_message())


@asynccontextmanager
async def visiting(relay: Relay, host: str = HOST) -> AsyncIterator[trio.abc.Stream]:
    """A connection to a relay, in memory."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.attend, theirs, host)
        yield ours
        await trio.aclose_forcefully(ours)
        nursery.cancel_scope.deadline = trio.current_time() + 60.0


@asynccontextmanager
async def member(relay: Relay, signer: Signer, host: str = HOST) -> AsyncIterator[WebSocketConnection]:
    """A client of a relay that has proved who it is, in memory."""
    async with visiting(relay, host) as stream, raw(stream) as socket:
        await prove(socket, signer)
        yield socket


async def _read_on(socket: WebSocketConnection) -> None:
    while True:
        await socket.get_message()


async def closing(socket: WebSocketConnection) -> tuple[int, str]:
    """Returns the code and the words with which the other end closes."""
    with pytest.raises(ConnectionClosed) as closed:
        await _read_on(socket)
    reason = closed.value.reason
    return (reason.code, reason.reason or "") if reason else (0, "")


@asynccontextmanager
async def on_loopback(relay: Relay, stop: trio.Event | None = None) -> AsyncIterator[int]:
    """Serves a relay on a loopback port."""
    listeners = bind("127.0.0.1", 0, RelayConfig().socket_bytes)
    port = int(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_relay, relay, listeners, trio.Event() if stop is None else stop)
        yield port
        nursery.cancel_scope.cancel()
