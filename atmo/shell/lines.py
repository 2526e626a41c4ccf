"""Lines and server-sent events out of a stream of bytes, with a bound on how long one may be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from atmo.backends.sse import SseError, SseParser
from atmo.errors import UserError

MAX_LINE_BYTES = 32 * 1024 * 1024
"""One line of an answer: as much as one request may carry (`atmo.wire.limits.REQUEST_BYTES`)."""

DONE = "[DONE]"
"""What ends an OpenAI stream. Source: OpenAI API reference, streaming."""


def bounded_lines(chunks: Iterable[bytes], limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    r"""Cuts `chunks` into lines without their `\n` or `\r\n`; what follows the last one is a line too.

    Raises:
        UserError: A line has more than `limit` bytes.
    """
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            if size + len(piece) > limit:
                raise UserError(f"The node sent a line of more than {limit} bytes.")
            yield b"".join((*parts, piece)).removesuffix(b"\r")
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > limit:
            raise UserError(f"The node sent a line of more than {limit} bytes.")
    if size:
        yield b"".join(parts).removesuffix(b"\r")


def json_lines(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Reads an object from every line that is not empty.

    Raises:
        UserError: A line is too long or not a JSON object.
    """
    for line in bounded_lines(chunks):
        if line.strip():
            yield _object(line)


def events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Reads the objects of an OpenAI stream up to `[DONE]`.

    Raises:
        UserError: A line or an event is too long, or data is not a JSON object.
    """
    parser = SseParser(MAX_LINE_BYTES, MAX_LINE_BYTES)
    for chunk in chunks:
        try:
            found = parser.feed(chunk)
        except SseError as error:
            raise UserError(f"The node sent more than fits: {error}.") from error
        for text in found:
            if text == DONE:
                return
            yield _object(text)


def _object(text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("The node sent something that is not JSON.", "Are both of the same version?") from error
    if not isinstance(value, dict):
        raise UserError("The node sent something that is not a JSON object.", "Are both of the same version?")
    return value
