"""Chunks in clear between two nodes of one LAN: only where both want it, and never other bytes than the name says."""

from __future__ import annotations

import ipaddress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.net import interfaces
from atmo.net.bulk_config import BulkConfig
from atmo.net.bulk_frames import (
    HEAD_BYTES,
    REQUEST_BYTES,
    Direction,
    Kind,
    Want,
    answer_head,
    open_request_untrusted,
    seal_request,
)
from atmo.net.interfaces import is_near
from atmo.net.ports import ChunkRefused, NoFastPath
from tests.net.bulk_kit import CHUNK, NAME, Ends

CLEAR, SEALED = BulkConfig(clear_on_lan=True), BulkConfig()


async def in_clear(ends: Ends) -> bool:
    """Fetches a chunk; says whether it travelled as it is."""
    assert await ends.fetch()
    return CHUNK in bytes(ends.made[-1][0].sent)


async def test_a_chunk_in_clear(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    ends = Ends(nursery, CLEAR)
    assert await in_clear(ends)
    assert await in_clear(ends)
    assert bytes(ends.made[0][0].sent) == 2 * (answer_head(Kind.CLEAR, len(CHUNK)) + CHUNK)
    assert NAME not in ends.made[0][1].sent  # what is asked for stays a secret
    with pytest.raises(ChunkRefused, match="missing"):
        await ends.fetch(bytes(32), 10)
    assert await in_clear(ends)
    assert ends.stats.opened == 1


@pytest.mark.parametrize("who", ["asker", "holder", "far"])
async def test_one_end_that_does_not_want_it_is_enough(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, who: str
) -> None:
    ends = Ends(nursery, CLEAR)
    if who == "far":
        ends.near = False
    else:
        getattr(ends, who)._config = SEALED
    assert not await in_clear(ends)


async def test_a_chunk_in_clear_that_was_not_wanted_so_is_not_taken(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    assert await ends.fetch()
    theirs = ends.made[0][0]
    send = theirs.send_all

    async def stripping(data: memoryview) -> None:
        await send(memoryview(answer_head(Kind.CLEAR, len(CHUNK)) + CHUNK))

    theirs.send_all = stripping  # type: ignore[method-assign,assignment]
    with pytest.raises(NoFastPath, match="kind 2"):
        await ends.fetch()


async def test_changed_bytes_are_nobodys_fault(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    """Anyone on the LAN can do it: the holder is not blamed, the connection ends, the chunk comes over QUIC."""
    ends = Ends(nursery, CLEAR)
    assert await ends.fetch()
    theirs = ends.made[0][0]
    send = theirs.send_all

    async def tampering(data: memoryview) -> None:
        changed = bytearray(data)
        changed[-1] ^= len(changed) > HEAD_BYTES
        await send(memoryview(changed))

    theirs.send_all = tampering  # type: ignore[method-assign,assignment]
    with pytest.raises(NoFastPath, match="anybody on the way"):
        await ends.fetch()
    assert ends.asker.connections == 0


@pytest.mark.parametrize("want", Want)
@pytest.mark.parametrize("size", [0, 1, 2**22])
def test_requests(want: Want, size: int) -> None:
    request = seal_request(Direction(b"k" * 16), want, NAME, size)
    assert len(request) == REQUEST_BYTES
    assert open_request_untrusted(Direction(b"k" * 16), request) == (want, NAME, size)


def test_a_request_for_more_than_a_chunk() -> None:
    with pytest.raises(WireError, match="4194305 bytes"):
        open_request_untrusted(Direction(b"k" * 16), seal_request(Direction(b"k" * 16), Want.CHUNK, NAME, 2**22 + 1))


@given(st.data())
def test_no_changed_bit_of_a_request_gets_through(draw: st.DataObject) -> None:
    request = seal_request(Direction(b"k" * 16), Want.CHUNK, NAME, 5)
    bit = draw.draw(st.integers(0, 8 * len(request) - 1))
    request[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        open_request_untrusted(Direction(b"k" * 16), request)


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("192.168.7.20", True),
        ("192.168.8.20", False),  # private, and behind a router
        ("8.8.4.4", False),  # in a network of this machine whose addresses are not private
        ("fd00::2", True),
        ("fd01::2", False),
        ("no address", False),
    ],
)
def test_what_counts_as_near(monkeypatch: pytest.MonkeyPatch, host: str, near: bool) -> None:
    found = [ipaddress.ip_interface(text) for text in ("192.168.7.1/24", "8.8.4.1/24", "fd00::1/64")]
    monkeypatch.setattr(interfaces, "_interfaces", lambda: iter(found))
    assert is_near(host) is near
