"""STUN messages: ours are what another implementation says, and nothing but WireError comes of anybody's."""

from __future__ import annotations

import contextlib
import struct

import pytest
from aioice import stun
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.net.stun_message import (
    CHANGE_ADDRESS,
    CHANGE_PORT,
    MESSAGE_BYTES,
    BindingAnswer,
    check_plain_request_untrusted,
    encode_answer,
    encode_request,
    is_request,
    open_answer_untrusted,
    transaction_of,
)
from atmo.wire.address import Address

ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
V4, V6 = Address("192.0.2.1", 32853), Address("2001:db8:1234:5678:11:2233:4455:6677", 32853)

# RFC 5769 sections 2.2 and 2.3: answers with SOFTWARE, MESSAGE-INTEGRITY and FINGERPRINT.
SAMPLE_4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
SAMPLE_6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a147"
    "0113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)


def message(kind: int, *attributes: tuple[int, bytes], cookie: int = 0x2112A442) -> bytes:
    body = b"".join(
        struct.pack("!HH", name, len(value)) + value.ljust((len(value) + 3) // 4 * 4, b"\0")
        for name, value in attributes
    )
    return struct.pack("!HHI12s", kind, len(body), cookie, ID) + body


def plain(host: bytes, port: int = 7) -> bytes:
    return bytes([0, 1 if len(host) == 4 else 2]) + port.to_bytes(2, "big") + host


def test_answers_of_the_rfc() -> None:
    assert open_answer_untrusted(SAMPLE_4) == BindingAnswer(V4)
    assert open_answer_untrusted(SAMPLE_6) == BindingAnswer(V6)
    assert transaction_of(SAMPLE_4) == ID


@pytest.mark.parametrize("address", [V4, V6, Address("fe80::1%eth0", 9)])
def test_our_answers(address: Address) -> None:
    data = encode_answer(ID, address)
    assert open_answer_untrusted(data) == BindingAnswer(Address(address.host.partition("%")[0], address.port))
    assert transaction_of(data) == ID
    assert not is_request(data)


def test_our_requests() -> None:
    bare = encode_request(ID)
    assert is_request(bare)
    assert bare == message(1)
    check_plain_request_untrusted(bare)
    both = encode_request(ID, CHANGE_ADDRESS | CHANGE_PORT)
    assert both == message(1, (3, b"\0\0\0\6"))


def test_a_request_may_say_more_that_can_be_ignored() -> None:
    found = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, ID, {"SOFTWARE": "a client"})
    found.add_fingerprint()
    check_plain_request_untrusted(bytes(found))
    check_plain_request_untrusted(message(1, (0x9999, b"new")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(1, (3, b"\0\0\0\6")), "attribute 0x0003"),
        (message(1, (6, b"me")), "attribute 0x0006"),
        (message(1, (0x7777, b"")), "attribute 0x7777"),
        (message(1, (0x8028, b"\0\0\0\0")), "fingerprint"),
        (message(1, (0x8022, b"\xff")), "no STUN message"),
        (message(0x11), "no binding request"),
        (message(3), "no binding request"),
        (message(1, cookie=1), "header"),
        (message(1) + b"\0\0\0\0", "header"),
        (message(1)[:19], "19 bytes"),
        (message(1, (0x8022, bytes(MESSAGE_BYTES))), "572 bytes"),
        (message(1, (0x8022, b"abc"))[:-4], "header"),
        (struct.pack("!HHI12sHH", 1, 4, 0x2112A442, ID, 0x8022, 9), "do not fill"),
        (struct.pack("!HHI12s2s", 1, 2, 0x2112A442, ID, b"ab"), "do not fill"),
    ],
)
def test_requests_that_are_not_plain(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        check_plain_request_untrusted(data)


def test_older_and_odd_answers() -> None:
    old = message(0x101, (1, plain(b"\1\2\3\4")), (4, plain(b"\5\6\7\x08")), (5, plain(b"\5\6\7\x09")))
    assert open_answer_untrusted(old) == BindingAnswer(Address("1.2.3.4", 7))
    inside = message(0x101, (1, plain(bytes(10) + b"\xff\xff\1\2\3\4")))
    assert open_answer_untrusted(inside) == BindingAnswer(Address("1.2.3.4", 7))
    other = message(0x101, (1, plain(b"\1\2\3\4")), (0x802C, plain(b"\5\6\7\x08", 9)))
    assert open_answer_untrusted(other) == BindingAnswer(Address("1.2.3.4", 7), Address("5.6.7.8", 9))
    assert open_answer_untrusted(message(0x111, (9, b"\0\0\4\0bad"))) == BindingAnswer(None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(0x101), "without an address"),
        (message(0x101, (1, plain(b"\1\2\3\4", 0))), "port 0"),
        (message(0x101, (1, plain(b"\1\2\3\4\5"))), "no STUN message"),
        (message(0x101, (1, b"\0\3\0\7\1\2\3\4")), "unknown protocol"),
        (
            message(
                0x101,
                (0x20, b""),
            ),
            "no STUN message",
        ),
        (message(0x101, (1, plain(b"\1\2\3\4")), (0x802C, plain(b"\5\6\7\x08", 0))), "port 0"),
        (message(0x101, (3, b"")), "no STUN message"),
        (message(0x111, (9, b"\0\0\4\0\xff")), "no STUN message"),
        (message(1), "no answer"),
        (message(0x103), "no answer"),
        (SAMPLE_4[:-1] + b"\0", "fingerprint"),
    ],
)
def test_bad_answers(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        open_answer_untrusted(data)


def never_anything_else(data: bytes) -> None:
    for read in (open_answer_untrusted, check_plain_request_untrusted):
        with contextlib.suppress(WireError):
            read(data)
    is_request(data)
    transaction_of(data)


@given(st.binary(max_size=MESSAGE_BYTES + 10))
def test_any_bytes(data: bytes) -> None:
    never_anything_else(data)


NAMES = st.one_of(st.sampled_from(sorted(stun.ATTRIBUTES_BY_TYPE)), st.integers(0, 0xFFFF))
VALUES = st.one_of(st.binary(max_size=24), st.sampled_from([plain(b"\1\2\3\4"), plain(bytes(16))]))


@given(
    st.one_of(st.sampled_from([1, 0x11, 0x101, 0x111]), st.integers(0, 0xFFFF)),
    st.lists(st.tuples(NAMES, VALUES), max_size=8),
)
def test_any_attributes(kind: int, attributes: list[tuple[int, bytes]]) -> None:
    never_anything_else(message(kind, *attributes))


@given(st.sampled_from([SAMPLE_4, SAMPLE_6, encode_request(ID, 6), encode_answer(ID, V6)]), st.data())
def test_any_damage(good: bytes, data: st.DataObject) -> None:
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    never_anything_else(bytes(damaged))
    never_anything_else(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
