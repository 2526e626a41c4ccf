from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import trio

from atmo.api.openai.embeddings import embeddings_answer
from atmo.backends.base import Call
from atmo.errors import RequestError
from atmo.gateway import jsontext
from atmo.router.capability import CHAT, EMBEDDINGS, Capability
from atmo.wire import limits
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Failing, Lengths, LoopNet, Signs, chat, completion, loop_net, refused


async def client_of(net: LoopNet, *backends: Echo, **more: Any) -> httpx.AsyncClient:
    return in_process(make_app(await net.add("alpha", *backends), **more))


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class TestChat:
    async def test_one_answer_with_its_headers(self) -> None:
        async with loop_net() as net, await client_of(net, Echo()) as client:
            answer = await client.post("/v1/chat/completions", json=chat("abc"))
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "cba"
        headers = answer.headers
        assert headers["x-atmosphere-node"] == "alpha"
        assert headers["x-atmosphere-path"] == "local"
        assert headers["x-atmosphere-model"] == "echo"
        assert headers["x-atmosphere-rule"] == "only"
        assert headers["x-atmosphere-reason"].startswith("echo is the only model that does chat")
        assert len(headers["x-request-id"]) == 24
        assert "server" not in headers

    async def test_stream_decides_and_accept_does_not(self) -> None:
        async with loop_net() as net, await client_of(net, Echo()) as client:
            stream = await client.post(
                "/v1/chat/completions", json=chat("a b", stream=True), headers={"accept": "application/json"}
            )
            whole = await client.post("/v1/chat/completions", json=chat("a b"), headers={"accept": "text/event-stream"})
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["x-atmosphere-node"] == "alpha"
        *chunks, done = events(stream)
        assert done == "[DONE]"
        assert "".join(part["choices"][0]["delta"].get("content", "") for part in chunks) == "ba"
        assert whole.headers["content-type"] == "application/json"

    async def test_an_error_before_the_first_chunk_is_a_status(self) -> None:
        async with loop_net() as net, await client_of(net, Failing(error=refused(429))) as client:
            answer = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "2"
        assert answer.json() == {"error": {"message": "no", "type": "api_error", "param": None, "code": "no"}}

    async def test_an_error_in_the_middle_is_an_event_and_the_last(self) -> None:
        async with loop_net() as net, await client_of(net, Failing(error=refused(500), after=1)) as client:
            answer = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert answer.status_code == 200
        first, last = events(answer)
        assert first["choices"]
        assert last["error"]["message"] == "no"

    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_answer_that_json_cannot_say(self, stream: bool) -> None:
        class Odd(Echo):
            async def answer(self, call: Call) -> Any:
                yield {"x": float("nan")}

        async with loop_net() as net, await client_of(net, Odd()) as client:
            answer = await client.post("/v1/chat/completions", json=chat(stream=stream))
        error = events(answer)[-1]["error"] if stream else answer.json()["error"]
        assert answer.status_code == (200 if stream else 502)
        assert error["code"] == "bad_answer"

    async def test_names_from_elsewhere_make_no_headers(self) -> None:
        evil = Capability("e", CHAT, "evil: ü", general=True)
        async with loop_net() as net:
            node = await net.add("evil\r\nset-cookie: ü", Echo(evil))
            async with in_process(make_app(node)) as client:
                answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.headers["x-atmosphere-model"] == "evil: ?"
        assert answer.headers["x-atmosphere-node"] == "evil??set-cookie: ?"
        assert "set-cookie" not in answer.headers

    async def test_503_says_what_to_do(self) -> None:
        async with loop_net() as net, await client_of(net) as client:
            answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.status_code == 503
        assert "ollama pull llama3.2" in answer.json()["error"]["message"]


BODIES: list[tuple[bytes, str]] = [
    (b"", "Expecting value"),
    (b"{", "Expecting property name"),
    (b"[1]", "want an object"),
    (b'{"messages": NaN}', "NaN"),
    (b'{"messages": "\\ud800"}', "surrogate"),
    (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    (b'{"n": ' + b"9" * 10_000 + b"}", "64 bits"),
    (b"\xff", "UTF-8"),
    (b"{}", "'messages' must be"),
    (b'{"messages": [{"role": "user", "content": 1e999}]}', "too large"),
]


class TestBadInput:
    @pytest.mark.parametrize(("body", "words"), BODIES)
    @pytest.mark.parametrize(
        "path", ["/v1/chat/completions", "/v1/embeddings", "/v1/ml/classify", "/v1/ml/anomaly/score", "/v1/mesh/route"]
    )
    async def test_a_body_that_is_no_request(self, path: str, body: bytes, words: str) -> None:
        async with loop_net() as net, await client_of(net, Echo(), Lengths(), Signs()) as client:
            answer = await client.post(path, content=body)
        if (path, body) == ("/v1/mesh/route", b"{}"):
            assert answer.status_code == 200
            return
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        if "must be" not in words:
            assert words in error["message"]

    async def test_the_field_at_fault_is_named(self) -> None:
        async with loop_net() as net, await client_of(net, Echo()) as client:
            answer = await client.post("/v1/chat/completions", json=chat(temperature=9))
        assert answer.json()["error"]["param"] == "temperature"

    @pytest.mark.parametrize("told", [True, False])
    async def test_a_body_too_large(self, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "REQUEST_BYTES", 1_000)

        async def pieces() -> Any:
            for _ in range(30):
                await trio.lowlevel.checkpoint()
                yield b"x" * 100

        async with loop_net() as net:
            alpha = await net.add("alpha", Echo())
            async with in_process(make_app(alpha)) as client:
                content: Any = b"x" * 3_000 if told else pieces()
                answer = await client.post("/v1/chat/completions", content=content)
            assert alpha.gateway.budget.held == 0
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"

    async def test_bodies_held_at_once_are_bounded(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Echo())
            alpha.gateway.budget.take(128 * 2**20 - 10)
            async with in_process(make_app(alpha)) as client:
                answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.status_code == 503

    async def test_large_bodies_are_read_beside_the_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsontext, "THREAD_BYTES", 10)
        async with loop_net() as net, await client_of(net, Echo()) as client:
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            assert (await client.post("/v1/chat/completions", content=b"x" * 99)).status_code == 400

    async def test_what_nobody_foresaw(self, caplog: pytest.LogCaptureFixture) -> None:
        class Broken:
            def nodes(self) -> Any:
                raise ZeroDivisionError("secret")

            mesh = nodes

        async with loop_net() as net, await client_of(net, mesh=Broken()) as client:
            answer = await client.get("/health")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "secret" not in answer.text
        assert "secret" in caplog.text


async def test_a_packed_body_is_refused_by_name() -> None:
    async with loop_net() as net, await client_of(net, Echo()) as client:
        for coding, status in (("gzip", 415), ("zstd", 415), ("Identity", 200)):
            headers = {"content-encoding": coding}
            answer = await client.post("/v1/chat/completions", json=chat(), headers=headers)
            assert answer.status_code == status, coding
            if status == 415:
                assert answer.json()["error"]["code"] == "unsupported_media_type"
                assert coding in answer.json()["error"]["message"]


class TestRoutes:
    @pytest.mark.parametrize(
        ("path", "meant"),
        [
            ("/chat/completions", "POST /v1/chat/completions"),
            ("/v1/v1/completions", "POST /v1/completions"),
            ("/v1/chat/completions/", "POST /v1/chat/completions"),
            ("/v1//embeddings", "POST /v1/embeddings"),
            ("/models", "GET /v1/models"),
        ],
    )
    async def test_who_has_another_base_url_is_told_the_route(self, path: str, meant: str) -> None:
        async with loop_net() as net, await client_of(net) as client:
            answer = await client.post(path, json=chat())
        assert answer.status_code == 404
        assert f"The route is {meant}: the base URL" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("path", "meant"), [("/v1/chat/completion", "POST /v1/chat/completions"), ("/doc", "GET /docs")]
    )
    async def test_who_mistyped_a_route_is_told_it(self, path: str, meant: str) -> None:
        async with loop_net() as net, await client_of(net) as client:
            answer = await client.post(path, json=chat())
        assert f"Did you mean {meant}?" in answer.json()["error"]["message"]

    @pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/"])
    async def test_unknown(self, path: str) -> None:
        async with loop_net() as net, await client_of(net) as client:
            answer = await client.get(path)
        assert answer.status_code == 404
        assert "POST /v1/chat/completions" in answer.json()["error"]["message"]

    async def test_wrong_method(self) -> None:
        async with loop_net() as net, await client_of(net) as client:
            answer = await client.get("/v1/chat/completions")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert answer.json()["error"]["code"] == "method_not_allowed"

    async def test_openapi_describes_them(self) -> None:
        async with loop_net() as net, await client_of(net) as client:
            paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"/v1/chat/completions", "/v1/embeddings", "/v1/models/{model}", "/v1/ml/classify"} <= set(paths)
        body = paths["/v1/chat/completions"]["post"]["requestBody"]
        assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatRequest"}


class TestModels:
    async def test_one_model(self) -> None:
        tagged = Capability("o:l", CHAT, "org/llama:latest", general=True)
        async with loop_net() as net, await client_of(net, Echo(tagged), Signs()) as client:
            for name, found in (
                ("org/llama", "org/llama:latest"),
                ("org%2Fllama:latest", "org/llama:latest"),
                ("signs@1.0.0", "signs"),
                ("auto", "auto"),
            ):
                assert (await client.get(f"/v1/models/{name}")).json()["id"] == found
            for name in ("signs@2.0", "nothing", "nothing@1"):
                answer = await client.get(f"/v1/models/{name}")
                assert answer.status_code == 404
                assert "auto, org/llama:latest, signs" in answer.json()["error"]["message"]


NO_VECTORS: list[Any] = [None, [], "!", "AAA=", [[1]], {}, ["1"], [True], [float("nan")], [1e99], "AADAfw==", "ü"]
NO_EMBEDDINGS: list[Any] = [None, "x", [1], [{}], *([{"embedding": value}] for value in NO_VECTORS)]


class TestEmbeddings:
    async def test_the_default_is_floats_as_the_specification_says(self) -> None:
        async with loop_net() as net, await client_of(net, Lengths()) as client:
            plain = await client.post("/v1/embeddings", json={"input": "abc", "model": "lengths"})
            packed = await client.post("/v1/embeddings", json={"input": [[1, 2]], "encoding_format": "base64"})
            many = await client.post("/v1/embeddings", json={"input": ["ab"] * 100})
        assert plain.json()["data"][0] == {"object": "embedding", "index": 0, "embedding": [3.0, 0.5, 3.0, 4.0]}
        assert plain.json()["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
        assert packed.json()["data"][0]["embedding"] == "AADAQAAAAD8AAEBAAACAQA=="
        assert len(many.json()["data"]) == 100

    async def test_more_dimensions_than_there_are(self) -> None:
        async with loop_net() as net, await client_of(net, Lengths()) as client:
            answer = await client.post("/v1/embeddings", json={"input": "abc", "dimensions": 5})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "dimensions"

    def test_shorter_vectors_have_length_one_again(self) -> None:
        body = {"data": [{"embedding": [3, 4, 5]}, {"embedding": [0, 0, 1]}], "model": "m"}
        answer = embeddings_answer(body, "float", 2)
        assert answer["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
        assert answer["data"][1]["embedding"] == [0, 0]
        assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
        assert embeddings_answer(body, "base64", 3)["data"][1]["embedding"] == "AAAAAAAAAAAAAIA/"
        assert embeddings_answer(body, "base64", None)["data"][1]["embedding"] == "AAAAAAAAAAAAAIA/"

    @pytest.mark.parametrize("data", NO_EMBEDDINGS)
    def test_answers_that_are_no_embeddings(self, data: Any) -> None:
        with pytest.raises(RequestError) as caught:
            embeddings_answer({"data": data}, "float", None)
        assert caught.value.status == 502

    async def test_a_node_that_answers_with_a_chat(self) -> None:
        class Odd(Lengths):
            async def answer(self, call: Call) -> Any:
                yield completion("x", "hello")

        async with loop_net() as net, await client_of(net, Odd()) as client:
            answer = await client.post("/v1/embeddings", json={"input": "abc"})
        assert answer.status_code == 502
        assert EMBEDDINGS == "embeddings"
