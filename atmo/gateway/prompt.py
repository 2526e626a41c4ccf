"""What a request says, for routing by meaning, and what it asks of whoever runs it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from atmo.errors import RequestError
from atmo.router.decision import Constraints

OPTIONS = "atmosphere"
"""The field of a request's body that holds what OpenAI's API has no words for. It is never forwarded."""

MAX_CHARS = 2_000
"""More of a prompt is not looked at; the embedder reads 256 tokens."""

_CONSTRAINTS = (
    "local_only",
    "general_only",
    "max_rtt_ms",
    "max_cost_per_1k",
    "budget",
    "max_latency_ms",
    "min_size_b",
    "residency",
    "cpu_allowed",
)
_FEW_WORDS = 4
_TEXT_CHARS = 64
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_CHARS_PER_TOKEN = 4
"""Source: OpenAI's rule of thumb for English."""

_ANSWER_TOKENS = 1_000
"""Taken for an answer that the request does not limit. Source: guess."""


def query_text(body: Mapping[str, Any]) -> str:
    """Returns the words by which the request is compared with capabilities, empty where it has none.

    Of a chat it is the last thing the user said, together with the one before when it is as short as "and why?".
    """
    messages = body.get("messages")
    if isinstance(messages, list):
        said = [text for message in messages[-32:] if (text := _user_text(message))]
        if said and len(said[-1].split()) < _FEW_WORDS:
            return " ".join(said[-2:])[-MAX_CHARS:]
        return said[-1][:MAX_CHARS] if said else ""
    for field in ("prompt", "input", "text", "texts", "data", "query"):
        text = " ".join(_words(body.get(field)))
        if text:
            return text[:MAX_CHARS]
    return ""


def constraints_of(body: Mapping[str, Any]) -> Constraints:
    """Reads the constraints of a request.

    Raises:
        RequestError: 400, one of them has the wrong type, or is not known: what was to stay on this machine must not
            leave it because of a typing error.
    """
    options = body.get(OPTIONS)
    if options is None:
        return Constraints()
    if not isinstance(options, dict):
        raise _bad(OPTIONS, "an object")
    for name in options:
        if name not in _CONSTRAINTS:
            raise _unknown(name[:_TEXT_CHARS])
    return Constraints(
        local_only=_flag(options, "local_only"),
        general_only=_flag(options, "general_only"),
        max_rtt_s=_seconds(options, "max_rtt_ms"),
        max_cost_per_1k=_price(options, body),
        max_finish_s=_seconds(options, "max_latency_ms"),
        min_size_b=_number(options, "min_size_b") or 0.0,
        residency=_text(options, "residency"),
        gpu_only=not _flag(options, "cpu_allowed", True),
    )


def tokens_of(body: Mapping[str, Any]) -> int:
    """Returns about how many tokens a request and its answer will have, for what it may cost."""
    texts = sum(map(len, _all_texts(body)))
    asked = next((body[name] for name in _LIMITS if isinstance(body.get(name), int)), _ANSWER_TOKENS)
    return texts // _CHARS_PER_TOKEN + int(asked)


def _price(options: Mapping[str, Any], body: Mapping[str, Any]) -> float | None:
    """Returns the dearest price for a thousand tokens: as it is asked for, or so that the whole stays in its budget."""
    price, budget = _number(options, "max_cost_per_1k"), _number(options, "budget")
    if budget is None:
        return price
    within = budget / max(1, tokens_of(body)) * 1_000
    return within if price is None else min(price, within)


def _all_texts(body: Mapping[str, Any]) -> Iterator[str]:
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        yield from (str(part["text"]) for part in parts if _is_text(part))
    for field in ("prompt", "input"):
        given = body.get(field)
        yield from (text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str))


def _seconds(options: Mapping[str, Any], name: str) -> float | None:
    value = _number(options, name)
    return None if value is None else value / 1_000


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name, "")
    if not isinstance(value, str) or len(value) > _TEXT_CHARS:
        raise _bad(f"{OPTIONS}.{name}", f"a text of at most {_TEXT_CHARS} characters")
    return value


def _flag(options: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise _bad(f"{OPTIONS}.{name}", "true or false")
    return value


def _number(options: Mapping[str, Any], name: str) -> float | None:
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _bad(f"{OPTIONS}.{name}", "a number that is not negative")
    return float(value)


def _bad(param: str, want: str) -> RequestError:
    return RequestError(400, f"'{param}' must be {want}.", param=param, code="invalid_type")


def _unknown(name: str) -> RequestError:
    near = difflib.get_close_matches(name, _CONSTRAINTS, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(_CONSTRAINTS)}."
    param = f"{OPTIONS}.{name}"
    return RequestError(400, f"'{param}' is no constraint. {hint}", param=param, code="unknown_parameter")


def _user_text(message: object) -> str:
    if not isinstance(message, dict) or message.get("role") != "user":
        return ""
    content = message.get("content")
    if isinstance(content, list):
        content = " ".join(part["text"] for part in content if _is_text(part))
    return content.strip() if isinstance(content, str) else ""


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _words(value: object) -> Iterator[str]:
    """Yields the strings of `value`, and of rows of data the names of their columns; a bounded number of them."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, list):
        for item in value[:4]:
            if isinstance(item, str):
                yield item.strip()
            elif isinstance(item, dict):
                yield from _words(item)
    elif isinstance(value, dict):
        for name, item in list(value.items())[:32]:
            yield name
            if isinstance(item, str):
                yield item.strip()


def forwarded(body: Mapping[str, Any], wants_usage: bool) -> Mapping[str, Any]:
    """Returns what a backend gets: our own options are no business of an upstream server, which may refuse them.

    Streams always ask for usage, which is counted here; who writes the answer leaves it out where nobody asked.
    """
    if OPTIONS not in body and not wants_usage:
        return body
    sent = {name: value for name, value in body.items() if name != OPTIONS}
    if wants_usage:
        options = body.get("stream_options")
        sent["stream_options"] = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    return sent
