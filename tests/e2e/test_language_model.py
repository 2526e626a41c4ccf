"""A language model on one machine, asked from another: streamed, routed by meaning, and gone in mid-stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.processes import NodeProcess, join, wait_for

pytestmark = pytest.mark.e2e

WORDS = ["The", " tide", " is", " made", " by", " the", " moon", "."]


class Upstream(ThreadingHTTPServer):
    """A server that speaks OpenAI's chat API: it says `WORDS`, then waits until `go_on` is set before it ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.go_on = threading.Event()
        self.asked: list[Any] = []


class _Handler(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._json({"object": "list", "data": [{"id": "tiny-chat", "object": "model", "created": 1, "owned_by": "me"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
            return self._json(
                {
                    "id": "c1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "x",
                    "choices": [choice],
                    "usage": usage,
                }
            )
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number, word in enumerate(WORDS):
            delta = {"content": word} | ({"role": "assistant"} if number == 0 else {})
            self._event({"index": 0, "delta": delta, "finish_reason": None})
        self.server.go_on.wait(20)
        self._event({"index": 0, "delta": {}, "finish_reason": "stop"})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True
        return None

    def _event(self, choice: Any) -> None:
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [choice]}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stays silent."""


@contextmanager
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def two_nodes(tmp_path: Path, server: Upstream) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """The first node has the language model, the second asks."""
    owner, asker = NodeProcess(tmp_path / "owner", "owner"), NodeProcess(tmp_path / "asker", "asker")
    owner.home.mkdir()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    (owner.home / "config.json").write_text(json.dumps({"servers": [{"name": "lab", "url": url}]}))
    with owner, asker:
        owner.atmo("mesh", "create", "home")
        join(owner, asker)
        with openai.OpenAI(base_url=asker.url, api_key="none", max_retries=0) as client:
            wait_for(lambda: "tiny-chat" in {model.id for model in client.models.list()})
        yield owner, asker


def ask(client: openai.OpenAI, text: str, model: str = "auto", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def test_a_language_model_of_the_mesh_answers_and_the_documentation_speaks_through_it(tmp_path: Path) -> None:
    with upstream() as server, two_nodes(tmp_path, server) as (_, asker):
        server.go_on.set()
        with openai.OpenAI(base_url=asker.url, api_key="none", max_retries=0) as client:
            answer = ask(client, "Write a haiku about the tide and the moon.")
            assert answer.model == "tiny-chat"
            assert answer.choices[0].message.content == "".join(WORDS)
            streamed = list(ask(client, "And another one, please.", model="tiny-chat", stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "".join(WORDS)
            documented = ask(client, "How do I add a second machine with a join code?")
            assert documented.model == "atmosphere-docs"
            text = documented.choices[0].message.content
            assert text.startswith("".join(WORDS))
            assert "meshes.md" in text
        prompt = json.dumps(server.asked[-1]["messages"])
        assert "atmo mesh invite" in prompt


def test_a_node_that_vanishes_in_mid_stream_is_an_error_the_client_can_read(tmp_path: Path) -> None:
    with upstream() as server, two_nodes(tmp_path, server) as (owner, asker):
        with openai.OpenAI(base_url=asker.url, api_key="none", max_retries=0) as client:
            stream = ask(client, "hello", model="tiny-chat", stream=True)
            words = []

            def read() -> None:
                for chunk in stream:
                    words.append(chunk.choices[0].delta.content)
                    if len(words) == len(WORDS):
                        owner.kill()

            began = time.monotonic()
            with pytest.raises(openai.APIError, match="owner"):
                read()
            assert words == WORDS
            assert time.monotonic() - began < 60
            with pytest.raises(openai.APIStatusError) as later:
                ask(client, "hello", model="tiny-chat")
            assert later.value.status_code in (502, 503)
        wait_for(lambda: asker.json("mesh", "nodes")[1]["path"] == "", 40)
        assert asker.json("status")["counters"]["gateway.errors"] >= 1
