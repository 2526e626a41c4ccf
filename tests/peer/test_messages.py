"""Messages of neighbours: each comes back from its bytes, and only those bytes; the fullest ones are within limits."""

from __future__ import annotations

import dataclasses
from typing import Any, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.gossip.entry import entry_of
from atmo.gossip.listings import NAMES_MOST, batches, pages
from atmo.gossip.messages import LISTED_BYTES, NAME_BYTES, RANGES_MOST, Gossip, Ping, Records, Want
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.identity import NodeId
from atmo.index.config import IndexConfig
from atmo.index.messages import Found
from atmo.peer import messages as module
from atmo.peer.messages import MESSAGE_ITEMS, MESSAGES, decode_message_untrusted, encode_message
from atmo.peer.rights import _SUCCESSIONS_BYTES, SUCCESSIONS_MOST, Successions
from atmo.wire import codec, limits
from atmo.wire.schema import from_wire_untrusted
from tests.gossip.kit import record as note
from tests.wire.examples import CHECKED, NODE, fields_of, plain, smallest

CUT = (Records, Successions, Found)
"""Messages whose bounds allow more bytes than a message may have: who writes them counts."""


def fullest(hint: Any, most: int | None, text: int = 10**9) -> Any:
    """Returns the wire form with every list as long as it may be, and plain characters, as protocol texts have."""
    if get_origin(hint) is tuple:
        inner = plain(hint.__args__[0])
        return [fullest(*inner, text)] * (most or 0)
    if dataclasses.is_dataclass(hint):
        checked = CHECKED.get(hint, {})  # type: ignore[arg-type]
        fields = fields_of(hint)  # type: ignore[arg-type]
        return {field.name: checked.get(field.name) or fullest(field.hint, field.most, text) for field in fields}
    if hint is int:
        return 2**63 if most is None else most
    length = min(most or 0, text)
    return {str: "x" * length, bytes: b"x" * length, bool: True, NodeId: bytes(NODE)}[hint]


def items(value: Any) -> int:
    """Counts elements as the decoder does: those of lists, and each key and value of maps."""
    if isinstance(value, list):
        return len(value) + sum(map(items, value))
    if isinstance(value, dict):
        return 2 * len(value) + sum(map(items, value.values()))
    return 0


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_comes_back_from_its_bytes(name: str) -> None:
    message: Any = from_wire_untrusted(MESSAGES[name], smallest(MESSAGES[name], None))
    assert decode_message_untrusted(encode_message(message)) == message


@pytest.mark.parametrize("name", [name for name, cls in MESSAGES.items() if cls not in CUT])
def test_the_fullest_message_is_within_the_limits(name: str) -> None:
    value = fullest(MESSAGES[name], None)
    message: Any = from_wire_untrusted(MESSAGES[name], value)
    data = encode_message(message)
    assert decode_message_untrusted(data) == message
    assert len(data) < limits.MESSAGE_BYTES + 1_024 * (MESSAGES[name] is Gossip)


@pytest.mark.parametrize("name", [name for name, cls in MESSAGES.items() if cls in CUT])
def test_full_lists_of_short_texts_are_within_the_limits(name: str) -> None:
    value = fullest(MESSAGES[name], None, text=1)
    message: Any = from_wire_untrusted(MESSAGES[name], value)
    assert decode_message_untrusted(encode_message(message)) == message


@pytest.mark.parametrize("name", MESSAGES)
def test_the_limit_of_elements_leaves_a_newer_peer_some_room(name: str) -> None:
    elements = 2 + items(fullest(MESSAGES[name], None))
    assert elements + 8 <= module._ITEMS.get(name, MESSAGE_ITEMS) <= 2 * max(elements, MESSAGE_ITEMS)


def test_the_largest_record_fits_a_broadcast_and_a_batch() -> None:
    envelope = b"e" * limits.MESSAGE_BYTES
    for message in (Gossip(envelope, 1_000), Records((envelope,))):
        assert decode_message_untrusted(encode_message(message)) == message


def test_what_is_cut_by_bytes_fits() -> None:
    room = ReconcileConfig().message_bytes
    assert room + 1_024 <= LISTED_BYTES, "slots that share a name share a page"
    many = [entry_of(NODE, note("n", str(number)), b"") for number in range(6_000)]
    prefixes = tuple(f"{number:04x}" for number in range(RANGES_MOST))
    names = b"".join(entry.name for entry in many)[: NAME_BYTES * NAMES_MOST]
    for page in pages(prefixes, many, room):
        for message in (page, Want(names, prefixes)):
            assert len(encode_message(message)) <= limits.MESSAGE_BYTES
            assert decode_message_untrusted(encode_message(message)) == message
    for size in (1, 1_000, 30_000, limits.MESSAGE_BYTES - 1_024):
        for batch in batches([b"e" * size] * 70, room):
            assert decode_message_untrusted(encode_message(Records(batch))) == Records(batch)
    config = IndexConfig()
    contacts = from_wire_untrusted(Found, fullest(Found, None)).contacts
    records = (b"e" * (config.answer_bytes // config.answer_providers),) * config.answer_providers
    assert len(encode_message(Found(2**53, contacts, records, 2**32))) <= limits.MESSAGE_BYTES
    successions = Successions((b"e" * (_SUCCESSIONS_BYTES // SUCCESSIONS_MOST),) * SUCCESSIONS_MOST)
    assert len(encode_message(successions)) <= limits.MESSAGE_BYTES


@pytest.mark.parametrize(
    "value",
    [5, [], ["pong"], ["nonsense", {}], [5, {}], ["ping", {}], ["ping", {"nonce": 2**64 - 1}], ["pong", {}, 1]],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        decode_message_untrusted(codec.encode(value))


@pytest.mark.parametrize(
    ("name", "fields", "most"),
    [
        ("ping", {"nonce": 1, "more": [0] * 60}, MESSAGE_ITEMS),
        ("gossip", {"envelope": b"", "more": [[]] * 60}, MESSAGE_ITEMS),
        ("prune", {"more": [{}] * 16_000}, MESSAGE_ITEMS),
        ("records", {"envelopes": [], "more": [{}] * 16_000}, 128),
        ("listing", {"prefixes": [], "entries": b"", "more": [{}] * 16_000}, 384),
        ("found", {"token": 1, "more": [{}] * 16_000}, 1_024),
    ],
)
def test_a_message_of_too_many_elements_is_refused(name: str, fields: dict[str, Any], most: int) -> None:
    with pytest.raises(WireError, match=f"more than {most} elements"):
        decode_message_untrusted(codec.encode([name, fields]))


def test_a_message_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(WireError, match="more than the limit"):
        decode_message_untrusted(codec.encode(["gossip", {"envelope": b"e" * (limits.MESSAGE_BYTES + 1_024)}]))


def test_fields_that_a_newer_peer_adds_are_ignored() -> None:
    assert decode_message_untrusted(codec.encode(["ping", {"nonce": 1, "more": [0] * 50}])) == Ping(1)


@given(st.binary(max_size=200))
def test_only_wire_errors_come_out_of_rubbish(rubbish: bytes) -> None:
    with pytest.raises(WireError):
        decode_message_untrusted(b"\xff" + rubbish)


@given(st.sampled_from(list(MESSAGES)), st.binary(max_size=60))
def test_the_name_of_a_message_makes_no_message(name: str, rubbish: bytes) -> None:
    head = codec.encode([name, 0])[:-1]
    try:
        message = decode_message_untrusted(head + rubbish)
    except WireError:
        return
    assert isinstance(message, MESSAGES[name])
