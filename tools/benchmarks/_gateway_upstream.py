"""An OpenAI-compatible server that does nothing, as fast as Python can: what a gateway costs is what it adds to this.

A process of its own; it prints its port. Words in a request say how a stream is sent: `all at once` in one write,
`held` after its first chunk until the client leaves, otherwise a chunk at a time, one every `PACE_S`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import suppress
from functools import partial
from typing import Any

MODELS = 200
"""Names it offers: `m0` and so on."""

CONTENT_CHUNKS = 100
PACE_S = 0.002
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?"([^"]*)"')
_STREAM = re.compile(rb'"stream": ?true')
_USAGE = {"prompt_tokens": 9, "completion_tokens": CONTENT_CHUNKS, "total_tokens": 9 + CONTENT_CHUNKS}
_ID, _CREATED = "chatcmpl-bench", 1_700_000_000


def answer(model: str) -> bytes:
    """Returns a whole answer with its head."""
    message = {"role": "assistant", "content": "Nothing was computed for this answer.", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": _ID, "object": "chat.completion", "created": _CREATED, "model": model}
    return _whole({**head, "choices": [choice], "usage": _USAGE})


def pieces(model: str, usage: bool) -> list[bytes]:
    """Returns the chunks of a streamed answer as they go over the wire, the head before the first."""
    head = {"id": _ID, "object": "chat.completion.chunk", "created": _CREATED, "model": model}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event(json.dumps({**head, "choices": [choice]}, separators=(",", ":")).encode())

    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"content": f" word{number}"}) for number in range(CONTENT_CHUNKS)]
    chunks += [chunk({}, "stop")]
    if usage:
        chunks.append(_event(json.dumps({**head, "choices": [], "usage": _USAGE}, separators=(",", ":")).encode()))
    start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    return [start + chunks[0], *chunks[1:], _event(b"[DONE]") + b"0\r\n\r\n"]


def _event(data: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def _whole(value: dict[str, Any]) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _Connection(asyncio.Protocol):
    """Serves one client.

    Args:
        answers: Whole ones by model, made once.
        streams: The same, by model and whether they end with usage.
    """

    transport: asyncio.Transport

    def __init__(self, answers: dict[str, bytes], streams: dict[tuple[str, bool], list[bytes]]) -> None:
        self.answers = answers
        self.streams = streams
        self.buffer = b""
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.buffer, 0, end + 2)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < whole:
                return
            head, body, self.buffer = self.buffer[:end], self.buffer[end + 4 : whole], self.buffer[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            rows = [{"id": f"m{number}", "object": "model"} for number in range(MODELS)]
            self.transport.write(_whole({"object": "list", "data": rows}))
            return
        named = _MODEL.search(body)
        model = named[1].decode() if named else "m0"
        if not _STREAM.search(body):
            if model not in self.answers:
                self.answers[model] = answer(model)
            self.transport.write(self.answers[model])
            return
        key = (model, b"include_usage" in body)
        if key not in self.streams:
            self.streams[key] = pieces(*key)
        sent = self.streams[key]
        if b"all at once" in body:
            self.transport.write(b"".join(sent))
        elif b"held" in body:
            self.transport.write(sent[0])
        else:
            self._send(sent, 0)

    def _send(self, sent: list[bytes], at: int) -> None:
        if not self.gone and at < len(sent):
            self.transport.write(sent[at])
            asyncio.get_running_loop().call_later(PACE_S, self._send, sent, at + 1)


async def main() -> None:
    """Serves until killed."""
    server = await asyncio.get_running_loop().create_server(partial(_Connection, {}, {}), "127.0.0.1", 0, backlog=2_048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
