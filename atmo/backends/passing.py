"""Chunks of a stream that are passed on as bytes: those that differ from a parsed one in their words alone. No I/O.

A chunk that was read, checked and written anew leaves two patterns: what stood before and after its text as it came,
and as it goes on. A later one that begins and ends with the same bytes, and has one JSON string between, can be nothing
but the same chunk with other words. Whatever differs in more than that is parsed, and leaves the next pattern.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from atmo.backends.base import Object

MAX_VAIN = 8
"""Patterns that may be learned one after the other and serve nobody: a server that changes more than the words in each
chunk is not worth another look. Source: guess."""

_MARK = "3f1c-words-of-this-chunk-9a7e"
_PLAIN = rb'[^"\\\x00-\x1f]*'
_TEXT = re.compile(_PLAIN + rb'(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})' + _PLAIN + rb")*")
_CONTENT = re.compile(rb'"content": ?"(' + _TEXT.pattern + rb')"')
_HALF = re.compile(rb"\\u[dD][89abcdefABCDEF]")
"""What may be half of a surrogate pair: whoever parses has to look."""


class Passing:
    """What is known of the chunks of one stream."""

    def __init__(self) -> None:
        self._before = self._after = b""
        self._out_before = self._out_after = b""
        self._vain = 0

    def passed(self, raw: bytes) -> bytes | None:
        """Returns what goes on for a chunk as it came; None where it has to be parsed."""
        before, after = self._before, self._after
        if not before or not raw.startswith(before) or not raw.endswith(after):
            return None
        text = raw[len(before) : len(raw) - len(after)]
        if _TEXT.fullmatch(text) is None or len(raw) < len(before) + len(after):
            return None
        if not text.isascii() and not _is_utf8(text):
            return None
        if b"\\u" in text and _HALF.search(text):
            return None
        self._vain = 0
        return self._out_before + text + self._out_after

    def learn(self, raw: bytes, given: Mapping[str, Any], out: Mapping[str, Any]) -> None:
        """Takes a chunk that was parsed as a pattern for the next ones, where it is an ordinary one.

        Args:
            raw: As it came.
            given: What it says.
            out: What goes on.
        """
        if self._vain >= MAX_VAIN or not _ordinary(given) or not _ordinary(out) or "usage" in out:
            return
        places = [match.span(1) for match in _CONTENT.finditer(raw)]
        if len(places) != 1:
            return
        before, after = raw[: places[0][0]], raw[places[0][1] :]
        if _json(before + _MARK.encode() + after) != _marked(given):
            return
        parts = json.dumps(_marked(out), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        out_before, mark, out_after = parts.partition(_MARK.encode())
        if not mark or _MARK.encode() in out_after:
            return
        self._before, self._after, self._out_before, self._out_after = before, after, out_before, out_after
        self._vain += 1


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _ordinary(chunk: Mapping[str, Any]) -> bool:
    """Says whether a chunk brings words of one choice and nothing else."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        return False
    choice = choices[0]
    delta = choice.get("delta")
    return (
        isinstance(delta, Mapping)
        and isinstance(delta.get("content"), str)
        and not delta.get("tool_calls")
        and not choice.get("finish_reason")
        and not choice.get("logprobs")
        and not chunk.get("usage")
    )


def _marked(chunk: Mapping[str, Any]) -> Object:
    """Returns the same chunk with the mark for its words."""
    (choice,) = chunk["choices"]
    return {**chunk, "choices": [{**choice, "delta": {**choice["delta"], "content": _MARK}}]}
