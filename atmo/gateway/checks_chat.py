"""Bodies of `chat` and `completions`."""

from __future__ import annotations

from typing import Any

from atmo.gateway.fields import (
    OBJECT,
    Count,
    Described,
    Either,
    Field,
    Flag,
    Many,
    Number,
    Record,
    Schema,
    Text,
    Words,
    bad,
)
from atmo.wire import limits

MAX_MESSAGES = 10_000
MAX_PARTS = 20_000
"""Content parts and tool calls of all messages together. Source: guess; looking at so many takes 60 ms."""

MAX_CHOICES = 128
"""Source: OpenAI's schema, `n`."""

MAX_TOOLS = 1_024
"""Source: guess; OpenAI takes 128 functions, other servers more."""

MAX_STOPS = 64
"""Source: guess; OpenAI takes 4, other servers more."""

MAX_PROMPTS = 2_048
"""Source: guess, as many as OpenAI's embeddings take."""

MAX_TOKENS = 2**20
"""Token ids of one request. Source: guess; the longest contexts have a million, and OpenAI embeds 300,000."""

MAX_BIASES = 1_024
"""Source: guess; vLLM and OpenAI know no bound, a vocabulary has some 100,000."""

TOKEN_MOST = 2**31 - 1
"""Source: token ids are 32-bit integers in every runner."""

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_SPEAKING = ("user", "system", "developer")
"""Roles whose messages say something in any case."""


class TokenIds:
    """A list of token ids; looked at as a whole, for there may be a million."""

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if not is_tokens(value):
            raise bad(param, "must be a list of token ids that is not empty")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": TOKEN_MOST}}


class Inputs:
    """A text, token ids, or a list of either.

    Args:
        most: Items of such a list.
        least: Characters of a text.
    """

    def __init__(self, most: int, least: int) -> None:
        self._most = most
        self._least = least

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is str and len(value) >= self._least:
            return
        if type(value) is not list or not value:
            raise bad(param, self._says())
        if len(value) + sum(len(item) for item in value[: self._most] if type(item) is list) > MAX_TOKENS:
            raise bad(param, f"has more than {MAX_TOKENS} token ids")
        kinds = set(map(type, value))
        if kinds == {int}:
            good = is_tokens(value)
        elif len(value) > self._most:
            raise bad(param, f"has more than {self._most} items: send several requests")
        elif kinds == {str}:
            good = min(map(len, value)) >= self._least
        else:
            good = all(map(is_tokens, value))
        if not good:
            raise bad(param, self._says())

    def schema(self) -> Schema:
        """See `Field`."""
        text: Schema = {"type": "string", **({"minLength": self._least} if self._least else {})}
        many = {"type": "array", "minItems": 1, "maxItems": self._most}
        return {"anyOf": [text, {**many, "items": text}, TOKENS.schema(), {**many, "items": TOKENS.schema()}]}

    def _says(self) -> str:
        least = ", none of them empty" if self._least else ""
        return f"must be a string, strings, token ids or lists of token ids{least}"


def is_tokens(value: Any) -> bool:
    """Says whether `value` is a list of token ids that is not empty."""
    return type(value) is list and set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= TOKEN_MOST


def _message_rule(param: str, message: dict[str, Any]) -> None:
    if message.get("content") is None and message["role"] in _SPEAKING:
        raise bad(f"{param}.content", "is missing")


def _part_rule(param: str, part: dict[str, Any]) -> None:
    needed = {"text": "text", "image_url": "image_url", "input_audio": "input_audio", "refusal": "refusal"}
    name = needed.get(part["type"])
    if name is not None and part.get(name) is None:
        raise bad(f"{param}.{name}", "must be a string" if name in ("text", "refusal") else "must be an object")


def _call_rule(param: str, call: dict[str, Any]) -> None:
    if call.get("type", "function") == "function" and call.get("function") is None:
        raise bad(f"{param}.function", "is missing")


def _tool_rule(param: str, tool: dict[str, Any]) -> None:
    if tool["type"] == "function" and tool.get("function") is None:
        raise bad(f"{param}.function", "is missing")


def _format_rule(param: str, form: dict[str, Any]) -> None:
    if form["type"] == "json_schema" and form.get("json_schema") is None:
        raise bad(f"{param}.json_schema", "is missing")


def _chat_rule(_param: str, body: dict[str, Any]) -> None:
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise bad("top_logprobs", "needs 'logprobs': true")


class _Messages:
    """The messages of a chat."""

    def __init__(self) -> None:
        self._each = Many(_MESSAGE, MAX_MESSAGES, 1)

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not list or not value:
            raise bad(param, "must be a list of at least one message such as {'role': 'user', 'content': 'Hello'}")
        if len(value) > MAX_MESSAGES:
            raise bad(param, f"has more than {MAX_MESSAGES} messages")
        lists = (message.get(name) for message in value if type(message) is dict for name in ("content", "tool_calls"))
        if sum(len(parts) for parts in lists if type(parts) is list) > MAX_PARTS:
            raise bad(param, f"has more than {MAX_PARTS} content parts and tool calls")
        self._each.check(param, value)

    def schema(self) -> Schema:
        """See `Field`."""
        return self._each.schema()


TOKENS = TokenIds()

_PART = Record(
    {
        "type": Text(),
        "text": Text(),
        "refusal": Text(),
        "image_url": Record({"url": Text(least=1), "detail": Text()}, ("url",)),
        "input_audio": Record({"data": Text(least=1), "format": Text()}, ("data",)),
        "file": OBJECT,
    },
    ("type",),
    rule=_part_rule,
)
_CALL = Record(
    {"id": Text(), "type": Text(), "function": Record({"name": Text(), "arguments": Text()}, ("name",))},
    rule=_call_rule,
)
_MESSAGE = Record(
    {
        "role": Words(_ROLES),
        "content": Either({str: Text(), list: Many(_PART, MAX_PARTS)}, "a string or a list of parts"),
        "name": Text(),
        "refusal": Text(),
        "tool_call_id": Text(),
        "tool_calls": Many(_CALL, MAX_TOOLS),
        "function_call": OBJECT,
    },
    ("role",),
    rule=_message_rule,
)
_FUNCTION = Record(
    {"name": Text(limits.NAME_CHARS, 1), "description": Text(), "parameters": OBJECT, "strict": Flag()}, ("name",)
)
_TOOL = Record({"type": Text(), "function": _FUNCTION, "custom": OBJECT}, ("type",), rule=_tool_rule)
_FORMAT = Record(
    {
        "type": Text(),
        "json_schema": Record({"name": Text(), "description": Text(), "schema": OBJECT, "strict": Flag()}, ("name",)),
    },
    ("type",),
    rule=_format_rule,
)

_SAMPLING: dict[str, Field] = {
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "logit_bias": Record(more=Number(-100, 100), most=MAX_BIASES),
    "n": Count(1, MAX_CHOICES),
    "seed": Count(-(2**63)),
    "stop": Either({str: Text(), list: Many(Text(), MAX_STOPS)}, "a string or a list of strings"),
    "stream": Flag(),
    "stream_options": Record({"include_usage": Flag(), "include_obfuscation": Flag()}),
    "user": Text(),
}

CHAT_BODY = Record(
    {
        "messages": _Messages(),
        **_SAMPLING,
        "max_tokens": Count(1),
        "max_completion_tokens": Count(1),
        "logprobs": Flag(),
        "top_logprobs": Count(0, 20),
        "response_format": _FORMAT,
        "tools": Many(_TOOL, MAX_TOOLS),
        "tool_choice": Either({str: Words(("none", "auto", "required")), dict: OBJECT}, "a word or an object"),
        "parallel_tool_calls": Flag(),
        "functions": Many(_FUNCTION, MAX_TOOLS),
        "function_call": Either({str: Words(("none", "auto")), dict: OBJECT}, "a word or an object"),
        "reasoning_effort": Text(),
        "verbosity": Text(),
        "service_tier": Text(),
        "modalities": Many(Text(), 8),
        "audio": OBJECT,
        "prediction": OBJECT,
        "metadata": OBJECT,
        "store": Flag(),
        "safety_identifier": Text(),
        "prompt_cache_key": Text(),
        "web_search_options": OBJECT,
    },
    ("messages",),
    rule=_chat_rule,
)


def _completion_rule(_param: str, body: dict[str, Any]) -> None:
    best, wanted = body.get("best_of"), body.get("n") or 1
    if best is not None and best < wanted:
        raise bad("best_of", f"must be at least 'n', which is {wanted}")
    if best is not None and best > 1 and body.get("stream"):
        raise bad("best_of", "cannot be streamed: leave it or 'stream' out")


COMPLETIONS_BODY = Record(
    {
        "prompt": Described(Inputs(MAX_PROMPTS, 0), {"description": "What is to be continued."}),
        **_SAMPLING,
        "max_tokens": Count(0),
        "best_of": Count(1, 20),
        "echo": Flag(),
        "logprobs": Count(0, 20),
        "suffix": Text(),
    },
    ("prompt",),
    rule=_completion_rule,
)
