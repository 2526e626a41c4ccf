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
from typing import Any

import numpy as np

from atmo.backends.base import Part

MAX_MESSAGE_CHARS = 500


class BadAnswer(ValueError):
    """The answer is not what an OpenAI-compatible server gives; the message says what it is."""


def parse_json(data: bytes, content_type: str = "") -> Any:
    """Returns the JSON of a body.

    Raises:
        BadAnswer: It is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        start = data[:256].lstrip().lower()
        if "html" in content_type or start.startswith((b"<!doctype", b"<html")):
            raise BadAnswer(
                "answered with an HTML page; it is not an OpenAI-compatible server, or the path is wrong"
            ) from None
        raise BadAnswer("answered with something that is not JSON") from None


def error_of(data: bytes) -> tuple[str, str | None, str | None]:
    """Returns (message, code, param) of an error's body, whatever its shape."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        text = " ".join(data.decode("utf-8", "replace").split())
        return ("an HTML page" if text[:64].lower().startswith(("<!doctype", "<html")) else _cut(text)), None, None
    return _error_fields(value)


def _error_fields(value: Any) -> tuple[str, str | None, str | None]:
    if isinstance(value, str):
        return _cut(value), None, None
    if isinstance(value, list):
        return _error_fields(value[0]) if value else ("", None, None)
    if not isinstance(value, Mapping):
        return "", None, None
    for key in ("error", "detail", "message", "msg", "error_message"):
        inner = value.get(key)
        if isinstance(inner, str):
            return _cut(inner), _word(value.get("code")), _word(value.get("param"))
        if isinstance(inner, Mapping | list) and inner:
            return _error_fields(inner)
    return "", None, None


def _cut(text: str) -> str:
    return " ".join(text.split())[:MAX_MESSAGE_CHARS]


def _word(value: Any) -> str | None:
    return value[:64] if isinstance(value, str) else None


def model_ids(body: Any) -> list[str]:
    """Returns the model names of a `/v1/models` answer, in order and without repeats.

    Raises:
        BadAnswer: It is not such an answer.
    """
    rows = body.get("data") if isinstance(body, Mapping) else body
    if rows is None and isinstance(body, Mapping) and body.get("object") == "list":
        rows = []
    if not isinstance(rows, list):
        raise BadAnswer("gave no list of models at /models; it is not an OpenAI-compatible server")
    names = [row.get("id") for row in rows if isinstance(row, Mapping)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def completion(body: Any, model: str, request_id: str) -> Part:
    """Returns a whole chat answer in OpenAI's shape.

    Raises:
        BadAnswer: It has no choices with messages.
    """
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices:
        raise BadAnswer("gave an answer without choices")
    kept = []
    for index, choice in enumerate(choices):
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if not isinstance(message, Mapping):
            raise BadAnswer("gave a choice without a message")
        tools = message.get("tool_calls")
        fields = {"role": "assistant", "content": None} | dict(message)
        if not tools:
            fields.pop("tool_calls", None)
        kept.append(
            {"logprobs": None}
            | dict(choice)
            | {
                "index": _index(choice, index),
                "message": fields,
                "finish_reason": choice.get("finish_reason") or ("tool_calls" if tools else "stop"),
            }
        )
    out = _head(body, "chat.completion", model, request_id) | {"choices": kept}
    usage = body.get("usage")
    return out | {"usage": usage if isinstance(usage, Mapping) else _no_usage()}


class ChunkStream:
    """Brings the chunks of one streamed chat answer to one shape.

    Args:
        model: The name that answers carry.
        request_id: For answers without an id.
        wants_usage: The client asked for a usage chunk.
    """

    def __init__(self, model: str, request_id: str, wants_usage: bool) -> None:
        self._model = model
        self._request_id = request_id
        self._wants_usage = wants_usage
        self._head: Part = {}
        self._tools: dict[tuple[int, str], int] = {}
        self._open: set[int] = {0}
        self._called_tools = False

    @property
    def finished(self) -> bool:
        """Every choice has had its `finish_reason`."""
        return not self._open

    def chunk(self, value: Any) -> Part | None:
        """Returns the chunk to pass on, or None for one that no client wants.

        Raises:
            BadAnswer: It is not a chunk.
        """
        if not isinstance(value, Mapping):
            raise BadAnswer("sent something in its stream that is not an object")
        if value.get("choices") is None and isinstance(value.get("error"), Mapping | str):
            raise BadAnswer(f"ended its stream with an error: {_error_fields(value)[0]}")
        choices = value.get("choices")
        if not isinstance(choices, list):
            raise BadAnswer("sent a chunk without choices")
        self._head = self._head or _head(value, "chat.completion.chunk", self._model, self._request_id)
        usage = value.get("usage")
        if not choices:
            if not self._wants_usage or not isinstance(usage, Mapping):
                return None
            return self._head | {"choices": [], "usage": usage}
        out = self._head | {"choices": [self._choice(choice, index) for index, choice in enumerate(choices)]}
        return out | {"usage": usage} if self._wants_usage else out

    def ending(self) -> Part | None:
        """Returns the chunk with the `finish_reason` that the server left out, None where it did not."""
        if self.finished or not self._head:
            return None
        reason = "tool_calls" if self._called_tools else "stop"
        choices: list[Part] = [
            {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason} for index in sorted(self._open)
        ]
        self._open.clear()
        return self._head | {"choices": choices}

    def _choice(self, choice: Any, position: int) -> Part:
        if not isinstance(choice, Mapping):
            raise BadAnswer("sent a choice that is not an object")
        index = _index(choice, position)
        delta = choice.get("delta")
        delta = dict(delta) if isinstance(delta, Mapping) else {}
        tools = delta.get("tool_calls")
        if isinstance(tools, list) and tools:
            self._called_tools = True
            delta["tool_calls"] = [self._tool(index, tool, place) for place, tool in enumerate(tools)]
        else:
            delta.pop("tool_calls", None)
        reason = choice.get("finish_reason") or None
        if reason is None:
            self._open.add(index)
        else:
            self._open.discard(index)
        return {"logprobs": None} | dict(choice) | {"index": index, "delta": delta, "finish_reason": reason}

    def _tool(self, choice: int, tool: Any, place: int) -> Part:
        """Gives a tool call the index that servers leave out: a new one for each new id."""
        if not isinstance(tool, Mapping):
            raise BadAnswer("sent a tool call that is not an object")
        given = tool.get("index")
        if isinstance(given, int) and not isinstance(given, bool):
            return dict(tool)
        known = [number for (of, _), number in self._tools.items() if of == choice]
        if not tool.get("id") and place == 0 and known:
            return dict(tool) | {"index": known[-1]}
        key = (choice, str(tool.get("id") or f"#{place}"))
        return dict(tool) | {"index": self._tools.setdefault(key, len(known))}


def chunks_of(body: Part, wants_usage: bool) -> list[Part]:
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


def embeddings(body: Any, model: str, count: int) -> Part:
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
        vectors[_index(row, position)] = _vector(row.get("embedding"))
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


def input_count(body: Mapping[str, Any]) -> int:
    """Returns how many vectors an embeddings request asks for: tokens of one text are one input."""
    given = body.get("input")
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return len(given)
    return 1


def _index(row: Mapping[str, Any], position: int) -> int:
    index = row.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) and index >= 0 else position


def _head(body: Mapping[str, Any], kind: str, model: str, request_id: str) -> Part:
    own_id, created = body.get("id"), body.get("created")
    head: Part = {
        "id": own_id if isinstance(own_id, str) and own_id else request_id or f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": created if isinstance(created, int) else int(time.time()),
        "model": model,
    }
    fingerprint = body.get("system_fingerprint")
    return head | ({"system_fingerprint": fingerprint} if isinstance(fingerprint, str) else {})


def _no_usage() -> Part:
    return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
