"""One connection of a node to one relay: dialled, proved at both ends, and then datagrams both ways."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId, Signer
from atmo.relay.address import RelayAddress
from atmo.relay.outbox import Outbox
from atmo.relay.pace import Pace
from atmo.relay.protocol import MESSAGE_BYTES, NONCE_BYTES, ClientHandshake, Told, read_told_untrusted
from atmo.relay.stream import LOST, RECEIVE_BYTES, UNREACHED, GuardedStream

Connect = Callable[[RelayAddress], Awaitable[trio.abc.Stream]]
"""Opens the TCP connection to a relay, without TLS."""

MESSAGE_COST_BYTES = 1_024
"""What a message costs beside its bytes, so that empty ones are not free."""

_WORDS_MOST = 100


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Bounds of one connection.

    Attributes:
        connect_s: For TCP, TLS and the proof of both keys.
        silent_s: A relay that was not heard of for so long is gone; it pings every 20 seconds.
        doubt_s: A relay that answers no ping for so long after this machine's network changed is gone.
        close_s: For the closing handshake.
        budget_bytes: What it may send until it has proved who it is.
        queue_bytes: Of datagrams that wait for a slow relay. Source: choice, a quarter of a second at its usual rate.
        read_bytes_per_s: What is read of a relay, each message as if it had `MESSAGE_COST_BYTES` more; what comes
            faster waits there. Source: choice, eight senders at a relay's usual rate.
    """

    connect_s: float = 10.0
    silent_s: float = 60.0
    doubt_s: float = 2.0
    close_s: float = 0.5
    budget_bytes: int = 32 * 1024
    queue_bytes: int = 1024 * 1024
    read_bytes_per_s: float = 32.0 * 1024 * 1024


class RelayLost(RemoteError):
    """There is no connection to a relay, or no more.

    Args:
        words: Why.
        code: WebSocket close code of the relay, 0 where it said none.
    """

    def __init__(self, words: str, code: int = 0) -> None:
        super().__init__(words)
        self.code = code


async def connect_tcp(address: RelayAddress) -> trio.abc.Stream:
    """Opens a TCP connection, to whichever of the host's addresses answers first."""
    return await trio.open_tcp_stream(address.host, address.port)


class RelayLink:
    """One connection.

    Args:
        address: Which relay.
        signer: This node's key.
        config: Bounds.
        told: Is called with what the relay says.
        connect: Opens the TCP connection.
        tls: For relays with a certificate that the system does not know.

    Attributes:
        outbox: What waits to be sent; may be filled before the relay is reached.
        relay: Who the relay has proved to be; None until then.
        settled: Set when the relay is reached, or will not be.
        ending: Set when the link is over, or the relay has said that it will end.
        lost: Why it is over; None before.
        host: This machine's address that the connection has, empty where it has none.
    """

    def __init__(
        self,
        address: RelayAddress,
        signer: Signer,
        config: LinkConfig,
        told: Callable[[RelayLink, Told], None],
        connect: Connect = connect_tcp,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.outbox = Outbox(config.queue_bytes)
        self.relay: NodeId | None = None
        self.lost: RelayLost | None = None
        self.host = ""
        self.settled = trio.Event()
        self.ending = trio.Event()
        self.since = self.used = trio.current_time()
        self.scope = trio.CancelScope()
        self._signer = signer
        self._config = config
        self._told = told
        self._connect = connect
        self._tls = tls
        self._doubted = trio.Event()
        self._cut: str | None = None

    def network_changed(self, hosts: Collection[str]) -> None:
        """This machine has these addresses now: a connection of another one is dead, any other has to show that it
        is not.
        """
        if self.host and self.host not in hosts:
            self._cut = f"was reached from {self.host}, which this machine is not any more"
            self.scope.cancel()
        self._doubted.set()

    async def run(self) -> None:
        """Holds the connection until it is lost, which `lost` then explains, or `scope` is cancelled."""
        try:
            with self.scope:
                await self._run()
        except* (*UNREACHED, WireError, RelayLost) as group:
            self.lost = _explained(group)
        finally:
            self.lost = self.lost or RelayLost(self._cut or "closed here")
            self.settled.set()
            self.ending.set()

    async def _run(self) -> None:
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_after(self._config.connect_s) as patience:
                stream = await self._connect(self.address)
                if isinstance(stream, trio.SocketStream):
                    self.host = str(stream.socket.getsockname()[0])
                if self.address.secure:
                    stream = await self._secured(stream)
                guarded = GuardedStream(stream, self._config.budget_bytes)
                async with _lasting_nursery() as nursery, trio.open_nursery() as mine:
                    connection = await self._opened(nursery, guarded)
                    try:
                        self.relay = await self._greet(connection)
                        guarded.trust()
                        patience.deadline = float("inf")
                        self.since = self.used = trio.current_time()
                        self.settled.set()
                        mine.start_soon(self._write, connection)
                        mine.start_soon(self._watch, guarded)
                        mine.start_soon(self._check, connection)
                        await self._read(connection, guarded)
                    finally:
                        mine.cancel_scope.cancel()
                        with trio.move_on_after(self._config.close_s, shield=True):
                            await connection.aclose()
            raise RelayLost(f"no answer in {self._config.connect_s:g} s")
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _secured(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        context = self._tls or ssl.create_default_context()
        secure = trio.SSLStream(stream, context, server_hostname=self.address.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure

    async def _opened(self, nursery: trio.Nursery, stream: GuardedStream) -> WebSocketConnection:
        """Returns the WebSocket over a stream, once the relay has agreed to it."""
        address = self.address
        literal = f"[{address.host}]" if ":" in address.host else address.host
        with trio.CancelScope() as cut:
            async with trio.open_nursery() as watch:

                async def fail_at_end() -> None:
                    await stream.ended.wait()
                    cut.cancel()

                watch.start_soon(fail_at_end)
                connection = await wrap_client_stream(
                    nursery,
                    stream,  # type: ignore[arg-type]  # any stream will do
                    f"{literal}:{address.port}",
                    address.path,
                    message_queue_size=1,
                    max_message_size=MESSAGE_BYTES,
                    receive_buffer_size=RECEIVE_BYTES,
                )
                watch.cancel_scope.cancel()
            stream.watch(connection)
            return connection
        raise RelayLost("closed the connection without an answer")

    async def _greet(self, connection: WebSocketConnection) -> NodeId:
        handshake = ClientHandshake(self._signer, os.urandom(NONCE_BYTES), self.address.pinned)
        await connection.send_message(handshake.answer_untrusted(await connection.get_message()))
        return handshake.finish_untrusted(await connection.get_message())

    async def _read(self, connection: WebSocketConnection, stream: GuardedStream) -> None:
        rate = self._config.read_bytes_per_s
        pace = Pace(rate, rate, trio.current_time())
        while True:
            message = await connection.get_message()
            stream.took(len(message))
            self._told(self, read_told_untrusted(message))
            if wait_s := pace.charge(trio.current_time(), len(message) + MESSAGE_COST_BYTES):
                await trio.sleep(wait_s)

    async def _write(self, connection: WebSocketConnection) -> None:
        while True:
            message, _ = await self.outbox.next_message()
            await connection.send_message(message)

    async def _check(self, connection: WebSocketConnection) -> None:
        while True:
            await self._doubted.wait()
            self._doubted = trio.Event()
            with trio.move_on_after(self._config.doubt_s) as patience:
                await connection.ping()
            if patience.cancelled_caught:
                raise RelayLost("does not answer since this machine's network changed")

    async def _watch(self, stream: GuardedStream) -> None:
        silent_s = self._config.silent_s
        while True:
            left_s = stream.heard + silent_s - trio.current_time()
            if left_s <= 0:
                raise RelayLost(f"nothing was heard of it for {silent_s:g} s")
            await trio.sleep(left_s)


@asynccontextmanager
async def _lasting_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks go on while the block around it is cancelled, until it ends: it reads a closing word."""

    async def hold(task_status: trio.TaskStatus[trio.Nursery]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True
            task_status.started(nursery)
            await trio.sleep_forever()

    async with trio.open_nursery() as outer:
        nursery = await outer.start(hold)
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()


def _explained(group: BaseExceptionGroup[BaseException]) -> RelayLost:
    """Returns the first of the errors that ended a link that tells something."""
    leaves = list(_leaves(group))
    for error in leaves:
        if isinstance(error, RelayLost):
            return error
        if isinstance(error, WireError):
            return RelayLost(f"broke the protocol: {error}")
        if isinstance(error, ConnectionRejected):
            return RelayLost(f"answered with HTTP status {error.status_code}")
        if isinstance(error, ConnectionClosed) and error.reason is not None:
            words = (error.reason.reason or error.reason.name)[:_WORDS_MOST]
            return RelayLost(f"closed the connection: {words}", error.reason.code)
    for cause in [cause for error in leaves for cause in _leaves(error.__cause__ or error)]:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RelayLost(f"has a certificate that is not trusted: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return RelayLost("does not speak TLS there: is it ws:// in place of wss://?")
        if isinstance(cause, OSError) and cause.strerror:
            number = cause.errno or 0  # names that are not found have numbers below zero
            return RelayLost(f"cannot be reached: {os.strerror(number) if number > 0 else cause.strerror}")
    return RelayLost("the connection broke" if isinstance(leaves[0], LOST) else "cannot be reached")


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]
