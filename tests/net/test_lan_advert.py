"""What a LAN says is read with limits, and whatever it says, nothing but `WireError` comes out."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.net.interfaces import Interface
from atmo.net.lan_advert import (
    SERVICE_TYPE,
    TEXT_BYTES,
    TXT_BYTES,
    VERSION,
    Advert,
    node_of_untrusted,
    parse_advert_untrusted,
)
from atmo.trust.certificate import valid_name
from atmo.wire.address import CONTACT_ADDRESSES, Address

NODE = NodeId(b"n" * 32)
MESH = b"m" * 32
LAN: tuple[Interface, ...] = (ipaddress.ip_interface("192.168.7.5/24"), ipaddress.ip_interface("fd00:7::5/64"))


def txt(*strings: bytes) -> bytes:
    return b"".join(bytes([len(string)]) + string for string in strings)


def parse(data: bytes, port: int | None = 11450, *addresses: str) -> Advert:
    return parse_advert_untrusted(NODE, port, data, addresses, LAN)


names = st.text(max_size=128).filter(valid_name)


@given(name=names.filter(bool), mesh=st.none() | st.binary(min_size=32, max_size=32), mesh_name=names)
def test_what_is_said_is_heard(name: str, mesh: bytes | None, mesh_name: str) -> None:
    said = Advert(NODE, name, 11450, mesh, mesh_name if mesh else "")
    assert len(said.txt()) <= TXT_BYTES
    heard = parse(said.txt())
    assert (heard.mesh, heard.version) == (mesh, VERSION)
    for long, short in ((name, heard.name), (said.mesh_name, heard.mesh_name)):
        assert long.startswith(short)
        assert short == long or len(short.encode()) > TEXT_BYTES - 4


@given(st.binary(max_size=TXT_BYTES + 50), st.none() | st.integers(-1, 70_000), st.lists(st.text(max_size=50)))
def test_garbage_is_refused_or_harmless(data: bytes, port: int | None, addresses: list[str]) -> None:
    try:
        advert = parse(data, port, *addresses)
    except WireError:
        return
    assert valid_name(advert.name)
    assert advert.name
    assert valid_name(advert.mesh_name)
    assert len(advert.addresses) <= CONTACT_ADDRESSES


@given(st.lists(st.sampled_from([b"v=1", b"v=2", b"name=x", b"mesh=" + b"0" * 64, b"meshname=y", b"w", b"=z", b""])))
def test_strings_in_any_order(strings: list[bytes]) -> None:
    first = next((string for string in strings if string.startswith(b"v=")), None)
    if first is None:
        with pytest.raises(WireError, match="version"):
            parse(txt(*strings))
    else:
        assert parse(txt(*strings)).version == int(first[2:])


@pytest.mark.parametrize(
    "data",
    [
        txt(b"v=1") + b"\x05abc",
        txt(b"v=0"),
        txt(b"v=1000"),
        txt("v=\u0661".encode()),
        txt(b"v=1", b"name=\xff"),
        txt(b"v=1", b"name=a\x1b[2J"),
        txt(b"v=1", b"name=" + b"x" * 129),
        txt(b"v=1", b"mesh=abc"),
        txt(b"v=1", b"mesh=" + b"Z" * 64),
        txt(b"v=1", b"mesh=" + b"0" * 64, b"meshname=\xc2\x85"),
        txt(b"v=1", *[b"x"] * TXT_BYTES),
    ],
)
def test_what_is_no_advert(data: bytes) -> None:
    with pytest.raises(WireError):
        parse(data)


@pytest.mark.parametrize("port", [None, 0, -1, 65_536])
def test_a_port_that_is_none(port: int | None) -> None:
    with pytest.raises(WireError, match="port"):
        parse(txt(b"v=1"), port)


def test_only_addresses_of_this_lan_count() -> None:
    told = (
        *(
            "8.8.8.8",
            "10.0.0.1",
            "192.168.8.1",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.251",
            "::1",
            "fe80::1",
            "fe80::1%eth0",
        ),
        *("fd00:8::1", "kitchen", "192.168.7.9", "fd00:7::9", "192.168.7.9"),
    )
    places = (Address("192.168.7.9", 5), Address("fd00:7::9", 5))
    assert parse(txt(b"v=1"), 5, *told).addresses == places


def test_of_many_addresses_few_are_kept() -> None:
    many = [f"192.168.7.{number}" for number in range(1, 200)]
    assert len(parse(txt(b"v=1"), 5, *many).addresses) == CONTACT_ADDRESSES


def test_a_node_without_a_name_is_called_by_its_id() -> None:
    assert parse(txt(b"v=1")).name == NODE.short


@given(st.text(max_size=100))
def test_names_of_services(name: str) -> None:
    with pytest.raises(WireError):
        node_of_untrusted(name)
    with pytest.raises(WireError):
        node_of_untrusted(f"{name}.{SERVICE_TYPE}")


def test_the_name_of_a_node() -> None:
    assert node_of_untrusted(f"{NODE}.{SERVICE_TYPE}") == NODE
    assert node_of_untrusted(f"{NODE}.{SERVICE_TYPE}".upper()) == NODE
