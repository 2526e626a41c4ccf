"""Deterministic CBOR (RFC 8949 section 4.2.1): one value has exactly one encoding.

cbor2 accepts more than that (long integers, duplicate keys, indefinite lengths, tags), so a decoder first walks the
bytes
with limits, then decodes, then encodes again and compares.
"""

from __future__ import annotations

from typing import Any

import cbor2

from atmo.errors import WireError
from atmo.wire import limits

Value = Any
"""None, bool, int (64 bit), float, str, bytes, list of values, dict from str or int to values."""

_ARGUMENT_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}
_SIMPLE_ALLOWED = (20, 21, 22)  # false, true, null


def encode(value: Value) -> bytes:
    """Returns the deterministic encoding of `value`."""
    return bytes(cbor2.dumps(value, canonical=True))


def decode_untrusted(
    data: bytes,
    max_bytes: int = limits.MESSAGE_BYTES,
    *,
    max_depth: int = limits.DEPTH,
    tag: int | None = None,
) -> Value:
    """Decodes one value that fills `data`.

    Args:
        data: Bytes from outside.
        max_bytes: Longer input is refused unread.
        max_depth: Deeper nesting is refused undecoded.
        tag: The one CBOR tag that may stand in front of the value, once; it must be there and is taken off.

    Raises:
        WireError: The bytes are too long, too deep, malformed, or not the deterministic encoding of their value.
    """
    if len(data) > max_bytes:
        raise WireError(f"{len(data)} bytes are more than the limit of {max_bytes}")
    body = data
    if tag is not None:
        head = encode(cbor2.CBORTag(tag, 0))[:-1]
        if not data.startswith(head):
            raise WireError(f"CBOR tag {tag} is missing")
        body = data[len(head) :]
    _check_shape(body, max_depth)
    try:
        value = cbor2.loads(body)
        again = encode(value)
    except Exception as error:
        raise WireError(f"not CBOR: {type(error).__name__}") from error
    if again != body:
        raise WireError("not the deterministic encoding of its value")
    return value


def _check_shape(data: bytes, max_depth: int) -> None:
    """Walks the heads of all items: depth, count, lengths and kinds, without building anything."""
    position = 0
    budget = limits.ITEMS
    pending = [1]  # items still to read at each open level
    while pending:
        if pending[-1] == 0:
            pending.pop()
            continue
        pending[-1] -= 1
        budget -= 1
        if budget < 0:
            raise WireError(f"more than {limits.ITEMS} items")
        major, argument, position = _head(data, position)
        if major in (2, 3):
            position += argument
            if position > len(data):
                raise WireError("a string is longer than its bytes")
        elif major in (4, 5):
            if len(pending) > max_depth:
                raise WireError(f"nested deeper than {max_depth}")
            pending.append(argument * (2 if major == 5 else 1))
    if position != len(data):
        raise WireError("bytes follow the value")


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Reads an item's head at `position`; returns (major type, argument, position after the head)."""
    if position >= len(data):
        raise WireError("the value is cut short")
    major, info = data[position] >> 5, data[position] & 31
    position += 1
    if major == 6:
        raise WireError("a CBOR tag where none is allowed")
    if info < 24:
        argument = info
    elif info in _ARGUMENT_BYTES:
        size = _ARGUMENT_BYTES[info]
        if position + size > len(data):
            raise WireError("the value is cut short")
        argument = int.from_bytes(data[position : position + size], "big")
        position += size
    else:
        raise WireError("an indefinite or reserved length")
    if major == 7 and info < 25 and info not in _SIMPLE_ALLOWED:
        raise WireError("a simple value other than true, false and null")
    return major, argument, position
