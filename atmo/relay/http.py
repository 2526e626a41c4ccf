"""The first request of a connection to the relay: whether it wants a WebSocket, and the answer where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import h11
import trio

from atmo.errors import WireError

REQUEST_BYTES: Final = 8 * 1024
"""The head of a request. Source: the usual bound of web servers (nginx: 8 KiB a line)."""

SOCKET_PATHS: Final = ("/", "/relay")

_READ_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class FirstRequest:
    """The first request of a connection.

    Attributes:
        method: Such as `GET`.
        path: Without the query.
        upgrade: It asks for a WebSocket.
        raw: All bytes that were read, for whoever reads them again.
    """

    method: str
    path: str
    upgrade: bool
    raw: bytes


async def read_request_untrusted(stream: trio.abc.ReceiveStream) -> FirstRequest | None:
    """Reads the head of the first request; None where the stream ends before it does.

    Raises:
        WireError: It is no HTTP/1.1, or too long.
    """
    state = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES)
    raw = bytearray()
    try:
        while (event := state.next_event()) is h11.NEED_DATA:
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                return None
            raw += data
            state.receive_data(bytes(data))
    except h11.RemoteProtocolError as error:
        raise WireError(f"not HTTP: {error}") from error
    if not isinstance(event, h11.Request):
        return None
    wanted = [value.lower() for name, value in event.headers if name == b"upgrade"]
    path = event.target.decode("latin-1").partition("?")[0]
    return FirstRequest(event.method.decode("latin-1"), path, b"websocket" in wanted, bytes(raw))


def answer(status: int, body: bytes, content_type: str = "text/plain; charset=utf-8", head_only: bool = False) -> bytes:
    """Returns a whole answer, after which the connection closes."""
    state = h11.Connection(h11.SERVER)
    headers = [
        ("content-type", content_type),
        ("content-length", str(len(body))),
        ("connection", "close"),
        ("cache-control", "no-store"),
    ]
    # No body: h11 has not seen the request, so that it cannot know whether it was a HEAD.
    head = state.send(h11.Response(status_code=status, headers=headers, reason=_REASONS.get(status, "")))
    assert head is not None
    return head if head_only else head + body


_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed", 503: b"Service Unavailable"}
