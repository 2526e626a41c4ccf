"""Forms with a file, good ones and hostile ones."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from atmo.api.openai import forms
from atmo.api.openai.forms import Form, read_form
from atmo.errors import RequestError
from atmo.gateway.budget import ByteBudget
from atmo.gateway.checks import BODIES
from atmo.router.capability import TRANSCRIPTION

RECORD = BODIES[TRANSCRIPTION]
SOUND = bytes(range(256)) * 5


def part(name: str, value: bytes, *more: str) -> bytes:
    disposition = "; ".join([f'form-data; name="{name}"', *more[:1]])
    head = [f"Content-Disposition: {disposition}", *more[1:]]
    return ("--b\r\n" + "\r\n".join(head) + "\r\n\r\n").encode() + value + b"\r\n"


FILE = part("file", SOUND, 'filename="a.wav"', "Content-Type: audio/wav")
END = b"--b--\r\n"


def read(data: bytes, piece: int = 2**20, limit: int = 2**20) -> dict[str, Any]:
    with ByteBudget(limit).holding() as holding:
        form = Form(b"b", holding)
        for start in range(0, len(data), piece):
            form.feed_untrusted(data[start : start + piece])
        return form.finish(RECORD.fields)


@pytest.mark.parametrize("piece", [1, 7, 1_000, 2**20])
def test_a_form_in_pieces(piece: int) -> None:
    data = (
        part("model", b"whisper-1")
        + part("temperature", b"0.5")
        + part("stream", b"false")
        + part("timestamp_granularities[]", b"word")
        + part("timestamp_granularities[]", b"segment")
        + part("include", b"logprobs")
        + FILE
        + part("prompt", "Grüße".encode())
        + END
    )
    assert read(data, piece) == {
        "model": "whisper-1",
        "temperature": 0.5,
        "stream": False,
        "timestamp_granularities": ["word", "segment"],
        "include": ["logprobs"],
        "prompt": "Grüße",
        "file": {"name": "a.wav", "content_type": "audio/wav", "data": base64.b64encode(SOUND).decode()},
    }


@pytest.mark.parametrize("piece", [1_000, 2**20])
def test_a_large_file_is_put_in_base64_in_pieces(piece: int) -> None:
    sound = b"\r\n--a" * 40_000
    body = read(part("file", sound, 'filename="a.wav"') + END, piece)
    assert base64.b64decode(body["file"]["data"], validate=True) == sound


def test_what_is_no_number_is_left_to_the_check() -> None:
    body = read(part("temperature", b"warm") + part("stream", b"yes") + FILE + END)
    assert (body["temperature"], body["stream"]) == ("warm", "yes")
    with pytest.raises(RequestError) as caught:
        RECORD.check("", body)
    assert caught.value.status == 400


HOSTILE: list[tuple[bytes, int, str]] = [
    (b"", 400, "middle of a part"),
    (b"nothing like it", 400, "not a form"),
    (FILE, 400, "middle of a part"),
    (FILE + FILE + END, 400, "one file"),
    (part("other", SOUND, 'filename="a"') + END, 400, "one file"),
    (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, 400, "no name"),
    (part("prompt", b"\xff") + END, 400, "UTF-8"),
    (part("n" * 129, b"") + END, 413, "longer than 128"),
    (part("prompt", b"x" * (64 * 1024 + 1)) + END, 413, "64 KiB in the field 'prompt'"),
    (part("a", b"") * 65 + END, 413, "64 parts"),
    (part("a", b"x", "", "X-Long: " + "x" * 2_000) + END, 400, "header size"),
    (part("a", b"x", "", *(f"X-{at}: y" for at in range(9))) + END, 400, "header"),
    (b"--b\r\n" + b"x" * 100_000, 400, "header size"),
]


@pytest.mark.parametrize(("data", "status", "words"), HOSTILE)
@pytest.mark.parametrize("piece", [100, 2**20])
def test_hostile_forms(data: bytes, status: int, words: str, piece: int) -> None:
    with pytest.raises(RequestError) as caught:
        read(data, piece)
    assert caught.value.status == status
    assert words.lower() in caught.value.message.lower()


def test_a_file_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MAX_FILE_BYTES", 1_000)
    with pytest.raises(RequestError) as caught:
        read(FILE + END)
    assert caught.value.status == 413


def test_what_base64_adds_is_paid_for() -> None:
    with pytest.raises(RequestError) as caught:
        read(FILE + END, limit=len(SOUND) // 3 - 1)
    assert caught.value.status == 503
    assert read(FILE + END, limit=len(SOUND) // 3)["file"]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_nothing_but_request_errors_escapes(data: bytes, piece: int) -> None:
    for body in (data, FILE[:40] + data + END, part("a", data) + END):
        with suppress(RequestError):
            read(body, piece)


@pytest.mark.parametrize(
    "content_type", [b"", b"application/json", b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 71]
)
async def test_other_bodies(content_type: bytes) -> None:
    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b"{}"}

    with ByteBudget().holding() as holding:
        with pytest.raises(RequestError) as caught:
            await read_form(RECORD, {"headers": [(b"content-type", content_type)]}, receive, holding)
    assert caught.value.status == 415
    assert "curl -F file=@speech.wav" in caught.value.message
