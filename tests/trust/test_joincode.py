"""Join codes: they survive copying, and every typing error is found."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.trust.joincode import PREFIX, JoinCode, parse_join_code, secret_hash
from atmo.wire.address import Address, Contact
from atmo.wire.schema import pack
from tests.trust.kit import ANNA, BERT, FOUNDER, MESH

CODE = JoinCode(
    MESH, FOUNDER.node_id, b"s" * 16, (Address("192.168.1.7", 11_450), Address("fe80::1", 1)), 1_750_000_000
)
ADDRESSES = st.builds(Address, st.ip_addresses().map(str), st.integers(1, 65_535))


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.lists(ADDRESSES, max_size=16),
    st.integers(0, 2**40),
)
def test_a_code_comes_back_as_it_was(mesh: bytes, secret: bytes, addresses: list[Address], expires_s: int) -> None:
    code = JoinCode(mesh, FOUNDER.node_id, secret, tuple(addresses), expires_s)
    assert parse_join_code(code.text()) == code


def test_a_code_names_further_admins() -> None:
    others = tuple(Contact(key.node_id, (Address("10.0.0.1", port),)) for port, key in enumerate((ANNA, BERT), start=1))
    code = replace(CODE, others=others)
    assert parse_join_code(code.text()) == code
    with pytest.raises(WireError):
        parse_join_code(replace(CODE, others=others * 2).text())


def test_white_space_and_capitals_are_forgiven() -> None:
    text = CODE.text()
    assert parse_join_code(f"  {text[:30].upper()}\r\n\t{text[30:]} ") == CODE


@given(st.data())
def test_every_wrong_character_is_found(data: st.DataObject) -> None:
    text = CODE.text()
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567").filter(lambda letter: letter != text[place]))
    with pytest.raises(WireError, match="join code"):
        parse_join_code(text[:place] + wrong + text[place + 1 :])


@given(st.data())
def test_missing_and_swapped_characters_are_found(data: st.DataObject) -> None:
    text = CODE.text()
    place = data.draw(st.integers(len(PREFIX), len(text) - 2))
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    for wrong in (text[:place] + text[place + 1 :], text[:place], swapped):
        if wrong != text:
            with pytest.raises(WireError, match="join code"):
                parse_join_code(wrong)


@given(st.text(max_size=100))
def test_any_text_is_a_code_or_a_wire_error(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(WireError):
            parse_join_code(candidate)


def test_a_code_has_a_bound() -> None:
    with pytest.raises(WireError, match="at most"):
        parse_join_code(PREFIX + "a" * 5_000)


def written(body: bytes) -> str:
    return PREFIX + base64.b32encode(body + blake3(body).digest(4)).decode().rstrip("=").lower()


@pytest.mark.parametrize("short", [replace(CODE, mesh=b"short"), replace(CODE, secret=b"short")])
def test_mesh_and_secret_have_their_lengths(short: JoinCode) -> None:
    with pytest.raises(WireError, match="length"):
        parse_join_code(written(pack(short)))


def test_a_code_with_a_right_check_but_wrong_content_is_refused() -> None:
    with pytest.raises(WireError):
        parse_join_code(written(b"\xa0"))


def test_the_inviter_keeps_only_a_hash() -> None:
    assert secret_hash(b"s" * 16) != secret_hash(b"t" * 16)
    assert b"s" * 16 not in secret_hash(b"s" * 16)
