"""How many bytes a message has on the wire, without encoding it: that would take longer than all that is done with it.

The encoding is deterministic (`wire.codec`), so sizes follow from the fields. For each dataclass a function is put
together once from its annotations, as `wire.schema` does for reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from atmo.identity import NodeId
from atmo.identity.keys import KEY_BYTES
from atmo.peer.messages import MESSAGES
from atmo.wire import codec
from atmo.wire.schema import to_wire

Sizer = Callable[[Any], int]

TRANSPORT_BYTES = 75
"""What a packet costs beside its message: 20 of IPv4, 8 of UDP, 1 + 8 + 2 of QUIC's short header (RFC 9000 section
17.3, our connection ids have 8 bytes), 16 of the cipher's tag, about 6 of the STREAM frame and its length, and about 14
for an ACK frame and its share of a packet that carries nothing else (RFC 9000 section 13.2: one for two packets, most
ride along)."""

PAYLOAD_BYTES = 1_140
"""Of a message in one packet: `net.quic_config` has datagrams of 1,200 bytes, less QUIC's part of the above."""

HANDSHAKE_BYTES = 6_000
"""Both directions of a dial together: the padded Initial packets of both sides (RFC 9000 section 14.1), a certificate
with its signature each way, the finishing packets."""


def packets_bytes(size: int) -> int:
    """Returns the size of the packets that carry a message of `size` bytes, headers and all."""
    if size <= PAYLOAD_BYTES:
        return size + TRANSPORT_BYTES
    return size - (-size // PAYLOAD_BYTES) * TRANSPORT_BYTES


def message_bytes(message: Any) -> int:
    """Returns the length of `encode_message(message)`."""
    sizer = _SIZERS.get(type(message))
    if sizer is None:
        sizer = _SIZERS[type(message)] = _message_sizer(type(message))
    return sizer(message)


_SIZERS: dict[type, Sizer] = {}


def _message_sizer(cls: type) -> Sizer:
    name = next(name for name, known in MESSAGES.items() if known is cls)
    head = 1 + _head(len(name)) + len(name)
    fields = _dataclass_sizer(MESSAGES[name])
    return lambda message: head + fields(message)


def _head(argument: int) -> int:
    """Returns the bytes of an item's head (RFC 8949 section 3), whose argument is a length or an int."""
    if argument < 24:
        return 1
    if argument < 256:
        return 2
    if argument < 65_536:
        return 3
    return 5 if argument < 2**32 else 9


def _string(value: bytes) -> int:
    length = len(value)
    return length + (1 if length < 24 else 2 if length < 256 else 3 if length < 65_536 else 5)


def _text(value: str) -> int:
    return _string(value.encode()) if not value.isascii() else len(value) + _head(len(value))


@cache
def _dataclass_sizer(cls: type) -> Sizer:
    hints = get_type_hints(cls, include_extras=True)
    plain: list[tuple[str, int, Sizer]] = []
    optional: list[tuple[str, int, Sizer]] = []
    fixed = 0
    for field in dataclasses.fields(cls):
        sizer, may_lack, constant = _sizer(hints[field.name])
        name = _text(field.name)
        if constant:
            fixed += name + constant
        else:
            (optional if may_lack else plain).append((field.name, name, sizer))
    count = len(dataclasses.fields(cls))
    fixed += sum(name for _, name, _ in plain)
    rows = tuple((field, sizer) for field, _, sizer in plain)

    def size(value: Any) -> int:
        total, present = fixed, count
        for field, sizer in rows:
            total += sizer(getattr(value, field))
        for field, name, sizer in optional:
            item = getattr(value, field)
            if item is None:
                present -= 1
            else:
                total += name + sizer(item)
        return total + _head(present)

    return size


def _sizer(hint: Any) -> tuple[Sizer, bool, int]:
    """Returns how to measure values of a type, whether they may be None, and their size where all have the same."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _sizer(arguments[0])
    if type(None) in arguments:
        return _sizer(arguments[0])[0], True, 0
    if origin is tuple:
        item, _, constant = _sizer(arguments[0])
        if constant:
            return (lambda values: _head(len(values)) + constant * len(values)), False, 0
        return (lambda values: _head(len(values)) + sum(map(item, values))), False, 0
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_sizer(hint), False, 0
    if hint is NodeId:
        return (lambda _: KEY_BYTES + 2), False, KEY_BYTES + 2
    if hint is bool:
        return (lambda _: 1), False, 1
    usual: dict[Any, Sizer] = {int: _head, bytes: _string, str: _text}
    return usual.get(hint, _encoded), False, 0


def _encoded(value: Any) -> int:
    return len(codec.encode(to_wire(value)))
