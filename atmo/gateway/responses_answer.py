"""The answer to a chat, told as a response of OpenAI's Responses API: its events one by one, and the whole. No I/O.

One class makes both, so a response is the same whether it was streamed or not: an answer that came at once is told as
a stream of one chunk whose events nobody reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from atmo.errors import RequestError
from atmo.gateway.responses_items import Item, NewId
from atmo.gateway.responses_request import ResponseRequest
from atmo.gateway.responses_tools import Called, custom_input

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a delta of a chat adds to.

    Attributes:
        item: The type of the output item.
        part: The type of the part of its content.
        text: The field of that part, and of the event that ends it.
        event: How the names of its events begin.
    """

    item: str
    part: str
    text: str
    event: str


_TEXT = _Kind("message", "output_text", "text", "response.output_text")
_REFUSAL = _Kind("message", "refusal", "refusal", "response.refusal")
_REASONING = _Kind("reasoning", "reasoning_text", "text", "response.reasoning_text")

_DELTAS = (("reasoning_content", _REASONING), ("reasoning", _REASONING), ("content", _TEXT), ("refusal", _REFUSAL))
"""Fields of a delta, in the order in which they are told; servers call what a model thinks either name."""

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons for the end of a chat that leave the response incomplete, and what they are called here."""


@dataclass(slots=True)
class _Open:
    """The item that is being told; its text so far in pieces."""

    item: Item
    index: int
    kind: _Kind | None = None
    call: int | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


class ResponseWriter:
    """Tells one response.

    Args:
        request: What was asked for.
        model: Who answers.
        response_id: The id of the response.
        created_at: When it began, in seconds since 1970.
        new_id: For the items of its output.

    Attributes:
        response: The response as far as it was told.
    """

    def __init__(self, request: ResponseRequest, model: str, response_id: str, created_at: int, new_id: NewId) -> None:
        self._wants_logprobs = request.logprobs
        self._called = request.called
        self._new_id = new_id
        self._sequence = 0
        self._open: _Open | None = None
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self.response: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": created_at,
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "service_tier": "default",
            **request.echo,
        }

    def begin(self) -> list[Event]:
        """Returns the events before anything was said."""
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=self._snapshot()) for kind in kinds]

    def chunk(self, chunk: Mapping[str, Any]) -> list[Event]:
        """Returns the events of one chunk of the chat.

        Raises:
            RequestError: 502, it is none, or adds to a call that is over.
        """
        self._note(chunk)
        choice = _first_choice(chunk)
        if choice is None:
            return []
        return list(self._told(choice, _mapping(choice.get("delta"))))

    def whole(self, completion: Mapping[str, Any], completed_at: int) -> dict[str, Any]:
        """Returns the response that a chat's whole answer makes.

        Raises:
            RequestError: 502, it has no message.
        """
        self._note(completion)
        choice = _first_choice(completion)
        if choice is None or not isinstance(choice.get("message"), Mapping):
            raise _odd("no message")
        message = choice["message"]
        calls = [{**call, "index": at} for at, call in enumerate(_mappings(message.get("tool_calls")))]
        delta = {**message, "tool_calls": calls}
        for _ in self._told(choice, delta):
            pass
        self.end(completed_at)
        return self.response

    def end(self, completed_at: int) -> list[Event]:
        """Returns the last events: the chat is over."""
        reason = _INCOMPLETE.get(self._finish or "")
        events: list[Event] = []
        if self._open is None and not self.response["output"]:
            events += self._begin(_TEXT)
        events += self._close("completed" if reason is None else "incomplete")
        status = "completed" if reason is None else "incomplete"
        self.response |= {"status": status, "usage": _usage(self._usage)}
        if reason is None:
            self.response["completed_at"] = completed_at
        else:
            self.response["incomplete_details"] = {"reason": reason}
        return [*events, self._event(f"response.{status}", response=self._snapshot())]

    def fail(self, error: RequestError) -> list[Event]:
        """Returns the last events: the chat failed in the middle."""
        self._close("incomplete")
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        self.response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        if self._usage is not None:
            self.response["usage"] = _usage(self._usage)
        told = self._event("error", code=error.code, message=error.message, param=error.param)
        return [told, self._event("response.failed", response=self._snapshot())]

    def _note(self, part: Mapping[str, Any]) -> None:
        if isinstance(part.get("usage"), Mapping):
            self._usage = part["usage"]
        if isinstance(part.get("service_tier"), str):
            self.response["service_tier"] = part["service_tier"]

    def _told(self, choice: Mapping[str, Any], delta: Mapping[str, Any]) -> Iterator[Event]:
        thought = False
        for name, kind in _DELTAS:
            text = delta.get(name)
            if isinstance(text, str) and text and not (thought and kind is _REASONING):
                thought = kind is _REASONING
                yield from self._text(kind, text, _logprobs(choice) if kind is _TEXT else [])
        for call in _mappings(delta.get("tool_calls")):
            yield from self._call(call)
        if isinstance(choice.get("finish_reason"), str):
            self._finish = choice["finish_reason"]

    def _text(self, kind: _Kind, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if self._open is None or self._open.kind is not kind:
            yield from self._begin(kind)
        open_ = self._open
        assert open_ is not None
        open_.pieces.append(text)
        more: dict[str, Any] = {}
        if kind is _TEXT:
            kept = logprobs if self._wants_logprobs else []
            open_.logprobs += kept
            more["logprobs"] = [_short(row) for row in kept]
        yield self._part_event(f"{kind.event}.delta", open_, delta=text, **more)

    def _call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        index, function = call.get("index"), _mapping(call.get("function"))
        if self._open is None or self._open.call is None or self._open.call != index:
            name = function.get("name")
            if isinstance(index, int) and not name and not function.get("arguments"):
                return  # some end each call with a piece that says nothing, when the next one has begun
            if not isinstance(index, int) or not isinstance(name, str) or not name:
                raise _odd("a part of a tool call that did not begin")
            yield from self._close("completed")
            call_id = call.get("id")
            tool = self._called.get(name) or Called(name)
            item: Item = {
                "type": "custom_tool_call" if tool.custom else "function_call",
                "call_id": call_id if isinstance(call_id, str) and call_id else self._new_id("call"),
                **({"namespace": tool.namespace} if tool.namespace else {}),
                "name": tool.name,
                "input" if tool.custom else "arguments": "",
            }
            yield from self._add(item, _Open(item, len(self.response["output"]), call=index))
        open_ = self._open
        assert open_ is not None
        text = function.get("arguments")
        if isinstance(text, str) and text:
            open_.pieces.append(text)
            if open_.item["type"] == "function_call":  # the input of a custom tool is known when its JSON is complete
                kind = "response.function_call_arguments.delta"
                yield self._event(kind, item_id=open_.item["id"], output_index=open_.index, delta=text)

    def _begin(self, kind: _Kind) -> Iterator[Event]:
        """Opens a part, in the item that is open where that is one of its type."""
        open_ = self._open
        if open_ is not None and open_.kind is not None and open_.kind.item == kind.item:
            yield from self._close_part(open_)
            open_.kind = kind
        else:
            yield from self._close("completed")
            about: dict[str, Any] = {"role": "assistant"} if kind.item == "message" else {"summary": []}
            item: Item = {"type": kind.item, **about, "content": []}
            open_ = _Open(item, len(self.response["output"]), kind)
            yield from self._add(item, open_)
        open_.item["content"].append({})
        yield self._part_event("response.content_part.added", open_, part=_part(kind, "", []))

    def _add(self, item: Item, open_: _Open) -> Iterator[Event]:
        item |= {"id": self._new_id(_PREFIXES[item["type"]]), "status": "in_progress"}
        self.response["output"].append(item)
        self._open = open_
        shown = {**item, "content": []} if "content" in item else dict(item)
        yield self._event("response.output_item.added", output_index=open_.index, item=shown)

    def _close(self, status: str) -> list[Event]:
        """Ends the open item."""
        open_, self._open = self._open, None
        if open_ is None:
            return []
        item = open_.item
        item["status"] = status
        events = self._close_call(open_) if open_.kind is None else self._close_part(open_)
        return [*events, self._event("response.output_item.done", output_index=open_.index, item=dict(item))]

    def _close_call(self, open_: _Open) -> list[Event]:
        item, said = open_.item, "".join(open_.pieces)
        about = {"item_id": item["id"], "output_index": open_.index}
        if item["type"] == "function_call":
            item["arguments"] = said
            return [self._event("response.function_call_arguments.done", **about, name=item["name"], arguments=said)]
        item["input"] = text = custom_input(said)
        kind = "response.custom_tool_call_input"
        delta = [self._event(f"{kind}.delta", **about, delta=text)] if text else []
        return [*delta, self._event(f"{kind}.done", **about, input=text)]

    def _close_part(self, open_: _Open) -> list[Event]:
        kind = open_.kind
        assert kind is not None
        text, logprobs = "".join(open_.pieces), open_.logprobs
        part = open_.item["content"][-1] = _part(kind, text, logprobs)
        more = {"logprobs": [_short(row) for row in logprobs]} if kind is _TEXT else {}
        done = self._part_event(f"{kind.event}.done", open_, **{kind.text: text}, **more)
        events = [done, self._part_event("response.content_part.done", open_, part=part)]
        open_.pieces, open_.logprobs = [], []
        return events

    def _part_event(self, kind: str, open_: _Open, **fields: Any) -> Event:
        content_index = len(open_.item["content"]) - 1
        about = {"item_id": open_.item["id"], "output_index": open_.index, "content_index": content_index}
        return self._event(kind, **about, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _snapshot(self) -> dict[str, Any]:
        return {**self.response, "output": list(self.response["output"])}


def _part(kind: _Kind, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    more: dict[str, Any] = {"annotations": [], "logprobs": logprobs} if kind is _TEXT else {}
    return {"type": kind.part, kind.text: text, **more}


def _first_choice(part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the choice with index 0: there is only one, whatever a server sends."""
    choices = part.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
        raise _odd("something else than a chat")
    return next((choice for choice in choices if choice.get("index", 0) == 0), None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [_mapping(item) for item in value] if isinstance(value, list) else []


def _logprobs(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _rows(_mapping(choice.get("logprobs")).get("content"), deep=True)


def _rows(given: object, *, deep: bool) -> list[dict[str, Any]]:
    """Returns the rows that say of a token how probable it was; others are passed over."""
    rows = []
    for row in _mappings(given):
        token, logprob = row.get("token"), row.get("logprob")
        if not isinstance(token, str) or not isinstance(logprob, int | float) or not math.isfinite(logprob):
            continue
        data = row.get("bytes")
        good = isinstance(data, list) and all(type(byte) is int for byte in data)
        raw = data if good else list(token.encode("utf-8", "replace"))
        more = {"top_logprobs": _rows(row.get("top_logprobs"), deep=False)} if deep else {}
        rows.append({"token": token, "bytes": raw, "logprob": logprob, **more})
    return rows


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row as events have it: without bytes."""
    top = [{"token": one["token"], "logprob": one["logprob"]} for one in row["top_logprobs"]]
    return {"token": row["token"], "logprob": row["logprob"], "top_logprobs": top}


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a chat's count of tokens in the words of a response; zeros where the server did not count."""
    given = _mapping(usage)
    read, written = _number(given, "prompt_tokens"), _number(given, "completion_tokens")
    details = _mapping(given.get("prompt_tokens_details"))
    cached, stored = _number(details, "cached_tokens"), _number(details, "cache_write_tokens")
    thought = _number(_mapping(given.get("completion_tokens_details")), "reasoning_tokens")
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": stored},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _odd(what: str) -> RequestError:
    return RequestError(502, f"The node answered with {what}.", kind="api_error", code="bad_answer")
