"""Errors of servers: when to ask again; and their keys, never told, wherever a server echoes them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from atmo.backends.base import Call
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.openai_shapes import MAX_MESSAGE_CHARS
from atmo.errors import RequestError
from atmo.router.capability import CHAT, Capability
from tests.backends.fake_server import Reply, Server, serve

KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"
CHAT_PATH = "/v1/chat/completions"
CHATTER = Capability(id="openai:lab:m", operation=CHAT, model="m")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


async def failure(server: Server, *, stream: bool = False) -> RequestError:
    backend = OpenAIBackend(OpenAIServer("lab", server.url, key_env="K"), environ={"K": KEY})
    call = Call(CHATTER, {"messages": []}, stream, "r")
    with pytest.raises(RequestError) as caught:
        async with aclosing(backend.execute(call)) as parts:
            assert [part async for part in parts] == []
    await backend.aclose()
    return caught.value


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("Retry-After", "7")], 7),
        ([("Retry-After", "7"), ("Retry-After-Ms", "1500")], 1.5),
        ([("Retry-After", "999999999")], 3_600),
        ([("Retry-After", "Fri, 27 Nov 2026 05:20:00 GMT")], 0),
        ([("Retry-After", "-1")], 0),
        ([("Retry-After", "1e3")], 0),
        ([], 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_when_to_ask_again(server: Server, status: int, headers: list[tuple[str, str]], seconds: float) -> None:
    async def answer(reply: Reply) -> None:
        await reply.whole(status, "application/json", b'{"error": {"message": "slow down."}}', *headers)

    server.on(CHAT_PATH, answer)
    failed = await failure(server)
    assert (failed.status, failed.retry_s) == (status, seconds)
    assert "slow down.." not in failed.message


async def test_a_key_in_every_field_of_an_error(server: Server) -> None:
    error = {"message": f"bad key {KEY}!", "code": KEY, "param": f"header {KEY}"}
    server.json(CHAT_PATH, {"error": error}, 400)
    failed = await failure(server)
    assert failed.message.endswith("bad key ***!")
    assert (failed.code, failed.param) == ("***", "header ***")


@pytest.mark.parametrize("shown", range(8, len(KEY) + 1, 6))
async def test_a_key_that_is_cut_at_the_end_of_a_message(server: Server, shown: int) -> None:
    server.json(CHAT_PATH, {"error": {"message": "x" * (MAX_MESSAGE_CHARS - shown) + KEY}}, 400)
    failed = await failure(server)
    assert KEY[:8] not in failed.message
    assert "x***" in failed.message


@pytest.mark.parametrize("shown", [len(KEY), 20, 8])
async def test_a_key_in_the_middle_of_a_stream(server: Server, shown: int) -> None:
    message = "x" * (MAX_MESSAGE_CHARS - shown) + KEY
    server.sse(CHAT_PATH, f"data: {json.dumps({'error': {'message': message}})}\n\n".encode())
    failed = await failure(server, stream=True)
    assert KEY[:8] not in failed.message
    assert failed.message.endswith("x***.")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
async def test_a_key_file_that_is_none_holds_nobody_up(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "key")
    backend = OpenAIBackend(OpenAIServer("lab", "http://127.0.0.1:9", key_file=str(tmp_path / "key")))
    with trio.fail_after(10), pytest.raises(RequestError, match="cannot be read: it is no file"):
        await backend.models()
    await backend.aclose()
