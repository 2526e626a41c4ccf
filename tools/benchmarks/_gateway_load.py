"""A light HTTP client for measuring: raw sockets, connections that are kept, only the end of an answer is parsed."""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from _gateway_upstream import CONTENT_CHUNKS

ANSWER_S = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EVENTS = CONTENT_CHUNKS + 3
"""The one with the role, the one with the reason, and `[DONE]`."""


def chat(model: str, words: str = "Say nothing.", *, stream: bool = False) -> bytes:
    """Returns a request as it goes over the wire."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": words}], "stream": stream}
    return _post("chat/completions", body)


def embed(text: str) -> bytes:
    """Returns a request for a vector."""
    return _post("embeddings", {"model": "auto", "input": text})


def _post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-bench\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def connect(port: int) -> socket.socket:
    """Returns a connection to this machine."""
    taken = socket.create_connection(("127.0.0.1", port), ANSWER_S)
    taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return taken


def complete(data: bytes) -> bool:
    """Says whether `data` is a whole answer.

    Raises:
        AssertionError: It is another one than 200.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    assert data.startswith(b"HTTP/1.1 200"), data[:600]
    found = _LENGTH.search(data, 0, end + 2)
    return len(data) >= end + 4 + int(found[1]) if found else data.endswith(b"0\r\n\r\n")


def ask(taken: socket.socket, request: bytes) -> bytes:
    """Sends one request; returns its answer."""
    taken.sendall(request)
    data = b""
    while not complete(data):
        piece = taken.recv(1 << 18)
        assert piece, "the server closed the connection"
        data += piece
    return data


def latencies_ms(port: int, request: bytes, count: int) -> list[float]:
    """Sends `count` requests one after the other over one connection."""
    taken_ms = []
    with connect(port) as taken:
        for _ in range(count):
            began = time.perf_counter()
            ask(taken, request)
            taken_ms.append((time.perf_counter() - began) * 1e3)
    return taken_ms


def streams(port: int, request: bytes, count: int) -> None:
    """Has `count` answers streamed one after the other, and counts their events."""
    with connect(port) as taken:
        for _ in range(count):
            events = ask(taken, request).count(b"data: ")
            assert events == _EVENTS, f"{events} events came, not {_EVENTS}"


def load(port: int, requests: Sequence[bytes], concurrency: int, count: int) -> tuple[float, list[float]]:
    """Keeps `concurrency` connections busy with `requests` in turns until `count` were answered.

    Returns:
        Requests a second, and each one's milliseconds.
    """
    watched = selectors.DefaultSelector()
    held: dict[int, tuple[socket.socket, bytes, list[bytes], list[float]]] = {}
    for number in range(concurrency):
        taken = connect(port)
        held[taken.fileno()] = (taken, requests[number % len(requests)], [], [0.0])
        watched.register(taken, selectors.EVENT_READ)
    taken_ms: list[float] = []
    began = time.perf_counter()
    sent = 0
    for taken, request, _, since in held.values():
        since[0] = time.perf_counter()
        taken.sendall(request)
        sent += 1
    while len(taken_ms) < count:
        for key, _ in watched.select(ANSWER_S):
            taken, request, got, since = held[key.fd]
            piece = taken.recv(1 << 18)
            assert piece, "the server closed the connection"
            got.append(piece)
            if not complete(b"".join(got)):
                continue
            got.clear()
            now = time.perf_counter()
            taken_ms.append((now - since[0]) * 1e3)
            if sent < count:
                since[0] = now
                taken.sendall(request)
                sent += 1
    seconds = time.perf_counter() - began
    watched.close()
    for taken, *_ in held.values():
        taken.close()
    return count / seconds, taken_ms


@contextmanager
def held_streams(port: int, requests: Sequence[bytes]) -> Iterator[None]:
    """Opens a stream for each request, each with its first chunk here, and keeps them open in the block."""
    held: list[socket.socket] = []
    try:
        for request in requests:
            taken = connect(port)
            held.append(taken)
            taken.sendall(request)
        for taken in held:
            data = b""
            while b"data: " not in data:
                piece = taken.recv(65_536)
                assert piece, "the server closed the connection"
                data += piece
            assert data.startswith(b"HTTP/1.1 200"), data[:600]
        yield
    finally:
        for taken in held:
            taken.close()
