"""Images, recordings and speech through a node, made by a stand-in for a server that has such models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from atmo.backends.base import Call
from atmo.router.capability import SPEECH, TRANSCRIPTION, Capability
from tests.api.face import in_process, make_app, served, with_openai
from tests.api.upstream import PIXEL, SOUND, encoded, upstream
from tests.backends.fake_server import Reply, Server
from tests.gateway.world import Echo, Failing, loop_net, refused

RECORDING = b"RIFF" * 1_000
SPOKEN = {"input": "Hello", "voice": "alloy"}


@asynccontextmanager
async def face(where: str = "alpha") -> AsyncIterator[tuple[httpx.AsyncClient, Server]]:
    """Opens a node whose models are its own, or those of the other node of its mesh."""
    async with loop_net() as net, upstream() as (server, backend):
        nodes = [await net.add(name, *([backend] if name == where else [])) for name in ("alpha", "beta")]
        async with in_process(make_app(nodes[0])) as client:
            yield client, server


async def listen(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    files = {"file": ("a.wav", RECORDING, "audio/wav")}
    return await client.post("/v1/audio/transcriptions", data=fields, files=files)


@pytest.mark.parametrize("where", ["alpha", "beta"])
async def test_images(where: str) -> None:
    async with face(where) as (client, _):
        answer = await client.post("/v1/images/generations", json={"prompt": "a fox", "n": 2})
    assert [row["b64_json"] for row in answer.json()["data"]] == [PIXEL, PIXEL]
    assert answer.headers["x-atmosphere-node"] == where
    assert answer.headers["x-atmosphere-model"] == "gpt-image-1"


@pytest.mark.parametrize("where", ["alpha", "beta"])
async def test_a_recording_arrives_as_it_was_sent(where: str) -> None:
    async with face(where) as (client, server):
        fields = {"model": "whisper-1", "language": "en", "timestamp_granularities[]": ["word", "segment"]}
        answer = await listen(client, response_format="verbose_json", **fields)
        assert RECORDING in server.received[-1].body
    size, _, said = answer.json()["text"].partition(" bytes. ")
    assert int(size) == len(RECORDING)
    assert json.loads(said) == {
        "model": ["whisper-1"],
        "language": ["en"],
        "response_format": ["verbose_json"],
        "timestamp_granularities[]": ["word", "segment"],
    }
    assert answer.headers["x-atmosphere-node"] == where


async def test_a_transcription_as_text() -> None:
    async with face() as (client, _):
        for form, kind in (("text", "text/plain"), ("srt", "application/x-subrip"), ("vtt", "text/vtt")):
            answer = await listen(client, response_format=form)
            assert answer.text.startswith("4000 bytes.")
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["x-atmosphere-model"] == "whisper-1"


async def test_a_transcription_as_a_stream() -> None:
    async with face() as (client, _):
        answer = await listen(client, stream="true")
        refused_ = await listen(client, stream="true", response_format="text")
    delta, done, last, _ = answer.text.split("\n\n")
    text = json.loads(delta[6:])["delta"]
    assert json.loads(done[6:]) == {"type": "transcript.text.done", "text": text}
    assert last == "data: [DONE]"
    assert refused_.status_code == 400
    assert refused_.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize(
    ("request_", "status", "param"),
    [
        ({"json": {"model": "whisper-1"}}, 415, None),
        ({"data": {"model": "whisper-1"}}, 415, None),
        ({"files": {"model": (None, "whisper-1")}}, 400, "file"),
        ({"files": {"file": ("a.wav", b"")}}, 400, "file.data"),
        ({"files": {"file": ("a.wav", b"x")}, "data": {"temperature": "7"}}, 400, "temperature"),
        ({"files": {"file": ("a.wav", b"x")}, "data": {"model": "nothing"}}, 404, "model"),
    ],
)
async def test_what_is_no_recording(request_: dict[str, Any], status: int, param: str | None) -> None:
    async with face() as (client, _):
        answer = await client.post("/v1/audio/transcriptions", **request_)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("where", ["alpha", "beta"])
async def test_speech(where: str) -> None:
    async with face(where) as (client, server):
        answer = await client.post("/v1/audio/speech", json={**SPOKEN, "response_format": "wav"})
        assert server.received[-1].body["model"] == "tts-1"
    assert answer.content == SOUND
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["x-atmosphere-node"] == where


async def test_speech_as_events() -> None:
    async with face() as (client, _):
        answer = await client.post("/v1/audio/speech", json={**SPOKEN, "stream_format": "sse"})
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert events[-1]["type"] == "speech.audio.done"
    assert len(events) > 2


class Sounds(Echo):
    """Says prepared things."""

    def __init__(self, *parts: Any, operation: str = SPEECH) -> None:
        super().__init__(Capability("s:s", operation, "sounds"))
        self.parts = parts

    async def answer(self, call: Call) -> Any:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part


GOOD = {"audio": encoded(b"abc"), "content_type": "audio/flac"}


@pytest.mark.parametrize("part", [{"audio": 5}, {"audio": "x"}, {"x": 1}, {"audio": "ü"}])
async def test_what_is_no_sound(part: Any) -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Sounds(part)))) as client:
        answer = await client.post("/v1/audio/speech", json=SPOKEN)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "bad_answer"


async def test_what_is_no_transcription() -> None:
    backend = Sounds({"words": 1}, operation=TRANSCRIPTION)
    async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
        answer = await listen(client)
    assert answer.status_code == 502


@pytest.mark.parametrize("kind", ["text/html", "audio/\r\nset-cookie: a", 5, "audio/" + "x" * 99])
async def test_only_types_of_audio_pass(kind: Any) -> None:
    backend = Sounds({**GOOD, "content_type": kind})
    async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
        answer = await client.post("/v1/audio/speech", json={**SPOKEN, "response_format": "flac"})
    assert answer.headers["content-type"] == "audio/flac"
    assert answer.content == b"abc"


async def test_speech_that_breaks_off_breaks_the_connection() -> None:
    backend = Sounds(GOOD, refused(500))
    async with loop_net() as net, served(make_app(await net.add("alpha", backend))) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/v1/audio/speech", json=SPOKEN)
            answer = await client.post("/v1/audio/speech", json={**SPOKEN, "stream_format": "sse"})
    assert json.loads(answer.text.split("\n\n")[-2][6:])["error"]["message"] == "no"


async def test_nobody_does_it() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Failing()))) as client:
        for answer in (
            await client.post("/v1/images/generations", json={"prompt": "a fox"}),
            await client.post("/v1/audio/speech", json=SPOKEN),
            await listen(client),
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "no_capability"
            assert answer.headers["x-should-retry"] == "false"


async def test_a_server_that_refuses() -> None:
    async def busy(reply: Reply) -> None:
        await reply.json({"error": {"message": "later", "type": "x", "code": "y"}}, 429)

    async with face() as (client, server):
        for path in ("/v1/images/generations", "/v1/audio/speech", "/v1/audio/transcriptions"):
            server.on(path, busy)
        answers = [
            await client.post("/v1/images/generations", json={"prompt": "a fox"}),
            await client.post("/v1/audio/speech", json=SPOKEN),
            await listen(client),
        ]
    for answer in answers:
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["retry-after-ms"] == "2000"


async def test_the_official_client() -> None:
    def use(client: openai.OpenAI) -> tuple[Any, ...]:
        image = client.images.generate(prompt="a fox", model="auto")
        whole = client.audio.transcriptions.create(
            file=("a.wav", RECORDING), model="auto", timestamp_granularities=["word"], response_format="verbose_json"
        )
        text = client.audio.transcriptions.create(file=("a.wav", RECORDING), model="auto", response_format="text")
        stream = client.audio.transcriptions.create(file=("a.wav", RECORDING), model="auto", stream=True)
        events = [event.type for event in stream]
        with client.audio.speech.with_streaming_response.create(input="Hello", voice="alloy", model="auto") as speech:
            sound = b"".join(speech.iter_bytes())
        return image, whole, text, events, sound

    async with loop_net() as net, upstream() as (_, backend):
        async with served(make_app(await net.add("alpha", backend))) as url:
            image, whole, text, events, sound = await with_openai(url, use)
    assert image.data[0].b64_json == PIXEL
    assert whole.duration == 1.5
    assert "4000 bytes" in text
    assert events == ["transcript.text.delta", "transcript.text.done"]
    assert sound == SOUND
