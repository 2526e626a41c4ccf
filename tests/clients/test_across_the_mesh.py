"""The official client on one node, the models on another: what works on one machine works across the mesh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.peer import CHAT, EMBEDDER, ENDLESS, in_flight, offered
from tests.clients.test_openai_python import ASK, SEED, WEATHER_HERE, City
from tests.e2e.processes import NodeProcess, join, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def asker(peer: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node without models in the mesh of the peer."""
    home: Path = tmp_path_factory.mktemp("asker") / "asker"
    with NodeProcess(home, "asker") as node:
        peer.atmo("mesh", "create", "home")
        join(peer, node)
        wait_for(lambda: {CHAT, EMBEDDER} <= set(offered(node)), 60)
        yield node


@pytest.fixture
def client(asker: NodeProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=asker.url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_chats_responses_and_embeddings(peer: NodeProcess, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=CHAT, messages=ASK, max_tokens=8, seed=1)
    assert raw.headers["x-atmosphere-node"] == "peer"
    whole = raw.parse().choices[0].message.content
    chunks = list(client.chat.completions.create(model=CHAT, messages=ASK, max_tokens=8, seed=1, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert isinstance(
        client.chat.completions.parse(model=CHAT, messages=ASK, response_format=City, seed=1).choices[0].message.parsed,
        City,
    )
    tools: Any = {"tools": [WEATHER_HERE], "tool_choice": "required", "extra_body": SEED}
    with client.responses.stream(model=CHAT, input="x", **tools) as stream:
        answer = stream.get_final_response()
    call, *_ = [item for item in answer.output if item.type == "function_call"]
    assert set(json.loads(call.arguments)) == {"city", "days"}
    here = client.embeddings.create(model=EMBEDDER, input="hello").data[0].embedding
    with openai.OpenAI(base_url=peer.url, api_key="unused") as there:
        assert there.embeddings.create(model=EMBEDDER, input="hello").data[0].embedding == here


def test_errors_keep_their_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a" * 40_000}])
    assert long.value.code == "context_length_exceeded"


def test_a_client_that_leaves_stops_the_work_there(peer: NodeProcess, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=CHAT, messages=ASK, stream=True, extra_body=ENDLESS)
    with closing(stream):
        assert next(iter(stream)).choices
        wait_for(lambda: in_flight(peer) == 1)
    wait_for(lambda: in_flight(peer) == 0)
