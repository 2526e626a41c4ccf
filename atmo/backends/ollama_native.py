"""Ollama's own `/api/chat` and `/api/generate` in the terms of OpenAI's API. No I/O.

Ollama's OpenAI-compatible routes know OpenAI's fields alone: a client's `options`, `keep_alive`, `think`, `format` or
`num_ctx` would be dropped there. Requests with such fields are put in Ollama's own terms and the answers brought back.
Source: the types and the translation of Ollama 0.13, `openai/openai.go` and `api/types.go`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from atmo.backends.base import Object
from atmo.backends.honoured import unhonoured
from atmo.backends.openai_shapes import BadAnswer, answer_head, error_fields
from atmo.backends.text_shapes import text_logprobs
from atmo.errors import RequestError

OPTIONS = frozenset(
    {
        "num_keep",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "num_thread",
        "num_predict",
        "main_gpu",
        "use_mmap",
        "top_k",
        "min_p",
        "typical_p",
        "tfs_z",
        "repeat_last_n",
        "repeat_penalty",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
        "penalize_newline",
    }
)
"""Options of a model that clients put beside OpenAI's fields, as `extra_body` of the SDKs does."""

OWN_FIELDS = frozenset({"options", "keep_alive", "think", "format", "raw", "template", "truncate"}) | OPTIONS
"""What brings a request to Ollama's own routes."""

_SAMPLING = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
_CHAT_FIELDS = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "stop", "response_format", "tools", "reasoning",
        "reasoning_effort", "logprobs", "top_logprobs", *_SAMPLING,
    }
)  # fmt: skip
_TEXT_FIELDS = frozenset({"prompt", "max_tokens", "stop", "suffix", "logprobs", *_SAMPLING})


def wants_native(body: Mapping[str, Any]) -> bool:
    """Returns whether a request has a field that only Ollama's own routes know."""
    return any(body.get(field) is not None for field in OWN_FIELDS)


def ignored_fields(body: Mapping[str, Any], *, chat: bool) -> tuple[str, ...]:
    """Returns the fields of a request that Ollama drops though they change the answer."""
    honoured = OWN_FIELDS | (_CHAT_FIELDS if chat else _TEXT_FIELDS)
    # Without tools nothing is called, which is done here.
    return unhonoured(body, honoured | {"tool_choice"} if body.get("tool_choice") == "none" else honoured)


def compatible(body: Mapping[str, Any], *, chat: bool) -> Object:
    """Returns a request as Ollama's OpenAI-compatible routes take it.

    Raises:
        RequestError: 400, several prompts.
    """
    out = dict(body)
    if not chat:
        return out | {"prompt": _prompt(body)}
    if (most := out.pop("max_completion_tokens", None)) is not None:
        out.setdefault("max_tokens", most)
    if out.get("tool_choice") == "none":
        out.pop("tools", None)
    if any(message.get("role") == "developer" for message in out["messages"]):
        out["messages"] = [
            {**message, "role": "system"} if message.get("role") == "developer" else message
            for message in out["messages"]
        ]
    return out


def native_text(body: Mapping[str, Any], model: str, *, stream: bool) -> Object:
    """Returns a completion's request for `/api/generate`.

    Raises:
        RequestError: 400, several prompts.
    """
    out: Object = {"model": model, "prompt": _prompt(body), "stream": stream, "options": _options(body)}
    count = body.get("logprobs")
    if type(count) is int and count > 0:
        out |= {"logprobs": True, "top_logprobs": count}
    named = ("suffix", "format", "keep_alive", "think", "raw", "template", "truncate")
    return out | {name: body[name] for name in named if body.get(name) is not None}


def native_chat(body: Mapping[str, Any], model: str, *, stream: bool) -> Object:
    """Returns a chat's request for `/api/chat`.

    Raises:
        RequestError: 400, a message holds what Ollama does not take.
    """
    names: dict[str, str] = {}
    messages = [_message(message, names) for message in body["messages"]]
    out: Object = {"model": model, "messages": messages, "stream": stream, "options": _options(body)}
    if body.get("tools") and body.get("tool_choice") != "none":
        out["tools"] = body["tools"]
    form = body.get("format")
    if form is None:
        form = _format(body.get("response_format"))
    think = body.get("think")
    if think is None:
        think = _thinking(body)
    named = {"format": form, "think": think} | {
        name: body.get(name) for name in ("keep_alive", "logprobs", "top_logprobs", "truncate")
    }
    return out | {name: value for name, value in named.items() if value is not None}


class NativeAnswer:
    """Brings the objects of one answer of Ollama's own to OpenAI's shape.

    Args:
        model: The name that answers carry.
        request_id: For the `id`.
        chat: A chat's answer, else a completion's.
    """

    def __init__(self, model: str, request_id: str, *, chat: bool) -> None:
        self._chat = chat
        kind = "chat.completion" if chat else "text_completion"
        self._head = answer_head({}, kind, model, request_id)
        self._calls = 0
        self._begun = False
        self._length = 0
        self.finished = False
        self.usage: Object = {}

    def whole(self, value: Any) -> Object:
        """Returns a whole answer.

        Raises:
            BadAnswer: It is none.
        """
        message = self._read(value)
        reason = self._reason(value) or "stop"
        rest = {"index": 0, "logprobs": self._logprobs(value), "finish_reason": reason}
        if not self._chat:
            return self._head | {"choices": [rest | {"text": message["content"]}], "usage": self.usage}
        answer = {"role": "assistant", **message}
        for call in answer.get("tool_calls", ()):
            call.pop("index")
        if not answer["content"] and answer.get("tool_calls"):
            answer["content"] = None
        return self._head | {"choices": [rest | {"message": answer}], "usage": self.usage}

    def chunks(self, value: Any) -> Iterator[Object]:
        """Yields the chunks for one object of a stream; `finished` and `usage` are set by the last one.

        Raises:
            BadAnswer: It is no object of an answer.
        """
        delta = self._read(value)
        reason = self._reason(value)
        rest = {"index": 0, "logprobs": self._logprobs(value)}
        if not self._chat:
            if delta["content"] or reason is None:
                self._length += len(delta["content"])
                yield self._head | {"choices": [rest | {"text": delta["content"], "finish_reason": None}]}
            if reason is not None:
                yield self._head | {"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": reason}]}
            return
        head = self._head | {"object": "chat.completion.chunk"}
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", **delta}
        if reason is None or delta["content"] or len(delta) > 1:
            yield head | {"choices": [rest | {"delta": delta, "finish_reason": None}]}
        if reason is not None:
            yield head | {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}]}

    def usage_chunk(self) -> Object:
        """Returns the last chunk of a stream."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return self._head | {"object": kind, "choices": [], "usage": self.usage}

    def _read(self, value: Any) -> Object:
        if not isinstance(value, Mapping):
            raise BadAnswer("gave an answer that is not an object")
        if isinstance(value.get("error"), str | Mapping):
            raise BadAnswer(f"ended its answer with an error: {error_fields(value)[0]}")
        if value.get("done") is True:
            self.finished = True
            prompt, made = _count(value.get("prompt_eval_count")), _count(value.get("eval_count"))
            self.usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        if not self._chat:
            text = value.get("response")
            if not isinstance(text, str):
                raise BadAnswer("gave an answer without a text")
            return {"content": text}
        message = value.get("message")
        if not isinstance(message, Mapping):
            raise BadAnswer("gave an answer without a message")
        out: Object = {"content": message.get("content") if isinstance(message.get("content"), str) else ""}
        if isinstance(message.get("thinking"), str) and message["thinking"]:
            # The name that Ollama's compatible route, vLLM and OpenRouter use.
            out["reasoning"] = message["thinking"]
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            out["tool_calls"] = [self._call(call) for call in calls]
        return out

    def _call(self, call: Any) -> Object:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadAnswer("gave a tool call without a name")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        known = call.get("id")
        number, self._calls = self._calls, self._calls + 1
        return {
            "index": number,
            "id": known if isinstance(known, str) and known else f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": function["name"], "arguments": text},
        }

    def _logprobs(self, value: Mapping[str, Any]) -> Object | None:
        rows = value.get("logprobs")
        if not isinstance(rows, list) or not rows:
            return None
        return {"content": rows, "refusal": None} if self._chat else text_logprobs({"content": rows}, self._length)

    def _reason(self, value: Mapping[str, Any]) -> str | None:
        if value.get("done") is not True:
            return None
        if self._calls:
            return "tool_calls"
        return "length" if value.get("done_reason") == "length" else "stop"


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        message = "Ollama takes one text as 'prompt', not several and no token ids. Send one request for each."
        raise RequestError(400, message, param="prompt", code="unsupported_value")
    return prompt


def _options(body: Mapping[str, Any]) -> Object:
    options = {name: body[name] for name in (*_SAMPLING, *sorted(OPTIONS)) if body.get(name) is not None}
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most is not None:
        options.setdefault("num_predict", most)
    if (stop := body.get("stop")) is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    given = body.get("options")
    # Ollama's own words win over OpenAI's: who writes them means Ollama.
    return options | (dict(given) if isinstance(given, Mapping) else {})


def _format(form: Any) -> Any:
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "json_object":
        return "json"
    if kind == "json_schema":
        inner = form.get("json_schema")
        return inner.get("schema") if isinstance(inner, Mapping) else None
    return None


def _thinking(body: Mapping[str, Any]) -> bool | str | None:
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else body.get("reasoning_effort")
    if effort == "none":
        return False
    return effort if effort in ("low", "medium", "high") else None


def _message(message: Mapping[str, Any], names: dict[str, str]) -> Object:
    role = message.get("role")
    text, images = _content(message.get("content"))
    out: Object = {"role": "system" if role == "developer" else role, "content": text}
    if images:
        out["images"] = images
    for ours, theirs in (("reasoning", "thinking"), ("reasoning_content", "thinking")):
        if isinstance(message.get(ours), str):
            out[theirs] = message[ours]
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        out["tool_calls"] = [_tool_call(call, names) for call in calls]
    if role == "tool":
        known = message.get("tool_call_id")
        name = message.get("name") or names.get(str(known))
        out |= {key: value for key, value in (("tool_name", name), ("tool_call_id", known)) if isinstance(value, str)}
    return out


def _content(content: Any) -> tuple[str, list[str]]:
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", []
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(str(part.get("text", "")))
        elif kind == "image_url":
            images.append(_image(part.get("image_url")))
        else:
            raise _refused(f"Ollama takes texts and images, no {str(kind)[:40]!r}.")
    return "\n".join(texts), images


def _image(value: Any) -> str:
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str) or not url.startswith("data:"):
        raise _refused("Ollama takes images as data URLs only, not from the web.")
    head, _, data = url.partition(",")
    if not head.endswith(";base64") or not data:
        raise _refused("An image must be a data URL in base64: data:image/png;base64,....")
    return data


def _tool_call(call: Any, names: dict[str, str]) -> Object:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise _refused("A tool call has no function with a name.")
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        raise _refused(f"The arguments of the tool call {name[:40]!r} are not JSON.") from None
    out: Object = {"function": {"name": name, "arguments": arguments}}
    if isinstance(call.get("id"), str):
        names[call["id"]] = name
        out["id"] = call["id"]
    return out


def _refused(message: str) -> RequestError:
    return RequestError(400, message, param="messages", code="unsupported_value")


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
