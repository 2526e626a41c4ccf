"""The items of a conversation in OpenAI's Responses API, and what they are as messages of a chat. No I/O.

Items are read once, where they come in, and brought to the one form in which they are kept, listed and translated:
every item has a type and an id, and the content of messages is a list of parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from atmo.errors import RequestError
from atmo.gateway.checks import MAX_MESSAGES, bad

Item = dict[str, Any]
NewId = Callable[[str], str]
"""Makes an id that begins with the given word, such as `msg`."""

MAX_ID_CHARS = 256
"""Of the ids that clients send along. Source: a choice; OpenAI's have about 60."""

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "summary_text")
_ITEMS = (
    "message, function_call, function_call_output, custom_tool_call, custom_tool_call_output, reasoning and"
    " item_reference"
)

_CALLS = {"function_call": ("fc", "arguments"), "custom_tool_call": ("ctc", "input")}
"""Calls of tools: how their ids begin, and which field has what was said."""

_OUTPUTS = {"function_call_output": "fco", "custom_tool_call_output": "ctco"}
"""What tools answered: how the ids begin."""

INPUT = "input"
"""The one argument of the function that stands for a custom tool."""


def read_items_untrusted(given: object, new_id: NewId) -> list[Item]:
    """Returns the items of a request's `input`.

    Args:
        given: A text of the user, or a list of items.
        new_id: For items that bring none.

    Raises:
        RequestError: 400 with the field at fault.
    """
    if isinstance(given, str):
        content = [{"type": "input_text", "text": given}]
        return [_message(new_id("msg"), "user", content)]
    if not isinstance(given, list) or not given:
        raise bad("input", "must be a string or a list of at least one item")
    if len(given) > MAX_MESSAGES:
        raise bad("input", f"has more than {MAX_MESSAGES} items")
    return [_read_item(f"input[{index}]", item, new_id) for index, item in enumerate(given)]


def messages_of(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """Returns the messages of a chat that say the same.

    What a model thought aloud is passed over: no chat takes it back. Calls of functions that follow each other, and
    what the model said right before, become one message, as chats want it.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        kind = item["type"]
        if kind == "message":
            messages.append(_chat_message(item))
        elif kind in ("function_call", "custom_tool_call"):
            _add_call(messages, item)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            output = item["output"]
            content = output if isinstance(output, str) else _chat_content(output)
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
    return messages


def chat_name(namespace: str, name: str) -> str:
    """Returns the name of the function of a chat that stands for a tool."""
    return f"{namespace}__{name}" if namespace else name


def _add_call(messages: list[dict[str, Any]], item: Item) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    custom = item["type"] == "custom_tool_call"
    arguments = json.dumps({INPUT: item["input"]}, ensure_ascii=False) if custom else item["arguments"]
    function = {"name": chat_name(item.get("namespace", ""), item["name"]), "arguments": arguments}
    call = {"id": item["call_id"], "type": "function", "function": function}
    messages[-1].setdefault("tool_calls", []).append(call)


def _chat_message(item: Item) -> dict[str, Any]:
    role, parts = item["role"], item["content"]
    if role != "assistant":
        return {"role": role, "content": _chat_content(parts)}
    text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
    return {"role": role, "content": text, **({"refusal": refusal} if refusal else {})}


def _chat_content(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """Returns a single text as such, which every server takes, and anything else as parts."""
    if len(parts) == 1 and parts[0]["type"] == "input_text":
        return str(parts[0]["text"])
    return [_chat_part(part) for part in parts]


def _chat_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}


def _read_item(param: str, item: object, new_id: NewId) -> Item:
    if not isinstance(item, dict):
        raise bad(param, "must be an object such as {'role': 'user', 'content': 'Hello'}")
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    if kind == "message":
        return _read_message(param, item, new_id)
    if not isinstance(kind, str):
        raise bad(f"{param}.type", f"must be one of {_ITEMS}")
    if kind in _CALLS:
        return _read_call(param, kind, item, new_id)
    if kind in _OUTPUTS:
        call_id, output = _text(param, item, "call_id"), item.get("output")
        if not isinstance(output, str):
            output = _parts(f"{param}.output", output, "user")
        own_id = _id(param, item, _OUTPUTS[kind], new_id)
        return {"type": kind, "id": own_id, "call_id": call_id, "output": output, "status": "completed"}
    if kind == "reasoning":
        return _read_reasoning(param, item, new_id)
    if kind == "item_reference":
        return {"type": kind, "id": _text(param, item, "id")}
    raise bad(f"{param}.type", f"is '{kind[:64]}', which is not run here: items are {_ITEMS}")


def _read_call(param: str, kind: str, item: Mapping[str, Any], new_id: NewId) -> Item:
    word, said = _CALLS[kind]
    words = {name: _text(param, item, name) for name in ("call_id", "name", said)}
    if item.get("namespace") is not None:
        words["namespace"] = _text(param, item, "namespace")
    return {"type": kind, "id": _id(param, item, word, new_id), **words, "status": "completed"}


def _read_reasoning(param: str, item: Mapping[str, Any], new_id: NewId) -> Item:
    kept: Item = {"type": "reasoning", "id": _id(param, item, "rs", new_id), "summary": []}
    for field, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(field)
        if parts is None:
            continue
        texts = [part.get("text") if isinstance(part, dict) else None for part in _list(f"{param}.{field}", parts)]
        if not all(isinstance(text, str) for text in texts):
            raise bad(f"{param}.{field}", f"must be a list of parts such as {{'type': '{kind}', 'text': '...'}}")
        kept[field] = [{"type": kind, "text": text} for text in texts]
    return kept


def _read_message(param: str, item: Mapping[str, Any], new_id: NewId) -> Item:
    role = item.get("role")
    if role not in _ROLES:
        raise bad(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": content}]
    return _message(_id(param, item, "msg", new_id), role, _parts(f"{param}.content", content, role))


def _message(own_id: str, role: str, parts: list[dict[str, Any]]) -> Item:
    return {"type": "message", "id": own_id, "status": "completed", "role": role, "content": parts}


def _parts(param: str, content: object, role: str) -> list[dict[str, Any]]:
    return [_part(f"{param}[{index}]", part, role) for index, part in enumerate(_list(param, content))]


def _part(param: str, part: object, role: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise bad(param, "must be an object with a 'type'")
    if kind in _TEXTS:
        text = _text(param, part, "text")
        if role == "assistant":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "input_text", "text": text}
    if role == "assistant":
        if kind == "refusal":
            return {"type": kind, "refusal": _text(param, part, "refusal")}
        raise bad(f"{param}.type", f"is '{kind[:64]}', but what an assistant said is output_text or refusal")
    if kind == "input_image":
        return _image(param, part)
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": kind, "input_audio": part["input_audio"]}
    if kind == "input_file":
        raise bad(f"{param}.type", "is 'input_file', but files are not kept here: send their text, or images by URL")
    raise bad(f"{param}.type", f"is '{kind[:64]}', which is none of input_text, input_image and input_audio")


def _image(param: str, part: Mapping[str, Any]) -> dict[str, Any]:
    url = part.get("image_url")
    if part.get("file_id") is not None:
        raise bad(f"{param}.file_id", "refers to a file, but files are not kept here: send 'image_url'")
    if not isinstance(url, str) or not url:
        raise bad(f"{param}.image_url", "must be a URL or a data URL such as 'data:image/png;base64,...'")
    detail = part.get("detail") or "auto"
    if detail not in ("auto", "low", "high", "original"):
        raise bad(f"{param}.detail", "must be auto, low, high or original")
    return {"type": "input_image", "image_url": url, "detail": detail}


def _id(param: str, item: Mapping[str, Any], word: str, new_id: NewId) -> str:
    return new_id(word) if item.get("id") is None else _text(param, item, "id")


def _text(param: str, item: Mapping[str, Any], field: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise bad(f"{param}.{field}", "must be a string")
    if field in ("id", "call_id", "name", "namespace") and not 0 < len(value) <= MAX_ID_CHARS:
        raise bad(f"{param}.{field}", f"must have 1 to {MAX_ID_CHARS} characters")
    return value


def _list(param: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise bad(param, "must be a string or a list of parts")
    if len(value) > MAX_MESSAGES:
        raise bad(param, f"has more than {MAX_MESSAGES} parts")
    return value


def unknown_item(item_id: str) -> RequestError:
    """Returns the error for a reference to an item that is not kept."""
    message = f"No item '{item_id[:64]}' is kept here (any more): send the item itself instead of a reference to it."
    return RequestError(404, message, param="input", code="item_not_found")
