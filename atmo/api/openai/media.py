"""Images and audio: `/v1/images/generations`, `/v1/audio/transcriptions` and `/v1/audio/speech`."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.documents.schema import takes
from atmo.api.exchange import SSE_HEADERS, Body, Exchange, run_json, send_json, told, whole_answer
from atmo.api.openai.forms import read_form
from atmo.api.routing import Router
from atmo.backends.base import Part, as_object
from atmo.errors import RequestError
from atmo.gateway.checks import BODIES, check_body, wants_stream
from atmo.gateway.checks_media import TEXT_FORMATS
from atmo.gateway.execution import Execution
from atmo.gateway.gateway import Gateway
from atmo.gateway.jsontext import dump
from atmo.router.capability import IMAGES, SPEECH, TRANSCRIPTION

_AUDIO_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""What an answer is called whose backend does not say it, or says something that is no audio."""

_TEXT_TYPES = {"text": "text/plain; charset=utf-8", "srt": "application/x-subrip", "vtt": "text/vtt"}


def add_media(router: Router, gateway: Gateway) -> None:
    """Adds the three routes."""
    budget = gateway.budget

    @router.post("/images/generations", takes(IMAGES))
    async def images() -> Response:
        """Makes images from a description, by a model of the mesh that does."""
        return Exchange(budget, partial(_draw, gateway))

    @router.post("/audio/transcriptions", takes(TRANSCRIPTION, form=True))
    async def transcriptions() -> Response:
        """Writes down what a recording says, by a model of the mesh that does."""
        return Exchange(budget, partial(_listen, gateway), partial(read_form, BODIES[TRANSCRIPTION]))

    @router.post("/audio/speech", takes(SPEECH))
    async def speech() -> Response:
        """Speaks a text, by a model of the mesh that does; the audio is sent as it comes."""
        return Exchange(budget, partial(_speak, gateway))


async def _draw(gateway: Gateway, body: Body, send: Send, account: Account) -> None:
    check_body(IMAGES, body)
    await run_json(gateway, IMAGES, body, send, account)


async def _listen(gateway: Gateway, body: Body, send: Send, account: Account) -> None:
    check_body(TRANSCRIPTION, body)
    streamed, form = wants_stream(body), body.get("response_format") or "json"
    if streamed and form != "json":
        message = "'response_format' must be 'json' where 'stream' is true."
        raise RequestError(400, message, param="response_format", code="invalid_value")
    whole = {name: value for name, value in body.items() if name != "stream"}
    part, execution = await whole_answer(gateway, TRANSCRIPTION, whole, account)
    answer, headers = as_object(part), told(execution)
    text = answer.get("text")
    if not isinstance(text, str):
        raise _odd(execution, "a transcription")
    if streamed:
        await _send_events(send, headers, _transcript_events(answer, text))
    elif form in TEXT_FORMATS:
        await _send_whole(send, [(b"content-type", _TEXT_TYPES[form].encode()), *headers], text.encode())
    else:
        answer.pop("content_type", None)
        await send_json(send, answer, headers)


def _transcript_events(answer: Body, text: str) -> Iterable[Body]:
    """Yields a transcription that is known as a whole in the events of one that is not."""
    if text:
        yield {"type": "transcript.text.delta", "delta": text}
    usage = answer.get("usage")
    tokens = {"usage": usage} if isinstance(usage, dict) and usage.get("type") == "tokens" else {}
    yield {"type": "transcript.text.done", "text": text, **tokens}


async def _speak(gateway: Gateway, body: Body, send: Send, account: Account) -> None:
    check_body(SPEECH, body)
    account.operation = SPEECH
    events = body.get("stream_format") == "sse"
    fallback = _AUDIO_TYPES[body.get("response_format") or "mp3"]
    async with gateway.execute(SPEECH, body, account.asking(stream=True)) as execution:
        account.note(execution)
        first: Part = await anext(execution, {})
        audio = _audio(execution, as_object(first))
        kind = SSE_HEADERS if events else [(b"content-type", _kind_of(as_object(first), fallback))]
        await send({"type": "http.response.start", "status": 200, "headers": [*kind, *told(execution)]})
        last = b""
        try:
            await _send_audio(send, audio, events)
            async for part in execution:
                await _send_audio(send, _audio(execution, as_object(part)), events)
        except RequestError as error:
            account.error = error.code or error.kind
            if not events:
                return  # without an end: a client that cannot be told otherwise sees the connection break
            last = _event(error.body())
        else:
            last = _event(_spoken(execution)) if events else b""
        account.note(execution)
        await send({"type": "http.response.body", "body": last})


async def _send_audio(send: Send, audio: bytes, events: bool) -> None:
    data = _event({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()}) if events else audio
    if audio:
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _spoken(execution: Execution) -> Body:
    given = execution.usage or {}
    names = ("input_tokens", "output_tokens", "total_tokens")
    usage = {name: value if type(value := given.get(name)) is int else 0 for name in names}
    return {"type": "speech.audio.done", "usage": usage}


def _audio(execution: Execution, part: Body) -> bytes:
    audio = part.get("audio")
    try:
        if not isinstance(audio, str):
            raise ValueError
        return base64.b64decode(audio, validate=True)
    except (ValueError, binascii.Error):
        raise _odd(execution, "audio") from None


def _kind_of(part: Body, fallback: str) -> bytes:
    """Returns the type of an answer; what another node says may be anything, so only a type of audio passes."""
    kind = part.get("content_type")
    if isinstance(kind, str) and kind.startswith("audio/") and len(kind) < 64 and kind.isascii() and kind.isprintable():
        return kind.encode()
    return fallback.encode()


async def _send_events(send: Send, headers: list[tuple[bytes, bytes]], events: Iterable[Body]) -> None:
    await _send_whole(send, [*SSE_HEADERS, *headers], b"".join(map(_event, events)) + b"data: [DONE]\n\n")


async def _send_whole(send: Send, headers: list[tuple[bytes, bytes]], data: bytes) -> None:
    length = (b"content-length", str(len(data)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": data})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % dump(value)


def _odd(execution: Execution, what: str) -> RequestError:
    message = f"{execution.offer.node_name} answered with something else than {what}."
    return RequestError(502, message, kind="api_error", code="bad_answer")
