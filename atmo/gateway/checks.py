"""Whether a body is a request of its operation: checked where clients come in, and again where peers come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from atmo.errors import RequestError
from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, EMBEDDINGS

MAX_MODEL_CHARS = 256
MAX_MESSAGES = 10_000
MAX_INPUTS = 2_048
"""Inputs of one embeddings request. Source: OpenAI's API reference."""

ACTIONS = {CLASSIFY: ("predict",), ANOMALY: ("predict", "detect", "score")}
"""What a fitted model does; `fit` makes one and is no business of the mesh."""

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_COUNTS = {"max_tokens": 1, "max_completion_tokens": 1, "n": 1, "top_logprobs": 0}


def check_body(operation: str, body: Mapping[str, Any]) -> None:
    """Checks what every backend may rely on. Fields it does not know pass: a backend may.

    Raises:
        RequestError: 400 with the field at fault.
    """
    model_of(body)
    check = _CHECKS.get(operation)
    if check is None:
        raise bad("operation", f"'{operation[:64]}' is none of {', '.join(_CHECKS)}")
    check(body)


def model_of(body: Mapping[str, Any]) -> str:
    """Returns the model that the request names; empty where it names none.

    Raises:
        RequestError: 400, it is not a string or too long.
    """
    model = body.get("model")
    if model is None:
        return ""
    if not isinstance(model, str):
        raise bad("model", "must be a string; leave it out or say 'auto' to let the mesh choose")
    if len(model) > MAX_MODEL_CHARS:
        raise bad("model", f"is longer than {MAX_MODEL_CHARS} characters")
    return model


def wants_stream(body: Mapping[str, Any]) -> bool:
    """Says whether the client wants a stream; `stream` decides, never `Accept`, which SDKs set to JSON while streaming.

    Raises:
        RequestError: 400, it is neither true nor false.
    """
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad("stream", "must be true or false")
    return stream is True


def bad(param: str, what: str) -> RequestError:
    """Returns the error for a field that is not as it must be."""
    return RequestError(400, f"'{param}' {what}.", param=param, code="invalid_value")


def _chat(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "must be a list of at least one message such as {'role': 'user', 'content': 'Hello'}")
    if len(messages) > MAX_MESSAGES:
        raise bad("messages", f"has more than {MAX_MESSAGES} messages")
    for index, message in enumerate(messages):
        _message(f"messages[{index}]", message)
    wants_stream(body)
    for field, (least, most) in _NUMBERS.items():
        value = body.get(field)
        if value is not None and not (_is_number(value) and least <= value <= most):
            raise bad(field, f"must be a number from {least:g} to {most:g}")
    for field, least_count in _COUNTS.items():
        value = body.get(field)
        if value is not None and not (_is_int(value) and value >= least_count):
            raise bad(field, f"must be a whole number, {least_count} or more")
    stop = body.get("stop")
    if not (stop is None or isinstance(stop, str) or _is_list_of(stop, str)):
        raise bad("stop", "must be a string or a list of strings")
    for field in ("stream_options", "response_format", "metadata"):
        if not isinstance(body.get(field), dict | None):
            raise bad(field, "must be an object")
    if not (body.get("tools") is None or _is_list_of(body["tools"], dict)):
        raise bad("tools", "must be a list of objects")


def _message(param: str, message: object) -> None:
    if not isinstance(message, dict):
        raise bad(param, "must be an object with 'role' and 'content'")
    if message.get("role") not in _ROLES:
        raise bad(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
    content = message.get("content")
    if content is None:
        if message["role"] in ("user", "system", "developer"):
            raise bad(f"{param}.content", "is missing")
    elif isinstance(content, list):
        for at, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise bad(f"{param}.content[{at}]", "must be an object with a 'type'")
            if part["type"] == "text" and not isinstance(part.get("text"), str):
                raise bad(f"{param}.content[{at}].text", "must be a string")
    elif not isinstance(content, str):
        raise bad(f"{param}.content", "must be a string or a list of parts")
    if not (message.get("tool_calls") is None or _is_list_of(message["tool_calls"], dict)):
        raise bad(f"{param}.tool_calls", "must be a list of objects")


def _embeddings(body: Mapping[str, Any]) -> None:
    given = body.get("input")
    if isinstance(given, list):
        if len(given) > MAX_INPUTS and not _is_list_of(given, int):
            raise bad("input", f"has more than {MAX_INPUTS} items: send several requests")
        texts = _is_list_of(given, str) and all(given)
        tokens = _is_tokens(given) or all(_is_tokens(item) for item in given)
        if not given or not (texts or tokens):
            raise bad("input", "must be a string, strings, token ids or lists of token ids, none of them empty")
    elif not isinstance(given, str) or not given:
        raise bad("input", "must be a string or a list of strings that are not empty")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise bad("encoding_format", "must be 'float' or 'base64'")
    dimensions = body.get("dimensions")
    if dimensions is not None and not (_is_int(dimensions) and 1 <= dimensions <= 65_536):
        raise bad("dimensions", "must be a whole number from 1 to 65536")


def _ml(operation: str) -> Callable[[Mapping[str, Any]], None]:
    def check(body: Mapping[str, Any]) -> None:
        action = body.get("action", "predict")
        if action not in ACTIONS[operation]:
            raise bad("action", f"must be one of {', '.join(('fit', *ACTIONS[operation]))}")
        given = next((body[field] for field in ("data", "input", "texts") if body.get(field) is not None), None)
        if not isinstance(given, list | dict | str) or not given:
            raise bad("data", "must hold the rows to look at: a list of lists of numbers, of objects, or of texts")

    return check


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_int(item) and item >= 0 for item in value)


_CHECKS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    CHAT: _chat,
    EMBEDDINGS: _embeddings,
    CLASSIFY: _ml(CLASSIFY),
    ANOMALY: _ml(ANOMALY),
}
