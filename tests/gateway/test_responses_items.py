from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from atmo.errors import RequestError
from atmo.gateway.checks import MAX_MESSAGES
from atmo.gateway.responses_items import MAX_ID_CHARS, messages_of, read_items_untrusted


def read(given: object) -> list[dict[str, Any]]:
    numbers = count(1)
    return read_items_untrusted(given, lambda word: f"{word}_{next(numbers)}")


def messages(given: object, instructions: str | None = None) -> list[dict[str, Any]]:
    return messages_of(instructions, read(given))


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}


class TestMessages:
    def test_a_text_is_what_the_user_says(self) -> None:
        assert read("hi") == [
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_text", "text": "hi"}],
            }
        ]
        assert messages("hi", "be brief") == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ]

    def test_roles_stay_and_one_text_is_a_string(self) -> None:
        given = [
            {"role": "developer", "content": "a"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "c"}, {"type": "text", "text": "d"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ]
        assert messages(given) == [
            {"role": "developer", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "cd"},
            {"role": "assistant", "content": "", "refusal": "no"},
        ]

    def test_images_and_audio_become_parts(self) -> None:
        sound = {"data": "AAAA", "format": "wav"}
        given = user(
            {"type": "input_text", "text": "what?"},
            {"type": "input_image", "image_url": "https://x/y.png"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
            {"type": "input_audio", "input_audio": sound},
        )
        assert messages(given)[0]["content"] == [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "auto"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
            {"type": "input_audio", "input_audio": sound},
        ]

    def test_calls_that_follow_each_other_are_one_message(self) -> None:
        given = [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "I look."},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            CALL,
            {**CALL, "call_id": "c2", "id": "fc_own"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
            {**CALL, "call_id": "c3"},
        ]
        told = messages(given)
        assert [message["role"] for message in told] == ["user", "assistant", "tool", "tool", "assistant"]
        assert told[1]["content"] == "I look."
        assert [call["id"] for call in told[1]["tool_calls"]] == ["c1", "c2"]
        assert told[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
        assert told[2] == {"role": "tool", "tool_call_id": "c1", "content": "rain"}
        assert told[3]["content"] == "sun"
        assert told[4]["content"] is None

    def test_items_keep_their_ids_and_get_those_they_lack(self) -> None:
        given = [{"role": "user", "content": "a", "id": "own"}, CALL, {"type": "item_reference", "id": "msg_9"}]
        assert [item["id"] for item in read(given)] == ["own", "fc_1", "msg_9"]
        assert read([{"id": "msg_9"}]) == [{"type": "item_reference", "id": "msg_9"}]

    def test_reasoning_is_kept_and_not_told(self) -> None:
        given = {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "t"}],
            "encrypted_content": "x",
        }
        assert read([given]) == [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "s"}],
                "content": [{"type": "reasoning_text", "text": "t"}],
            }
        ]
        assert messages([given]) == []


REFUSED: list[tuple[object, str, str]] = [
    (None, "input", "a string or a list"),
    ([], "input", "at least one item"),
    ([{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1), "input", "more than"),
    (["x"], "input[0]", "must be an object"),
    ([{}], "input[0].type", "must be one of message"),
    ([{"type": ["message"]}], "input[0].type", "must be one of message"),
    ([{"type": "web_search_call", "id": "x"}], "input[0].type", "'web_search_call', which is not run here"),
    ([{"role": "tool", "content": "x"}], "input[0].role", "must be one of user"),
    ([{"role": "user"}], "input[0].content", "a string or a list of parts"),
    (user({"type": "input_text"}), "input[0].content[0].text", "must be a string"),
    (user({"text": "x"}), "input[0].content[0]", "an object with a 'type'"),
    (user({"type": "input_file", "file_id": "f"}), "input[0].content[0].type", "files are not kept here"),
    (user({"type": "input_image", "file_id": "f"}), "input[0].content[0].file_id", "send 'image_url'"),
    (user({"type": "input_image"}), "input[0].content[0].image_url", "data URL"),
    (user({"type": "input_image", "image_url": "u", "detail": "x"}), "input[0].content[0].detail", "auto, low"),
    (user({"type": "input_video"}), "input[0].content[0].type", "none of input_text"),
    (user({"type": "input_audio", "input_audio": "x"}), "input[0].content[0].type", "none of"),
    ([{"role": "user", "content": [{"type": "input_text", "text": "x"}] * (MAX_MESSAGES + 1)}], "input[0].content", ""),
    ([{"role": "assistant", "content": [{"type": "input_image"}]}], "input[0].content[0].type", "output_text or"),
    ([{**CALL, "call_id": None}], "input[0].call_id", "must be a string"),
    ([{**CALL, "call_id": ""}], "input[0].call_id", "1 to 256"),
    ([{**CALL, "name": "x" * (MAX_ID_CHARS + 1)}], "input[0].name", "1 to 256"),
    ([{**CALL, "arguments": {}}], "input[0].arguments", "must be a string"),
    ([{**CALL, "id": 3}], "input[0].id", "must be a string"),
    ([{"type": "function_call_output", "call_id": "c"}], "input[0].output", "a list of parts"),
    ([{"type": "reasoning", "summary": ["x"]}], "input[0].summary", "summary_text"),
    ([{"type": "item_reference"}], "input[0].id", "must be a string"),
]


@pytest.mark.parametrize(("given", "param", "words"), REFUSED)
def test_what_is_no_conversation_is_refused(given: object, param: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(given)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in caught.value.message
