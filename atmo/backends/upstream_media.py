"""Pictures and sound by OpenAI-compatible servers: requests in their forms, answers within bounds.

What travels inside is JSON: a recording is `{"file": {name, content_type, data: base64}}` beside the form's fields, a
text that is no JSON is `{"text", "content_type"}`, speech comes in parts `{"audio": base64, "content_type"}`.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from atmo.backends.base import Call, Object, Part
from atmo.backends.http_client import HttpError
from atmo.backends.openai_shapes import BadAnswer, parse_json
from atmo.backends.upstream import Upstream
from atmo.errors import RequestError
from atmo.wire import limits

MAX_IMAGES = 16
MAX_FILE_NAME = 128
MAX_FORM_VALUES = 64
"""Fields of a form with the items of its lists. Source: choice; OpenAI's form has ten fields."""

SPEECH_PIECE_BYTES = 48 * 1024
"""Of one part of speech, a multiple of 3 so that base64 needs no padding between. Source: choice."""

MAX_SPEECH_BYTES = 256 * 1024 * 1024
"""Source: choice; two hours of uncompressed speech at 16 kHz, mono."""

_TEXTS = ("text/", "application/x-subrip")


async def draw(upstream: Upstream, call: Call) -> Part:
    """Runs one request for pictures.

    Raises:
        RequestError: The server refused or failed.
    """
    body = dict(call.body) | {"model": call.capability.model}
    data = json.dumps(body, ensure_ascii=False).encode()
    answer, content_type = await _whole(upstream, call, "/images/generations", data, "application/json")
    try:
        value = parse_json(answer, content_type)
        rows = value.get("data") if isinstance(value, Mapping) else None
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_IMAGES:
            raise BadAnswer("gave no pictures")
        if not all(isinstance(row, Mapping) and (_is_text(row, "url") or _is_text(row, "b64_json")) for row in rows):
            raise BadAnswer("gave a picture without its data")
    except BadAnswer as error:
        raise upstream.failed(error) from error
    created = value.get("created")
    return {**value, "created": created if type(created) is int else 0}


async def transcribe(upstream: Upstream, call: Call) -> Part:
    """Runs one transcription; the answer is JSON, or the text that was asked for.

    Raises:
        RequestError: 400, the recording is none; or the server refused or failed.
    """
    form, boundary = form_of(call.body, call.capability.model)
    answer, content_type = await _whole(
        upstream, call, "/audio/transcriptions", form, f"multipart/form-data; boundary={boundary}"
    )
    try:
        if content_type.startswith(_TEXTS) or call.body.get("response_format") in ("text", "srt", "vtt"):
            text = answer.decode("utf-8", "replace")
            # llama.cpp's and some other servers answer these in JSON all the same.
            if content_type == "application/json" and isinstance(known := _json_text(answer), str):
                text = known
            return {"text": text, "content_type": "text/plain"}
        value = parse_json(answer, content_type)
        if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
            raise BadAnswer("gave a transcription without a text")
    except BadAnswer as error:
        raise upstream.failed(error) from error
    return dict(value)


async def speak(upstream: Upstream, call: Call) -> AsyncGenerator[Part, None]:
    """Runs one request for speech; yields its pieces as they come where `call.stream`, else one part.

    Raises:
        RequestError: The server refused or failed.
    """
    body = dict(call.body) | {"model": call.capability.model}
    # Events would have to be taken apart; the sound itself streams as well.
    body.pop("stream_format", None)
    data = json.dumps(body, ensure_ascii=False).encode()
    response = await upstream.post("/audio/speech", data, "application/json", "*/*", call.trace)
    try:
        async with response:
            kind = response.content_type or "application/octet-stream"
            if kind == "application/json" or kind.startswith("text/"):
                raise BadAnswer("gave no sound")
            buffer, total = bytearray(), 0
            while piece := await response.receive():
                total += len(piece)
                buffer += piece
                if total > MAX_SPEECH_BYTES:
                    raise BadAnswer(f"gave more than {MAX_SPEECH_BYTES} bytes of sound")
                while call.stream and len(buffer) >= SPEECH_PIECE_BYTES:
                    yield _sound(buffer[:SPEECH_PIECE_BYTES], kind)  # noqa: ASYNC119 - whoever executes closes it
                    del buffer[:SPEECH_PIECE_BYTES]
            if not total:
                raise BadAnswer("gave no sound")
            if buffer:
                yield _sound(buffer, kind)  # noqa: ASYNC119 - whoever executes closes it
    except (HttpError, BadAnswer) as error:
        raise upstream.failed(error) from error


def form_of(body: Mapping[str, Any], model: str) -> tuple[bytes, str]:
    """Returns a multipart form for a transcription, and the boundary between its fields.

    Raises:
        RequestError: 400, the file is no base64, or there are too many fields.
    """
    file = body.get("file")
    if not isinstance(file, Mapping) or not isinstance(file.get("data"), str):
        raise RequestError(400, "'file' is missing.", param="file", code="invalid_value")
    try:
        content = base64.b64decode(file["data"], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "'file' is not base64.", param="file", code="invalid_value") from None
    values: list[tuple[str, str]] = [("model", model)]
    for name, value in body.items():
        if name in ("file", "model", "atmosphere", "stream") or value is None:
            continue
        if isinstance(value, list):
            values += [(f"{name}[]", _field(item)) for item in value[: MAX_FORM_VALUES + 1]]
        else:
            values.append((name, _field(value)))
    if len(values) > MAX_FORM_VALUES:
        raise RequestError(400, f"The form has more than {MAX_FORM_VALUES} fields.", code="invalid_value")
    boundary = secrets.token_hex(24)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'.encode()
        for name, value in values
    ]
    name, kind = str(file.get("name") or "audio"), str(file.get("content_type") or "")
    kind = kind if kind.isascii() and kind.isprintable() and 0 < len(kind) <= MAX_FILE_NAME else ""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_quoted(name)[-MAX_FILE_NAME:]}"\r\n'
        f"Content-Type: {kind or 'application/octet-stream'}\r\n\r\n"
    )
    return b"".join([*parts, head.encode(), content, f"\r\n--{boundary}--\r\n".encode()]), boundary


def _field(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    """Returns a name as a form may hold it. Source: WHATWG HTML, "multipart form data"."""
    kept = "".join(char for char in text if char.isprintable() or char == " ")
    return kept.replace('"', "%22").replace("\\", "")


def _sound(data: bytes | bytearray, kind: str) -> Object:
    return {"audio": base64.b64encode(data).decode(), "content_type": kind}


def _json_text(answer: bytes) -> Any:
    value = parse_json(answer)
    return value.get("text") if isinstance(value, Mapping) else value


def _is_text(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), str) and bool(row[key])


async def _whole(upstream: Upstream, call: Call, path: str, data: bytes, content_type: str) -> tuple[bytes, str]:
    response = await upstream.post(path, data, content_type, "application/json, text/plain, */*", call.trace)
    try:
        async with response:
            return await response.read(limits.REQUEST_BYTES), response.content_type
    except HttpError as error:
        raise upstream.failed(error) from error
