"""The bytes of bulk connections: keys, seals, heads, tickets, and whatever else may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import RemoteError, WireError
from atmo.net.bulk_channel import Channel
from atmo.net.bulk_frames import (
    HEAD_BYTES,
    REASON_BYTES,
    TAG_BYTES,
    Buffers,
    Direction,
    Kind,
    Ticket,
    Want,
    answer_head,
    directions,
    read_head_untrusted,
    read_reason_untrusted,
    read_ticket_untrusted,
)
from atmo.net.ports import Buffer
from atmo.wire import codec
from atmo.wire.schema import to_wire
from tests.net.bulk_kit import ASKER, HOLDER

TICKET = Ticket(b"t" * 16, b"s" * 32)


def seal(direction: Direction, data: bytes, associated: bytes = b"") -> bytes:
    room = bytearray(len(data) + TAG_BYTES)
    direction.seal(data, associated, memoryview(room))
    return bytes(room)


def opened(direction: Direction, sealed: bytes, associated: bytes = b"") -> bytes:
    room = bytearray(len(sealed) - TAG_BYTES)
    direction.open_untrusted(sealed, associated, memoryview(room))
    return bytes(room)


def test_what_one_end_seals_the_other_opens_in_order() -> None:
    (there, back), (there_too, back_too) = directions(TICKET, ASKER, HOLDER), directions(TICKET, ASKER, HOLDER)
    for number in range(3):
        assert opened(there_too, seal(there, b"question %d" % number, b"x"), b"x") == b"question %d" % number
        assert opened(back_too, seal(back, b"answer", b"name"), b"name") == b"answer"
    first, second = seal(there, b"1"), seal(there, b"2")
    with pytest.raises(WireError, match="did not seal"):
        opened(there_too, second)
    with pytest.raises(WireError):
        opened(there_too, first)  # its turn is over


@pytest.mark.parametrize(
    "other",
    [
        directions(Ticket(b"T" * 16, b"s" * 32), ASKER, HOLDER)[0],
        directions(Ticket(b"t" * 16, b"S" * 32), ASKER, HOLDER)[0],
        directions(TICKET, HOLDER, ASKER)[0],
        directions(TICKET, ASKER, HOLDER)[1],
    ],
)
def test_keys_differ_by_ticket_secret_nodes_and_direction(other: Direction) -> None:
    with pytest.raises(WireError):
        opened(other, seal(directions(TICKET, ASKER, HOLDER)[0], b"data"))


@given(st.binary(min_size=1, max_size=100), st.data())
def test_no_changed_bit_gets_through(data: bytes, draw: st.DataObject) -> None:
    sealed = bytearray(seal(Direction(b"k" * 16), data, b"name"))
    bit = draw.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        opened(Direction(b"k" * 16), bytes(sealed), b"name")


@given(st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES), st.integers(0, 2**22))
def test_a_head_never_makes_more_room_than_was_asked_for(head: bytes, size: int) -> None:
    try:
        kind, body = read_head_untrusted(head, size)
    except WireError:
        return
    assert body == size + TAG_BYTES if kind is Kind.CHUNK else body <= REASON_BYTES + TAG_BYTES


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", [0, 1, REASON_BYTES, REASON_BYTES + 1, 2**20, 2**32 - 1 - TAG_BYTES])
def test_heads(kind: Kind, size: int) -> None:
    head = answer_head(kind, size)
    if kind is Kind.CLEAR:
        for want in Want:
            if want is Want.CLEAR and size == 2**20:
                assert read_head_untrusted(head, 2**20, want) == (kind, size)
            else:
                with pytest.raises(WireError):
                    read_head_untrusted(head, 2**20, want)
    elif size == 2**20 if kind is Kind.CHUNK else 0 < size <= REASON_BYTES:
        assert read_head_untrusted(head, 2**20) == (kind, size + TAG_BYTES)
    else:
        with pytest.raises(WireError):
            read_head_untrusted(head, 2**20)


def test_reasons_are_plain_text() -> None:
    assert read_reason_untrusted(b"missing") == "missing"
    with pytest.raises(WireError):
        read_reason_untrusted("ü".encode())


def test_tickets_on_the_wire() -> None:
    assert read_ticket_untrusted(codec.encode(to_wire(TICKET))) == TICKET
    with pytest.raises(RemoteError, match="busy"):
        read_ticket_untrusted(codec.encode({"error": "busy"}))


@given(
    st.binary(max_size=60)
    | st.builds(
        lambda ticket, secret: codec.encode({"ticket": ticket, "secret": secret}),
        st.binary(max_size=18) | st.integers(),
        st.binary(max_size=34) | st.text(),
    )
)
def test_what_is_no_ticket_is_refused(frame: bytes) -> None:
    try:
        ticket = read_ticket_untrusted(frame)
    except (WireError, RemoteError):
        return
    assert (len(ticket.ticket), len(ticket.secret)) == (16, 32)


def test_buffers_are_used_again() -> None:
    buffers = Buffers(1)
    small, large = buffers.take(10), buffers.take(100)
    buffers.give(small)
    buffers.give(large)
    assert buffers.take(5) is small
    buffers.give(small)
    assert len(buffers.take(50)) == 50


class Script:
    """A holder that sends pieces of bytes, and then nothing more."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent: list[bytes] = []
        self.most = 0

    def send_blocking(self, data: Buffer) -> None:
        self.sent.append(bytes(data))

    async def receive_into(self, room: memoryview) -> int:
        raise NotImplementedError

    def receive_blocking(self, room: memoryview, least: int) -> int:
        self.most = max(self.most, len(room))
        have = 0
        while have < least and self.pieces:
            data = self.pieces.pop(0)
            left = len(room) - have
            if len(data) > left:
                self.pieces.insert(0, data[left:])
            data = data[:left]
            room[have : have + len(data)] = data
            have += len(data)
        return have

    def close(self) -> None:
        pass


def honest(size: int, name: bytes) -> bytes:
    head = answer_head(Kind.CHUNK, size)
    return head + seal(directions(TICKET, ASKER, HOLDER)[1], bytes(size), head + name)


@given(
    st.lists(st.binary(max_size=40), max_size=6)
    | st.builds(
        lambda cut, tail: [honest(64, bytes(32))[:cut], honest(64, bytes(32))[cut:] + tail],
        st.integers(0, 90),
        st.binary(max_size=3),
    )
)
def test_whatever_a_holder_sends_is_the_chunk_or_an_error(pieces: list[bytes]) -> None:
    taken: list[bytes] = []

    def take(data: Buffer) -> bool:
        taken.append(bytes(data))
        return True

    script = Script(pieces)
    channel = Channel(script, TICKET, ASKER, HOLDER, Buffers(2))
    try:
        channel.fetch(bytes(32), 64, take)
    except (WireError, RemoteError):
        assert not taken
    else:
        assert taken == [bytes(64)]
        assert b"".join(pieces)[:85] == honest(64, bytes(32))
    assert script.most <= HEAD_BYTES + 64 + TAG_BYTES
