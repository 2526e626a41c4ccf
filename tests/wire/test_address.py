"""Addresses: literal IP addresses with a port, and nothing that a terminal or a resolver could take otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.wire.address import Address
from atmo.wire.schema import pack, unpack_untrusted

hosts = st.ip_addresses().map(str)


@given(hosts, st.integers(1, 65_535))
def test_an_address_reads_back_from_its_text_and_its_encoding(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address
    assert unpack_untrusted(Address, pack(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3.4",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:-1",
        "1.2.3.4: 1",
        "1.2.3.4:1_0",
        "1.2.3.4:１",
        "1.2.3.4:80\n",
        "1.2.3:80",
        "999.1.1.1:80",
        "localhost:80",
        "::1:80",
        "[::1]",
        "[::1:80",
        "[]:80",
        "[fe80::1%eth0]:80",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="not an address such as"):
        Address.parse(text)


@given(st.text(max_size=60))
def test_random_text_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        Address.parse(text)


@pytest.mark.parametrize(
    "body",
    [
        {"host": "example.org", "port": 80},
        {"host": "fe80::1%\x1b[2J", "port": 80},
        {"host": "fe80::1%" + "e" * 17, "port": 80},
        {"host": "1.2.3.4", "port": 0},
        {"host": "1.2.3.4", "port": -5},
        {"host": "1.2.3.4"},
    ],
)
def test_a_hostile_address_is_a_wire_error(body: dict[str, object]) -> None:
    with pytest.raises(WireError, match="Address"):
        unpack_untrusted(Address, pack(body))


def test_a_link_local_address_keeps_its_scope() -> None:
    assert str(Address("fe80::1%eth0", 80)) == "[fe80::1%eth0]:80"
