"""The official client, unchanged, against a real server."""

from __future__ import annotations

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from atmo.router.capability import CHAT, Capability
from tests.api.face import make_app, served, with_openai
from tests.gateway.world import Echo, Failing, Lengths, loop_net, refused


async def test_lists_models() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Lengths())
        await net.add("beta", Echo())
        async with served(make_app(alpha)) as url:
            models = await with_openai(url, lambda client: client.models.list().data)
            one = await with_openai(url, lambda client: client.models.retrieve("echo"))
    assert [(model.id, model.owned_by) for model in models] == [
        ("auto", "atmosphere"),
        ("echo", "beta"),
        ("lengths", "alpha"),
    ]
    assert one.object == "model"


async def test_embeds_as_base64_by_default_and_as_floats() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Lengths())
        async with served(make_app(alpha)) as url:
            packed = await with_openai(url, lambda c: c.embeddings.create(model="lengths", input=["a", "bcd"]))
            floats = await with_openai(
                url, lambda c: c.embeddings.create(model="auto", input="abc", encoding_format="float")
            )
            cut = await with_openai(url, lambda c: c.embeddings.create(model="auto", input="abc", dimensions=1))
    assert [row.embedding for row in packed.data] == [[1, 0.5, 3, 4], [3, 0.5, 3, 4]]
    assert packed.usage.total_tokens == 2
    assert floats.data[0].embedding == [3, 0.5, 3, 4]
    assert cut.data[0].embedding == [1.0]


async def test_chats_and_streams_from_another_node() -> None:
    def ask(client: openai.OpenAI) -> tuple[str | None, str, str]:
        whole = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "abc def"}])
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": "abc def"}], stream=True
        )
        stream: openai.Stream[ChatCompletionChunk] = raw.parse()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return whole.choices[0].message.content, text, raw.headers["x-atmosphere-node"]

    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", Echo())
        async with served(make_app(alpha)) as url:
            assert await with_openai(url, ask) == ("fed cba", "fedcba", "beta")


CASES = [
    ("nobody", 1, openai.NotFoundError, "The model 'nobody' does not exist"),
    ("busy", 1, openai.RateLimitError, "no"),
    ("broken", 1, openai.InternalServerError, "failed unexpectedly"),
    ("echo", 9, openai.BadRequestError, "'temperature' must be"),
]


@pytest.mark.parametrize(("model", "temperature", "kind", "words"), CASES)
async def test_errors_become_the_exceptions_of_the_client(
    model: str, temperature: float, kind: type[openai.APIStatusError], words: str
) -> None:
    def ask(client: openai.OpenAI) -> None:
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "x"}], temperature=temperature
        )

    busy = Failing(Capability("f:busy", CHAT, "busy"), error=refused(429))
    busy.name = "busy"
    broken = Failing(Capability("f:broken", CHAT, "broken"), error=ZeroDivisionError())
    async with loop_net() as net:
        alpha = await net.add("alpha", Echo(), busy, broken)
        async with served(make_app(alpha)) as url:
            with pytest.raises(kind, match=words):
                await with_openai(url, ask)


async def test_a_failure_in_the_middle_of_a_stream_is_an_api_error() -> None:
    seen: list[str | None] = []

    def ask(client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "x"}], stream=True)
        seen.extend(part.choices[0].delta.content for part in stream)

    backend = Failing(error=refused(500), after=2)
    async with loop_net() as net:
        alpha = await net.add("alpha", backend)
        async with served(make_app(alpha)) as url:
            with pytest.raises(openai.APIError, match="no"):
                await with_openai(url, ask)
    assert seen == ["0", "1"]
