"""Pictures and sound by a stand-in for an OpenAI-compatible server, over real HTTP."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import pytest

from atmo.backends import upstream_media as media
from atmo.backends.base import Call, as_object
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.errors import RequestError
from atmo.router.capability import IMAGES, SPEECH, TRANSCRIPTION, Capability
from tests.backends.fake_server import Reply, Server, serve

IMAGES_PATH, SPEECH_PATH, TRANSCRIPTIONS_PATH = "/v1/images/generations", "/v1/audio/speech", "/v1/audio/transcriptions"
PICTURES = Capability(id="openai:lab:dall-e-3", operation=IMAGES, model="dall-e-3")
VOICE = Capability(id="openai:lab:tts-1", operation=SPEECH, model="tts-1")
EARS = Capability(id="openai:lab:whisper-1", operation=TRANSCRIPTION, model="whisper-1")
RECORDING = {"name": 'a "b".wav', "content_type": "audio/wav", "data": base64.b64encode(b"RIFF\r\n--x").decode()}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def backend(server: Server) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(OpenAIServer("lab", server.url))
    yield backend
    await backend.aclose()


async def run(
    backend: OpenAIBackend, capability: Capability, body: Mapping[str, Any], stream: bool = False
) -> list[dict[str, Any]]:
    async with aclosing(backend.execute(Call(capability, body, stream, "req-1"))) as parts:
        return [as_object(part) async for part in parts]


def fields_of(request: Any) -> dict[str, list[tuple[str | None, str, bytes]]]:
    """Reads a form with the standard library's parser: file name, content type, content for each field."""
    kind = request.headers.get("content-type", request.headers.get("Content-Type"))
    parsed = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.body)
    fields: dict[str, list[tuple[str | None, str, bytes]]] = {}
    for part in parsed.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(content, bytes)
        fields.setdefault(name, []).append((part.get_filename(), part.get_content_type(), content))
    return fields


async def test_pictures(server: Server, backend: OpenAIBackend) -> None:
    server.json(IMAGES_PATH, {"data": [{"b64_json": "AAAA", "revised_prompt": "a red fox"}], "usage": {"x": 1}})
    (answer,) = await run(backend, PICTURES, {"model": "auto", "prompt": "a fox", "size": "256x256"})
    assert answer == {
        "created": 0, "data": [{"b64_json": "AAAA", "revised_prompt": "a red fox"}], "usage": {"x": 1},
    }  # fmt: skip
    assert server.received[0].body == {"model": "dall-e-3", "prompt": "a fox", "size": "256x256"}


@pytest.mark.parametrize(
    "answer", [{}, {"data": []}, {"data": [{}]}, {"data": ["x"]}, {"data": [{"url": "u"}] * 17}, []]
)
async def test_pictures_that_are_none(server: Server, backend: OpenAIBackend, answer: Any) -> None:
    server.json(IMAGES_PATH, answer)
    with pytest.raises(RequestError, match="picture") as caught:
        await run(backend, PICTURES, {"prompt": "a fox"})
    assert caught.value.status == 502


async def test_a_recording_goes_as_a_form(server: Server, backend: OpenAIBackend) -> None:
    server.json(TRANSCRIPTIONS_PATH, {"text": "hello", "duration": 1.5})
    body = {
        "model": "auto", "file": RECORDING, "language": "en", "temperature": 0.2, "stream": False, "prompt": None,
        "timestamp_granularities": ["word", "segment"], "atmosphere": {"local_only": True},
    }  # fmt: skip
    (answer,) = await run(backend, EARS, body)
    assert answer == {"text": "hello", "duration": 1.5}
    fields = fields_of(server.received[0])
    assert [content for _, _, content in fields["timestamp_granularities[]"]] == [b"word", b"segment"]
    plain = {name: rows[0][2] for name, rows in fields.items() if name not in ("file", "timestamp_granularities[]")}
    assert plain == {"model": b"whisper-1", "language": b"en", "temperature": b"0.2"}
    assert fields["file"] == [("a %22b%22.wav", "audio/wav", b"RIFF\r\n--x")]


@pytest.mark.parametrize(
    ("form", "content_type", "answer"),
    [
        ("srt", "text/plain; charset=utf-8", b"1\n00:00"),
        ("text", "application/json", b'{"text": "1\\n00:00"}'),
        ("vtt", "application/json", b'"1\\n00:00"'),
        ("text", "application/octet-stream", b"1\n00:00"),
    ],
)
async def test_transcriptions_as_text(
    server: Server, backend: OpenAIBackend, form: str, content_type: str, answer: bytes
) -> None:
    server.raw(TRANSCRIPTIONS_PATH, 200, content_type, answer)
    assert await run(backend, EARS, {"file": RECORDING, "response_format": form}) == [
        {"text": "1\n00:00", "content_type": "text/plain"}
    ]


async def test_transcriptions_that_are_none(server: Server, backend: OpenAIBackend) -> None:
    server.json(TRANSCRIPTIONS_PATH, {"error": "?"})
    with pytest.raises(RequestError, match="without a text"):
        await run(backend, EARS, {"file": RECORDING})
    server.json(TRANSCRIPTIONS_PATH, {"error": {"message": "Invalid file format."}}, 400)
    with pytest.raises(RequestError, match="Invalid file format") as caught:
        await run(backend, EARS, {"file": RECORDING})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body", [{}, {"file": "x"}, {"file": {"data": "%%"}}, {"file": RECORDING, "include": ["x"] * 65}]
)
async def test_forms_that_cannot_be_made(server: Server, backend: OpenAIBackend, body: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await run(backend, EARS, body)
    assert caught.value.status == 400
    assert server.received == []


def test_names_of_files_stay_within_their_field() -> None:
    file = {"name": 'x"\r\nContent-Type: text/html\r\n' + "n" * 300, "content_type": "a\r\nb: c", "data": ""}
    form, _ = media.form_of({"file": file}, "m")
    head = form.split(b"\r\n\r\n")[-2]
    assert head.count(b"\r\n") <= 3
    assert b"text/html\r\n" not in form
    assert b"application/octet-stream" in form


async def test_speech_in_pieces(server: Server, backend: OpenAIBackend) -> None:
    sound = bytes(range(256)) * 500

    async def answer(reply: Reply) -> None:
        await reply.start(200, "audio/mpeg")
        for start in range(0, len(sound), 10_000):
            await reply.piece(sound[start : start + 10_000])
        await reply.end()

    server.on(SPEECH_PATH, answer)
    body = {"model": "auto", "input": "hi", "voice": "alloy", "stream_format": "sse"}
    parts = await run(backend, VOICE, body, stream=True)
    assert len(parts) == 3
    assert {part["content_type"] for part in parts} == {"audio/mpeg"}
    assert b"".join(base64.b64decode(part["audio"]) for part in parts) == sound
    assert base64.b64decode("".join(part["audio"] for part in parts)) == sound
    assert server.received[0].body == {"model": "tts-1", "input": "hi", "voice": "alloy"}
    (whole,) = await run(backend, VOICE, {"input": "hi"})
    assert base64.b64decode(whole["audio"]) == sound


@pytest.mark.parametrize(
    ("content_type", "body"), [("application/json", b"{}"), ("text/html", b"x"), ("audio/wav", b"")]
)
async def test_speech_that_is_none(server: Server, backend: OpenAIBackend, content_type: str, body: bytes) -> None:
    server.raw(SPEECH_PATH, 200, content_type, body)
    with pytest.raises(RequestError, match="no sound"):
        await run(backend, VOICE, {"input": "hi"})


async def test_speech_without_end_is_cut(
    server: Server, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "MAX_SPEECH_BYTES", 100)
    server.raw(SPEECH_PATH, 200, "audio/wav", b"x" * 101)
    with pytest.raises(RequestError, match="more than 100 bytes"):
        await run(backend, VOICE, {"input": "hi"})
