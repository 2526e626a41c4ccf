"""The client against answers that a node should not give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from atmo.errors import UserError
from atmo.shell import client as module
from atmo.shell.client import NodeClient

INFO = {"http": "http://node/", "token": "t"}


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> NodeClient:
    return NodeClient(INFO, httpx.MockTransport(answer))


def answering(status: int, content: bytes) -> NodeClient:
    return client_of(lambda request: httpx.Response(status, content=content))


def error_of(call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("status", "content", "message", "hint"),
    [
        (409, b'{"error": {"message": "No.", "hint": "Yes."}}', "No.", "Yes."),
        (404, b'{"error": {"message": "No model.", "type": "x"}}', "No model.", ""),
        (400, b'{"error": "plain"}', "plain", ""),
        (400, b'{"error": {}}', "The node reported an error without a reason.", ""),
        (500, b"Internal Server Error", "The node answered with HTTP status 500.", "Its log may say why."),
        (502, b"[]", "The node answered with HTTP status 502.", "Its log may say why."),
        (200, b"<html>", "The node sent something that is not JSON.", "Are both of the same version?"),
        (200, b"[1]", "The node sent something that is not a JSON object.", "Are both of the same version?"),
        (200, b'{"nodes": 1}', "The node's answer has no nodes.", "Are both of the same version?"),
    ],
)
def test_answers(status: int, content: bytes, message: str, hint: str) -> None:
    error = error_of(answering(status, content).nodes)
    assert (error.message, error.hint) == (message, hint)


def test_a_body_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 10)
    assert "more than 10 bytes" in error_of(answering(200, b" " * 11).status).message


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (httpx.ConnectError("refused"), "The node at http://node does not answer."),
        (httpx.ReadTimeout("late"), "The node at http://node did not answer in time."),
        (httpx.RemoteProtocolError("cut"), "The connection to the node at http://node broke: cut."),
    ],
)
def test_no_answer(failure: Exception, message: str) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure

    client = client_of(fail)
    assert error_of(client.status).message == message
    assert error_of(lambda: client.job("pull", {"spec": "x"}, print)).message == message


class Cut(httpx.SyncByteStream):
    """A stream that breaks after its first line."""

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"progress": {"phase": "pull"}}\n'
        raise httpx.ReadError("reset")


def test_a_job_whose_stream_breaks_or_just_ends() -> None:
    seen: list[Any] = []
    broken = client_of(lambda request: httpx.Response(200, stream=Cut()))
    assert "broke: reset" in error_of(lambda: broken.job("pull", {"spec": "x"}, seen.append)).message
    assert seen == [{"phase": "pull"}]
    ended = answering(200, b'{"other": 1}\n')
    assert error_of(lambda: ended.job("pull", {"spec": "x"}, print)).message == "The node ended before the work did."


def test_the_token_goes_to_every_route_of_the_node() -> None:
    seen: dict[str, str | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] = request.headers.get("authorization")
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.status()
        client.info_of("a/b c")
        client.post("/v1/mesh/route", {})
    assert seen == dict.fromkeys(("/atmo/v1/status", "/atmo/v1/models/a/b c", "/v1/mesh/route"), "Bearer t")
