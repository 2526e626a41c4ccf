"""Bodies of `embeddings`, `images`, `transcription` and `speech`."""

from __future__ import annotations

import re
import string
from typing import Any

from atmo.gateway.checks_chat import Inputs
from atmo.gateway.fields import Count, Described, Either, Flag, Many, Matching, Number, Record, Schema, Text, Words, bad

MAX_INPUTS = 2_048
"""Inputs of one embeddings request. Source: OpenAI's API reference."""

MAX_DIMENSIONS = 65_536

MAX_SPOKEN_CHARS = 4_096
"""Source: OpenAI's schema, `input` of a speech."""

MAX_PROMPT_CHARS = 32_000
"""Source: OpenAI's schema, `prompt` of an image."""

MAX_IMAGES = 10
"""Source: OpenAI's schema, `n` of an image."""

_BASE64 = (string.ascii_letters + string.digits + "+/").encode()
_SIZE = Matching(re.compile(r"auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"), "'auto' or width and height such as '1024x1024'")

EMBEDDINGS_BODY = Record(
    {
        "input": Inputs(MAX_INPUTS, 1),
        "encoding_format": Words(("float", "base64")),
        "dimensions": Count(1, MAX_DIMENSIONS),
        "user": Text(),
    },
    ("input",),
)


def _no_stream(_param: str, body: dict[str, Any]) -> None:
    if body.get("stream"):
        raise bad("stream", "must be false here: images come in one piece")


IMAGES_BODY = Record(
    {
        "prompt": Text(MAX_PROMPT_CHARS, 1),
        "n": Count(1, MAX_IMAGES),
        "size": _SIZE,
        "quality": Text(),
        "style": Text(),
        "background": Text(),
        "moderation": Text(),
        "output_format": Text(),
        "output_compression": Count(0, 100),
        "response_format": Words(("url", "b64_json")),
        "stream": Flag(),
        "partial_images": Count(0, 3),
        "user": Text(),
    },
    ("prompt",),
    rule=_no_stream,
)


class Base64:
    """Bytes in base64."""

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if value == "":
            raise bad(param, "is empty")
        text = value if type(value) is str else ""
        rest = text.encode("ascii", "replace").translate(None, _BASE64)
        if not text or len(text) % 4 or rest not in (b"", b"=", b"==") or not text.endswith(rest.decode()):
            raise bad(param, "must be base64 of at least one byte")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "string", "contentEncoding": "base64", "minLength": 4}


TEXT_FORMATS = ("text", "srt", "vtt")
"""Of a transcription: those that are no JSON."""

TRANSCRIPTION_BODY = Record(
    {
        "file": Record(
            {"name": Text(255), "content_type": Text(255), "data": Base64()}, ("name", "content_type", "data")
        ),
        "language": Text(64),
        "prompt": Text(),
        "response_format": Words(("json", "verbose_json", "diarized_json", *TEXT_FORMATS)),
        "temperature": Number(0, 1),
        "stream": Flag(),
        "timestamp_granularities": Many(Words(("word", "segment")), 2),
        "include": Many(Text(64), 8),
    },
    ("file",),
)


SPEECH_BODY = Record(
    {
        "input": Text(MAX_SPOKEN_CHARS, 1),
        "voice": Described(
            Either(
                {str: Text(128, 1), dict: Record({"id": Text(128, 1)}, ("id",))}, "a name or an object with an 'id'"
            ),
            {"examples": ["alloy"]},
        ),
        "instructions": Text(MAX_SPOKEN_CHARS),
        "response_format": Words(("mp3", "opus", "aac", "flac", "wav", "pcm")),
        "speed": Number(0.25, 4),
        "stream_format": Words(("sse", "audio")),
    },
    ("input", "voice"),
)
