"""Datagrams as frames on a request stream: what both ends of one hop of a forwarded path do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from atmo.errors import RemoteError, WireError
from atmo.net.ports import RequestStream


@dataclass(frozen=True, slots=True)
class CarrierConfig:
    """Bounds of one hop.

    Attributes:
        queue_datagrams: Wait for a slow stream; what comes on top is dropped, which QUIC takes for loss. Source: guess,
            about 300 KB, the window of a path of 10 MB/s and 30 ms.
        datagram_bytes: The largest one carried. Source: RFC 9000 section 14.1 has peers send 1,200; an Ethernet frame
            carries 1,472.
        idle_s: A path over which nothing came for so long has ended. Source: `QuicConfig.idle_timeout_s` and margin.
        linger_s: What is queued when a hop ends still goes out for so long: the words of a closing connection.
    """

    queue_datagrams: int = 256
    datagram_bytes: int = 1_472
    idle_s: float = 45.0
    linger_s: float = 0.3


class Allowance:
    """How many bytes one node may have carried: a token bucket of a second's worth.

    Args:
        bytes_per_s: In the long run; the burst is as much.
    """

    def __init__(self, bytes_per_s: float, mono: float) -> None:
        self._rate = bytes_per_s
        self._tokens = bytes_per_s
        self._at = mono

    def admits(self, mono: float, size: int) -> bool:
        """Charges a datagram; returns whether it is to be carried."""
        self._tokens = min(self._rate, self._tokens + (mono - self._at) * self._rate)
        self._at = mono
        if self._tokens < size:
            return False
        self._tokens -= size
        return True


@dataclass(slots=True)
class CarrierStats:
    """Counters over all hops since start, in datagrams."""

    carried: int = 0
    dropped_full: int = 0
    dropped_allowance: int = 0


class Carrier:
    """One hop of a forwarded path.

    Args:
        stream: Whose frames are the datagrams.
        config: Bounds.
        stats: Counts.
        allowance: Pays for what comes in; None for our own paths.
    """

    def __init__(
        self, stream: RequestStream, config: CarrierConfig, stats: CarrierStats, allowance: Allowance | None = None
    ) -> None:
        self._stream = stream
        self._config = config
        self._stats = stats
        self._allowance = allowance
        self._sending = False
        self._sender, self._queue = trio.open_memory_channel[bytes](config.queue_datagrams)

    def put(self, data: bytes) -> None:
        """Queues a datagram for the other end; never blocks."""
        try:
            self._sender.send_nowait(data)
        except trio.WouldBlock:
            self._stats.dropped_full += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # over
        else:
            self._stats.carried += 1

    async def run(self, deliver: Callable[[bytes], None]) -> None:
        """Carries both ways until the other end has finished, is gone, or is silent for too long.

        Raises:
            WireError: A frame is larger than a datagram.
        """
        fault: WireError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            try:
                await self._read(deliver)
            except RemoteError:
                nursery.cancel_scope.cancel()
            except WireError as error:
                fault = error
            self._sender.close()
            nursery.cancel_scope.deadline = trio.current_time() + self._config.linger_s
        if fault is not None:
            raise fault

    def check_whole(self) -> None:
        """Call when `run` is over, before the stream is ended cleanly: half a frame must be reset instead.

        Raises:
            RemoteError: The last frame was cut off.
        """
        if self._sending:
            raise RemoteError("a forwarded path was cut in the middle of a datagram")

    def end(self) -> None:
        """Lets what is queued go out and takes no more."""
        self._sender.close()

    async def _write(self) -> None:
        with self._queue:
            try:
                async for data in self._queue:
                    self._sending = True
                    await self._stream.send(data)
                    self._sending = False
            except RemoteError:
                pass  # the reader is told, too

    async def _read(self, deliver: Callable[[bytes], None]) -> None:
        while True:
            with trio.move_on_after(self._config.idle_s) as scope:
                data = await self._stream.receive()
            if scope.cancelled_caught or data is None:
                return
            if not 0 < len(data) <= self._config.datagram_bytes:
                raise WireError(f"a frame of {len(data)} bytes is no datagram")
            if self._allowance is not None and not self._allowance.admits(trio.current_time(), len(data)):
                self._stats.dropped_allowance += 1
                continue
            deliver(data)
