"""One client of the relay, from its WebSocket to its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import trio
from trio_websocket import WebSocketConnection

from atmo.errors import WireError
from atmo.gossip.allowance import Allowance
from atmo.identity import NodeId, Signer
from atmo.relay.figures import RelayStats
from atmo.relay.outbox import Outbox, Tank
from atmo.relay.pace import Pace
from atmo.relay.protocol import (
    CLOSE_LEAVING,
    CLOSE_REFUSED,
    DRAINING_MESSAGE,
    HEAD_BYTES,
    NONCE_BYTES,
    RelayHandshake,
    absent_message,
    datagram_ends_untrusted,
)
from atmo.relay.stream import LOST, GuardedStream


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Bounds of one client.

    Attributes:
        bytes_per_s: Of its messages, in the long run; what comes faster waits, unread, in the client, which drops what
            it cannot keep. Source: choice; a QUIC connection of ours makes 10 MB/s where nothing is in between.
        datagrams_per_s: The same in datagrams, of which a message counts as `message_datagrams` more. Source:
            `bytes_per_s` in datagrams of 1,200 bytes, and margin for acknowledgements.
        message_datagrams: Source: a message costs about 65 µs here, as much as 100 datagrams in it; but one datagram
            in a message is the usual case at rest. A client that is made to wait puts more into each.
        burst_s: So many seconds' worth may come at once.
        queue_bytes: Wait for it when it reads slowly. Source: choice, a tenth of a second at `bytes_per_s` and some.
        absent_per_s: How often it is told that a node is not here. Source: guess.
        ping_s: So often it is pinged, whatever else goes on. Source: NATs forget idle TCP after minutes (RFC 5382),
            proxies after 60 s (nginx's proxy_read_timeout), some mobile ones after 30 s.
        silent_s: One that was not heard of for so long is gone: three pings.
        close_s: For the closing handshake of the WebSocket.
    """

    bytes_per_s: float = 4.0 * 1024 * 1024
    datagrams_per_s: float = 8_000.0
    message_datagrams: int = 4
    burst_s: float = 1.0
    queue_bytes: int = 512 * 1024
    absent_per_s: float = 10.0
    ping_s: float = 20.0
    silent_s: float = 60.0
    close_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a connection is over.

    Attributes:
        reason: For the count.
        code: WebSocket close code.
        words: For people at the other end.
    """

    reason: str
    code: int
    words: str


LEFT = Ended("left", 1000, "")

_WORDS_MOST = 100
"""Source: RFC 6455 section 5.5, a close frame has at most 123 bytes of reason."""


async def prove(socket: WebSocketConnection, signer: Signer) -> tuple[NodeId, bytes]:
    """Has a new client prove who it is.

    Returns:
        Who it is, and the message that welcomes it.

    Raises:
        WireError: It does not.
        ConnectionClosed: It is gone.
    """
    handshake = RelayHandshake(signer, os.urandom(NONCE_BYTES))
    await socket.send_message(handshake.challenge())
    return handshake.accept_untrusted(await socket.get_message())


async def close(socket: WebSocketConnection, ended: Ended, seconds: float) -> None:
    """Closes a WebSocket, politely for so many seconds."""
    with trio.move_on_after(seconds):
        await socket.aclose(ended.code, ended.words[:_WORDS_MOST])


class Session:
    """A client that has proved who it is.

    Args:
        node: Who.
        host: Where from.
        socket: Its WebSocket.
        stream: What is below it.
        config: Bounds.
        stats: Counts.
        tank: What waits for all clients together.
    """

    __slots__ = (
        "_absent",
        "_bytes",
        "_config",
        "_datagrams",
        "_ended",
        "_nursery",
        "_pinged",
        "_pinging",
        "_scope",
        "_socket",
        "_stats",
        "_stream",
        "host",
        "node",
        "outbox",
    )

    def __init__(
        self,
        node: NodeId,
        host: str,
        socket: WebSocketConnection,
        stream: GuardedStream,
        config: SessionConfig,
        stats: RelayStats,
        tank: Tank,
    ) -> None:
        self.node = node
        self.host = host
        self.outbox = Outbox(config.queue_bytes, tank)
        self._socket = socket
        self._stream = stream
        self._config = config
        self._stats = stats
        self._pinged = mono = trio.current_time()
        self._bytes = Pace(config.bytes_per_s, config.bytes_per_s * config.burst_s, mono)
        self._datagrams = Pace(config.datagrams_per_s, config.datagrams_per_s * config.burst_s, mono)
        self._absent = Allowance(config.absent_per_s, 4.0 * config.absent_per_s)
        self._scope = trio.CancelScope()
        self._ended: Ended | None = None
        self._pinging = False
        self._nursery: trio.Nursery | None = None

    async def run(self, welcome: bytes, find: Callable[[bytes], Session | None]) -> None:
        """Welcomes and serves the client until it is gone, breaks the protocol or is ended; then closes the WebSocket.

        Args:
            welcome: The last message of the handshake.
            find: Returns the session of a node, None where it is not here.
        """
        self._stream.trust()
        self.outbox.put_control(welcome)
        try:
            await self._run(find)
        finally:
            if lost := self.outbox.clear():
                self._stats.dropped["gone"] += lost

    @property
    def ended(self) -> Ended:
        """Why it is over."""
        return self._ended or LEFT

    async def _run(self, find: Callable[[bytes], Session | None]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._write)
            with self._scope:
                try:
                    await self._read(find)
                except WireError as error:
                    self.end(Ended("malformed", CLOSE_REFUSED, str(error)))
                except LOST:
                    pass
            await close(self._socket, self.ended, self._config.close_s)
            nursery.cancel_scope.cancel()

    def end(self, ended: Ended) -> None:
        """Has `run` return; the first reason counts."""
        if self._ended is None:
            self._ended = ended
            self._scope.cancel()

    def drain(self) -> None:
        """Tells the client to move."""
        self.outbox.put_control(DRAINING_MESSAGE)

    def care(self, mono: float) -> None:
        """Pings the client where that is due, and ends a silent one. To be called now and then while `run` runs."""
        if mono - self._stream.heard >= self._config.silent_s:
            self.end(Ended("silent", CLOSE_LEAVING, "nothing was heard of you"))
        elif mono - self._pinged >= self._config.ping_s and not self._pinging and self._nursery is not None:
            self._pinged = mono
            self._pinging = True
            self._nursery.start_soon(self._ping)

    def deliver(self, source: NodeId, body: bytes, count: int) -> None:
        """Queues datagrams for this client; what a slow reader leaves no room for is lost."""
        if dropped := self.outbox.put(source, body, count):
            self._stats.dropped["queue"] += dropped

    async def _read(self, find: Callable[[bytes], Session | None]) -> None:
        stats, config = self._stats, self._config
        while True:
            message = await self._socket.get_message()
            count = len(datagram_ends_untrusted(message))
            assert isinstance(message, bytes)
            size = len(message)
            self._stream.took(size)
            stats.received += count
            stats.received_bytes += size
            self._forward(message, count, find)
            mono = trio.current_time()
            wait_s = self._bytes.charge(mono, size)
            wait_s = max(wait_s, self._datagrams.charge(mono, count + config.message_datagrams))
            if wait_s:
                stats.paused_s += wait_s
                await trio.sleep(wait_s)

    def _forward(self, message: bytes, count: int, find: Callable[[bytes], Session | None]) -> None:
        target = find(message[1:HEAD_BYTES])
        if target is not None:
            target.deliver(self.node, message[HEAD_BYTES:], count)
            return
        stats = self._stats
        stats.dropped["absent"] += count
        if self._absent.take(trio.current_time(), 1.0) and self.outbox.put_control(
            absent_message(message[1:HEAD_BYTES])
        ):
            stats.absent_told += 1

    async def _write(self) -> None:
        stats = self._stats
        try:
            while True:
                message, count = await self.outbox.next_message()
                await self._socket.send_message(message)
                stats.sent += count
                stats.sent_bytes += len(message)
        except LOST:
            self._scope.cancel()

    async def _ping(self) -> None:
        try:
            await self._socket.ping()
        except LOST:
            self._scope.cancel()
        self._pinging = False
