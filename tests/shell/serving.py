"""A real HTTP server on loopback, in a thread, with the control routes and a small endpoint that talks."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from atmo.api.http.server import serve
from atmo.api.routing import Router
from atmo.storage.home import Home
from tests.api.face import application
from tests.api.faces import MemoryMesh, MemoryModels, MemorySide, memory_routes

TOKEN = "the-token"
NODE_ID = "a" * 52


class ServedNode:
    """A node as its clients see it: what it serves, and what it was asked."""

    def __init__(self, config: Sequence[Mapping[str, Any]] = ()) -> None:
        self.mesh = MemoryMesh()
        self.models = MemoryModels()
        self.side = MemorySide()
        self.asked: list[dict[str, Any]] = []
        self.pieces = ["It is ", "a code.\x1b[2J"]
        talks = Router("/v1")
        talks.post("/chat/completions")(self.chat)
        talks.post("/mesh/route")(self.route)
        self.app = application(memory_routes(TOKEN, self.mesh, self.models, self.status, self.side, config), talks)
        self.url = ""

    def status(self) -> dict[str, Any]:
        return {
            "pid": 7,
            "node_id": NODE_ID,
            "name": "kitchen",
            "version": "0.1.0",
            "http": self.url,
            "mesh": self.mesh.mesh,
        }

    def info(self) -> dict[str, Any]:
        return {"pid": 7, "node_id": NODE_ID, "name": "kitchen", "http": self.url, "token": TOKEN, "version": "0.1.0"}

    def shows(self, path: str, value: Any) -> None:
        """Has GET of `path` answered with `value`."""

        async def answer() -> Response:
            return JSONResponse(value)

        more = Router()
        more.get(path)(answer)
        self.app.include(more)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if body["model"] == "gone":
            error = {
                "message": "No node has the model gone.",
                "type": "invalid_request_error",
                "code": "model_not_found",
            }
            return JSONResponse({"error": error}, 404)
        told = {"node": "attic", "path": "lan", "model": "docs", "reason": "near in meaning"}
        headers = {} if body["model"] == "silent" else {f"x-atmosphere-{key}": value for key, value in told.items()}
        return Response(self._speech(body["model"]), media_type="text/event-stream", headers=headers)

    def _speech(self, model: str) -> str:
        chunks: list[dict[str, Any]] = [
            {"model": "docs", "choices": [{"delta": {"content": piece}}]} for piece in self.pieces
        ]
        if model == "breaks":
            chunks.append({"error": {"message": "attic vanished"}})
        chunks.append({"choices": []})
        return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

    async def route(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if body["model"] == "gone":
            error = {"message": "No node has the model gone."}
            return JSONResponse({"chosen": None, "reason": "", "candidates": [], "error": error, "status": 404})
        chosen = {"model": "docs", "node_name": "attic", "path": "lan", "rtt_ms": 3.25, "similarity": 0.8, "load": 1}
        rows = [
            {**chosen, "verdict": "chosen", "reason": "near in meaning"},
            {**chosen, "verdict": "fallback", "reason": "slower", "similarity": None, "rtt_ms": None},
            {**chosen, "verdict": "passed over", "reason": "busy"},
        ]
        return JSONResponse({"chosen": chosen, "reason": "near in meaning", "candidates": rows, "omitted": 2})


@contextmanager
def served(node: ServedNode) -> Iterator[ServedNode]:
    """Serves `node` on a free port until the block ends."""
    ready = threading.Event()
    stop: list[Callable[[], None]] = []

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                node.url = f"http://127.0.0.1:{await nursery.start(serve, node.app, '127.0.0.1', 0)}"
                stop.append(lambda: token.run_sync_soon(scope.cancel))
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield node
    finally:
        stop[0]()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def running_home(path: Path, node: ServedNode) -> Iterator[Home]:
    """Makes `path` look as it does while `node` runs on it: `run/node.json` and a held lock."""
    home = Home(path)
    home.prepare()
    with ExitStack() as stack:
        stack.enter_context(home.lock())
        home.write_node_info(node.info())
        yield home
