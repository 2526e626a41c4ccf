"""The holder's end of one bulk connection: a thread that answers, and what the loop lets it do.

The loop is asked before a chunk is sent. A connection that sends one after the other gets leave for several at once,
for a moment, and the loop is told afterwards: a hop between threads for each would cost as much as sealing it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import trio
from outcome import Outcome, Value, capture

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.bulk_config import BulkConfig
from atmo.net.bulk_frames import (
    HEAD_BYTES,
    MESSAGES_MOST,
    REQUEST_BYTES,
    TAG_BYTES,
    Buffers,
    Direction,
    Kind,
    Want,
    answer_head,
    open_request_untrusted,
)
from atmo.net.ports import ChunkRefused, ChunkService
from atmo.net.tcp import ByteStream, Stalled

LITTLE_BYTES = 64 * 1024
"""Chunks below this are charged as requests, each of them: they cost more than their bytes. Source: guess."""


class NotAdmitted(RemoteError):
    """The other end is no member any more, or asked too much."""


class Members(Protocol):
    """What this needs of the peer's shell."""

    def now(self) -> Now:
        """Returns the clocks, read once."""

    def is_linked(self, node: NodeId) -> bool:
        """Says whether a node is linked and a member."""

    def admits(self, node: NodeId) -> bool:
        """Charges a request of a node that is linked and a member; False where it is neither, or asked too much."""

    def holding(self, node: NodeId) -> AbstractContextManager[None]:
        """Keeps the link to a node open for the block."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """A chunk that was asked for.

    Attributes:
        name, size: Of the chunk.
        sent: Bytes of it that were sent, 0 where it was given up.
        allowed: The loop was asked before.
    """

    name: bytes
    size: int
    sent: int
    allowed: bool


class Leave:
    """What one connection may send.

    Args:
        node: Who asks.
        service: Answers.
        members: Says whether it may ask.
        config: The limits.
        clock: Monotonic seconds.

    Attributes:
        settle_s: `settle` is called so long after something was noted.
    """

    def __init__(
        self,
        node: NodeId,
        service: ChunkService,
        members: Members,
        config: BulkConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self._node = node
        self._members = members
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self.settle_s = config.leave_s
        self._answered: list[_Answered] = []
        self._left = 0
        self._until = 0.0
        self._limited = False

    # --- in the thread --------------------------------------------------------------------------------------------

    def take(self, name: bytes) -> bool:
        """Says whether a chunk may be sent without asking."""
        if self._left <= 0 or self._clock() >= self._until or not self.service.is_open(name):
            return False
        self._left -= 1
        return True

    def note(self, name: bytes, size: int, sent: int, *, allowed: bool) -> bool:
        """Notes what was sent of a chunk; says whether it is the first that the loop does not know of."""
        with self._lock:
            self._answered.append(_Answered(name, size, sent, allowed))
            return len(self._answered) == 1

    # --- in the loop ----------------------------------------------------------------------------------------------

    def ask(self, name: bytes, size: int) -> float:
        """Asks for one chunk; returns how many seconds to wait before it is sent.

        Raises:
            NotAdmitted: The connection must end.
            ChunkRefused: It may not be sent.
        """
        if not self._members.admits(self._node):
            raise NotAdmitted("it is no member any more, or asked too much")
        waits_s = self.service.allow(self._node, name, size)
        self._limited |= waits_s > 0.0
        return waits_s

    def settle(self) -> None:
        """Charges what was sent; where nothing limits it, as much may follow in the next moment, and more.

        Raises:
            NotAdmitted: The connection must end.
        """
        with self._lock:
            answered, self._answered = self._answered, []
        limited, self._limited = self._limited, False
        admitted = True
        for each in answered:
            if not each.allowed:
                little = each.size < LITTLE_BYTES
                admitted &= (self._members.admits if little else self._members.is_linked)(self._node)
                try:
                    limited |= self.service.allow(self._node, each.name, each.size) > 0.0
                except ChunkRefused:
                    limited = True
            self.service.sent(self._node, each.sent)
        if not admitted:
            raise NotAdmitted("it is no member any more, or asked too much")
        self._left = 0 if limited else min(2 * len(answered), self._config.leave_most)
        self._until = self._clock() + 2 * self._config.leave_s


class Connection:
    """One connection that showed a ticket.

    Args:
        stream: To the asker.
        keys: For what comes in and what goes out.
        leave: What it may send.
        buffers: For chunks.
        places: Taken for each chunk that is in memory.
        clear: Chunks may go out in clear.

    Attributes:
        since: When the loop last heard of it, in its monotonic seconds.
        answers: It has a request to answer.
    """

    def __init__(
        self,
        stream: ByteStream,
        keys: tuple[Direction, Direction],
        leave: Leave,
        buffers: Buffers,
        places: threading.Semaphore,
        *,
        clear: bool,
    ) -> None:
        self.since = trio.current_time()
        self.answers = False
        self._stream = stream
        self._inward, self._outward = keys
        self._leave = leave
        self._buffers = buffers
        self._places = places
        self._clear = clear
        self._scope = trio.CancelScope()
        self._closed = threading.Event()
        self._noted = trio.Event()
        self._ended = False
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Ends it at once; its thread is left alone and ends as soon as it wants to send or receive."""
        self._scope.cancel()
        self._closed.set()
        self._stream.close()

    async def run(self, threads: trio.CapacityLimiter) -> None:
        """Answers until the connection ends.

        Raises:
            RemoteError: It broke.
            WireError: The other end sent what is no request.
        """
        ended: Outcome[None] = Value(None)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_settled)
                    ended = await trio.to_thread.run_sync(
                        capture, self._answer_all, abandon_on_cancel=True, limiter=threads
                    )
                    nursery.cancel_scope.cancel()
        finally:
            self._ended = True
            self._settle()
        ended.unwrap()

    async def _keep_settled(self) -> None:
        while True:
            await self._noted.wait()
            self._noted = trio.Event()
            self._settle()
            await trio.sleep(self._leave.settle_s)

    def _settle(self) -> None:
        self.since = trio.current_time()
        try:
            self._leave.settle()
        except NotAdmitted:
            self.close()

    def _ask(self, name: bytes, size: int) -> float:
        self.since = trio.current_time()
        return self._leave.ask(name, size)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _answer_all(self) -> None:
        request = memoryview(bytearray(REQUEST_BYTES))
        try:
            while self._inward.count < MESSAGES_MOST and self._receive(request):
                self.answers = True
                self._answer_untrusted(request)
                self.answers = False
        except (NotAdmitted, trio.RunFinishedError):
            return
        except RemoteError:
            if not self._closed.is_set():
                raise

    def _receive(self, request: memoryview) -> bool:
        while True:
            try:
                return self._stream.receive_blocking(request, len(request)) == len(request)
            except Stalled:
                continue  # it is idle; who is for too long gets closed

    def _answer_untrusted(self, request: memoryview) -> None:
        want, name, size = open_request_untrusted(self._inward, request)
        try:
            allowed = not self._leave.take(name)
            waits_s = trio.from_thread.run_sync(self._ask, name, size) if allowed else 0.0
            sent = 0
            try:
                if self._closed.wait(waits_s):
                    raise RemoteError("the connection was closed here")
                sent = self._send(name, size, Kind.CLEAR if self._clear and want is Want.CLEAR else Kind.CHUNK)
            finally:
                if self._leave.note(name, size, sent, allowed=allowed):
                    self._token.run_sync_soon(self._note)
        except ChunkRefused as refused:
            self._refuse(name, refused.reason.encode("ascii"))

    def _note(self) -> None:
        if self._ended:
            self._settle()  # of a thread that was left alone
        else:
            self._noted.set()

    def _send(self, name: bytes, size: int, kind: Kind) -> int:
        """Reads a chunk, seals it in its place and sends it."""
        most = HEAD_BYTES + size + TAG_BYTES
        with self._places:
            buffer = self._buffers.take(most)
            try:
                answer = memoryview(buffer)[:most]
                answer[:HEAD_BYTES] = head = answer_head(kind, size)
                data = answer[HEAD_BYTES:-TAG_BYTES]
                self._leave.service.read(name, data)
                if kind is Kind.CHUNK:
                    self._outward.seal(data, head + name, answer[HEAD_BYTES:])
                else:
                    answer = answer[:-TAG_BYTES]
                self._stream.send_blocking(answer)
            finally:
                self._buffers.give(buffer)
        return size

    def _refuse(self, name: bytes, reason: bytes) -> None:
        answer = bytearray(HEAD_BYTES + len(reason) + TAG_BYTES)
        answer[:HEAD_BYTES] = head = answer_head(Kind.REFUSAL, len(reason))
        self._outward.seal(reason, head + name, memoryview(answer)[HEAD_BYTES:])
        self._stream.send_blocking(answer)
