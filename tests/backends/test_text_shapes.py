from __future__ import annotations

from typing import Any

import pytest

from atmo.backends.openai_shapes import BadAnswer
from atmo.backends.text_shapes import TextStream, text_chunks_of, text_completion, text_logprobs

NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def chunk(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "text_completion", "created": 1, "model": "theirs", "choices": list(choices), **more}


def test_whole_answers() -> None:
    answer = text_completion({"id": "1", "created": 5, "choices": [{"text": "hi"}]}, "ours", "r")
    choice = {"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}
    assert answer == {
        "id": "1", "object": "text_completion", "created": 5, "model": "ours", "choices": [choice], "usage": NO_USAGE,
    }  # fmt: skip
    chat = text_completion(
        {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "length"}]}, "m", "r"
    )
    assert chat["id"] == "r"
    assert chat["choices"] == [choice | {"finish_reason": "length"}]
    several: list[Any] = [{}, {"choices": []}, {"choices": ["x"]}, {"choices": [{}]}, [], {"choices": [{"text": 3}]}]
    for bad in several:
        with pytest.raises(BadAnswer):
            text_completion(bad, "m", "")


def test_a_stream_of_several_choices() -> None:
    stream = TextStream("ours", "r", wants_usage=True)
    assert stream.ending() == []
    first = stream.chunk(chunk({"index": 0, "text": "a"}, {"index": 1, "text": "b", "finish_reason": "length"}))
    assert first is not None
    assert (first["id"], first["model"], "usage" in first) == ("c", "ours", False)
    assert [c["finish_reason"] for c in first["choices"]] == [None, "length"]
    assert not stream.finished
    assert stream.chunk(chunk(usage={"total_tokens": 3})) is None
    left, usage = stream.ending()
    assert [(c["index"], c["text"], c["finish_reason"]) for c in left["choices"]] == [(0, "", "stop")]
    assert (usage["choices"], usage["usage"]) == ([], NO_USAGE | {"total_tokens": 3})
    assert stream.finished


def test_a_stream_that_begins_with_null_as_llama_server_does_for_several_prompts() -> None:
    stream = TextStream("ours", "r", wants_usage=False)
    assert stream.chunk(None) is None
    assert stream.chunk(chunk({"index": 1, "text": "a"})) is not None


def test_usage_beside_the_last_text_comes_in_a_chunk_of_its_own() -> None:
    # As llama-server sends it.
    stream = TextStream("ours", "r", wants_usage=True)
    last = stream.chunk(chunk({"text": "a", "finish_reason": "stop"}, usage={"total_tokens": 2}))
    assert last is not None
    assert "usage" not in last
    (usage,) = stream.ending()
    assert usage["usage"] == NO_USAGE | {"total_tokens": 2}
    silent = TextStream("ours", "r", wants_usage=False)
    silent.chunk(chunk({"text": "a", "finish_reason": "stop"}, usage={"total_tokens": 2}))
    assert silent.ending() == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "not an object"),
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({}, "without choices"),
        ({"choices": [3]}, "not an object"),
    ],
)
def test_chunks_that_are_none(value: Any, says: str) -> None:
    with pytest.raises(BadAnswer, match=says):
        TextStream("m", "r", wants_usage=False).chunk(value)


def test_log_probabilities_in_the_shape_of_chats() -> None:
    rows = [
        {"token": "ab", "logprob": -1.0, "top_logprobs": [{"token": "ab", "logprob": -1.0}, 3]},
        {"token": "c", "logprob": -2.0},
    ]
    assert text_logprobs({"content": rows}, 4) == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{"ab": -1.0}, {}],
        "text_offset": [4, 6],
    }
    legacy = {"tokens": ["a"], "token_logprobs": [-1.0]}
    assert text_logprobs(legacy, 0) == legacy
    assert text_logprobs(None, 0) is None
    with pytest.raises(BadAnswer):
        text_logprobs({"content": ["x"]}, 0)
    stream = TextStream("m", "r", wants_usage=False)
    stream.chunk(chunk({"text": "xyz"}))
    second = stream.chunk(chunk({"text": "c", "logprobs": {"content": [{"token": "c", "logprob": -1}]}}))
    assert second is not None
    assert second["choices"][0]["logprobs"]["text_offset"] == [3]


def test_a_whole_answer_as_a_stream() -> None:
    whole = text_completion({"choices": [{"text": "hi"}], "usage": {"total_tokens": 1}}, "m", "r")
    text, usage = text_chunks_of(whole, wants_usage=True)
    assert (text["choices"][0]["text"], text["object"], "usage" in text) == ("hi", "text_completion", False)
    assert usage["usage"] == NO_USAGE | {"total_tokens": 1}
    assert len(text_chunks_of(whole, wants_usage=False)) == 1
