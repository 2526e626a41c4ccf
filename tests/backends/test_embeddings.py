"""The `builtin` backend against OpenAI's embeddings API."""

import base64
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atmo.backends.base import Call, Object, as_object
from atmo.backends.embedder import Embedder
from atmo.backends.embeddings import CAPABILITY, MAX_INPUTS, EmbeddingsBackend
from atmo.errors import RequestError
from atmo.router.capability import EMBEDDINGS, Capability
from atmo.wire.schema import pack, unpack_untrusted

EMBEDDER = Embedder()
BACKEND = EmbeddingsBackend(EMBEDDER)


async def ask(**body: Any) -> Object:
    parts = [as_object(part) async for part in BACKEND.execute(Call(CAPABILITY, body))]
    assert len(parts) == 1
    return parts[0]


def vectors(answer: Object) -> NDArray[np.float32]:
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]])


async def test_the_capability_can_be_told_to_the_mesh() -> None:
    (capability,) = await BACKEND.discover()
    assert unpack_untrusted(Capability, pack(capability)) == capability
    assert (capability.id, capability.operation) == ("builtin:all-minilm-l6-v2", EMBEDDINGS)


async def test_a_list_of_texts() -> None:
    answer = await ask(input=["hello world", "good morning"], model="auto")
    assert answer["object"] == "list"
    assert answer["model"] == "all-minilm-l6-v2"
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert answer["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    np.testing.assert_array_equal(vectors(answer), EMBEDDER.embed_now(["hello world", "good morning"]))


async def test_one_text() -> None:
    answer = await ask(input="hello world")
    assert vectors(answer).shape == (1, 384)


@pytest.mark.parametrize("given", [[7592, 2088], [[7592, 2088]]])
async def test_token_ids(given: list[Any]) -> None:
    np.testing.assert_array_equal(vectors(await ask(input=given)), EMBEDDER.embed_now(["hello world"]))


async def test_usage_counts_what_is_read() -> None:
    assert (await ask(input="word " * 1_000))["usage"]["prompt_tokens"] == 256


async def test_shortening_is_left_to_the_api() -> None:
    assert vectors(await ask(input="hello world", dimensions=100)).shape == (1, 384)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "must be a text"),
        ("", "not empty"),
        ([], "not empty"),
        ([""], "Item 0"),
        (["a", ""], "Item 1"),
        (["a", 3], "Item 1"),
        ([[]], "Item 0"),
        ([[1, "a"]], "Item 0"),
        ([True], "Item 0"),
        (7, "must be a text"),
        ({"a": 1}, "must be a text"),
        ([[100_257]], "in LangChain set check_embedding_ctx_length=False"),
        ([-1], "token ids of all-minilm-l6-v2 are between 0 and 30521"),
        (["a"] * (MAX_INPUTS + 1), "at most 2048"),
    ],
)
async def test_bad_input(given: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as info:
        await ask(input=given)
    assert (info.value.status, info.value.param, info.value.kind) == (400, "input", "invalid_request_error")


async def test_missing_input() -> None:
    with pytest.raises(RequestError, match="'input' must be"):
        await ask(model="auto")
