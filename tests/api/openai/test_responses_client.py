"""The official client's `responses`, unchanged, against a real server."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pydantic
import pytest
import trio

from tests.api.face import make_app, served, with_openai
from tests.api.openai.test_responses import CALLING, FUNCTION, TEXT, Says
from tests.gateway.world import Echo, Failing, loop_net, refused


class City(pydantic.BaseModel):
    """What a structured answer becomes."""

    name: str


async def test_a_conversation_of_two_turns() -> None:
    def talk(client: openai.OpenAI) -> list[str]:
        first = client.responses.create(model="auto", input="one")
        second = client.responses.create(model="auto", input="two", previous_response_id=first.id)
        again = client.responses.retrieve(second.id)
        items = [item.id for item in client.responses.input_items.list(second.id, limit=1)]
        assert len(items) == 3
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.cancel(second.id)
        return [first.output_text, second.output_text, again.output_text]

    async with loop_net() as net, served(make_app(await net.add("alpha", Echo()))) as url:
        assert await with_openai(url, talk) == ["eno", "owt", "owt"]


async def test_streams_are_put_together_again() -> None:
    def talk(client: openai.OpenAI) -> tuple[list[str], Any]:
        with client.responses.stream(model="auto", input="x", tools=[FUNCTION]) as stream:  # type: ignore[list-item]
            kinds = [str(event.type) for event in stream]
            return kinds, stream.get_final_response()

    backend = Says(TEXT, CALLING, finish="tool_calls")
    async with loop_net() as net, served(make_app(await net.add("alpha", backend))) as url:
        kinds, final = await with_openai(url, talk)
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert final.output_text == "a"
    assert final.output[1].parsed_arguments == {}
    assert final.usage.total_tokens == 7


async def test_structured_answers_are_parsed() -> None:
    def talk(client: openai.OpenAI) -> City | None:
        return client.responses.parse(model="auto", input="x", text_format=City).output_parsed

    backend = Says({"content": '{"name": "Oslo"}'})
    async with loop_net() as net, served(make_app(await net.add("alpha", backend))) as url:
        assert await with_openai(url, talk) == City(name="Oslo")
    asked = backend.calls[0].body["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == (
        "json_schema",
        "City",
        True,
    )


async def test_a_failure_in_the_middle() -> None:
    def talk(client: openai.OpenAI) -> list[Any]:
        return list(client.responses.create(model="auto", input="x", stream=True))

    async with loop_net() as net, served(make_app(await net.add("alpha", Failing(error=refused(502), after=1)))) as url:
        *_, error, failed = await with_openai(url, talk)
    assert (error.type, error.message, failed.type) == ("error", "no", "response.failed")
    assert failed.response.error.code == "server_error"


async def test_a_client_that_leaves_stops_the_work() -> None:
    backend = Failing(after=1)
    async with loop_net() as net:
        alpha = await net.add("alpha", backend)
        async with served(make_app(alpha)) as url, httpx.AsyncClient() as client:
            body = {"input": "x", "stream": True}
            async with client.stream("POST", f"{url}/v1/responses", json=body) as answer:
                assert answer.status_code == 200
                assert alpha.gateway.in_flight == 1
            with trio.fail_after(5):
                while not backend.cancelled:
                    await trio.sleep(0.01)
        assert alpha.gateway.in_flight == 0
