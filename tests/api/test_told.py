"""What answers tell beside their bodies: whether to try again, and what was not honoured."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from atmo.api.account import Account
from atmo.api.errors import HOPELESS, ROUTES, retry_headers
from atmo.backends.base import Call, Part, as_object
from atmo.backends.embedder import Embedder
from atmo.backends.embeddings import EmbeddingsBackend
from atmo.backends.rag import RagBackend, RagProject
from atmo.errors import RequestError
from atmo.router.capability import CHAT, Capability
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Failing, chat, loop_net, refused


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500, 502, 504])
def test_who_need_not_wait_is_told_nothing(status: int) -> None:
    assert retry_headers(refused(status)) == {}


@pytest.mark.parametrize("status", [429, 503])
def test_who_should_wait_is_told_how_long(status: int) -> None:
    assert retry_headers(refused(status)) == {"retry-after": "2", "retry-after-ms": "2000"}
    known = RequestError(status, "no", retry_s=0.25)
    assert retry_headers(known) == {"retry-after": "1", "retry-after-ms": "250"}


@pytest.mark.parametrize("code", sorted(HOPELESS))
def test_who_would_try_in_vain_is_told_not_to(code: str) -> None:
    assert retry_headers(RequestError(503, "no", code=code)) == {"x-should-retry": "false"}
    later = retry_headers(RequestError(429, "no", code=code, retry_s=3_600.0))
    assert later == {"x-should-retry": "false", "retry-after": "3600", "retry-after-ms": "3600000"}


async def test_a_model_that_is_busy_and_one_that_is_not_there() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Failing(error=refused(429))))) as client:
        busy = await client.post("/v1/chat/completions", json=chat())
        nobody = await client.post("/v1/embeddings", json={"input": "a"})
    assert busy.headers["retry-after-ms"] == "2000"
    assert "x-should-retry" not in busy.headers
    assert nobody.headers["x-should-retry"] == "false"
    assert "retry-after" not in nobody.headers


async def test_routes_that_are_named_are_there() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        for route in ROUTES:
            method, path = route.split()[:2]
            answer = await client.request(method, path)
            assert answer.status_code != 404, route
            assert answer.status_code != 405, route


async def test_fields_that_are_not_honoured_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Library\n\nThe library is open from nine to six.")
    embedder = Embedder()
    rag = RagBackend([RagProject("town", tmp_path)], embedder)
    body = chat("When is the library open?", n=2, seed=5, logit_bias={"5": 1}, new_field="x")
    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", rag, EmbeddingsBackend(embedder))
        async with in_process(make_app(alpha)) as client:
            named = await client.post("/v1/chat/completions", json=body)
            streamed = await client.post("/v1/chat/completions", json={**body, "stream": True})
            plain = await client.post("/v1/chat/completions", json=chat("When is the library open?", n=1, seed=5))
            vectors = await client.post("/v1/embeddings", json={"input": "a", "task": "query", "user": "me"})
    warning = "not honoured by this model: n, logit_bias, new_field"
    assert named.headers["x-atmosphere-warning"] == warning
    assert streamed.headers["x-atmosphere-warning"] == warning
    assert "x-atmosphere-warning" not in plain.headers
    assert vectors.headers["x-atmosphere-warning"] == "not honoured by this model: task"


async def test_names_of_fields_make_no_headers() -> None:
    class Deaf(Echo):
        def ignored(self, call: Call) -> tuple[str, ...]:
            return tuple(call.body)

    evil: dict[str, Any] = {"a\r\nset-cookie: b": 1, "ü": 2}
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Deaf()))) as client:
        answer = await client.post("/v1/chat/completions", json=chat(**evil))
    assert "set-cookie" not in answer.headers
    assert "a??set-cookie: b, ?" in answer.headers["x-atmosphere-warning"]


@pytest.mark.parametrize("count", [10**400, 2**64, 1.5, -1, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_counts_that_nobody_can_mean_are_not_counted(count: Any, stream: bool) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}

    class Liar(Echo):
        async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
            async for part in super().answer(call):
                yield {**as_object(part), "usage": usage} if not call.stream else part
            if call.stream:
                yield {"choices": [], "usage": usage}

    seen: list[Account] = []
    priced = Capability("echo:echo", CHAT, "echo", general=True, cost_per_1k=0.5)
    async with loop_net() as net:
        app = make_app(await net.add("alpha", Liar(priced)), observers=(seen.append,))
        async with in_process(app) as client:
            answer = await client.post("/v1/chat/completions", json=chat(stream=stream))
            metrics = await client.get("/metrics")
    assert answer.status_code == metrics.status_code == 200
    assert "error" not in answer.text
    assert [(one.prompt_tokens, one.completion_tokens, one.cost) for one in seen[:1]] == [(0, 0, 0.0)]
