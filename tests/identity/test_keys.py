"""Node ids and signatures."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.identity import NodeId, Signer, verify

# RFC 8032 section 7.1, test 2
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_the_vector_of_rfc_8032() -> None:
    signer = Signer(SEED)
    assert signer.node_id == PUBLIC
    assert signer.seed == SEED
    assert signer.sign(b"\x72") == SIGNATURE
    assert verify(signer.node_id, b"\x72", SIGNATURE)
    assert repr(signer) == f"Signer({signer.node_id.short})"


@given(st.binary(min_size=32, max_size=32))
def test_the_text_of_a_node_id_reads_back(key: bytes) -> None:
    node = NodeId(key)
    assert len(str(node)) == 52
    assert NodeId.parse(str(node)) == node
    assert NodeId.parse(str(node).upper()) == node
    assert str(node).startswith(node.short)
    assert repr(node) == f"NodeId({node.short})"
    assert node == key


@given(st.text(max_size=60) | st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=52, max_size=52))
@example("a" * 51 + "b")
@example("ı" * 52)
@example("ſ" * 52)
@example("ß" * 52)
@example("=" * 52)
@example("\ud800" * 52)
def test_other_text_is_refused_or_is_the_one_text_of_its_id(text: str) -> None:
    try:
        node = NodeId.parse(text)
    except WireError:
        return
    assert str(node) == text.lower()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_node_id_has_32_bytes(size: int) -> None:
    with pytest.raises(WireError, match="32 bytes"):
        NodeId(bytes(size))


def test_each_refusal_says_why() -> None:
    with pytest.raises(WireError, match="52 characters"):
        NodeId.parse("abc")
    with pytest.raises(WireError, match="letters a-z"):
        NodeId.parse("1" * 52)
    with pytest.raises(WireError, match="stray bits"):
        NodeId.parse("a" * 51 + "b")


@given(st.binary(max_size=100), st.integers(0, 511), st.integers(0, 99))
def test_a_changed_bit_breaks_the_signature(data: bytes, bit: int, place: int) -> None:
    signer = Signer(SEED)
    signature = signer.sign(data)
    assert verify(signer.node_id, data, signature)
    damaged = bytearray(signature)
    damaged[bit // 8] ^= 1 << bit % 8
    assert not verify(signer.node_id, data, bytes(damaged))
    if data:
        changed = bytearray(data)
        changed[place % len(data)] ^= 1
        assert not verify(signer.node_id, bytes(changed), signature)
    assert not verify(Signer(bytes(32)).node_id, data, signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=70))
@example(bytes(32), bytes(64))
@example(b"\x01" + bytes(31), b"\x01" + bytes(63))
@example(b"\xff" * 32, b"\xff" * 64)
def test_nothing_verifies_by_chance(key: bytes, signature: bytes) -> None:
    assert not verify(NodeId(key), b"data", signature)


def test_a_signature_with_the_order_added_is_refused() -> None:
    """S + L would verify too if S were not held below L (RFC 8032 section 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(SIGNATURE[32:], "little") + order
    assert not verify(NodeId(PUBLIC), b"\x72", SIGNATURE[:32] + scalar.to_bytes(32, "little"))


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        Signer(b"short")
