"""A streamed answer put together again. No I/O.

llama.cpp looks whether its client is still there when a result of that request comes, or when none of any request came
for a second. An answer that is not streamed has one result, at its end: beside others it would be computed to that end
for nobody. So every answer is streamed from the process to the node.
"""

from __future__ import annotations

from typing import Any

from atmo.backends.base import Object
from atmo.backends.openai_shapes import usage_in


class Whole:
    """Takes the chunks of one answer, in the shapes that `upstream` gives them.

    Args:
        text: It is a completion; else a chat.
    """

    def __init__(self, text: bool) -> None:
        self._text = text
        self._head: Object = {}
        self._usage: Object | None = None
        self._choices: dict[int, Object] = {}

    def add(self, chunk: Object) -> None:
        """Takes the next chunk."""
        self._head = self._head or {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
        if chunk.get("usage"):
            self._usage = usage_in(chunk)
        for piece in chunk["choices"]:
            choice = self._choices.setdefault(piece["index"], self._new(piece["index"]))
            if self._text:
                choice["text"] += piece.get("text") or ""
            else:
                _add_delta(choice["message"], piece["delta"])
            _add_logprobs(choice, piece.get("logprobs"))
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]

    def answer(self) -> Object:
        """Returns the whole answer."""
        kind = "text_completion" if self._text else "chat.completion"
        usage = self._usage if self._usage is not None else usage_in({})
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices if not self._text else ():
            message = choice["message"]
            if message["content"] is None and not message.get("tool_calls"):
                message["content"] = ""  # null means a call; clients take the text of everything else for granted
        return {**self._head, "object": kind, "choices": choices, "usage": usage}

    def _new(self, index: int) -> Object:
        end: Object = {"index": index, "logprobs": None, "finish_reason": "stop"}
        return (
            {**end, "text": ""}
            if self._text
            else {**end, "message": {"role": "assistant", "content": None, "refusal": None}}
        )


def _add_delta(message: Object, delta: Object) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for piece in value:
                _add_call(calls, piece)
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value


def _add_call(calls: list[Any], piece: Object) -> None:
    """llama.cpp gives calls one after the other, each with its id in its first piece."""
    function = piece.get("function") or {}
    if piece["index"] >= len(calls):
        named = {"name": function.get("name", ""), "arguments": function.get("arguments") or ""}
        calls.append({"id": piece.get("id", ""), "type": "function", "function": named})
    else:
        calls[piece["index"]]["function"]["arguments"] += function.get("arguments") or ""


def _add_logprobs(choice: Object, piece: Any) -> None:
    if piece is None:
        return
    if choice["logprobs"] is None:
        choice["logprobs"] = {}
    for name, rows in piece.items():
        if isinstance(rows, list):
            choice["logprobs"].setdefault(name, []).extend(rows)
