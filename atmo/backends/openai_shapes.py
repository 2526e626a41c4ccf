"""Answers of OpenAI-compatible servers, checked and brought to one shape. No I/O.

Servers differ where clients are strict: tool-call deltas without `index`, a usage chunk that nobody asked for, no
`finish_reason`, embeddings as lists where base64 is expected, errors in a dozen shapes, HTML with status 200.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from atmo.backends.base import Object
from atmo.backends.finish import finish_reason
from atmo.backends.tool_calls import MAX_TOOL_CALLS, ToolCalls, arguments_of

MAX_MESSAGE_CHARS = 500
MAX_INDEX = 65_536
"""Of choices and vectors; no larger one is believed, as what is kept of an answer is kept by index. Source: guess."""

_COUNTS = ("prompt_tokens", "completion_tokens")

_WITHOUT_TEXT = ("refusal", "function_call", "audio")
"""Fields of a message that may be there instead of a text, as tool calls may."""


class BadAnswer(ValueError):
    """The answer is not what an OpenAI-compatible server gives; the message says what it is."""


def parse_json(data: bytes, content_type: str = "") -> Any:
    """Returns the JSON of a body.

    Raises:
        BadAnswer: It is none.
    """
    try:
        return read_json(data)
    except (ValueError, RecursionError):
        start = data[:256].lstrip().lower()
        if "html" in content_type or start.startswith((b"<!doctype", b"<html")):
            raise BadAnswer(
                "answered with an HTML page; it is not an OpenAI-compatible server, or the path is wrong"
            ) from None
        raise BadAnswer("answered with something that is not JSON") from None


def read_json(data: bytes | str) -> Any:
    """Does what `json.loads` does, save that NaN and the infinities, which are no JSON, are read as null."""
    return json.loads(data, parse_constant=lambda _name: None)


def error_of(data: bytes) -> tuple[str, str | None, str | None]:
    """Returns (message, code, param) of an error's body, whatever its shape."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        text = " ".join(data.decode("utf-8", "replace").split())
        return ("an HTML page" if text[:64].lower().startswith(("<!doctype", "<html")) else _cut(text)), None, None
    return error_fields(value)


def error_fields(value: Any) -> tuple[str, str | None, str | None]:
    """Returns (message, code, param) of an error's JSON, whatever its shape."""
    if isinstance(value, str):
        return _cut(value), None, None
    if isinstance(value, list):
        return error_fields(value[0]) if value else ("", None, None)
    if not isinstance(value, Mapping):
        return "", None, None
    for key in ("error", "detail", "message", "msg", "error_message"):
        inner = value.get(key)
        if isinstance(inner, str):
            return _cut(inner), _word(value.get("code")), _word(value.get("param"))
        if isinstance(inner, Mapping | list) and inner:
            return error_fields(inner)
    return "", None, None


def _cut(text: str) -> str:
    return " ".join(text.split())[:MAX_MESSAGE_CHARS]


def _word(value: Any) -> str | None:
    return value[:64] if isinstance(value, str) else None


def completion(body: Any, model: str, request_id: str) -> Object:
    """Returns a whole chat answer in OpenAI's shape.

    Raises:
        BadAnswer: It has no choices with messages.
    """
    kept = []
    for index, choice in enumerate(choices_in(body)):
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if not isinstance(message, Mapping):
            raise BadAnswer("gave a choice without a message")
        given = message.get("tool_calls")
        tools = given if isinstance(given, list) else []
        fields = {"role": "assistant", "content": None, "refusal": None} | dict(message)
        if tools:
            fields["tool_calls"] = [_tool_call(tool) for tool in tools]
        else:
            fields.pop("tool_calls", None)
            if not any(fields.get(name) for name in _WITHOUT_TEXT):
                fields["content"] = fields["content"] or ""  # null means one of those; clients count on a text
        kept.append(
            {"logprobs": None}
            | dict(choice)
            | {
                "index": index_of(choice, index),
                "message": fields,
                "finish_reason": finish_reason(choice.get("finish_reason") or "stop", bool(tools)) or "stop",
            }
        )
    out = answer_head(body, "chat.completion", model, request_id) | {"choices": kept}
    return out | {"usage": usage_in(body)}


def _tool_call(tool: Any) -> Object:
    """Gives a tool call what servers leave out: its id, its type, its arguments as a text."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        if isinstance(tool, Mapping) and isinstance(tool.get("custom"), Mapping):
            return dict(tool)
        raise BadAnswer("gave a tool call without a function")
    arguments = arguments_of(function, "{}")
    known = tool.get("id")
    call_id = known if isinstance(known, str) and known else f"call_{uuid.uuid4().hex[:24]}"
    return {**tool, "id": call_id, "type": "function", "function": {**function, "arguments": arguments}}


class ChunkStream:
    """Brings the chunks of one streamed chat answer to one shape.

    The role is in the first delta of a choice, why it ended in an empty last one, and the usage in a chunk of its own.

    Args:
        model: The name that answers carry.
        request_id: For answers without an id.
        wants_usage: The client asked for a usage chunk.
    """

    def __init__(self, model: str, request_id: str, wants_usage: bool) -> None:
        self._model = model
        self._request_id = request_id
        self._wants_usage = wants_usage
        self._head: Object = {}
        self._tools: dict[int, ToolCalls] = {}
        self._seen: set[int] = set()
        self._open: set[int] = {0}
        self._reasons: dict[int, str] = {}
        self._called = 0
        self._halves: dict[tuple[int, str], str] = {}
        self._usage: Object | None = None

    @property
    def finished(self) -> bool:
        """Every choice has had its `finish_reason`."""
        return not self._open

    def chunk(self, value: Any) -> Object | None:
        """Returns the chunk to pass on, or None for one that says nothing yet.

        Raises:
            BadAnswer: It is not a chunk.
        """
        choices = chunk_choices(value)
        self._head = self._head or answer_head(value, "chat.completion.chunk", self._model, self._request_id)
        if isinstance(value.get("usage"), Mapping) and value["usage"]:
            # Some send it with every chunk, empty at first; the last one counts.
            self._usage = usage_in(value)
        if not choices:
            return None
        return self._head | {"choices": [self._choice(choice, index) for index, choice in enumerate(choices)]}

    def ending(self) -> list[Object]:
        """Returns what comes last: why choices ended where no chunk of their own said it, and the usage."""
        if not self._head:
            return []
        missing = {index: finish_reason("stop", index in self._tools) or "stop" for index in self._open}
        choices: list[Object] = [
            {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
            for index, reason in sorted((self._reasons | missing).items())
        ]
        self._open.clear()
        self._reasons.clear()
        out = [self._head | {"choices": choices}] if choices else []
        if self._wants_usage and self._usage is not None:
            out.append(self._head | {"choices": [], "usage": self._usage})
            self._usage = None
        return out

    def _choice(self, choice: Any, position: int) -> Object:
        if not isinstance(choice, Mapping):
            raise BadAnswer("sent a choice that is not an object")
        index = index_of(choice, position)
        delta = choice.get("delta")
        delta = dict(delta) if isinstance(delta, Mapping) else {}
        role = delta.pop("role", None)
        if index not in self._seen:
            self._seen.add(index)
            delta = {"role": role or "assistant"} | delta
        tools = delta.get("tool_calls")
        if isinstance(tools, list) and tools:
            delta["tool_calls"] = [self._tool(index, tool, place) for place, tool in enumerate(tools)]
        else:
            delta.pop("tool_calls", None)
        for name, text in delta.items():
            if isinstance(text, str) and ((index, name) in self._halves or not text.isascii()):
                delta[name] = self._joined(index, name, text)
        reason = finish_reason(choice.get("finish_reason"), index in self._tools)
        if reason is None:
            self._open.add(index)
        else:
            self._open.discard(index)
            if any(delta.values()):
                self._reasons[index], reason = reason, None
        return {"logprobs": None} | dict(choice) | {"index": index, "delta": delta, "finish_reason": reason}

    def _joined(self, choice: int, name: str, text: str) -> str:
        """Holds back half of a character, of which the other half comes with the next piece."""
        text = self._halves.pop((choice, name), "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[choice, name], text = text[-1], text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _tool(self, choice: int, tool: Any, place: int) -> Object:
        if not isinstance(tool, Mapping):
            raise BadAnswer("sent a tool call that is not an object")
        calls = self._tools.setdefault(choice, ToolCalls())
        out, begins = calls.piece(tool, place)
        self._called += begins
        if self._called > MAX_TOOL_CALLS:
            raise BadAnswer(f"called more than {MAX_TOOL_CALLS} tools")
        return out


def chunks_of(body: Object, wants_usage: bool) -> list[Object]:
    """Returns a whole answer as the chunks of a stream, for servers that do not stream."""
    head = {key: body[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    first, last = [], []
    for choice in body["choices"]:
        delta = dict(choice["message"])
        if isinstance(delta.get("tool_calls"), list):
            delta["tool_calls"] = [dict(tool) | {"index": place} for place, tool in enumerate(delta["tool_calls"])]
        first.append({"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": None})
        reason = choice["finish_reason"]
        last.append({"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": reason})
    chunks = [head | {"choices": first}, head | {"choices": last}]
    return [*chunks, head | {"choices": [], "usage": body["usage"]}] if wants_usage else chunks


def embeddings(body: Any, model: str, count: int) -> Object:
    """Returns an embeddings answer with base64 strings of little-endian float32.

    Args:
        body: The server's answer.
        model: The name that the answer carries.
        count: How many vectors were asked for.

    Raises:
        BadAnswer: It does not have `count` vectors of one size.
    """
    rows = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(rows, list) or len(rows) != count:
        got = f"{len(rows)} vectors" if isinstance(rows, list) else "no vectors"
        raise BadAnswer(f"gave {got} for {count} inputs")
    vectors: dict[int, bytes] = {}
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise BadAnswer("gave an embedding that is not an object")
        vectors[index_of(row, position)] = _vector(row.get("embedding"))
    if sorted(vectors) != list(range(count)) or len({len(vector) for vector in vectors.values()}) != 1:
        raise BadAnswer("gave vectors of different sizes, or not one for each input")
    usage = body.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    tokens = tokens if isinstance(tokens, int) else 0
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vectors[index]).decode()}
            for index in range(count)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            raw = base64.b64decode(value, validate=True)
            array = np.frombuffer(raw, dtype="<f4")
        except (binascii.Error, ValueError):
            raise BadAnswer("gave an embedding that is not base64 of float32") from None
    else:
        if not isinstance(value, list) or not {int, float}.issuperset(map(type, value)):
            raise BadAnswer("gave an embedding that is not a list of numbers")
        try:
            with np.errstate(over="ignore"):
                array = np.array(value, dtype=np.float64).astype("<f4")
        except OverflowError:
            raise BadAnswer("gave an embedding that is not finite") from None
    if array.size == 0 or not np.isfinite(array).all():
        raise BadAnswer("gave an embedding that is empty or not finite")
    return array.tobytes()


def choices_in(body: Any) -> list[Any]:
    """Returns the choices of a whole answer.

    Raises:
        BadAnswer: It has none.
    """
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices:
        said = error_fields(body)[0] if isinstance(body, Mapping) and body.get("error") else ""
        raise BadAnswer(f"answered with an error: {said}" if said else "gave an answer without choices")
    return choices


def chunk_choices(value: Any) -> list[Any]:
    """Returns the choices of one chunk of a stream; the last one may have none.

    Raises:
        BadAnswer: It is not a chunk, or says that the server failed.
    """
    if not isinstance(value, Mapping):
        raise BadAnswer("sent something in its stream that is not an object")
    choices, error = value.get("choices"), value.get("error")
    if error and isinstance(error, Mapping | str if choices is None else Mapping):
        raise BadAnswer(f"ended its stream with an error: {error_fields(value)[0]}")
    if not isinstance(choices, list):
        raise BadAnswer("sent a chunk without choices")
    return choices


def input_count(body: Mapping[str, Any]) -> int:
    """Returns how many vectors an embeddings request asks for: tokens of one text are one input."""
    given = body.get("input")
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return len(given)
    return 1


def index_of(row: Mapping[str, Any], position: int) -> int:
    """Returns the index that a row says it has, else its position."""
    index = row.get("index")
    return index if type(index) is int and 0 <= index < MAX_INDEX else position


def answer_head(body: Mapping[str, Any], kind: str, model: str, request_id: str) -> Object:
    """Returns what stands at the top of an answer or a chunk, with what the server left out."""
    own_id, created = body.get("id"), body.get("created")
    head: Object = {
        "id": own_id if isinstance(own_id, str) and own_id else request_id or f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": created if type(created) is int and 0 <= created < 2**53 else int(time.time()),
        "model": model,
    }
    fingerprint = body.get("system_fingerprint")
    return head | ({"system_fingerprint": fingerprint} if isinstance(fingerprint, str) else {})


def usage_in(body: Mapping[str, Any]) -> Object:
    """Returns the `usage` of an answer with the three counts that clients count on, zeros where nobody counted."""
    usage = body.get("usage")
    given = dict(usage) if isinstance(usage, Mapping) else {}
    counts = {name: value if _is_count(value := given.get(name)) else 0 for name in _COUNTS}
    total = given.get("total_tokens")
    return given | counts | {"total_tokens": total if _is_count(total) else sum(counts.values())}


def _is_count(value: Any) -> TypeGuard[int]:
    # Up to what JSON's readers in other languages take for an integer.
    return type(value) is int and 0 <= value < 2**53
