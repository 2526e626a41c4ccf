"""JSON from clients and peers, read strictly; JSON to them, written compactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import trio

from atmo.backends.base import Encoded
from atmo.errors import RequestError

MAX_DEPTH = 64
"""Nesting of lists and objects. Tool schemas, the deepest thing clients send, stay far below."""

THREAD_BYTES = 64 * 1024
"""From this size JSON is read and written in a thread, lest everything else waits.

Source: measured on one slow core, so much takes 3 ms to read and 2 ms to write, 15 ms where it is all empty lists.
"""

HUGE_BYTES = 4 * 1024 * 1024
"""From this size only two objects are read at once: meanwhile each takes three times its size. Source: guess."""

_READERS = trio.CapacityLimiter(2)

_BOM = b"\xef\xbb\xbf"
"""Some editors and shells put it before a text; RFC 8259 lets a reader pass it over."""

_INT_DIGITS = 20
_ITEM_BYTES = 16


async def read_object_untrusted(raw: bytes) -> dict[str, Any]:
    """Does the same as `parse_object_untrusted`, a large object in a thread."""
    if len(raw) < THREAD_BYTES:
        return parse_object_untrusted(raw)
    if len(raw) < HUGE_BYTES:
        return await trio.to_thread.run_sync(parse_object_untrusted, raw)
    async with _READERS:
        return await trio.to_thread.run_sync(parse_object_untrusted, raw)


async def write_object(value: Mapping[str, Any] | Encoded) -> bytes:
    """Does the same as `dump`, a large object in a thread; nobody may change it meanwhile."""
    if isinstance(value, Encoded):
        return value.data
    return await trio.to_thread.run_sync(dump, value) if _is_large(value) else dump(value)


def parse_object_untrusted(raw: bytes) -> dict[str, Any]:
    """Reads one JSON object from outside.

    Stricter than `json.loads`: only UTF-8, no NaN and no infinity, integers of at most 64 bits, no lone surrogates,
    nesting up to `MAX_DEPTH`. So nothing behind it stumbles over them.

    Raises:
        RequestError: 400, saying what is wrong.
    """
    try:
        text = raw.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise _bad(f"byte {error.start} is not UTF-8") from None
    try:
        value = json.loads(text, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _bad(f"nested deeper than {MAX_DEPTH}") from None
    if not isinstance(value, dict):
        raise _bad(f"want an object, got {_kind(value)}")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\u" in raw:
        _check_surrogates(value)
    return value


def dump(value: Mapping[str, Any]) -> bytes:
    """Writes one JSON object as compact UTF-8.

    Raises:
        ValueError: It holds NaN or an infinity.
        TypeError: It holds something that JSON does not know.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _is_large(value: object) -> bool:
    """Says whether `value` becomes about `THREAD_BYTES` of JSON or more, looking no further than that."""
    left = THREAD_BYTES
    waiting = [value]
    while waiting and left > 0:
        item = waiting.pop()
        if isinstance(item, str):
            left -= len(item)
        elif isinstance(item, dict | list):
            left -= _ITEM_BYTES * len(item)
            if left > 0:
                waiting.extend(item)
                waiting.extend(item.values() if isinstance(item, dict) else ())
    return left <= 0


def _bad(what: str) -> RequestError:
    return RequestError(400, f"The request body is not the JSON we can read: {what}.", code="invalid_json")


def _constant(name: str) -> float:
    raise _bad(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _bad(f"the number {text[:24]} is too large")
    return value


def _int(text: str) -> int:
    value = int(text) if len(text) <= _INT_DIGITS else 2**64
    if not -(2**63) <= value < 2**64:
        raise _bad(f"the number {text[:24]} is longer than 64 bits")
    return value


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            assert isinstance(children, list | type({}.values()))
            below.extend(child for child in children if isinstance(child, dict | list))
        if not below:
            return
        level = below
    raise _bad(f"nested deeper than {MAX_DEPTH}")


def _check_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _bad("half of a surrogate pair stands alone") from None
