from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.wire.http1 import (
    CHUNKED,
    MAX_TRAILER_BYTES,
    UNTIL_CLOSE,
    Chunked,
    request_head_untrusted,
    response_head_untrusted,
)

POST = b"POST /v1/chat?x=1 HTTP/1.1\r\nHost: a\r\n"


def test_a_request() -> None:
    head = request_head_untrusted(POST + b"Content-Length:  12 \r\nX-Odd:\tone two\t\r\nEmpty:", 9)
    assert (head.method, head.target, head.version, head.length) == ("POST", b"/v1/chat?x=1", "1.1", 12)
    assert head.headers == [(b"host", b"a"), (b"content-length", b"12"), (b"x-odd", b"one two"), (b"empty", b"")]
    assert (head.keep_alive, head.expects, head.websocket) == (True, False, False)


def test_what_follows_a_request() -> None:
    assert request_head_untrusted(POST + b"Transfer-Encoding: Chunked", 9).length == CHUNKED
    assert request_head_untrusted(POST + b"Expect: 100-Continue", 9).expects
    assert not request_head_untrusted(POST + b"Connection: x, Close", 9).keep_alive
    assert not request_head_untrusted(b"GET / HTTP/1.0\r\nConnection: keep-alive", 9).keep_alive
    asked = b"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade"
    assert request_head_untrusted(asked, 9).websocket
    assert not request_head_untrusted(asked.replace(b"GET", b"PUT"), 9).websocket


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /",
        b"GET / HTTP/2.0",
        b"GET  / HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"G\x00T / HTTP/1.1",
        b"GET / HTTP/1.1\r\n folded: x",
        b"GET / HTTP/1.1\r\nname : x",
        b"GET / HTTP/1.1\r\nno colon",
        b"GET / HTTP/1.1\r\na: x\ny: z",
        b"GET / HTTP/1.1\r\na: x\ry: z",
        b"GET / HTTP/1.1\r\na: x\x00",
        b"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
        b"GET / HTTP/1.1\r\nContent-Length: +1",
        b"GET / HTTP/1.1\r\nContent-Length: 1_0",
        b"GET / HTTP/1.1\r\nContent-Length: 1111111111111111",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked",
    ],
)
def test_what_is_no_request(head: bytes) -> None:
    with pytest.raises(WireError):
        request_head_untrusted(head, 3)


def test_an_answer() -> None:
    head = response_head_untrusted(
        b"HTTP/1.1 200 All is well\r\nContent-Length: 3\r\nSet-Cookie: a\r\nSet-Cookie: b", 9
    )
    assert (head.status, head.length, head.keep_alive) == (200, 3, True)
    assert response_head_untrusted(b"HTTP/1.1 404\r\nTransfer-Encoding: chunked", 9).length == CHUNKED


def test_where_an_answer_ends() -> None:
    until_close = response_head_untrusted(b"HTTP/1.1 200 ", 9)
    assert (until_close.length, until_close.keep_alive) == (UNTIL_CLOSE, False)
    assert not response_head_untrusted(b"HTTP/1.0 200 OK\r\nContent-Length: 3", 9).keep_alive
    assert not response_head_untrusted(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close", 9).keep_alive
    assert response_head_untrusted(b"HTTP/1.1 204 No Content\r\nContent-Length: 3", 9).length == 0
    assert response_head_untrusted(b"HTTP/1.1 100 Continue", 9).length == 0


@pytest.mark.parametrize("head", [b"HTTP/1.1 20 OK", b"HTTP/1.1 099 X", b"HTTP/3 200 OK", b"ICY 200 OK"])
def test_what_is_no_answer(head: bytes) -> None:
    with pytest.raises(WireError):
        response_head_untrusted(head, 9)


def in_chunks(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 30), st.binary(max_size=20))
def test_chunks_come_together_however_they_are_cut(pieces: list[bytes], cut: int, rest: bytes) -> None:
    data = in_chunks(*pieces, trailer=b"x: y\r\n") + rest
    body = Chunked()
    got = b""
    while data and not body.done:
        got += body.feed_untrusted(data[:cut])
        data = data[cut:]
    assert (got, body.done, body.rest + data) == (b"".join(pieces), True, rest)


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * 300 + b"\r\n",
        b"1" * 300,
        b"2\r\nabc\r\n",
        b"0\r\n" + b"x" * (MAX_TRAILER_BYTES + 1),
        b"0\r\n" + b"x: y\r\n" * (MAX_TRAILER_BYTES // 6 + 1),
    ],
)
def test_what_is_not_in_chunks(data: bytes) -> None:
    with pytest.raises(WireError):
        Chunked().feed_untrusted(data)


_BYTES = st.sampled_from(
    [b"a", b"B", b"1", b":", b" ", b"\t", b",", b"\r\n", b"\n", b"\r", b"\x00", b"\xe9", b"chunked"]
)
_LINES = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"content-length: 5, 5",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: identity",
        b"Connection: close",
        b"Expect: 100-continue",
        b"Host: b",
        b" folded",
        b"x:\ty ",
    ]
)


@given(st.lists(st.one_of(_LINES, st.lists(_BYTES, max_size=8).map(b"".join)), max_size=5), st.sampled_from(b"01"))
def test_what_is_taken_h11_understands_in_the_same_way(lines: list[bytes], minor: int) -> None:
    head = b"\r\n".join([b"POST /x HTTP/1.%c" % minor, b"Host: a", *lines])
    try:
        ours = request_head_untrusted(head, 20)
    except WireError:
        return
    if b"\r\n\r\n" in head + b"\r\n":
        return  # an empty line among them: the server looks for the first one before it asks
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(head + b"\r\n\r\n")
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert list(event.headers) == ours.headers
    length = ours.length
    body = b"5\r\nhello\r\n0\r\n\r\n" if length == CHUNKED else b"h" * length
    theirs.receive_data(body + b"NEXT")
    got = b""
    while isinstance(event := theirs.next_event(), h11.Data):
        got += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert got == (b"hello" if length == CHUNKED else body)
