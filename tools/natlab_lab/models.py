"""A server of models as llama.cpp or vLLM are ones, to stand beside a node: `python models.py PORT NAME...`.

A chat answers with its own name and the question, streamed in pieces over half a second; an embedding is made of the
text's bytes.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

PIECES = 5
PIECE_S = 0.1
DIMENSIONS = 16


class Models(BaseHTTPRequestHandler):
    """Answers `/v1/models`, `/v1/chat/completions` and `/v1/embeddings`."""

    protocol_version = "HTTP/1.1"
    names: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Lists the models."""
        self._send({"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]})

    def do_POST(self) -> None:
        """Runs a request."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/embeddings"):
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            rows = [{"object": "embedding", "index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            self._send({"object": "list", "model": body["model"], "data": rows, "usage": usage})
        elif body.get("stream"):
            self._stream(body)
        else:
            time.sleep(PIECES * PIECE_S)
            message = {"role": "assistant", "content": answer(body)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": PIECES, "total_tokens": PIECES + 1}
            self._send(self._head(body, "chat.completion") | {"choices": [choice], "usage": usage})

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        text = answer(body)
        step = -(-len(text) // PIECES)
        for start in range(0, len(text), step):
            self._event(body, {"content": text[start : start + step]}, None)
            time.sleep(PIECE_S)
        self._event(body, {}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, body: dict[str, Any], delta: dict[str, str], reason: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        event = self._head(body, "chat.completion.chunk") | {"choices": [choice]}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    @staticmethod
    def _head(body: dict[str, Any], kind: str) -> dict[str, Any]:
        return {"id": "lab", "object": kind, "created": int(time.time()), "model": body["model"]}

    def _send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the log is the node's."""


def answer(body: dict[str, Any]) -> str:
    """Returns what a chat answers."""
    return f"{body['model']} answers: {body['messages'][-1]['content']}"


def vector(text: str) -> list[float]:
    """Returns an embedding."""
    data = text.encode().ljust(DIMENSIONS, b" ")[:DIMENSIONS]
    return [byte / 255 for byte in data]


if __name__ == "__main__":
    Models.names = sys.argv[2:]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Models).serve_forever()
