"""Answers to `/v1/completions`, the older way to ask a language model, brought to OpenAI's shape. No I/O.

Servers leave out what clients need here too: ids, `finish_reason`, the index of a choice; some answer in the shape of a
chat. What they add is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atmo.backends.base import Object
from atmo.backends.finish import finish_reason
from atmo.backends.openai_shapes import BadAnswer, answer_head, choices_in, chunk_choices, index_of, usage_in

KIND = "text_completion"


def text_completion(body: Any, model: str, request_id: str) -> Object:
    """Returns a whole answer.

    Raises:
        BadAnswer: It has no choices with a text.
    """
    kept = [_choice(choice, place, whole=True) for place, choice in enumerate(choices_in(body))]
    for choice in kept:
        choice["logprobs"] = text_logprobs(choice["logprobs"], 0)
    head = answer_head(body, KIND, model, request_id)
    return head | {"choices": kept, "usage": usage_in(body)}


class TextStream:
    """Brings the chunks of one streamed answer to one shape.

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
        self._open: set[int] = {0}
        self._usage: Object | None = None
        self._lengths: dict[int, int] = {}

    @property
    def finished(self) -> bool:
        """Every choice has had its `finish_reason`."""
        return not self._open

    def chunk(self, value: Any) -> Object | None:
        """Returns the chunk to pass on, or None for one that no client wants.

        Raises:
            BadAnswer: It is not a chunk.
        """
        if value is None:  # so llama-server begins where it has several prompts
            return None
        choices = chunk_choices(value)
        self._head = self._head or answer_head(value, KIND, self._model, self._request_id)
        if isinstance(value.get("usage"), Mapping) and value["usage"]:
            # llama-server sends it with the last text, OpenAI in a chunk of its own; clients get the latter.
            self._usage = usage_in(value)
        if not choices:
            return None
        kept = [_choice(choice, place, whole=False) for place, choice in enumerate(choices)]
        for choice in kept:
            index = choice["index"]
            before = self._lengths.get(index, 0)
            choice["logprobs"] = text_logprobs(choice["logprobs"], before)
            self._lengths[index] = before + len(choice["text"])
            if choice["finish_reason"] is None:
                self._open.add(index)
            else:
                self._open.discard(index)
        return self._head | {"choices": kept}

    def ending(self) -> list[Object]:
        """Returns what the server left out at the end: why each choice ended, and the usage."""
        if not self._head:
            return []
        out = []
        if self._open:
            rest = {"text": "", "logprobs": None, "finish_reason": "stop"}
            out.append(self._head | {"choices": [{"index": index} | rest for index in sorted(self._open)]})
            self._open.clear()
        if self._wants_usage and self._usage is not None:
            out.append(self._head | {"choices": [], "usage": self._usage})
        return out


def text_chunks_of(body: Object, wants_usage: bool) -> list[Object]:
    """Returns a whole answer as the chunks of a stream, for servers that do not stream."""
    head = {key: body[key] for key in ("id", "object", "created", "model")}
    chunks = [head | {"choices": body["choices"]}]
    return [*chunks, head | {"choices": [], "usage": body["usage"]}] if wants_usage else chunks


def text_logprobs(given: Any, offset: int) -> Object | None:
    """Returns log probabilities in the shape of completions: llama-server and Ollama give that of chats.

    Args:
        given: Of one choice.
        offset: How long its text was before.
    """
    rows = given.get("content") if isinstance(given, Mapping) else None
    if not isinstance(rows, list):
        return dict(given) if isinstance(given, Mapping) else None
    out: Object = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for row in rows:
        if not isinstance(row, Mapping):
            raise BadAnswer("gave log probabilities that are no objects")
        token = str(row.get("token", ""))
        out["tokens"].append(token)
        out["token_logprobs"].append(row.get("logprob"))
        others = row.get("top_logprobs")
        out["top_logprobs"].append(
            {str(other.get("token", "")): other.get("logprob") for other in others if isinstance(other, Mapping)}
            if isinstance(others, list)
            else {}
        )
        out["text_offset"].append(offset)
        offset += len(token)
    return out


def _choice(choice: Any, place: int, *, whole: bool) -> Object:
    if not isinstance(choice, Mapping):
        raise BadAnswer("sent a choice that is not an object")
    text = choice.get("text")
    if not isinstance(text, str):
        inner = choice.get("message") if whole else choice.get("delta")
        text = inner.get("content") if isinstance(inner, Mapping) else None
    if not isinstance(text, str):
        if whole:
            raise BadAnswer("gave a choice without a text")
        text = ""
    reason = finish_reason(choice.get("finish_reason")) or ("stop" if whole else None)
    rest = {key: value for key, value in choice.items() if key not in ("message", "delta")}
    return {"logprobs": None} | rest | {"index": index_of(choice, place), "text": text, "finish_reason": reason}
