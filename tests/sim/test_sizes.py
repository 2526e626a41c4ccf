"""Sizes of messages without encoding them: the same as with."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atmo.identity import NodeId
from atmo.peer.messages import MESSAGES, encode_message
from atmo.sim import sizes
from atmo.sim.sizes import PAYLOAD_BYTES, TRANSPORT_BYTES, message_bytes, packets_bytes
from atmo.wire.address import Address
from atmo.wire.schema import Most

ADDRESSES = st.builds(
    Address, st.sampled_from(["10.0.0.1", "192.168.100.200", "2001:db8::1"]), st.integers(min_value=1, max_value=65_535)
)
EDGES = [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53]


def values(hint: Any, most: int = 2**53) -> st.SearchStrategy[Any]:
    """Returns values that an annotation of the wire allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [extra.limit for extra in arguments[1:] if isinstance(extra, Most)]
        return values(arguments[0], bounds[0] if bounds else most)
    if type(None) in arguments:
        return st.none() | values(arguments[0], most)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=min(most, 30)).map(tuple)
    if hint is Address:
        return ADDRESSES
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return messages(hint)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        NodeId: st.binary(min_size=32, max_size=32).map(NodeId),
        bool: st.booleans(),
        int: st.sampled_from([edge for edge in EDGES if edge <= most]) | st.integers(0, most),
        bytes: st.binary(max_size=min(most, 400)),
        str: st.text(st.characters(codec="utf-8"), max_size=min(most, 100)),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return simple[hint]


def messages(cls: type) -> st.SearchStrategy[Any]:
    """Returns instances of a dataclass of the wire."""
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: values(hints[field.name]) for field in dataclasses.fields(cls)}
    return st.builds(cls, **fields)


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_size_of_a_message_is_that_of_its_encoding(name: str, data: st.DataObject) -> None:
    message = data.draw(messages(MESSAGES[name]))
    assert message_bytes(message) == len(encode_message(message))


@dataclasses.dataclass(frozen=True, slots=True)
class _Odd:
    share: float
    extra: dict[str, int]


@given(st.floats(allow_nan=False), st.integers(0, 30))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_what_no_message_has_yet_is_encoded(share: float, count: int) -> None:
    from atmo.wire.schema import pack

    odd = _Odd(share, {f"key-{number}": number for number in range(count)})
    assert sizes._dataclass_sizer(_Odd)(odd) == len(pack(odd))


def test_every_packet_has_headers() -> None:
    assert packets_bytes(1) == 1 + TRANSPORT_BYTES
    assert packets_bytes(PAYLOAD_BYTES) == PAYLOAD_BYTES + TRANSPORT_BYTES
    assert packets_bytes(PAYLOAD_BYTES + 1) == PAYLOAD_BYTES + 1 + 2 * TRANSPORT_BYTES
    assert packets_bytes(3 * PAYLOAD_BYTES) == 3 * (PAYLOAD_BYTES + TRANSPORT_BYTES)
