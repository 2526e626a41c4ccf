"""HTTP/1.1 messages, read strictly: heads of requests and answers, and bodies in chunks.

RFC 9112. What it lets a receiver tolerate (lines that end in a bare LF, folded lines, blanks before a colon, several
lengths) is refused, for that is what smuggled requests are made of. Parsers in C would be as quick, but go on past the
end of a message, while a server has to bound what a client sends ahead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from atmo.errors import WireError

Headers = list[tuple[bytes, bytes]]

CHUNKED, UNTIL_CLOSE = -1, -2
"""Lengths of bodies that do not say theirs ahead."""

MAX_TRAILER_BYTES = 8 * 1024
_LINE_BYTES = 256
"""Of the line before a chunk: its size, and extensions that nobody uses."""

_DIGITS = 15
_CONTROLS = bytes(code for code in (*range(32), 127) if code not in b"\t\r\n")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]+) HTTP/1\.([01])")
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -\xff]*)?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t -\xff]*)?")


@dataclass(slots=True)
class RequestHead:
    """What stands before a request's body.

    Attributes:
        method: As it came.
        target: As it came: printable ASCII.
        version: `1.0` or `1.1`.
        headers: Names in lower case.
        length: Of the body, or `CHUNKED`.
        keep_alive: The client would send another request on this connection.
        expects: It waits for `100 Continue` before it sends the body.
        websocket: It asks for the connection to become a WebSocket.
    """

    method: str
    target: bytes
    version: str
    headers: Headers
    length: int
    keep_alive: bool
    expects: bool
    websocket: bool


@dataclass(slots=True)
class ResponseHead:
    """What stands before an answer's body.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        length: Of the body, `CHUNKED`, or `UNTIL_CLOSE`.
        keep_alive: The server takes another request on this connection after it.
    """

    status: int
    headers: Headers
    length: int
    keep_alive: bool


def request_head_untrusted(head: bytes, most_headers: int) -> RequestHead:
    """Reads a request's head.

    Args:
        head: Without the empty line at its end.
        most_headers: That it may have.

    Raises:
        WireError: It is none, or not one that everybody reads in the same way.
    """
    lines = _lines(head, most_headers)
    found = _REQUEST.fullmatch(lines[0])
    if found is None:
        raise WireError("its first line is none of HTTP/1.1")
    headers, framing = _headers(lines)
    if framing.hosts > 1:
        raise WireError("it has several hosts")
    minor = found[3]
    length = _length(framing, minor)
    return RequestHead(
        found[1].decode(),
        found[2],
        "1.1" if minor == b"1" else "1.0",
        headers,
        0 if length is None else length,
        minor == b"1" and b"close" not in framing.connection,
        minor == b"1" and framing.expect == b"100-continue",
        framing.upgrade == b"websocket" and b"upgrade" in framing.connection and found[1] == b"GET",
    )


def response_head_untrusted(head: bytes, most_headers: int) -> ResponseHead:
    """Reads the head of an answer to a GET or a POST.

    Args:
        head: Without the empty line at its end.
        most_headers: That it may have.

    Raises:
        WireError: It is none, or not one that everybody reads in the same way.
    """
    lines = _lines(head, most_headers)
    found = _RESPONSE.fullmatch(lines[0])
    if found is None:
        raise WireError("its first line is none of HTTP/1.1")
    headers, framing = _headers(lines)
    status = int(found[2])
    length = _length(framing, found[1])
    if status < 200 or status in (204, 304):
        length = 0
    elif length is None:
        length = UNTIL_CLOSE
    keeps = found[1] == b"1" and b"close" not in framing.connection and length != UNTIL_CLOSE
    return ResponseHead(status, headers, length, keeps)


@dataclass(slots=True)
class _Framing:
    """The headers that say where a message ends and what follows it; lists in lower case."""

    length: bytes | None = None
    coding: bytes | None = None
    connection: frozenset[bytes] = frozenset()
    expect: bytes = b""
    upgrade: bytes = b""
    hosts: int = 0


def _lines(head: bytes, most_headers: int) -> list[bytes]:
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if breaks > most_headers:
        raise WireError(f"it has more than {most_headers} headers")
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or len(head.translate(None, _CONTROLS)) != len(head):
        raise WireError("it has control characters")
    return lines


def _headers(lines: list[bytes]) -> tuple[Headers, _Framing]:
    headers: Headers = []
    framing = _Framing()
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None:
            raise WireError("one of its headers has no name")
        name, value = name.lower(), value.strip(b" \t")
        headers.append((name, value))
        if name in _FRAMING:
            _note(framing, name, value)
    return headers, framing


_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"host"})


def _note(framing: _Framing, name: bytes, value: bytes) -> None:
    if name == b"host":
        framing.hosts += 1
    elif name == b"content-length":
        if framing.length is not None:
            raise WireError("it has several lengths")
        framing.length = value
    elif name == b"transfer-encoding":
        if framing.coding is not None:
            raise WireError("it has several transfer codings")
        framing.coding = value.lower()
    elif name == b"connection":
        framing.connection |= {word.strip(b" \t") for word in value.lower().split(b",")}
    elif name == b"expect":
        framing.expect = value.lower()
    else:
        framing.upgrade = value.lower()


def _length(framing: _Framing, minor: bytes) -> int | None:
    """Returns the body's length, None where the message does not say any."""
    if framing.coding is not None:
        if framing.length is not None or framing.coding != b"chunked" or minor == b"0":
            raise WireError("its transfer coding is not chunked alone")
        return CHUNKED
    if framing.length is None:
        return None
    if not framing.length.isdigit() or len(framing.length) > _DIGITS:
        raise WireError("its length is not a number")
    return int(framing.length)


class Chunked:
    """Takes a body in chunks apart as it comes.

    Attributes:
        done: The body is complete.
        rest: What came after its end.
    """

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._kept = b""
        self._left = 0
        self._ends = False
        self._trailer: int | None = None

    def feed_untrusted(self, data: bytes) -> bytes:
        """Returns what `data` brings of the body.

        Raises:
            WireError: It is not in chunks.
        """
        data = self._kept + data if self._kept else data
        at, size = 0, len(data)
        out: list[bytes] = []
        while not self.done:
            if self._left:
                piece = data[at : at + self._left]
                out.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
            if self._ends:
                if size - at < 2:
                    break
                if not data.startswith(b"\r\n", at):
                    raise WireError("a chunk is longer than it said")
                at += 2
                self._ends = False
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._line(data[at:end])
            at = end + 2
        self._kept, self.rest = (b"", data[at:]) if self.done else (data[at:], b"")
        if len(self._kept) > (_LINE_BYTES if self._trailer is None else MAX_TRAILER_BYTES):
            raise WireError("the line before a chunk is too long")
        return out[0] if len(out) == 1 else b"".join(out)

    def _line(self, line: bytes) -> None:
        """Takes the line before a chunk, or one of those after the last; they say nothing that we use."""
        if self._trailer is not None:
            self._trailer += len(line) + 2
            if self._trailer > MAX_TRAILER_BYTES:
                raise WireError("too much follows its body")
            self.done = not line
            return
        found = _CHUNK.fullmatch(line) if len(line) <= _LINE_BYTES else None
        if found is None:
            raise WireError("a chunk does not say its size")
        self._left = int(found[1], 16)
        if self._left:
            self._ends = True
        else:
            self._trailer = 0
