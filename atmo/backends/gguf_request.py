"""Requests in the words of llama.cpp's server, and its errors in those of OpenAI's API. No I/O.

Only fields that are listed here go to llama.cpp: its server takes many more, some of which reach into its process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from atmo.backends.base import Object
from atmo.backends.honoured import unhonoured
from atmo.errors import RequestError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS

_SAMPLING = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "grammar",
}
_TAKEN = {
    CHAT: _SAMPLING
    | {
        "messages",
        "max_completion_tokens",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "chat_template_kwargs",
    },
    COMPLETIONS: _SAMPLING | {"prompt"},
    EMBEDDINGS: {"input", "encoding_format"},
}
"""Fields that llama.cpp honours, by operation. Source: tools/server/README.md of llama.cpp."""

_RANDOM_SEED = 0xFFFFFFFF
_NUMBERS = re.compile(r"\((\d{1,12}) tokens\)\D*(\d{1,12})")
_TOO_LONG = ("exceeds the available context size", "too large to process")


def ignored_fields(operation: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields of a request that change meaning and that llama.cpp does not honour."""
    return unhonoured(body, _TAKEN[operation])


def request_body(operation: str, body: Mapping[str, Any], slots: int) -> Object:
    """Returns the body for llama.cpp.

    Args:
        operation: What the client asked for.
        body: The client's.
        slots: Answers that llama.cpp computes at once.

    Raises:
        RequestError: It asks for more answers than that.
    """
    out = {name: value for name, value in body.items() if name in _TAKEN[operation] and value is not None}
    if operation == EMBEDDINGS:
        return out
    if out.get("n", 1) > slots:
        message = f"n is {out['n']}: this model gives {slots} answers to one request at most. Ask several times."
        raise RequestError(400, message, param="n", code="invalid_value")
    most = out.pop("max_completion_tokens", None)
    if most is not None:
        out["max_tokens"] = most
    if "stop" in out:
        # An empty one would end every answer before it begins.
        given = out["stop"] if isinstance(out["stop"], list) else [out["stop"]]
        out["stop"] = [text for text in given if text]
    if "seed" in out:
        # llama.cpp has 32 bits for it, of which the last value means "random".
        out["seed"] = int(out["seed"]) % _RANDOM_SEED
    if operation == CHAT:
        out["messages"] = [_message(f"messages[{place}]", message) for place, message in enumerate(out["messages"])]
        _choose_tool(out)
    return out


def _message(param: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Few templates know the role `developer`, which is a newer name for `system`."""
    changed: Object = {"role": "system"} if message.get("role") == "developer" else {}
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        changed["content"] = [_part(f"{param}.content[{place}]", part) for place, part in enumerate(content)]
    if calls:
        changed["tool_calls"] = [_call(call) for call in calls]
    return {**message, **changed} if changed else message


def _part(param: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = part["type"]
    if kind in ("refusal", "input_text", "output_text") and isinstance(part.get("text", part.get("refusal")), str):
        return {"type": "text", "text": part.get("text", part.get("refusal"))}
    if kind not in ("text", "image_url", "input_audio"):
        message = f"'{param}.type' is '{kind[:64]}', which this model does not take: send its text."
        raise RequestError(400, message, param=f"{param}.type", code="unsupported_feature")
    return part


def _call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """llama.cpp fails where a model once called a tool with something that is no JSON, or with nothing at all."""
    function = call.get("function")
    given = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(given, str):
        return call
    return {**call, "function": {**function, "arguments": given if _is_json(given) else json.dumps(given or {})}}


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(name: str) -> None:
    raise ValueError(name)


def _choose_tool(body: Object) -> None:
    """llama.cpp can be told to call some tool; those that are named are the only ones that it is offered."""
    for place, tool in enumerate(body.get("tools", ())):
        if tool["type"] != "function":
            message = f"'tools[{place}].type' is '{tool['type'][:64]}': this model calls tools of type 'function'."
            raise RequestError(400, message, param=f"tools[{place}].type", code="unsupported_feature")
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping):
        return
    allowed = choice.get("allowed_tools") if choice.get("type") == "allowed_tools" else None
    given = allowed.get("tools") if isinstance(allowed, Mapping) else [choice]
    named = [row.get("function") for row in given if isinstance(row, Mapping)] if isinstance(given, list) else []
    names = {str(function.get("name")) for function in named if isinstance(function, Mapping)}
    tools = [tool for tool in body.get("tools", ()) if tool["function"]["name"] in names]
    if not tools:
        shown = ", ".join(sorted(names))[:64]
        message = f"tool_choice names the function '{shown}', which is none of the tools."
        raise RequestError(400, message, param="tool_choice", code="invalid_value")
    mode = "auto" if isinstance(allowed, Mapping) and allowed.get("mode") == "auto" else "required"
    body["tools"], body["tool_choice"] = tools, mode


def too_long(operation: str, model: str, said: str) -> RequestError | None:
    """Returns OpenAI's error for a prompt that does not fit, None where llama.cpp said something else."""
    if not any(phrase in said for phrase in _TOO_LONG):
        return None
    found = _NUMBERS.search(said)
    asked, most = found.groups() if found else ("more", "fewer")
    message = (
        f"This model's maximum context length is {most} tokens, and the request has {asked}: {model}"
        " takes no more on the node that runs it. Shorten it, or ask a model with a longer context."
    )
    param = {CHAT: "messages", COMPLETIONS: "prompt"}.get(operation, "input")
    return RequestError(400, message, code="context_length_exceeded", param=param)


def plain_logprobs(part: Object, offsets: dict[int, int]) -> Object:
    """Brings the logprobs of a completion, which llama.cpp gives as those of a chat, to their older shape.

    Args:
        part: A whole answer, or a chunk of one.
        offsets: Characters that came before, by choice; moved on.
    """
    for choice in part["choices"]:
        given = choice.get("logprobs")
        rows = given.get("content") if isinstance(given, Mapping) else None
        if isinstance(rows, list):
            choice["logprobs"] = _older(rows, offsets, choice["index"])
    return part


def _older(rows: list[Any], offsets: dict[int, int], index: int) -> Object:
    out: Object = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for row in rows:
        out["tokens"].append(row["token"])
        out["token_logprobs"].append(row["logprob"])
        out["top_logprobs"].append({top["token"]: top["logprob"] for top in row.get("top_logprobs", ())})
        out["text_offset"].append(offsets.get(index, 0))
        offsets[index] = offsets.get(index, 0) + len(row["token"])
    return out
