"""Deterministic CBOR (RFC 8949 section 4.2.1): one value has exactly one encoding.

cbor2 accepts more than that (long integers, duplicate keys, indefinite lengths, tags) and orders map keys by length
first. So the bytes are walked with limits before they are decoded, and what was decoded is encoded again and compared.
The encoder walks its own output in the same way: it never emits what the decoder of a peer would refuse.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cbor2

from atmo.errors import EncodeError, WireError
from atmo.wire import limits

Value = Any
"""None, bool, int (-2**64 to 2**64 - 1), float, str, bytes, list of values, dict from str or int to values."""

_ARGUMENT_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}  # RFC 8949 section 3, additional information
_TEXT, _MAP, _TAG, _SIMPLE = 3, 5, 6, 7  # RFC 8949 section 3.1, major types
_FLAT_SIMPLE = {20: 1, 21: 1, 22: 1, 25: 3, 26: 5, 27: 9}  # false, true, null, and floats of 2, 4, 8 bytes


def _flat_bytes(initial: int) -> int:
    """Returns the size of an item whose first byte tells it and that holds no other item; 0 for all others."""
    major, info = initial >> 5, initial & 31
    if major < 2:
        return 1 if info < 24 else 1 + _ARGUMENT_BYTES.get(info, -1)
    if major <= _TEXT:
        return 1 + info if info < 24 else 0
    return _FLAT_SIMPLE.get(info, 0) if major == _SIMPLE else 0


_FLAT = bytes(_flat_bytes(initial) for initial in range(256))


def encode(value: Value) -> bytes:
    """Returns the deterministic encoding of `value`.

    Raises:
        EncodeError: It holds something that no peer would accept: another type, an integer over 64 bits, a lone
            surrogate, nesting or a count of elements over the limits.
    """
    try:
        data = bytes(cbor2.dumps(value, canonical=True))
        _check_shape(data, limits.DEPTH, limits.MANIFEST_ITEMS)
    except Exception as error:
        raise EncodeError(f"a value has no encoding here: {error}") from error
    return data


def encode_tagged(tag: int, value: Value) -> bytes:
    """Returns the encoding of `value` with one CBOR tag in front."""
    return _tag_head(tag) + encode(value)


def decode_untrusted(
    data: bytes,
    max_bytes: int = limits.MESSAGE_BYTES,
    *,
    max_items: int = limits.ITEMS,
    max_depth: int = limits.DEPTH,
    tag: int | None = None,
) -> Value:
    """Decodes one value that fills `data`.

    Args:
        data: Bytes from outside.
        max_bytes: Longer input is refused unread.
        max_items: More elements, over all arrays and maps, are refused undecoded.
        max_depth: Deeper nesting is refused undecoded.
        tag: The one CBOR tag that may stand in front of the value, once; it must be there and is taken off.

    Raises:
        WireError: The bytes are too long, too deep, malformed, or not the deterministic encoding of their value.
    """
    if len(data) > max_bytes:
        raise WireError(f"{len(data)} bytes are more than the limit of {max_bytes}")
    body = data
    if tag is not None:
        head = _tag_head(tag)
        if not data.startswith(head):
            raise WireError(f"CBOR tag {tag} is missing")
        body = data[len(head) :]
    _check_shape(body, max_depth, max_items)
    try:
        value = cbor2.loads(body)
        again = cbor2.dumps(value, canonical=True)
    except Exception as error:
        raise WireError(f"not CBOR: {error}") from error
    if again != body:
        raise WireError("not the deterministic encoding of its value")
    return value


@cache
def _tag_head(tag: int) -> bytes:
    return bytes(cbor2.dumps(cbor2.CBORTag(tag, 0)))[:-1]


def _check_shape(data: bytes, max_depth: int, max_items: int) -> None:
    """Walks the heads of all items: depth, count, kinds, and the keys of maps, without building anything."""
    position, budget = 0, max_items
    remaining = 1  # items still to read in the innermost array or map
    last_key: bytes | None = None  # in the innermost map; None in an array
    outer: list[tuple[int, bytes | None]] = []
    try:
        while remaining:
            remaining -= 1
            start, initial = position, data[position]
            flat = _FLAT[initial]
            if flat:
                position += flat
                inner = 0
            else:
                position, inner = _enter(data, position)
            if last_key is not None and remaining & 1:
                last_key = _checked_key(data[start:position], last_key)
            if inner:
                budget -= inner
                if budget < 0:
                    raise WireError(f"more than {max_items} elements")
                outer.append((remaining, last_key))
                if len(outer) > max_depth:
                    raise WireError(f"nested deeper than {max_depth}")
                remaining, last_key = inner, (b"" if initial >> 5 == _MAP else None)
            while not remaining and outer:
                remaining, last_key = outer.pop()
    except IndexError:
        raise WireError("the value is cut short") from None
    if position != len(data):
        raise WireError("bytes follow the value" if position < len(data) else "the value is cut short")


def _enter(data: bytes, position: int) -> tuple[int, int]:
    """Reads the head of a string, array or map; returns where the next item begins and how many items it holds."""
    major, info = data[position] >> 5, data[position] & 31
    position += 1
    if major == _TAG:
        raise WireError("a CBOR tag or an integer over 64 bits")
    if major == _SIMPLE:
        raise WireError("a simple value other than true, false and null")
    if info < 24:
        argument = info
    elif info in _ARGUMENT_BYTES:
        size = _ARGUMENT_BYTES[info]
        argument = int.from_bytes(data[position : position + size], "big")
        position += size
    else:
        raise WireError("an indefinite or reserved length")
    if major <= _TEXT:
        return position + argument, 0
    return position, argument * 2 if major == _MAP else argument


def _checked_key(key: bytes, last: bytes) -> bytes:
    """Returns `key` where it is text or an integer and comes after `last` in the order of RFC 8949 section 4.2.1."""
    major = key[0] >> 5
    if major > 1 and major != _TEXT:
        raise WireError("a key of a map is neither text nor an integer")
    if key <= last:
        raise WireError("the keys of a map are out of order or repeat")
    return key
