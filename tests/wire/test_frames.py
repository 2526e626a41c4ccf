"""Frames come out as they went in, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.wire import limits
from atmo.wire.frames import FrameReader, frame


@given(st.lists(st.binary(max_size=50), max_size=10), st.lists(st.integers(1, 20), min_size=1))
def test_any_cut_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(body) for body in bodies)
    reader, found, position = FrameReader(), [], 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        reader.feed_untrusted(stream[position : position + size])
        position += size
        while (body := reader.next_untrusted()) is not None:
            found.append(body)
    assert found == bodies
    assert not reader.in_middle


@given(st.binary(max_size=100))
def test_random_bytes_give_frames_or_a_wire_error(data: bytes) -> None:
    reader = FrameReader(max_bytes=64)
    reader.feed_untrusted(data)
    taken = 0
    try:
        while (body := reader.next_untrusted()) is not None:
            assert len(body) <= 64
            taken += len(body) + 4
    except WireError:
        return
    assert reader.in_middle == (taken < len(data))


def test_a_frame_is_its_length_and_its_bytes() -> None:
    assert frame(b"abc") == b"\0\0\0\3abc"
    assert frame(b"") == b"\0\0\0\0"


def test_limits_hold_in_both_directions() -> None:
    with pytest.raises(WireError, match="over the limit of 3"):
        frame(b"abcd", 3)
    reader = FrameReader(max_bytes=3)
    reader.feed_untrusted(b"\0\0\0\4")
    for _ in range(2):
        with pytest.raises(WireError, match="over the limit of 3"):
            reader.next_untrusted()
    with pytest.raises(WireError, match="over the limit"):
        frame(bytes(limits.FRAME_BYTES + 1))


def test_a_stream_that_ends_in_the_middle_is_noticed() -> None:
    reader = FrameReader()
    reader.feed_untrusted(frame(b"abc")[:-1])
    assert reader.next_untrusted() is None
    assert reader.in_middle
    reader.feed_untrusted(b"c")
    assert reader.next_untrusted() == b"abc"
    assert not reader.in_middle


def test_the_rest_after_a_header_frame() -> None:
    reader = FrameReader()
    reader.feed_untrusted(frame(b"header") + b"raw bytes")
    assert reader.next_untrusted() == b"header"
    assert reader.take_rest() == b"raw bytes"
    assert reader.take_rest() == b""
