"""The shapes of chat answers, against the official client's models."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from atmo.backends.base import Call
from atmo.backends.chat_answer import ChatAnswer, text_of, usage_of, word_groups
from atmo.router.capability import CHAT, Capability


def answer(**body: Any) -> ChatAnswer:
    return ChatAnswer(Call(Capability("rag:x", CHAT, "x"), body, request_id="r1"))


@given(st.text(alphabet="ab \n\t.", max_size=300))
def test_groups_of_words_joined_are_the_text(text: str) -> None:
    groups = word_groups(text)
    assert "".join(groups) == text
    assert all(len(group.split()) <= 4 for group in groups)


def test_a_stream_in_chunks() -> None:
    chunks = [ChatCompletionChunk.model_validate(part) for part in answer().text_chunks("one two three four five")]
    assert {chunk.id for chunk in chunks} == {"chatcmpl-r1"}
    assert {chunk.model for chunk in chunks} == {"x"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "one two three four", " five", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]


def test_usage_is_mentioned_when_asked_for() -> None:
    asked = answer(stream_options={"include_usage": True})
    assert "usage" not in asked.chunk({})
    last = asked.usage_chunk(usage_of(3, 4))
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 7)
    assert "usage" not in answer().chunk({})
    assert not answer(stream_options="x").wants_usage
    assert not answer(stream_options={"include_usage": 1}).wants_usage


def test_a_whole_answer() -> None:
    body = ChatCompletion.model_validate(answer().body("hello", usage_of(1, 2)))
    assert body.choices[0].message.content == "hello"
    assert body.usage is not None
    assert body.usage.total_tokens == 3


def test_ids_differ_without_a_request_id() -> None:
    call = Call(Capability("rag:x", CHAT, "x"), {})
    assert ChatAnswer(call).chunk({})["id"] != ChatAnswer(call).chunk({})["id"]


def test_text_of_messages() -> None:
    assert text_of("a") == "a"
    assert text_of([{"type": "text", "text": "a"}, {"type": "image_url"}, "x", {"text": 3}, {"text": "b"}]) == "a\nb"
    assert text_of(None) == text_of(7) == text_of({"text": "a"}) == ""
