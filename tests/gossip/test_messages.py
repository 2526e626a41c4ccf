"""Messages of neighbours: each comes back from its bytes, and only those bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.gossip.messages import (
    MESSAGES,
    SUMMARY_ENTRIES,
    Flood,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Records,
    Summary,
    SummaryEntry,
    decode_message_untrusted,
    encode_message,
)
from atmo.wire import codec, limits
from tests.trust.kit import ANNA

EXAMPLES = [
    Hello(b"m" * 32, b"certificate", b"issuer", "1.0"),
    Hello(b"m" * 32, b"certificate"),
    Ping(7),
    Pong(7, 3),
    Flood(b"envelope"),
    Summary((SummaryEntry(ANNA.node_id, "node", "", 1, 2),), b"a", b"b"),
    Summary(()),
    Records((b"one", b"two")),
    Goodbye("shutting down"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_from_its_bytes(message: Any) -> None:
    assert decode_message_untrusted(encode_message(message)) == message


def test_every_message_has_an_example() -> None:
    assert {type(message) for message in EXAMPLES} == set(MESSAGES.values())


@pytest.mark.parametrize(
    "value",
    [5, [], ["pong"], ["nonsense", {}], [5, {}], ["ping", {}], ["ping", {"nonce": 2**64 - 1}], ["pong", {}, 1]],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        decode_message_untrusted(codec.encode(value))


def test_the_largest_record_fits_a_flood_and_a_batch() -> None:
    envelope = b"e" * limits.MESSAGE_BYTES
    for message in (Flood(envelope), Records((envelope,))):
        assert decode_message_untrusted(encode_message(message)) == message


@pytest.mark.parametrize(
    ("name", "fields", "most"),
    [
        ("ping", {"nonce": 1, "more": [0] * 60}, 64),
        ("flood", {"envelope": b"", "more": [[]] * 60}, 64),
        ("records", {"envelopes": [], "more": [{}] * 16_000}, 128),
        ("summary", {"entries": [], "more": [{}] * 16_000}, 6_144),
    ],
)
def test_a_message_of_too_many_elements_is_refused(name: str, fields: dict[str, Any], most: int) -> None:
    with pytest.raises(WireError, match=f"more than {most} elements"):
        decode_message_untrusted(codec.encode([name, fields]))


def test_full_messages_are_within_the_limit_of_elements() -> None:
    entry = SummaryEntry(ANNA.node_id, "node", "", 1, 1)
    for message in (Summary((entry,) * SUMMARY_ENTRIES, b"a", b"b"), Records((b"e",) * 64)):
        assert decode_message_untrusted(encode_message(message)) == message


def test_fields_that_a_newer_peer_adds_are_ignored() -> None:
    assert decode_message_untrusted(codec.encode(["ping", {"nonce": 1, "more": [0] * 50}])) == Ping(1)


@given(st.binary(max_size=200))
def test_only_wire_errors_come_out_of_rubbish(rubbish: bytes) -> None:
    with pytest.raises(WireError):
        decode_message_untrusted(b"\xff" + rubbish)
