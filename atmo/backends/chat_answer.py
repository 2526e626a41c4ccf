"""Chat answers that this machine writes itself, in the shapes of OpenAI's API."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from atmo.backends.base import Call, Object

WORDS_IN_A_DELTA = 4

_WORDS = re.compile(rf"(?:\s*\S+){{1,{WORDS_IN_A_DELTA}}}\s*?|\s+$")


class ChatAnswer:
    """Makes the parts of one answer; all of them carry the same id and time.

    Args:
        call: What is answered.

    Attributes:
        wants_usage: The client of a stream asked for the number of tokens.
    """

    def __init__(self, call: Call) -> None:
        options = call.body.get("stream_options")
        self.wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        self._id = f"chatcmpl-{call.request_id or secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = call.capability.model

    def stamped(self, part: Mapping[str, Any]) -> Object:
        """Returns a part of another model's answer as one of this answer."""
        return {**part, "id": self._id, "created": self._created, "model": self._model}

    def chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> Object:
        """Returns one chunk of a stream."""
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}
        return self.stamped({"object": "chat.completion.chunk", "choices": [choice]})

    def text_chunks(self, text: str, reason: str = "stop") -> Iterator[Object]:
        """Yields the chunks of a whole stream but for its usage: the role, groups of words, the reason for the end."""
        yield self.chunk({"role": "assistant", "content": ""})
        for words in word_groups(text):
            yield self.chunk({"content": words})
        yield self.chunk({}, reason)

    def usage_chunk(self, usage: Mapping[str, int]) -> Object:
        """Returns the last chunk of a stream whose client asked for it."""
        return self.stamped({"object": "chat.completion.chunk", "choices": [], "usage": dict(usage)})

    def body(self, text: str, usage: Mapping[str, int], reason: str = "stop") -> Object:
        """Returns an answer that is not streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self.stamped({"object": "chat.completion", "choices": [choice], "usage": dict(usage)})


def word_groups(text: str) -> list[str]:
    """Splits a text into groups of a few words that joined together give the text again."""
    return _WORDS.findall(text)


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Returns OpenAI's `usage`."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def text_of(content: object) -> str:
    """Returns the text of a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
