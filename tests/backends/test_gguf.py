"""GGUF models with random weights, run by llama.cpp itself: what clients ask of a language model."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from atmo.backends.base import Object
from atmo.errors import RequestError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS, JSON_SCHEMA, TOOLS
from tests.backends.gguf_kit import ENDLESS, WEATHER, Lab, chat_file, embedder_file, lab, says, slow_file, stored

pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")

FORCED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": WEATHER["function"]["parameters"]}}


def text_of(chunks: list[Object]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_what_the_mesh_hears_of_models() -> None:
    async with lab(stored(chat_file()), stored(embedder_file(), "letters", "embedder")) as here:
        chat, vectors = here.capabilities["tiny"], here.capabilities["letters"]
    assert (chat.id, chat.operation, chat.version, chat.general) == ("gguf:tiny@1.0", CHAT, "1.0", True)
    assert set(chat.features) == {COMPLETIONS, TOOLS, JSON_SCHEMA}
    assert (chat.context, chat.device, chat.concurrency) == (2_048, "cpu", 4)
    assert chat.size_b == pytest.approx(0.0001)
    assert "llama, 0.116M, F32, 2048 tokens" in chat.description
    assert (vectors.operation, vectors.context, vectors.features) == (EMBEDDINGS, 512, ())


async def test_a_chat_as_one_answer_and_as_a_stream_are_the_same() -> None:
    async with lab() as here:
        body = {**says("Hello"), "seed": 5, "max_tokens": 40}
        whole = await here.ask(body)
        chunks = await here.stream(body)
        again = await here.ask(body)
        other = await here.ask({**body, "seed": 6})
    assert whole["model"] == "tiny"
    [choice] = whole["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == again["choices"][0]["message"]["content"] == text_of(chunks) != ""
    assert choice["message"]["content"] != other["choices"][0]["message"]["content"]
    usage = whole["usage"]
    assert usage["prompt_tokens"] == len("<im>user\nHello<im>\n<im>assistant\n".replace("<im>", "#"))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == usage["completion_tokens"]
    assert chunks[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_tool_that_is_named_is_called() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    body = {**says("What is the weather?"), "tools": [other, WEATHER], "tool_choice": FORCED, "seed": 3}
    async with lab() as here:
        whole = await here.ask(body)
        chunks = await here.stream(body)
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    calls = whole["choices"][0]["message"]["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"weather"}
    assert all(call["id"] and call["type"] == "function" for call in calls)
    assert all(set(json.loads(call["function"]["arguments"])) == {"city", "days"} for call in calls)
    streamed: dict[int, str] = {}
    for chunk in chunks[:-1]:
        for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
            streamed[call["index"]] = streamed.get(call["index"], "") + call["function"].get("arguments", "")
    assert [json.loads(text) for text in streamed.values()] == [json.loads(c["function"]["arguments"]) for c in calls]


async def test_a_conversation_with_tools_and_a_developer_goes_on() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"x","days":1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    async with lab() as here:
        body = {"messages": messages, "tools": [WEATHER], "tool_choice": "none", "max_completion_tokens": 4}
        answer = await here.ask(body)
    assert answer["usage"]["completion_tokens"] <= 4
    assert "tool_calls" not in answer["choices"][0]["message"]


async def test_an_answer_keeps_to_a_schema() -> None:
    async with lab() as here:
        for seed in range(3):
            answer = await here.ask({**says("Where?"), "response_format": SCHEMA, "seed": seed})
            found = json.loads(answer["choices"][0]["message"]["content"])
            assert type(found["city"]) is str
            assert type(found["days"]) is int


async def test_logprobs_several_answers_and_a_stop() -> None:
    async with lab() as here:
        body = {**says("Hi"), "max_tokens": 3, "n": 2, "logprobs": True, "top_logprobs": 2, "seed": 1}
        answer = await here.ask(body)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        for choice in answer["choices"]:
            for token in choice["logprobs"]["content"]:
                assert token["logprob"] < 0
                assert len(token["top_logprobs"]) == 2
        free = (await here.ask({**says("Hi"), "seed": 8, "max_tokens": 30}))["choices"][0]["message"]["content"]
        stop = free[3:5]
        cut = (await here.ask({**says("Hi"), "seed": 8, "max_tokens": 30, "stop": [stop]}))["choices"][0]
        assert cut["message"]["content"] == free[: free.index(stop)]
        assert cut["finish_reason"] == "stop"


async def test_completions_with_logprobs_in_their_own_shape() -> None:
    prompt = "Once upon a time"
    body = {"prompt": prompt, "max_tokens": 6, "seed": 3, "logprobs": 2}
    async with lab() as here:
        whole = await here.ask(body, asked=COMPLETIONS)
        chunks = await here.stream(body, asked=COMPLETIONS)
    [choice] = whole["choices"]
    assert whole["object"] == "text_completion"
    assert whole["usage"]["prompt_tokens"] == len(prompt)
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == [sum(map(len, told["tokens"][:at])) for at in range(len(told["tokens"]))]
    assert all(len(top) == 2 for top in told["top_logprobs"])
    assert "".join(row["text"] for chunk in chunks for row in chunk["choices"]) == choice["text"]
    offsets = [at for c in chunks for row in c["choices"] if row["logprobs"] for at in row["logprobs"]["text_offset"]]
    assert offsets == told["text_offset"]
    assert chunks[-1]["usage"]["prompt_tokens"] == len(prompt)


async def test_embeddings_of_texts_and_tokens() -> None:
    async with lab(stored(embedder_file(), "letters", "embedder")) as here:
        answer = await here.ask({"input": ["hello world", "hello there", "hello world"]}, "letters")
        tokens = await here.ask({"input": [[7, 8], [9]]}, "letters")
    vectors = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]]
    assert [vector.shape for vector in vectors] == [(64,)] * 3
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-2)
    assert answer["usage"]["prompt_tokens"] > 0
    assert len(tokens["data"]) == 2


@pytest.mark.parametrize(
    ("body", "model", "asked", "param"),
    [
        (says("a" * 3_000), "tiny", "", "messages"),
        ({"prompt": "a" * 3_000}, "tiny", COMPLETIONS, "prompt"),
        ({"input": "a b " * 300}, "letters", "", "input"),
    ],
)
async def test_what_is_too_long_is_refused_with_the_numbers(body: Any, model: str, asked: str, param: str) -> None:
    async with lab(stored(chat_file()), stored(embedder_file(), "letters", "embedder")) as here:
        with pytest.raises(RequestError, match=r"is (2048|512) tokens, and the request has (\d+)") as caught:
            await here.ask(body, model, asked)
        assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
        assert caught.value.param == param
        if model == "tiny":
            with pytest.raises(RequestError, match="2048 tokens"):
                await here.stream(body, model, asked)


async def test_requests_that_llama_cpp_refuses_say_why_and_the_next_one_is_answered() -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}
    async with lab() as here:
        with pytest.raises(RequestError, match="unrecognized type nothing") as caught:
            await here.ask({**says("x"), "response_format": wrong})
        assert caught.value.status == 400
        with pytest.raises(RequestError, match="4 answers to one request at most"):
            await here.ask({**says("x"), "n": 5})
        assert (await here.ask({**says("x"), "max_tokens": 1}))["choices"]
        assert here.runners.stats.loads == 1


async def test_two_requests_at_once_and_none_waits_for_the_other() -> None:
    async with lab(stored(slow_file())) as here:
        await here.ask({**says("x"), "max_tokens": 1})
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, await here.busy())

        async with trio.open_nursery() as watching:
            watching.start_soon(watch)
            async with trio.open_nursery() as asking:
                for seed in (1, 2):
                    asking.start_soon(here.ask, {**says("Tell me"), **ENDLESS, "seed": seed, "max_tokens": 50})
            watching.cancel_scope.cancel()
        assert most == 2


async def test_who_goes_away_stops_the_work() -> None:
    async with lab(stored(slow_file())) as here:
        endless = {**says("Tell me"), **ENDLESS}
        parts = here.backend.execute(here.call(endless, stream=True))
        await anext(parts)
        assert await here.busy() == 1
        await parts.aclose()
        await idle(here)
        with trio.move_on_after(0.5) as given_up:
            await here.ask(endless)
        assert given_up.cancelled_caught
        await idle(here)


async def idle(here: Lab) -> None:
    """Waits for much less than the work would take."""
    with trio.fail_after(10):
        while await here.busy():
            await trio.sleep(0.02)


async def test_a_model_without_a_template_continues_texts_and_is_given_no_tools() -> None:
    async with lab(stored(chat_file(""))) as here:
        assert set(here.capabilities["tiny"].features) == {COMPLETIONS, JSON_SCHEMA}
        assert (await here.ask({"prompt": "a", "max_tokens": 2}, asked=COMPLETIONS))["choices"]


def test_the_tool_writes_the_same_file_each_time(tmp_path: Path) -> None:
    from make_gguf import make

    make(tmp_path / "a.gguf")
    make(tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert (tmp_path / "a.gguf").stat().st_size < 1_000_000
