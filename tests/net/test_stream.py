"""Streams on loopback sockets: back-pressure both ways, ends and resets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from atmo.errors import RemoteError
from atmo.net.quic import QuicConfig, StreamCode, StreamReset
from tests.net.loopback import DEADLINE_S, connected, never_ends, until

KIB = 1024
NARROW = QuicConfig(
    stream_window_bytes=64 * KIB, connection_window_bytes=256 * KIB, send_buffer_bytes=32 * KIB, max_streams=4
)


async def test_bytes_arrive_in_order_and_end() -> None:
    async with connected() as (outbound, inbound), trio.open_nursery() as nursery:
        stream = await outbound.open_stream()
        text = bytes(range(256)) * 8 * KIB

        async def send() -> None:
            await stream.send_all(text)
            await stream.send_eof()

        nursery.start_soon(send)
        other = await inbound.accept_stream()
        got = bytearray()
        while data := await other.receive_some(10_000):
            got += data
        assert bytes(got) == text
        assert await other.receive_some() == b""


async def test_a_slow_reader_stops_the_sender_and_bounds_both_buffers() -> None:
    async with connected(NARROW, NARROW) as (outbound, inbound):
        stream = await outbound.open_stream()
        assert await never_ends(lambda: stream.send_all(bytes(1_000 * KIB)))
        other = await inbound.accept_stream()
        assert other.buffered_bytes == NARROW.stream_window_bytes
        assert outbound.core.unsent(stream.stream_id) <= NARROW.send_buffer_bytes


async def test_a_stalled_stream_does_not_block_another() -> None:
    async with connected(NARROW, NARROW) as (outbound, inbound):
        stalled = await outbound.open_stream()
        assert await never_ends(lambda: stalled.send_all(bytes(1_000 * KIB)))
        await inbound.accept_stream()
        async with await outbound.open_stream() as quick:
            await quick.send_all(b"quick")
            assert await (await inbound.accept_stream()).receive_some() == b"quick"


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with connected() as (outbound, inbound):
        stream = await outbound.open_stream()
        await stream.send_all(b"one")
        other = await inbound.accept_stream()
        assert await other.receive_some() == b"one"
        assert await never_ends(other.receive_some, 0.01)
        await stream.send_all(b"two")
        assert await other.receive_some() == b"two"


async def test_reset_ends_both_directions_at_the_other_end() -> None:
    async with connected() as (outbound, inbound):
        stream = await outbound.open_stream()
        await stream.send_all(b"x")
        other = await inbound.accept_stream()
        stream.reset(StreamCode.LATE)
        await until(lambda: other.over)
        with pytest.raises(StreamReset, match="ran out of patience") as caught:
            await other.receive_some()
        assert caught.value.code == StreamCode.LATE
        with pytest.raises(StreamReset):
            await other.send_all(b"y")
        await other.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"y")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_reset_wakes_a_waiting_sender_and_forgets_what_it_held() -> None:
    async with connected(NARROW, NARROW) as (outbound, inbound), trio.open_nursery() as nursery:
        stream = await outbound.open_stream()

        async def send() -> None:
            with pytest.raises(StreamReset):
                await stream.send_all(bytes(1_000 * KIB))

        nursery.start_soon(send)
        other = await inbound.accept_stream()
        await until(lambda: other.buffered_bytes == NARROW.stream_window_bytes)
        other.reset(StreamCode.REFUSED)
        assert other.buffered_bytes == 0
        await until(lambda: not outbound.stream_count and not inbound.stream_count)


async def test_many_stalled_and_abandoned_streams_leave_the_window_whole() -> None:
    async with connected(NARROW, NARROW) as (outbound, inbound):
        for _ in range(20):
            with trio.fail_after(DEADLINE_S):
                stream = await outbound.open_stream()
                assert await never_ends(lambda stream=stream: stream.send_all(bytes(200 * KIB)), 0.005)  # type: ignore[misc]
                other = await inbound.accept_stream()
                stream.reset()
                await until(lambda other=other: other._error is not None)  # type: ignore[misc]
                other.reset()
        await until(lambda: not outbound.stream_count and not inbound.stream_count)
        stream = await outbound.open_stream()
        await stream.send_all(b"fine")
        assert await (await inbound.accept_stream()).receive_some() == b"fine"


async def test_what_an_abandoned_reader_still_gets_is_given_back() -> None:
    async with connected(NARROW, NARROW) as (outbound, inbound):
        for _ in range(10):
            stream = await outbound.open_stream()
            await stream.send_all(bytes(30 * KIB))
            other = await inbound.accept_stream()
            await other.aclose()
            await stream.aclose()
        await until(lambda: not outbound.stream_count and not inbound.stream_count)


async def test_open_stream_waits_for_the_limit_of_the_other_end() -> None:
    async with connected(NARROW, NARROW) as (outbound, inbound):
        streams = [await outbound.open_stream() for _ in range(NARROW.max_streams)]
        assert await never_ends(outbound.open_stream, 0.01)
        for stream in streams:
            await stream.send_all(b"x")
            await (await inbound.accept_stream()).aclose()
            await stream.aclose()
        with trio.fail_after(DEADLINE_S):
            await outbound.open_stream()


async def test_streams_that_nobody_accepts_are_bounded() -> None:
    generous = replace(NARROW, max_streams=64)
    async with connected(generous, generous) as (outbound, inbound):
        inbound.config = NARROW
        for _ in range(10):
            await (await outbound.open_stream()).send_all(b"x")
        await until(lambda: inbound.stats.streams_refused == 10 - NARROW.max_streams)
        assert len(inbound._incoming) == NARROW.max_streams


async def test_a_stream_reset_before_it_is_accepted_vanishes() -> None:
    async with connected() as (outbound, inbound):
        early, silent = await outbound.open_stream(), await outbound.open_stream()
        await early.send_all(b"x")
        await until(lambda: inbound._incoming)
        early.reset()
        silent.reset()
        await until(lambda: not inbound._incoming and not inbound.stream_count)
        await until(lambda: not outbound.stream_count)
        assert await never_ends(inbound.accept_stream, 0.01)


async def test_leaving_the_block_by_an_error_resets_and_normally_ends() -> None:
    async with connected() as (outbound, inbound):
        async with await outbound.open_stream() as stream:
            await stream.send_all(b"x")
        other = await inbound.accept_stream()
        assert await other.receive_some() == b"x"
        assert await other.receive_some() == b""
        await until(lambda: other._send_error)
        with pytest.raises(StreamReset):
            await other.send_all(b"nobody reads this")
        stream = await outbound.open_stream()
        with pytest.raises(ZeroDivisionError):
            async with stream:
                raise ZeroDivisionError
        assert stream.over


async def test_bytes_that_arrived_can_be_read_after_the_connection_is_gone() -> None:
    async with connected() as (outbound, inbound):
        stream = await outbound.open_stream()
        await stream.send_all(b"last words")
        other = await inbound.accept_stream()
        await outbound.aclose("bye")
        await inbound.closed.wait()
        assert await other.receive_some() == b"last words"
        with pytest.raises(RemoteError, match="is closed: bye"):
            await other.receive_some()
        with pytest.raises(RemoteError, match="is closed: bye"):
            await other.send_all(b"x")
        await other.aclose()


async def test_an_unknown_reset_code_is_told_as_a_number() -> None:
    async with connected() as (outbound, inbound):
        stream = await outbound.open_stream()
        await stream.send_all(b"x")
        other = await inbound.accept_stream()
        assert await other.receive_some() == b"x"
        stream.reset(0x77)
        with pytest.raises(StreamReset, match="with code 0x77"):
            await other.receive_some()
