"""Attacks on the HTTP face of a node: each does something to it for a moment, and tells what it was answered."""

from __future__ import annotations

import json
import resource
import socket
from contextlib import suppress

import trio
from torture_attack import SERVED_S, Attack, Broken, Seen, Target, ask, request, send, status_of

CHAT = "/v1/chat/completions"

_PIECE = b"x" * 65_536
_FILES_SPARE = 256


async def slow_loris(target: Target, seen: Seen, amount: int) -> None:
    """Requests whose heads and bodies come a byte at a time."""

    async def drip(start: bytes) -> None:
        async with await target.connect() as stream:
            goes_on = await send(stream, start)
            for _ in range(20):
                goes_on = goes_on and await send(stream, b"x")
                await trio.sleep(0.1)

    head, body = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nx-slow: ".encode(), request("POST", CHAT, b"{" * 99)[:-98]
    async with trio.open_nursery() as nursery:
        for number in range(amount):
            nursery.start_soon(drip, body if number % 2 else head)


async def connections(target: Target, seen: Seen, amount: int) -> None:
    """Connections on which nothing comes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[trio.SocketStream] = []
    async with trio.open_nursery() as nursery:

        async def open_some(count: int) -> None:
            for _ in range(count):
                with suppress(OSError):
                    held.append(await target.connect())

        for count in _shares(min(amount, hard - _FILES_SPARE), 20):
            nursery.start_soon(open_some, count)
    try:
        await trio.sleep(0.5)
    finally:
        for stream in held:
            stream.socket.close()


async def big_body(target: Target, seen: Seen, amount: int) -> None:
    """A body of so many MiB, with its length said ahead and in chunks."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    chunk = b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE)
    for start, piece in (
        (b"content-length: %d\r\n\r\n" % (amount * 2**20), _PIECE),
        (b"transfer-encoding: chunked\r\n\r\n", chunk),
    ):
        async with await target.connect() as stream:
            async with trio.open_nursery() as nursery:

                async def pour(stream: trio.SocketStream = stream, piece: bytes = piece) -> None:
                    for _ in range(amount * 16):
                        if not await send(stream, piece):
                            return

                await send(stream, head + start)
                nursery.start_soon(pour)
                seen.statuses[await status_of(stream)] += 1
                nursery.cancel_scope.cancel()


async def uploads(target: Target, seen: Seen, amount: int) -> None:
    """Clients that each hold a large body back at its last byte, together more than the node may hold."""
    body = b'{"model": "none", "messages": [{"role": "user", "content": "' + b"x" * (30 * 2**20) + b'"}]}'
    raw = request("POST", CHAT, body)
    missing, all_there = amount, trio.Event()

    async def upload() -> None:
        nonlocal missing
        async with await target.connect() as stream:
            await send(stream, raw[:-1])
            missing -= 1
            if not missing:
                all_there.set()
            with trio.move_on_after(2 * SERVED_S):
                await all_there.wait()
            await send(stream, raw[-1:])
            seen.statuses[await status_of(stream)] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(amount):
            nursery.start_soon(upload)


async def nested(target: Target, seen: Seen, amount: int) -> None:
    """Lists in lists, in a body of every kind."""
    lists = b"[" * amount + b"]" * amount
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/ml/anomaly", "/v1/mesh/route"):
        for body in (lists, b'{"model": "auto", "messages": ' + lists + b', "input": ' + lists + b"}"):
            status, answer = await ask(target, request("POST", path, body))
            seen.statuses[status] += 1
            if b"RecursionError" in answer or b"Traceback" in answer:
                raise Broken(f"{path} tells of its inside: {answer[-300:]!r}")


async def odd_text(target: Target, seen: Seen, amount: int) -> None:
    """What is no UTF-8, or no text at all, in bodies, paths and headers; garbage instead of HTTP."""
    bodies = (
        b"\xff\xfe",
        b'{"messages": [{"role": "user", "content": "\xc3\x28"}]}',
        b"\x00" * 512,
        b'{"a": "\\ud800"}',
    )
    for body in bodies:
        for path in (CHAT, "/v1/embeddings", "/v1/ml/classify"):
            seen.statuses[(await ask(target, request("POST", path, body)))[0]] += 1
    for raw in (
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"GET /%ff%fe%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: \xff\xfe\x80\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx\x00y: z\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"\x00" * 4_096 + b"\r\n\r\n",
    ):
        for _ in range(amount):
            async with await target.connect() as stream:
                await send(stream, raw)
                await stream.send_eof()
                seen.statuses[await status_of(stream)] += 1


async def huge_headers(target: Target, seen: Seen, amount: int) -> None:
    """A header, a line and a number of headers, each of so many KiB."""
    for start, piece in (
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-big: ", b"x" * 1_024),
        (b"GET /", b"x" * 1_024),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"a: b\r\n" * 170),
        (b"", b"x" * 1_024),
        (b"", b"\r\n" * 512),
    ):
        async with await target.connect() as stream:
            async with trio.open_nursery() as nursery:

                async def pour(stream: trio.SocketStream = stream, start: bytes = start, piece: bytes = piece) -> None:
                    goes_on = await send(stream, start)
                    for _ in range(amount):
                        goes_on = goes_on and await send(stream, piece)
                    with suppress(trio.BrokenResourceError, OSError):
                        await stream.send_eof()

                nursery.start_soon(pour)
                seen.statuses[await status_of(stream)] += 1
                nursery.cancel_scope.cancel()


async def half_closed(target: Target, seen: Seen, amount: int) -> None:
    """Clients that end their direction in the middle of a request, or right after it, and wait."""
    whole = request("GET", "/v1/models", close=False)

    async def half(raw: bytes) -> None:
        async with await target.connect() as stream:
            if await send(stream, raw):
                with suppress(trio.BrokenResourceError, OSError):
                    await stream.send_eof()
            seen.statuses[await status_of(stream)] += 1

    async with trio.open_nursery() as nursery:
        for number in range(amount):
            nursery.start_soon(half, (whole, whole[:30], request("POST", CHAT, b"{}" * 99)[:-50], b"")[number % 4])


async def pipelining(target: Target, seen: Seen, amount: int) -> None:
    """Clients that send requests and more requests, and read no answer."""
    flood = request("GET", "/openapi.json", close=False) * 200

    async def pour() -> None:
        async with await target.connect() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            for _ in range(50):
                if not await send(stream, flood):
                    return
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(amount):
            nursery.start_soon(pour)
        await trio.sleep(2.0)
        nursery.cancel_scope.cancel()


async def upgrades(target: Target, seen: Seen, amount: int) -> None:
    """WebSockets that are opened, and then send nothing, garbage, or frames that never end."""
    keys = ("upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13")
    key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
    frames = (b"", b"\xff" * 64, b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + b"\0" * 64, b"\x01\x80\0\0\0\0" * 50)

    async def open_one(number: int) -> None:
        path = ("/v1/stream", "/nothing")[number % 2]
        more = () if number % 5 == 0 else (key,)
        async with await target.connect() as stream:
            await send(stream, request("GET", path, b"", *keys, *more, close=False))
            seen.statuses[await status_of(stream)] += 1
            await send(stream, frames[number // 2 % 4])
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        for number in range(amount):
            nursery.start_soon(open_one, number)


async def many_clients(target: Target, seen: Seen, amount: int) -> None:
    """Clients that all want work at once, more than the node can do."""
    texts = ["word " * 200] * 16
    body = json.dumps({"model": "all-minilm-l6-v2", "input": texts}).encode()

    async def want() -> None:
        async with await target.connect() as stream:
            await send(stream, request("POST", "/v1/embeddings", body))
            with trio.move_on_after(3.0):
                seen.statuses[await status_of(stream)] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(amount):
            nursery.start_soon(want)


def _shares(amount: int, parts: int) -> list[int]:
    return [amount // parts + (number < amount % parts) for number in range(parts)]


ATTACKS: dict[str, tuple[Attack, int, int]] = {
    "slow-loris": (slow_loris, 300, 1_000),
    "connections": (connections, 10_000, 15_000),
    "big-body": (big_body, 1_024, 4_096),
    "uploads": (uploads, 12, 32),
    "nested": (nested, 100_000, 500_000),
    "odd-text": (odd_text, 2, 20),
    "huge-headers": (huge_headers, 1_024, 65_536),
    "half-closed": (half_closed, 200, 1_000),
    "pipelining": (pipelining, 20, 100),
    "upgrades": (upgrades, 200, 1_000),
    "many-clients": (many_clients, 300, 1_000),
}
"""Name to the attack, how much of it tests do, and how much `tools/torture http` does."""
