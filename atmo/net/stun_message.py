"""STUN messages (RFC 8489): the little that a node says and understands, coded by aioice behind checks of our own.

aioice is loaded with the first message: it takes 50 ms, and most commands never need it.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from atmo.errors import WireError
from atmo.wire.address import Address

TRANSACTION_BYTES = 12
MESSAGE_BYTES = 548
"""The longest one that is read. Source: RFC 8489 section 6.1, for paths of unknown MTU."""

CHANGE_ADDRESS, CHANGE_PORT = 0x4, 0x2
"""Have the answer come from the server's other address, other port (RFC 5780 section 7.2)."""

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_COOKIE = 0x2112A442
_REQUEST, _SUCCESS, _ERROR = 0x0001, 0x0101, 0x0111
_OPTIONAL = 0x8000
"""Attributes from here on may be ignored by who does not know them (RFC 8489 section 14)."""


@dataclass(frozen=True, slots=True)
class BindingAnswer:
    """The answer of a server.

    Attributes:
        mapped: Where it saw the socket; None where it refused.
        other: The server's other address, if it has one and helps with tests.
    """

    mapped: Address | None
    other: Address | None = None


def encode_request(transaction: bytes, change: int = 0) -> bytes:
    """Returns a binding request.

    Args:
        transaction: 12 bytes that nobody can guess.
        change: `CHANGE_ADDRESS`, `CHANGE_PORT`, both or neither.
    """
    from aioice import stun

    attributes = {"CHANGE-REQUEST": change} if change else {}
    return bytes(stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction, attributes))


def encode_answer(transaction: bytes, mapped: Address) -> bytes:
    """Returns the answer to a binding request that came from `mapped`."""
    from aioice import stun

    attributes = {"XOR-MAPPED-ADDRESS": (mapped.host.partition("%")[0], mapped.port)}
    return bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction, attributes))


def is_request(data: bytes) -> bool:
    """Says whether a datagram can be nothing but a binding request."""
    return data[:2] == b"\x00\x01"


def transaction_of(data: bytes) -> bytes:
    """Returns the bytes where a message has its transaction id."""
    return data[8:20]


def check_plain_request_untrusted(data: bytes) -> None:
    """Checks that a datagram is a binding request that asks for nothing more: no other port, address or password.

    Raises:
        WireError: It is not.
    """
    kind, attributes = _open_untrusted(data)
    if kind != _REQUEST:
        raise WireError("no binding request")
    for attribute in attributes:
        if attribute < _OPTIONAL:
            raise WireError(f"a binding request with attribute {attribute:#06x}")
    _decode_untrusted(data)


def open_answer_untrusted(data: bytes) -> BindingAnswer:
    """Reads the answer to a binding request.

    Raises:
        WireError: It is none.
    """
    kind, _ = _open_untrusted(data)
    if kind not in (_SUCCESS, _ERROR):
        raise WireError("no answer to a binding request")
    found = _decode_untrusted(data)
    if kind == _ERROR:
        return BindingAnswer(None)
    mapped = found.get("XOR-MAPPED-ADDRESS") or found.get("MAPPED-ADDRESS")
    if mapped is None:
        raise WireError("an answer without an address")
    other = found.get("OTHER-ADDRESS")
    return BindingAnswer(_address_untrusted(mapped), _address_untrusted(other) if other else None)


def _open_untrusted(data: bytes) -> tuple[int, list[int]]:
    """Returns the type of a message and those of its attributes, which fill it exactly."""
    if not _HEADER.size <= len(data) <= MESSAGE_BYTES:
        raise WireError(f"{len(data)} bytes are no STUN message")
    kind, length, cookie, _ = _HEADER.unpack_from(data)
    if cookie != _COOKIE or length != len(data) - _HEADER.size:
        raise WireError("not the header of a STUN message")
    attributes, at = [], _HEADER.size
    while at + _ATTRIBUTE.size <= len(data):
        attribute, size = _ATTRIBUTE.unpack_from(data, at)
        attributes.append(attribute)
        at += _ATTRIBUTE.size + (size + 3) // 4 * 4
    if at != len(data):
        raise WireError("attributes that do not fill their STUN message")
    return kind, attributes


def _decode_untrusted(data: bytes) -> dict[str, tuple[str, int]]:
    """Returns the addresses in a message, by attribute."""
    from aioice import stun

    try:
        found = stun.parse_message(data).attributes
    except (ValueError, struct.error) as error:
        raise WireError(f"no STUN message: {error}") from error
    return {name: value for name, value in found.items() if name.endswith("-ADDRESS")}


def _address_untrusted(found: tuple[str, int]) -> Address:
    host, port = ipaddress.ip_address(found[0]), found[1]
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped:
        host = host.ipv4_mapped
    try:
        return Address(str(host), port)
    except ValueError as error:
        raise WireError(f"an address in a STUN message: {error}") from error
