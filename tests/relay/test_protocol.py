"""The messages of the relay: what is read back, what is refused, and who may prove what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.relay import protocol
from atmo.relay.protocol import (
    ABSENT,
    ANSWER,
    CHALLENGE,
    DATAGRAM_BYTES,
    DATAGRAMS,
    DRAINING_MESSAGE,
    HEAD_BYTES,
    MESSAGE_BYTES,
    WELCOME,
    Absent,
    Challenge,
    ClientHandshake,
    Datagrams,
    Draining,
    RelayHandshake,
    absent_message,
    datagram_ends_untrusted,
    datagrams_message,
    framed,
    read_told_untrusted,
)
from atmo.wire.schema import pack
from tests.relay.kit import ALICE, BOB, CAROL

NODE = ALICE.node_id
THEIRS, OURS = b"n" * 32, b"f" * 32
HEAD = bytes([DATAGRAMS]) + NODE


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20))
def test_datagrams_are_read_back(datagrams: list[bytes]) -> None:
    message = datagrams_message(NODE, [framed(each) for each in datagrams])
    assert read_told_untrusted(message) == Datagrams(NODE, tuple(datagrams))
    assert len(datagram_ends_untrusted(message)) == len(datagrams)


def test_the_largest_message_holds_the_largest_datagram() -> None:
    message = datagrams_message(NODE, [framed(bytes(DATAGRAM_BYTES))])
    assert len(message) == MESSAGE_BYTES
    assert datagram_ends_untrusted(message) == [MESSAGE_BYTES]
    with pytest.raises(WireError):
        framed(bytes(DATAGRAM_BYTES + 1))
    with pytest.raises(WireError):
        datagram_ends_untrusted(message + b"\0\0\0\1x")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        "text",
        b"\xff",
        HEAD,
        HEAD + b"\0\0\0",
        HEAD + b"\0\0\0\0",
        HEAD + b"\0\0\0\1",
        HEAD + b"\0\0\0\1x\0\0\0\0",
        HEAD + b"\0\0\0\1xy",
        HEAD + b"\xff\xff\xff\xffx",
        bytes([DATAGRAMS]) + b"short",
        bytes([ABSENT]) + NODE[:-1],
        bytes([ABSENT]) + NODE + b"x",
        DRAINING_MESSAGE + b"x",
        bytes([CHALLENGE]),
    ],
)
def test_what_is_malformed_is_refused(message: bytes | str) -> None:
    with pytest.raises(WireError):
        read_told_untrusted(message)
    with pytest.raises(WireError):
        datagram_ends_untrusted(message)


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda rest: HEAD + rest))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        told = read_told_untrusted(data)
    except WireError:
        return
    if isinstance(told, Datagrams):
        assert data == datagrams_message(told.source, [framed(each) for each in told.datagrams])
    elif isinstance(told, Absent):
        assert data == absent_message(told.node)
    else:
        assert data == DRAINING_MESSAGE


def test_the_other_words() -> None:
    assert read_told_untrusted(absent_message(NODE)) == Absent(NODE)
    assert read_told_untrusted(DRAINING_MESSAGE) == Draining()
    assert len(absent_message(NODE)) == HEAD_BYTES


def shaken(pinned: bool = True) -> tuple[RelayHandshake, ClientHandshake]:
    return RelayHandshake(CAROL, THEIRS), ClientHandshake(ALICE, OURS, CAROL.node_id if pinned else None)


@pytest.mark.parametrize("pinned", [True, False])
def test_both_ends_prove_who_they_are(pinned: bool) -> None:
    relay, client = shaken(pinned)
    node, welcome = relay.accept_untrusted(client.answer_untrusted(relay.challenge()))
    assert node == ALICE.node_id
    assert client.finish_untrusted(welcome) == CAROL.node_id


def test_an_answer_counts_once_and_for_its_challenge_only() -> None:
    relay, client = shaken()
    answer = client.answer_untrusted(relay.challenge())
    relay.accept_untrusted(answer)
    with pytest.raises(WireError, match="second"):
        relay.accept_untrusted(answer)
    with pytest.raises(WireError, match="another challenge"):
        RelayHandshake(CAROL, b"m" * 32).accept_untrusted(answer)
    with pytest.raises(WireError, match="another challenge"):
        RelayHandshake(BOB, THEIRS).accept_untrusted(answer)


def test_a_claim_of_anothers_id_is_refused() -> None:
    relay, client = shaken()
    answer = client.answer_untrusted(relay.challenge())
    assert answer.count(ALICE.node_id) == 1
    with pytest.raises(WireError, match="signature"):
        relay.accept_untrusted(answer.replace(ALICE.node_id, BOB.node_id))


def test_only_the_pinned_relay_is_answered() -> None:
    client = ClientHandshake(ALICE, OURS, BOB.node_id)
    with pytest.raises(WireError, match="not the expected"):
        client.answer_untrusted(RelayHandshake(CAROL, THEIRS).challenge())


def test_a_relay_without_the_key_it_names_is_found_out() -> None:
    client = ClientHandshake(ALICE, OURS, CAROL.node_id)
    client.answer_untrusted(RelayHandshake(CAROL, THEIRS).challenge())
    thief = RelayHandshake(BOB, THEIRS)
    _, welcome = thief.accept_untrusted(ClientHandshake(ALICE, OURS).answer_untrusted(thief.challenge()))
    with pytest.raises(WireError, match="not signed by the relay"):
        client.finish_untrusted(welcome)


def test_a_welcome_is_for_one_answer() -> None:
    _, welcome = RelayHandshake(CAROL, THEIRS).accept_untrusted(
        ClientHandshake(ALICE, b"o" * 32).answer_untrusted(RelayHandshake(CAROL, THEIRS).challenge())
    )
    relay, client = shaken()
    client.answer_untrusted(relay.challenge())
    with pytest.raises(WireError, match="another answer"):
        client.finish_untrusted(welcome)


@pytest.mark.parametrize("challenge", [Challenge(2, CAROL.node_id, THEIRS), Challenge(1, CAROL.node_id, b"short")])
def test_challenges_of_another_kind_are_refused(challenge: Challenge) -> None:
    with pytest.raises(WireError):
        ClientHandshake(ALICE, OURS).answer_untrusted(bytes([CHALLENGE]) + pack(challenge))


def test_a_short_nonce_of_the_client_is_refused() -> None:
    relay = RelayHandshake(CAROL, THEIRS)
    with pytest.raises(WireError, match="nonce"):
        relay.accept_untrusted(ClientHandshake(ALICE, b"short").answer_untrusted(relay.challenge()))


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_gets_through(position: int, change: int) -> None:
    relay, client = shaken()
    answer = bytearray(client.answer_untrusted(relay.challenge()))
    answer[position % len(answer)] ^= change
    with pytest.raises(WireError):
        relay.accept_untrusted(bytes(answer))


@given(st.binary(max_size=300), st.sampled_from([CHALLENGE, ANSWER, WELCOME]))
def test_garbage_is_no_handshake(data: bytes, kind: int) -> None:
    relay, client = shaken()
    for read in (relay.accept_untrusted, client.answer_untrusted, client.finish_untrusted):
        with pytest.raises(WireError):
            read(bytes([kind]) + data)
    with pytest.raises(WireError):
        shaken()[0].accept_untrusted(bytes([kind]) + bytes(protocol.HANDSHAKE_BYTES))
