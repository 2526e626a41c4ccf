"""What `langchain-openai` does with a peer; `tests/clients/test_other_clients.py` runs it in an environment with it."""

from __future__ import annotations

import os
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

URL, CHAT, EMBEDDER = (os.environ[name] for name in ("PEER_URL", "PEER_CHAT", "PEER_EMBEDDER"))


class City(BaseModel):
    """A city."""

    name: str = Field(description="What it is called")
    people: int


class weather(BaseModel):  # noqa: N801 the name of the function
    """Tells the weather of a city."""

    city: str


def chat(**options: Any) -> ChatOpenAI:
    """Returns a model of the peer."""
    given = {"model": CHAT, "max_retries": 0, "stream_usage": True, "extra_body": {"seed": 1}, **options}
    return ChatOpenAI(base_url=URL, api_key="unused", **given)


@pytest.mark.parametrize("responses", [False, True])
class TestChat:
    def test_invoke(self, responses: bool) -> None:
        model = chat(use_responses_api=responses, max_tokens=16)
        answer = model.invoke([SystemMessage("Be brief."), HumanMessage("Hello.")])
        assert isinstance(answer, AIMessage)
        assert answer.text
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] > 0

    def test_stream(self, responses: bool) -> None:
        total: AIMessageChunk | None = None
        for chunk in chat(use_responses_api=responses, max_tokens=16).stream("Hello."):
            assert isinstance(chunk, AIMessageChunk)
            total = chunk if total is None else total + chunk
        assert total is not None
        assert total.text
        assert total.usage_metadata is not None

    def test_tools(self, responses: bool) -> None:
        model = chat(use_responses_api=responses).bind_tools([weather], tool_choice="weather")
        answer = model.invoke("What is the weather in Oslo?")
        (call, *_) = answer.tool_calls
        assert call["name"] == "weather"
        assert isinstance(call["args"]["city"], str)
        results = [ToolMessage("rain", tool_call_id=one["id"]) for one in answer.tool_calls]
        told = [HumanMessage("Weather?"), answer, *results]
        assert chat(use_responses_api=responses, max_tokens=8).invoke(told).response_metadata

    def test_tools_in_a_stream(self, responses: bool) -> None:
        model = chat(use_responses_api=responses).bind_tools([weather], tool_choice="weather")
        total: Any = None
        for chunk in model.stream("What is the weather in Oslo?"):
            total = chunk if total is None else total + chunk
        assert [call["name"] for call in total.tool_calls][:1] == ["weather"]

    def test_structure(self, responses: bool) -> None:
        model = chat(use_responses_api=responses).with_structured_output(City, method="json_schema", strict=True)
        assert isinstance(model.invoke("Which city?"), City)


def test_batches() -> None:
    assert len(chat(max_tokens=4).batch(["a", "b"])) == 2


def test_probabilities() -> None:
    answer = chat(max_tokens=4, logprobs=True, top_logprobs=2).invoke("Hello.")
    assert answer.response_metadata["logprobs"]["content"]


def test_embeddings() -> None:
    model = OpenAIEmbeddings(base_url=URL, api_key="unused", model=EMBEDDER, check_embedding_ctx_length=False)
    one, other = model.embed_documents(["hello", "world"])
    assert len(one) == len(other) > 0
    assert model.embed_query("hello") == pytest.approx(one, abs=1e-6)


def test_errors() -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        chat(model="nobody").invoke("Hello.")
