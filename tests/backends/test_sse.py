from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends.sse import MAX_EVENT_BYTES, MAX_LINE_BYTES, SseError, SseParser


def parse(*pieces: bytes, line: int = MAX_LINE_BYTES, event: int = MAX_EVENT_BYTES) -> list[str]:
    parser = SseParser(line, event)
    events = [data for piece in pieces for data in parser.feed(piece)]
    return events + parser.finish()


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\r\n\r\ndata:b\r\n\r\n", ["a", "b"]),
        (b": heartbeat\n\n:\n\ndata: a\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data: last without blank line", ["last without blank line"]),
        (b"data:  two spaces\n\n", [" two spaces"]),
        (b"\xef\xbb\xbfdata: bom\n\n", ["bom"]),
        (b"data\n\n\n\n", [""]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"", []),
    ],
)
def test_what_servers_send(raw: bytes, events: list[str]) -> None:
    assert parse(raw) == events
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))) == events


def test_limits() -> None:
    with pytest.raises(SseError, match="line is longer than 10 bytes"):
        parse(b"data: 12345", b"6789", line=10)
    with pytest.raises(SseError, match="line is longer than 10 bytes"):
        parse(b"data: 123456789\n", line=10)
    with pytest.raises(SseError, match="event is longer than 8 bytes"):
        parse(b"data: 1\n" * 9, event=8)
    with pytest.raises(SseError, match="event is longer than 100 bytes"):
        parse(b"data:\n" * 90, event=100)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    assert parse(*pieces) == parse(b"".join(pieces))
