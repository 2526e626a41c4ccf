"""The official Python client, unchanged, against a real peer whose language model llama.cpp runs."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest
import trio

from tests.clients.peer import CHAT, EMBEDDER, ENDLESS, FULL, in_flight
from tests.e2e.processes import NodeProcess, wait_for

pytestmark = pytest.mark.e2e

ASK: list[Any] = [{"role": "user", "content": "What is the capital of Norway?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
SEED = {"seed": 1}
"""For what knows no seed by name: another one may end the answer at once."""

WEATHER_HERE: Any = {"type": "function", **WEATHER["function"]}
"""The same function in the words of the Responses API."""


class City(pydantic.BaseModel):
    """What a structured answer becomes."""

    name: str
    people: int


@pytest.fixture
def client(peer: NodeProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=peer.url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client


class TestChat:
    def test_one_answer(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model=CHAT, messages=ASK, max_tokens=12, seed=1)
        assert answer.object == "chat.completion"
        assert answer.model == CHAT
        (choice,) = answer.choices
        assert choice.message.role == "assistant"
        assert choice.message.content
        assert choice.finish_reason in ("stop", "length")
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 12
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    def test_several_answers_and_probabilities(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=CHAT, messages=ASK, max_completion_tokens=5, n=2, logprobs=True, top_logprobs=2, seed=1
        )
        assert [choice.index for choice in answer.choices] == [0, 1]
        for choice in answer.choices:
            assert choice.logprobs is not None
            assert choice.logprobs.content
            row = choice.logprobs.content[0]
            assert row.logprob <= 0
            assert len(row.top_logprobs) == 2

    def test_roles_parts_and_stop(self, client: openai.OpenAI) -> None:
        messages: list[Any] = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Again."},
        ]
        answer = client.chat.completions.create(
            model=CHAT, messages=messages, extra_body={"grammar": 'root ::= "abcde"'}, stop=["d"]
        )
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("abc", "stop")

    @pytest.mark.parametrize("usage", [False, True])
    def test_a_stream(self, client: openai.OpenAI, usage: bool) -> None:
        options: Any = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = list(
            client.chat.completions.create(model=CHAT, messages=ASK, max_tokens=20, seed=1, stream=True, **options)
        )
        assert len({chunk.id for chunk in chunks}) == 1
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        last = chunks.pop() if usage else None
        if last is not None:
            assert last.choices == []
            assert last.usage is not None
            assert last.usage.completion_tokens > 0
        assert all(chunk.usage is None for chunk in chunks)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] in ("stop", "length")
        assert set(reasons[:-1]) == {None}
        assert not chunks[-1].choices[0].delta.content

    def test_completions(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(model=CHAT, prompt="Once", max_tokens=8, seed=1)
        assert whole.object == "text_completion"
        assert whole.choices[0].text
        pieces = list(client.completions.create(model=CHAT, prompt="Once", max_tokens=8, seed=1, stream=True))
        assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


class TestTools:
    def test_a_call(self, client: openai.OpenAI) -> None:
        choice: Any = {"type": "function", "function": {"name": "weather"}}
        answer = client.chat.completions.create(
            model=CHAT, messages=ASK, tools=[WEATHER], tool_choice=choice, seed=1
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.tool_calls
        call = answer.message.tool_calls[0]
        assert call.type == "function"
        assert call.id
        given = json.loads(call.function.arguments)
        assert isinstance(given["city"], str)
        assert isinstance(given["days"], int)
        back: list[Any] = [
            *ASK,
            answer.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]
        assert client.chat.completions.create(model=CHAT, messages=back, tools=[WEATHER], tool_choice="none").choices

    def test_a_call_in_a_stream(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(
            model=CHAT, messages=ASK, tools=[WEATHER], tool_choice="required", seed=1
        ) as stream:
            kinds = {event.type for event in stream}
            message = stream.get_final_completion().choices[0].message
        assert "tool_calls.function.arguments.done" in kinds
        assert message.tool_calls
        assert isinstance(message.tool_calls[0].function.parsed_arguments, dict)


class TestStructure:
    def test_a_schema_is_kept_to(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.parse(model=CHAT, messages=ASK, response_format=City, seed=1)
        assert isinstance(answer.choices[0].message.parsed, City)

    def test_json_without_a_schema(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=CHAT, messages=ASK, response_format={"type": "json_object"}, seed=1, max_tokens=4_000
        )
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


class TestEmbeddings:
    def test_packed_and_as_numbers(self, client: openai.OpenAI) -> None:
        packed = client.embeddings.create(model=EMBEDDER, input=["hello", "world"])
        numbers = client.embeddings.create(model=EMBEDDER, input=["hello", "world"], encoding_format="float")
        assert [row.index for row in packed.data] == [0, 1]
        for one, other in zip(packed.data, numbers.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert packed.data[0].embedding != packed.data[1].embedding
        assert packed.usage.prompt_tokens > 0

    def test_shorter_vectors_and_the_built_in_model(self, client: openai.OpenAI) -> None:
        short = client.embeddings.create(model="auto", input="hello", dimensions=16).data[0].embedding
        assert len(short) == 16
        assert math.isclose(sum(value * value for value in short), 1, rel_tol=1e-3)


class TestResponses:
    def test_a_conversation(self, client: openai.OpenAI) -> None:
        first = client.responses.create(
            model=CHAT, input="Hello.", instructions="Be brief.", max_output_tokens=16, extra_body=SEED
        )
        assert first.status in ("completed", "incomplete")
        assert first.output_text
        assert first.usage is not None
        assert first.usage.output_tokens > 0
        second = client.responses.create(
            model=CHAT, input="Go on.", previous_response_id=first.id, max_output_tokens=16, extra_body=SEED
        )
        assert second.previous_response_id == first.id
        assert client.responses.retrieve(second.id).output_text == second.output_text
        assert len(client.responses.input_items.list(second.id).data) == 3
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model=CHAT, input="Go on.", previous_response_id=second.id)

    def test_a_stream(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model=CHAT, input="Hello.", max_output_tokens=16, extra_body=SEED) as stream:
            events = list(stream)
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(numbers)
        kinds = [event.type for event in events]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
        assert kinds[-1] in ("response.completed", "response.incomplete")

    def test_a_call_and_a_structure(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(
            model=CHAT, input="x", tools=[WEATHER_HERE], tool_choice="required", extra_body=SEED
        )
        call, *_ = [item for item in answer.output if item.type == "function_call"]
        assert set(json.loads(call.arguments)) == {"city", "days"}
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        more = client.responses.create(
            model=CHAT, input=[output], previous_response_id=answer.id, max_output_tokens=16, extra_body=SEED
        )
        assert more.output_text
        assert isinstance(
            client.responses.parse(model=CHAT, input="x", text_format=City, extra_body=SEED).output_parsed, City
        )


def test_from_asyncio(peer: NodeProcess) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=peer.url, api_key="unused", max_retries=0) as client:
            whole = client.chat.completions.create(model=CHAT, messages=ASK, max_tokens=8, seed=1)
            stream = await client.responses.create(
                model=CHAT, input="x", max_output_tokens=8, stream=True, extra_body=SEED
            )
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return (await whole).choices[0].message.content or "", "".join(pieces)

    assert all(asyncio.run(ask()))


class TestModels:
    def test_are_listed_and_found(self, client: openai.OpenAI) -> None:
        names = [model.id for model in client.models.list()]
        assert {"auto", CHAT, EMBEDDER} <= set(names)
        assert client.models.retrieve(CHAT).id == CHAT


class TestErrors:
    def test_become_the_exceptions_of_the_client(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="nobody", messages=ASK)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody")
        with pytest.raises(openai.BadRequestError) as hot:
            client.chat.completions.create(model=CHAT, messages=ASK, temperature=9)
        assert hot.value.param == "temperature"
        picture: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]
        with pytest.raises(openai.BadRequestError) as image:
            client.chat.completions.create(model=CHAT, messages=picture)
        assert image.value.status_code == 400
        search: Any = {"type": "web_search"}
        with pytest.raises(openai.BadRequestError, match="web_search"):
            client.responses.create(model=CHAT, input="x", tool_choice=search)
        searching = client.responses.with_raw_response.create(
            model=CHAT, input="x", tools=[search], max_output_tokens=4
        )
        assert "tools[0] web_search" in searching.headers["x-atmosphere-warning"]

    def test_a_prompt_that_is_too_long(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a" * 40_000}])
        assert long.value.code == "context_length_exceeded"


def hold(url: str, nursery: trio.Nursery) -> None:
    """Holds one place of the peer until `nursery` is cancelled."""

    async def read() -> None:
        body = {"model": CHAT, "messages": ASK, "stream": True, **ENDLESS}
        async with (
            httpx.AsyncClient(trust_env=False, timeout=None) as http,
            http.stream("POST", f"{url}/chat/completions", json=body) as answer,
        ):
            assert answer.status_code == 200
            await trio.sleep_forever()

    nursery.start_soon(read)


async def test_a_full_peer_is_asked_again(peer: NodeProcess) -> None:
    statuses: list[int] = []

    def ask() -> str | None:
        def hook(answer: httpx.Response) -> None:
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 0
                trio.from_thread.run_sync(nursery.cancel_scope.cancel)

        http = openai.DefaultHttpxClient(event_hooks={"response": [hook]})
        with openai.OpenAI(base_url=peer.url, api_key="unused", max_retries=2, http_client=http) as client:
            answer = client.chat.completions.create(model=CHAT, messages=ASK, max_tokens=4)
            return answer.choices[0].message.content

    contents: list[str | None] = []
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            for _ in range(FULL):
                hold(peer.url, nursery)
            with trio.fail_after(30):
                while await trio.to_thread.run_sync(in_flight, peer) < FULL:
                    await trio.sleep(0.05)

            async def asked() -> None:
                contents.append(await trio.to_thread.run_sync(ask))

            outer.start_soon(asked)
    assert statuses == [429, 200]
    assert contents[0] is not None


class TestCancellation:
    def test_a_stream_that_is_closed_stops_the_work(self, peer: NodeProcess, client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(model=CHAT, messages=ASK, stream=True, extra_body=ENDLESS)
        assert next(iter(stream)).choices
        wait_for(lambda: in_flight(peer) == 1)
        stream.close()
        wait_for(lambda: in_flight(peer) == 0)

    def test_an_answer_that_nobody_waits_for_stops_the_work(self, peer: NodeProcess) -> None:
        async def ask() -> None:
            async with openai.AsyncOpenAI(base_url=peer.url, api_key="unused", max_retries=0) as client:
                task = asyncio.create_task(client.chat.completions.create(model=CHAT, messages=ASK, extra_body=ENDLESS))
                while await asyncio.to_thread(in_flight, peer) == 0:
                    await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(ask())
        wait_for(lambda: in_flight(peer) == 0)
