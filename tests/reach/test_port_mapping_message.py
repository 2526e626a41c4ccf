"""Messages of PCP and NAT-PMP, byte by byte as the RFCs have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.reach.port_mapping_message import (
    TCP,
    UDP,
    Answer,
    decode_nat_pmp_untrusted,
    decode_pcp_untrusted,
    encode_nat_pmp_address,
    encode_nat_pmp_map,
    encode_pcp_map,
    refuses_version_untrusted,
)
from atmo.wire.address import Address

NONCE = bytes(range(12))
FOUR = "00000000000000000000ffff"  # how an IPv4 address begins within an IPv6 one


def test_pcp_map_request() -> None:
    """RFC 6887 sections 7.1 and 11.1."""
    data = encode_pcp_map(NONCE, UDP, "192.168.1.2", 11_450, Address("11.0.0.1", 11_451), 7_200)
    assert (
        data.hex()
        == (
            "02010000"
            "00001c20" + FOUR + "c0a80102"  # version, MAP, lifetime, client
            "000102030405060708090a0b"
            "11000000"
            "2cba2cbb" + FOUR + "0b000001"
        )
    )
    nowhere = encode_pcp_map(NONCE, TCP, "192.168.1.2", 11_450, None, 0)
    assert nowhere[36:].hex() == "060000002cba0000" + FOUR + "00000000"
    six = encode_pcp_map(NONCE, TCP, "fd00::2%eth0", 11_450, None, 0)
    assert six[8:24].hex() == "fd000000000000000000000000000002"
    assert six[44:] == bytes(16)


def test_pcp_map_answer() -> None:
    """RFC 6887 sections 7.2 and 11.1."""
    head = bytes.fromhex("0281000000000e1000000064000000000000000000000000")
    body = NONCE + bytes.fromhex("110000002cba9c40" + FOUR + "0b000001")
    assert decode_pcp_untrusted(head + body) == Answer(0, 100, UDP, NONCE, 11_450, "11.0.0.1", 40_000, 3_600)
    assert decode_pcp_untrusted(head + body + bytes(12)).port == 40_000, "options are not read"
    refused = decode_pcp_untrusted(head[:3] + b"\x08" + head[4:] + body)
    assert (refused.result, refused.lifetime_s) == (8, 3_600)
    for bad in (head, head + body[:-1], head + body + bytes(1_041), b"\x01" + head[1:] + body, b"\x02\x01" + head[2:]):
        with pytest.raises(WireError):
            decode_pcp_untrusted(bad)


def test_nat_pmp_requests() -> None:
    """RFC 6886 sections 3.2, 3.3 and 3.4."""
    assert encode_nat_pmp_address().hex() == "0000"
    assert encode_nat_pmp_map(UDP, 11_450, 40_000, 7_200).hex() == "000100002cba9c4000001c20"
    assert encode_nat_pmp_map(TCP, 11_450, 0, 0).hex() == "000200002cba000000000000"


def test_nat_pmp_answers() -> None:
    """RFC 6886 sections 3.2, 3.3 and 3.5."""
    address = bytes.fromhex("00800000000000640b000001")
    assert decode_nat_pmp_untrusted(address) == Answer(0, 100, host="11.0.0.1")
    mapped = bytes.fromhex("00820000000000642cba9c4000000e10")
    assert decode_nat_pmp_untrusted(mapped) == Answer(0, 100, TCP, b"", 11_450, "", 40_000, 3_600)
    assert decode_nat_pmp_untrusted(bytes.fromhex("0081000300000064")) == Answer(3, 100, UDP)
    for bad in (b"", address[:7], address[:11], mapped[:15], b"\x01" + address[1:], bytes.fromhex("0001000000000064"),
                bytes.fromhex("008300000000006400000000"), address + bytes(1_100)):  # fmt: skip
        with pytest.raises(WireError):
            decode_nat_pmp_untrusted(bad)


@pytest.mark.parametrize(
    ("data", "refuses"),
    [
        ("0081000100000064", True),  # of NAT-PMP, with the opcode that was asked
        ("0000000100000064", True),  # or without, as in the figure of RFC 6886 section 3.5
        ("0081000000000064", False),
        ("018100010000070800000064" + "00" * 12, True),  # PCP of another version
        ("028100020000070800000064" + "00" * 12, False),
        ("020100010000070800000064" + "00" * 12, False),  # a request
        ("000000", False),
    ],
)
def test_routers_without_our_version_say_so(data: str, refuses: bool) -> None:
    assert refuses_version_untrusted(bytes.fromhex(data)) is refuses


@given(st.binary(max_size=1_200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    refuses_version_untrusted(data)
    for decode in (decode_pcp_untrusted, decode_nat_pmp_untrusted):
        try:
            decode(data)
        except WireError:
            continue
