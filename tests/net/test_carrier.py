"""One hop of a forwarded path: bounded queues, and half a frame is never left as if it were a whole one."""

from __future__ import annotations

import pytest
import trio

from atmo.errors import RemoteError, WireError
from atmo.net.carrier import Carrier, CarrierConfig, CarrierStats

QUICK = CarrierConfig(queue_datagrams=4, idle_s=0.05, linger_s=0.05)


class Stream:
    """Gives what it is told to, then waits; takes datagrams only while `open`."""

    def __init__(self, *arrives: bytes | RemoteError | None) -> None:
        self.arrives = list(arrives)
        self.sent: list[bytes] = []
        self.open = trio.Event()

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if not self.arrives:
            await trio.sleep_forever()
        first = self.arrives.pop(0)
        if isinstance(first, RemoteError):
            raise first
        return first

    async def send(self, data: bytes) -> None:
        await self.open.wait()
        self.sent.append(data)


def carrier(stream: Stream) -> tuple[Carrier, CarrierStats]:
    stats = CarrierStats()
    return Carrier(stream, QUICK, stats), stats  # type: ignore[arg-type]


async def test_what_a_full_queue_cannot_take_is_dropped() -> None:
    await trio.lowlevel.checkpoint()
    one, stats = carrier(Stream())
    for number in range(10):
        one.put(bytes([number]))
    assert (stats.carried, stats.dropped_full) == (4, 6)


async def test_what_is_queued_goes_out_before_the_end() -> None:
    stream = Stream(b"a", None)
    stream.open.set()
    one, stats = carrier(stream)
    got: list[bytes] = []
    one.put(b"b")
    await one.run(got.append)
    assert (got, stream.sent) == ([b"a"], [b"b"])
    one.check_whole()
    one.put(b"too late")
    assert stats.carried == 1


async def test_a_frame_that_was_cut_off_is_told_of() -> None:
    one, _ = carrier(Stream(None))
    one.put(b"never leaves")
    await one.run(lambda data: None)
    with pytest.raises(RemoteError, match="middle"):
        one.check_whole()


async def test_silence_ends_it() -> None:
    one, _ = carrier(Stream())
    with trio.fail_after(2):
        await one.run(lambda data: None)
    one.check_whole()


async def test_an_end_that_is_gone_ends_it_at_once() -> None:
    one, _ = carrier(Stream(RemoteError("gone")))
    one.put(b"never leaves")
    with trio.fail_after(2):
        await one.run(lambda data: None)


@pytest.mark.parametrize("frame", [b"", b"x" * 1_473])
async def test_what_is_no_datagram_is_a_fault(frame: bytes) -> None:
    one, _ = carrier(Stream(b"good", frame))
    got: list[bytes] = []
    with pytest.raises(WireError, match="no datagram"):
        await one.run(got.append)
    assert got == [b"good"]
