"""Envelopes: what is sealed opens in its domain and mesh, nothing else opens at all, and other COSE code agrees."""

from __future__ import annotations

import random
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm
from pycose.keys.curves import Ed25519
from pycose.keys.okp import OKPKey
from pycose.messages.sign1message import Sign1Message

from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.wire import codec
from atmo.wire.envelope import NO_MESH, open_untrusted, seal

ALICE, BOB = Signer(b"a" * 32), Signer(b"b" * 32)
DOMAIN, MESH = "atmo/test/1", b"m" * 32
SEALED = seal(ALICE, DOMAIN, MESH, b"payload")


def external(domain: str = DOMAIN, mesh: bytes = MESH) -> bytes:
    return codec.encode([domain, mesh])


def pycose_message(signer: Signer, payload: bytes, aad: bytes) -> bytes:
    """Signs with pycose as a stranger's program would."""
    message = Sign1Message(phdr={Algorithm: EdDSA, KID: bytes(signer.node_id)}, payload=payload, external_aad=aad)
    message.key = OKPKey(crv=Ed25519, x=bytes(signer.node_id), d=signer.seed)
    return bytes(message.encode())


@given(st.binary(max_size=300), st.text(max_size=30), st.binary(max_size=32), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens(payload: bytes, domain: str, mesh: bytes, seed: bytes) -> None:
    signer = Signer(seed)
    opened = open_untrusted(seal(signer, domain, mesh, payload), domain, mesh)
    assert opened.author == signer.node_id
    assert type(opened.author) is NodeId
    assert opened.payload == payload


@given(st.binary(max_size=200), st.text(max_size=20), st.binary(max_size=32))
def test_pycose_verifies_ours_and_we_open_its(payload: bytes, domain: str, mesh: bytes) -> None:
    ours = seal(ALICE, domain, mesh, payload)
    message: Any = Sign1Message.from_cose_obj(cbor2.loads(ours[1:]), allow_unknown_attributes=False)
    message.external_aad = external(domain, mesh)
    message.key = OKPKey(crv=Ed25519, x=message.phdr[KID])
    assert message.phdr == {Algorithm: EdDSA, KID: bytes(ALICE.node_id)}
    assert message.verify_signature()
    theirs = pycose_message(ALICE, payload, external(domain, mesh))
    assert open_untrusted(theirs, domain, mesh).payload == payload
    assert theirs == ours


@given(st.data())
def test_no_changed_byte_verifies(data: st.DataObject) -> None:
    damaged = bytearray(SEALED)
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        open_untrusted(bytes(damaged), DOMAIN, MESH)


@given(st.integers(0, 2**32))
def test_no_cut_swap_or_splice_verifies(seed: int) -> None:
    source = random.Random(seed)
    other = seal(BOB, DOMAIN, MESH, b"another payload")
    begin, end = sorted(source.choices(range(len(SEALED) + 1), k=2))
    for changed in (
        SEALED[:begin] + SEALED[end:] if begin != end else SEALED[:-1],
        SEALED[:begin] + other[begin:],
        other[:begin] + SEALED[begin:],
        SEALED + SEALED[begin:] + b"\0",
    ):
        if changed not in (SEALED, other):
            with pytest.raises(WireError):
                open_untrusted(changed, DOMAIN, MESH)


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_wire_errors(data: bytes) -> None:
    for candidate in (data, b"\xd2" + data, b"\xd2\x84" + data):
        with pytest.raises(WireError):
            open_untrusted(candidate, DOMAIN, MESH)


@pytest.mark.parametrize(
    ("domain", "mesh"),
    [("atmo/test/2", MESH), (DOMAIN, b"n" * 32), (DOMAIN, NO_MESH), ("", MESH), (DOMAIN + "\0", MESH)],
)
def test_a_signature_is_worth_nothing_elsewhere(domain: str, mesh: bytes) -> None:
    with pytest.raises(WireError, match="signature is wrong"):
        open_untrusted(SEALED, domain, mesh)


def envelope(protected: object, unprotected: object, payload: object, signature: object, tag: int = 18) -> bytes:
    return bytes(cbor2.dumps(cbor2.CBORTag(tag, [protected, unprotected, payload, signature]), canonical=True))


PROTECTED, _, _, RIGHT = cbor2.loads(SEALED).value


@pytest.mark.parametrize(
    "data",
    [
        envelope(PROTECTED, {}, b"payload", RIGHT, tag=98),
        envelope(PROTECTED, {}, b"payload", RIGHT)[1:],
        envelope(PROTECTED, {4: b"kid"}, b"payload", RIGHT),
        envelope(PROTECTED, [], b"payload", RIGHT),
        envelope(PROTECTED, {}, None, RIGHT),
        envelope(PROTECTED, {}, "payload", RIGHT),
        envelope(PROTECTED, {}, b"payload", RIGHT[:-1]),
        envelope(PROTECTED, {}, b"payload", RIGHT + b"\0"),
        envelope(PROTECTED, {}, b"payload", b""),
        envelope(PROTECTED, {}, b"payload", bytes(64)),
        envelope(b"", {}, b"payload", RIGHT),
        envelope(b"\xa0", {}, b"payload", RIGHT),
        envelope(codec.encode({1: -7, 4: bytes(ALICE.node_id)}), {}, b"payload", RIGHT),
        envelope(codec.encode({1: -8}), {}, b"payload", RIGHT),
        envelope(codec.encode({1: -8, 4: b"short"}), {}, b"payload", RIGHT),
        envelope(codec.encode({1: -8, 4: bytes(33)}), {}, b"payload", RIGHT),
        envelope(codec.encode({1: -8, 2: [1], 4: bytes(ALICE.node_id)}), {}, b"payload", RIGHT),
        envelope(PROTECTED + b"\0", {}, b"payload", RIGHT),
        envelope(bytes.fromhex("a20127") + b"\x04\x58\x1f" + bytes(31), {}, b"payload", RIGHT),
        envelope(codec.encode({1: -8, 4: bytes(BOB.node_id)}), {}, b"payload", RIGHT),
        codec.encode_tagged(18, [PROTECTED, {}, b"payload"]),
        codec.encode_tagged(18, [PROTECTED, {}, b"payload", RIGHT, None]),
        codec.encode_tagged(18, {}),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(WireError):
        open_untrusted(data, DOMAIN, MESH)


def test_a_signature_over_another_protected_header_is_not_ours() -> None:
    """A right signature by the named author, but the header says more than algorithm and kid."""
    protected = bytes(cbor2.dumps({1: -8, 2: [99], 4: bytes(ALICE.node_id), 99: 1}, canonical=True))
    signature = ALICE.sign(codec.encode(["Signature1", protected, external(), b"payload"]))
    with pytest.raises(WireError, match="protected header"):
        open_untrusted(envelope(protected, {}, b"payload", signature), DOMAIN, MESH)


def test_a_long_envelope_is_refused_unread() -> None:
    with pytest.raises(WireError, match="limit of 100"):
        open_untrusted(SEALED, DOMAIN, MESH, max_bytes=100)


def test_the_overhead_is_112_bytes() -> None:
    assert len(seal(ALICE, DOMAIN, MESH, bytes(344))) - 344 <= 112
