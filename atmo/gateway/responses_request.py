"""A request of OpenAI's Responses API, read, and the body of a chat that asks for the same. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from atmo.errors import RequestError
from atmo.gateway.checks import bad, wants_stream
from atmo.gateway.responses_items import MAX_ID_CHARS, Item, NewId, messages_of, read_items_untrusted
from atmo.gateway.responses_tools import Called, read_tools_untrusted

MAX_METADATA = 16
"""Pairs; keys have up to 64 characters, values 512. Source: OpenAI's API reference."""

_LOGPROBS = "message.output_text.logprobs"
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_ELSEWHERE = {
    "messages": "input",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "logprobs": f"include: ['{_LOGPROBS}']",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Fields of a chat, and what does the same here."""

_REFUSED = {
    "background": "responses are not made in the background here: leave it out, and stream",
    "conversation": "conversations are not kept here: use 'previous_response_id', or send all items",
    "prompt": "prompt templates are not kept here: send 'instructions' and 'input'",
    "context_management": "contexts are not managed here: send the items that count",
    "moderation": "nothing is moderated here: leave it out",
}

_OWN = frozenset(
    {
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "max_output_tokens",
        "include",
        "metadata",
        "store",
        "previous_response_id",
        "truncation",
        "reasoning",
        "stream",
        "stream_options",
        "max_tool_calls",
        "background",
        "conversation",
        "prompt",
        "context_management",
        "moderation",
        "top_logprobs",
    }
)
"""Fields that mean nothing to a chat, or are put into its words; every other one is forwarded as it is."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """What a client wants.

    Attributes:
        items: What it adds to the conversation.
        instructions: What the model is told first.
        previous: The response that this one continues; empty for none.
        chat: The fields of the chat that asks for the same, but for its messages.
        echo: The fields of the response that only repeat the request.
        store: Whether the response is to be kept.
        stream: Whether events are wanted.
        logprobs: Whether the probabilities of tokens are.
        called: For each function of the chat what it is to the client.
        ignored: Tools that nobody runs here, for people.
    """

    items: list[Item]
    instructions: str | None
    previous: str
    chat: dict[str, Any]
    echo: dict[str, Any]
    store: bool
    stream: bool
    logprobs: bool
    called: Mapping[str, Called]
    ignored: tuple[str, ...]

    def chat_body(self, items: Iterable[Item]) -> dict[str, Any]:
        """Returns the body of the chat that goes on after these items."""
        return {**self.chat, "messages": messages_of(self.instructions, items)}


def read_request_untrusted(body: Mapping[str, Any], new_id: NewId) -> ResponseRequest:
    """Reads the body of `POST /v1/responses`.

    Args:
        body: What the client sent.
        new_id: For items without an id.

    Raises:
        RequestError: 400 with the field at fault.
    """
    _refuse(body)
    stream = wants_stream(body)
    items = read_items_untrusted(body.get("input"), new_id)
    instructions = _instructions(body)
    tools = read_tools_untrusted(body)
    format_, chat_format = _text(body)
    effort, reasoning = _reasoning(body)
    logprobs, top = _logprobs(body)
    limit = _count(body, "max_output_tokens", 1)
    chat = {name: value for name, value in body.items() if name not in _OWN and value is not None}
    chat |= tools.chat | chat_format | effort
    if limit is not None:
        chat["max_completion_tokens"] = limit
    if logprobs:
        chat |= {"logprobs": True} | ({} if top is None else {"top_logprobs": top})
    if not chat.get("tools"):
        chat.pop("parallel_tool_calls", None)  # OpenAI itself refuses it where there are no tools
    store, parallel = _flag(body, "store", True), _flag(body, "parallel_tool_calls", True)
    _one_of(body, "truncation", ("disabled", "auto"))
    echo = {
        "instructions": instructions,
        "max_output_tokens": limit,
        "metadata": _metadata(body),
        "parallel_tool_calls": parallel,
        "previous_response_id": _previous(body) or None,
        "reasoning": reasoning,
        "store": store,
        "temperature": body.get("temperature"),
        "text": format_,
        "tool_choice": tools.choice,
        "tools": tools.echo,
        "top_logprobs": top or 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",  # whatever was asked for: nobody here knows what could be left out
    } | {name: body[name] for name in ("user", "safety_identifier", "prompt_cache_key") if body.get(name) is not None}
    return ResponseRequest(
        items, instructions, _previous(body), chat, echo, store, stream, logprobs, tools.called, tools.ignored
    )


def _refuse(body: Mapping[str, Any]) -> None:
    for field, instead in _ELSEWHERE.items():
        if body.get(field) is not None:
            raise bad(field, f"is a field of /v1/chat/completions: here it is {instead}")
    for field, reason in _REFUSED.items():
        if body.get(field) not in (None, False):
            raise _unsupported(field, reason)
    if body.get("n") not in (None, 1):
        raise bad("n", "must be 1: a response has one answer")
    for field in ("user", "safety_identifier", "prompt_cache_key"):
        if not isinstance(body.get(field), str | None):
            raise bad(field, "must be a string")
    if not isinstance(body.get("stream_options"), dict | None):
        raise bad("stream_options", "must be an object")


def _unsupported(field: str, reason: str) -> RequestError:
    return RequestError(400, f"'{field}': {reason}.", param=field, code="unsupported_parameter")


def _instructions(body: Mapping[str, Any]) -> str | None:
    given = body.get("instructions")
    if not isinstance(given, str | None):
        raise bad("instructions", "must be a string")
    return given


def _previous(body: Mapping[str, Any]) -> str:
    given = body.get("previous_response_id")
    if given is None:
        return ""
    if not isinstance(given, str) or not 0 < len(given) <= MAX_ID_CHARS:
        raise bad("previous_response_id", "must be the id of a response, such as 'resp_...'")
    return given


def _text(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (`text` as the response repeats it, the same in the words of a chat)."""
    text = body.get("text")
    if text is None:
        text = {}
    given = text.get("format") if isinstance(text, dict) else None
    if not isinstance(text, dict) or not isinstance(given, dict | None):
        raise bad("text", "must be an object such as {'format': {'type': 'text'}}")
    format_ = given or {"type": "text"}
    verbosity = _one_of(text, "verbosity", (None, "low", "medium", "high"), "text.")
    more = {} if verbosity is None else {"verbosity": verbosity}
    kind = format_.get("type")
    if kind == "text":
        chat = {}
    elif kind == "json_object":
        chat = {"response_format": {"type": kind}}
    elif kind == "json_schema":
        if not isinstance(format_.get("name"), str) or not isinstance(format_.get("schema"), dict):
            raise bad("text.format", "must have the 'name' of the schema, and the 'schema'")
        if not isinstance(format_.get("strict"), bool | None):
            raise bad("text.format.strict", "must be true or false")
        fields = ("name", "description", "schema", "strict")
        schema = {field: format_[field] for field in fields if format_.get(field) is not None}
        format_ = {"type": kind, **schema}
        chat = {"response_format": {"type": kind, "json_schema": schema}}
    else:
        raise bad("text.format.type", "must be text, json_object or json_schema")
    return {"format": format_, **more}, chat | more


def _reasoning(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (the effort in the words of a chat, `reasoning` as the response repeats it)."""
    given = body.get("reasoning")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise bad("reasoning", "must be an object such as {'effort': 'low'}")
    effort = _one_of(given, "effort", (None, *_EFFORTS), "reasoning.")
    summary = _one_of(given, "summary", (None, "auto", "concise", "detailed"), "reasoning.")
    return ({} if effort is None else {"reasoning_effort": effort}), {"effort": effort, "summary": summary}


def _logprobs(body: Mapping[str, Any]) -> tuple[bool, int | None]:
    include = body.get("include")
    if include is None:
        include = []
    if not isinstance(include, list) or not all(isinstance(name, str) for name in include):
        raise bad("include", "must be a list of strings")
    top = _count(body, "top_logprobs", 0)
    if top is not None and top > 20:
        raise bad("top_logprobs", "must be a whole number from 0 to 20")
    return _LOGPROBS in include or bool(top), top


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    given = body.get("metadata")
    if given is None:
        return {}
    good = isinstance(given, dict) and len(given) <= MAX_METADATA
    if not good or not all(len(k) <= 64 and isinstance(v, str) and len(v) <= 512 for k, v in given.items()):
        raise bad("metadata", f"must be up to {MAX_METADATA} pairs of strings: keys of 64 characters, values of 512")
    return dict(given)


def _one_of(fields: Mapping[str, Any], name: str, values: tuple[str | None, ...], prefix: str = "") -> str | None:
    value = fields.get(name)
    if value is None:
        return values[0]
    if not isinstance(value, str) or value not in values:
        raise bad(f"{prefix}{name}", f"must be one of {', '.join(one for one in values if one)}")
    return value


def _flag(body: Mapping[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise bad(name, "must be true or false")
    return default if value is None else value


def _count(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise bad(name, f"must be a whole number, {least} or more")
    return value
