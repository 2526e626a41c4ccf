"""One value has one encoding, and no bytes make the decoder raise anything but WireError or work hard."""

from __future__ import annotations

import datetime
import decimal
import struct
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atmo.errors import EncodeError, WireError
from atmo.identity import NodeId
from atmo.wire import codec, limits
from tests.wire.values import values


@given(values)
def test_what_is_encoded_decodes_to_itself(value: Any) -> None:
    data = codec.encode(value)
    again = codec.decode_untrusted(data)
    assert again == value
    assert codec.encode(again) == data
    assert cbor2.loads(data) == value


@given(st.binary(max_size=200))
@example(b"\x82\x01")
@example(b"\xa1\x61")
def test_random_bytes_decode_canonically_or_not_at_all(data: bytes) -> None:
    try:
        value = codec.decode_untrusted(data)
    except WireError:
        return
    assert codec.encode(value) == data


@given(values, st.data())
def test_a_damaged_encoding_decodes_canonically_or_not_at_all(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(codec.encode(value))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    try:
        again = codec.decode_untrusted(bytes(damaged))
    except WireError:
        return
    assert codec.encode(again) == damaged


@given(values, st.integers(min_value=0, max_value=400))
def test_no_encoding_is_the_beginning_of_another(value: Any, cut: int) -> None:
    data = codec.encode(value)
    if cut < len(data):
        with pytest.raises(WireError):
            codec.decode_untrusted(data[:cut])
    with pytest.raises(WireError, match="bytes follow"):
        codec.decode_untrusted(data + b"\x00")


VALID = {
    "00": 0,
    "17": 23,
    "1818": 24,
    "1bffffffffffffffff": 2**64 - 1,
    "20": -1,
    "3bffffffffffffffff": -(2**64),
    "f4": False,
    "f5": True,
    "f6": None,
    "f90000": 0.0,
    "f93c00": 1.0,
    "f97c00": float("inf"),
    "fa47c35000": 100000.0,
    "fb3ff199999999999a": 1.1,
    "60": "",
    "62c3bc": "ü",
    "40": b"",
    "4401020304": b"\1\2\3\4",
    "80": [],
    "a0": {},
    "83010203": [1, 2, 3],
    "a201020304": {1: 2, 3: 4},
    "a2616101626161f6": {"a": 1, "aa": None},
    "a20100616101": {1: 0, "a": 1},
}


@pytest.mark.parametrize("text", VALID)
def test_known_encodings(text: str) -> None:
    value = codec.decode_untrusted(bytes.fromhex(text))
    assert value == VALID[text]
    assert type(value) is type(VALID[text])
    assert codec.encode(value).hex() == text


def test_negative_zero_stays_negative() -> None:
    assert codec.encode(-0.0).hex() == "f98000"
    assert struct.pack(">d", codec.decode_untrusted(b"\xf9\x80\x00")) == struct.pack(">d", -0.0)


REFUSED = {
    "nothing at all": "",
    "an integer longer than needed": "1817",
    "an integer of two bytes that fits one": "190001",
    "an integer of eight bytes that fits four": "1b0000000000000001",
    "a length longer than needed": "580161",
    "an array length longer than needed": "980101",
    "a float longer than needed": "fb3ff0000000000000",
    "a NaN of eight bytes": "fb7ff8000000000000",
    "a NaN with another payload": "f97e01",
    "a signalling NaN": "fa7fa00000",
    "a repeated key": "a2616100616101",
    "keys out of order": "a2616200616101",
    "an integer key after a longer one": "a2181800" + "0100",
    "length-first order where bytewise differs": "a22001186402",
    "bytewise order where length-first differs": "a21864022001",
    "true as a key": "a1f500",
    "null as a key": "a1f600",
    "a float as a key": "a1f93c0000",
    "bytes as a key": "a1414100",
    "a long byte string as a key": "a15818" + "41" * 24 + "00",
    "an array as a key": "a1800000",
    "a map as a key": "a1a00000",
    "an array of indefinite length": "9f01ff",
    "a map of indefinite length": "bf616101ff",
    "a string of indefinite length": "7f6161ff",
    "bytes of indefinite length": "5f4101ff",
    "a break on its own": "ff",
    "a reserved length": "1c",
    "a reserved string length": "7e",
    "a reserved array length": "9d",
    "a positive bignum": "c249010000000000000000",
    "a negative bignum": "c349010000000000000000",
    "a bignum that fits": "c24101",
    "a date": "c074323032302d30312d30315430303a30303a30305a",
    "a time": "c11a5fd5f2a0",
    "a decimal fraction": "c48221196ab3",
    "a shared reference": "d81c80",
    "a string reference": "d90100" + "826161d81900",
    "a set": "d90102820102",
    "the self-describing tag": "d9d9f700",
    "undefined": "f7",
    "simple value 0": "e0",
    "simple value 19": "f3",
    "a simple value of two bytes": "f8ff",
    "false as two bytes": "f814",
    "invalid UTF-8": "62c328",
    "a surrogate in UTF-8": "63eda080",
    "UTF-8 longer than needed": "62c0af",
    "a string longer than its bytes": "6561",
    "a string head cut short": "59ff",
    "an integer cut short": "1b00000000",
    "a float cut short": "fb3ff1",
    "a string of 2**62 bytes": "5b4000000000000000",
    "text of 2**64 - 1 bytes": "7bffffffffffffffff",
    "an array of 2**60": "9b1000000000000000",
    "a map of 2**63": "bb8000000000000000",
    "a map of one key and no value": "a16161",
    "two values": "0000",
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    with pytest.raises(WireError):
        codec.decode_untrusted(bytes.fromhex(REFUSED[what]))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**64, "over 64 bits"),
        (-(2**64) - 1, "over 64 bits"),
        ({1, 2}, "tag"),
        (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "tag"),
        (decimal.Decimal("1.5"), "tag"),
        (object(), "object"),
        ("\ud800", "surrogates"),
        ({b"a": 1}, "key"),
        ({None: 1}, "key"),
        ({(1, 2): 1}, "key"),
        ({100: 1, -1: 2}, "keys"),
        ({100: 1, "": 2}, "keys"),
        (cbor2.undefined, "simple value"),
    ],
)
def test_a_value_that_no_peer_would_accept_is_not_encoded(value: Any, reason: str) -> None:
    with pytest.raises(EncodeError, match=reason):
        codec.encode(value)


def test_a_cycle_is_not_encoded() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(EncodeError, match="no encoding"):
        codec.encode(cycle)


def test_subclasses_and_tuples_encode_as_what_they_are() -> None:
    node = NodeId(b"n" * 32)
    assert codec.encode(node) == codec.encode(bytes(node))
    assert codec.encode((1, (2,))) == codec.encode([1, [2]])


def nested(depth: int, opening: bytes = b"\x81", inside: bytes = b"\x00") -> bytes:
    return opening * depth + inside


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x00", b"\x82\x00"])
def test_depth(opening: bytes) -> None:
    codec.decode_untrusted(nested(limits.DEPTH, opening))
    for depth in (limits.DEPTH + 1, 60_000 // len(opening)):
        with pytest.raises(WireError, match="deeper"):
            codec.decode_untrusted(nested(depth, opening))
    codec.decode_untrusted(nested(3), max_depth=3)
    with pytest.raises(WireError, match="deeper than 3"):
        codec.decode_untrusted(nested(4), max_depth=3)


def test_the_encoder_keeps_the_depth_of_the_decoder() -> None:
    value: Any = 0
    for _ in range(limits.DEPTH):
        value = [value]
    codec.decode_untrusted(codec.encode(value))
    with pytest.raises(EncodeError, match="deeper"):
        codec.encode([value])


def test_items() -> None:
    codec.decode_untrusted(codec.encode([0] * limits.ITEMS))
    with pytest.raises(WireError, match="elements"):
        codec.decode_untrusted(b"\x99\x40\x01" + bytes(limits.ITEMS + 1))
    many = b"\x99\x40\x01" + bytes(limits.ITEMS + 1)
    with pytest.raises(WireError, match="elements"):
        codec.decode_untrusted(many, limits.MANIFEST_BYTES)
    assert len(codec.decode_untrusted(many, max_items=limits.ITEMS + 1)) == limits.ITEMS + 1
    with pytest.raises(WireError, match="more than 2 elements"):
        codec.decode_untrusted(b"\x83\0\0\0", max_items=2)


def test_the_encoder_keeps_the_most_items_of_any_decoder() -> None:
    codec.encode([0] * limits.MANIFEST_ITEMS)
    with pytest.raises(EncodeError, match="elements"):
        codec.encode([0] * (limits.MANIFEST_ITEMS + 1))


def test_items_are_counted_over_all_levels() -> None:
    inner = b"\x98\xff" + bytes(255)
    within = 63  # 63 * 256 elements are under the limit, 64 * 256 + 1 over it
    assert len(codec.decode_untrusted(b"\x98\x3f" + inner * within)) == within
    with pytest.raises(WireError, match="elements"):
        codec.decode_untrusted(b"\x98\x41" + inner * 65)


def test_a_map_counts_twice() -> None:
    with pytest.raises(WireError, match="elements"):
        codec.decode_untrusted(b"\xb9\x20\x01" + bytes(100))


def test_long_input_is_refused_unread() -> None:
    with pytest.raises(WireError, match="limit of 10"):
        codec.decode_untrusted(b"\xff" * 11, 10)
    with pytest.raises(WireError, match=f"limit of {limits.MESSAGE_BYTES}"):
        codec.decode_untrusted(bytes(limits.MESSAGE_BYTES + 1))
    assert codec.decode_untrusted(codec.encode(b"x" * 7), 8) == b"x" * 7


def test_the_one_tag() -> None:
    data = codec.encode_tagged(18, [1])
    assert data.hex() == "d28101"
    assert codec.decode_untrusted(data, tag=18) == [1]
    assert codec.encode_tagged(1000, None).hex() == "d903e8f6"
    for wrong in (b"\x81\x01", b"\xd3\x81\x01", b"\xd8\x12\x81\x01", b"\xd2\xd2\x81\x01", b"\xd2", b""):
        with pytest.raises(WireError):
            codec.decode_untrusted(wrong, tag=18)
    with pytest.raises(WireError, match="tag"):
        codec.decode_untrusted(data)
