"""Both ends of bulk connections, over streams in memory: who gets in, who does not, and what becomes of connections."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from atmo.net import bulk_answers, bulk_channel
from atmo.net.bulk_config import BulkConfig
from atmo.net.bulk_frames import HEAD_BYTES
from atmo.net.ports import ChunkRefused, NoFastPath
from atmo.wire.address import Address
from tests.net.bulk_kit import (
    ASKER,
    CHUNK,
    HOLDER,
    NAME,
    WHERE,
    Ends,
    Link,
    MemoryBytes,
    opening,
    passes,
    silence,
    until,
)

CONFIG = BulkConfig()


async def test_chunks_come_over_one_connection(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    ends = Ends(nursery)
    for _ in range(3):
        assert await ends.fetch()
    with pytest.raises(ChunkRefused) as refused:
        await ends.fetch(bytes(32), 10)
    assert refused.value.reason == "missing"
    assert await ends.fetch()
    assert ends.served == [NAME] * 3 + [bytes(32), NAME]
    assert (ends.stats.opened, ends.stats.accepted, ends.stats.tickets, ends.asker.connections) == (1, 1, 1, 1)
    assert ends.tried == [WHERE]
    assert ends.mesh.held == 2  # both ends keep the link while there is a connection
    theirs = bytes(ends.made[0][0].sent)
    assert CHUNK[:64] not in theirs
    assert theirs.count(theirs[HEAD_BYTES : HEAD_BYTES + 64]) == 1  # the same chunk looks different each time


async def test_what_the_taker_says_is_the_answer(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    ends = Ends(nursery)
    assert not await ends.asker.fetch(HOLDER, NAME, len(CHUNK), lambda data: False)
    assert await ends.fetch()
    assert ends.stats.opened == 1


@pytest.mark.parametrize(
    ("path", "most"), [("lan", CONFIG.asked_lan_connections), ("direct", CONFIG.asked_node_connections)]
)
async def test_a_few_connections_serve_many_requests(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, path: str, most: int
) -> None:
    ends = Ends(nursery)
    ends.mesh.link = Link(path)
    async with trio.open_nursery() as inner:
        for _ in range(20):
            inner.start_soon(ends.fetch)
    assert len(ends.served) == 20
    assert ends.stats.opened == ends.holder.connections == most


# --- what breaks ------------------------------------------------------------------------------------------------------


async def test_a_request_that_was_tampered_with_ends_the_connection(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    first = opening(ends.ticket())
    assert await silence(ends.knock(first[:-1] + bytes([first[-1] ^ 1])))
    assert (ends.served, ends.stats.broken) == ([], 1)


@pytest.mark.parametrize(
    ("place", "value"), [(0, 1), (0, 2), (1, 255), (4, 1), (HEAD_BYTES, 255), (HEAD_BYTES + len(CHUNK) + 15, 255)]
)
async def test_an_answer_that_was_tampered_with_is_not_taken(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, place: int, value: int
) -> None:
    """The kind, the length (too large, too small), the first byte, the tag: the chunk is then fetched over QUIC."""
    ends = Ends(nursery)
    assert await ends.fetch()
    theirs, _ = ends.made[0]
    send = theirs.send_all

    async def tampering(data: memoryview) -> None:
        changed = bytearray(data)
        changed[place] ^= value
        await send(changed)

    theirs.send_all = tampering  # type: ignore[method-assign,assignment]
    with pytest.raises(NoFastPath):
        await ends.fetch()
    assert ends.stats.broken >= 1
    assert ends.asker.connections == 0
    with pytest.raises(NoFastPath, match="a moment ago"):
        await ends.fetch()
    await passes(mock_clock, CONFIG.broken_s)
    assert await ends.fetch()


async def dies(ends: Ends) -> None:
    """Closes the holder's first connection when half of a chunk is sent."""
    await until(lambda: ends.made and len(ends.made[0][0].sent) >= len(CHUNK) // 2)
    ends.made[0][0].close()


async def test_a_holder_that_dies_in_the_middle_of_a_chunk(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)

    def half() -> None:
        ends.made[0][0].only = len(CHUNK) // 2

    ends.service.reading = half
    nursery.start_soon(dies, ends)
    with pytest.raises(NoFastPath, match=r"closed|broke"):
        await ends.fetch()
    ends.service.reading = lambda: None
    with pytest.raises(NoFastPath, match="a moment ago"):  # it never proved itself on that connection
        await ends.fetch()
    await passes(mock_clock, CONFIG.failed_s)
    assert await ends.fetch()


async def test_a_fetch_that_is_cancelled_takes_its_connection_along(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    assert await ends.fetch()

    go = threading.Event()
    ends.service.reading = lambda: go.wait(10)
    async with trio.open_nursery() as inner:
        inner.start_soon(ends.fetch)
        await until(lambda: len(ends.served) == 2)
        inner.cancel_scope.cancel()
    assert ends.made[0][1].closed
    assert ends.asker.connections == 0
    go.set()
    assert await ends.fetch()  # the holder is not blamed


async def test_who_asks_too_much_or_is_no_member_any_more_is_cut(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    ends.mesh.budget = 2
    assert await ends.fetch()
    assert await ends.fetch()
    with pytest.raises(NoFastPath):
        await ends.fetch()
    ends.mesh.budget = 1_000
    await passes(mock_clock, CONFIG.broken_s)
    assert await ends.fetch()
    ends.mesh.member = False
    with pytest.raises(NoFastPath):
        await ends.fetch()
    assert len(ends.served) == 3


@pytest.mark.parametrize("end", ["asker", "holder"])
async def test_connections_end_with_their_link(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, end: str
) -> None:
    ends = Ends(nursery)
    assert await ends.fetch()
    go, failed = ends.hold(), ends.fail()
    await until(lambda: len(ends.served) == 2)
    if end == "asker":
        ends.asker.cut(HOLDER)
        ends.asker.cut(ASKER)  # nothing is known of it
    else:
        ends.holder.cut(ASKER)
    await failed.wait()
    go.set()
    await until(lambda: not ends.holder.connections)
    assert ends.asker.connections == 0
    assert ends.stats.cut == 1
    assert all(theirs.closed and ours.closed for theirs, ours in ends.made)


# --- where there is no fast path --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["relay", "forward", "punched", None])
async def test_other_paths_keep_to_quic(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, path: str | None
) -> None:
    ends = Ends(nursery)
    ends.mesh.link = Link(path) if path else None
    with pytest.raises(NoFastPath, match="no direct path"):
        await ends.fetch()
    ends.mesh.link = Link("direct")
    assert await ends.fetch()


async def test_a_failed_try_is_remembered_for_a_while(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    ends.reachable = False
    ends.mesh.addresses = tuple(Address("198.51.100.1", port) for port in (1, 2, 3))
    for _ in range(3):
        with pytest.raises(NoFastPath):
            await ends.fetch()
    assert ends.tried == [WHERE, *ends.mesh.addresses[:2]]
    assert (ends.stats.failed, ends.asker.connections) == (1, 0)
    ends.reachable = True
    await passes(mock_clock, CONFIG.failed_s)
    assert await ends.fetch()


async def test_a_holder_that_swallows_connections_costs_a_second(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    ends.mesh.link = Link(rtt_s=0.1)

    async def swallow(address: Address) -> MemoryBytes:
        await trio.sleep_forever()
        raise AssertionError

    ends.asker._connect = swallow
    failed = trio.Event()

    async def fetch() -> None:
        with pytest.raises(NoFastPath):
            await ends.fetch()
        failed.set()

    nursery.start_soon(fetch)
    await passes(mock_clock, CONFIG.connect_s + 0.399)
    assert not failed.is_set()
    await passes(mock_clock, 0.002)
    await failed.wait()


async def test_a_holder_without_the_protocol(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    ends = Ends(nursery)
    ends.mesh.tickets = None
    with pytest.raises(NoFastPath, match="does not speak"):
        await ends.fetch()


# --- bounds of the asker ----------------------------------------------------------------------------------------------


async def test_idle_connections_are_closed_at_either_end(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    assert await ends.fetch()
    await passes(mock_clock, CONFIG.rest_open_s / 2)
    ends.asker.close_idle()
    assert ends.asker.connections == 1
    await passes(mock_clock, CONFIG.rest_open_s / 2)
    ends.asker.close_idle()
    assert ends.asker.connections == 0
    assert await ends.fetch()
    await passes(mock_clock, 2 * CONFIG.leave_s)
    await until(lambda: len(ends.service.sent_bytes) == 2)
    await passes(mock_clock, CONFIG.idle_s + 1)
    ends.holder.close_late()  # what its asker forgot
    await until(lambda: not ends.holder.connections)
    assert ends.holder.connections == 0
    with pytest.raises(NoFastPath):
        await ends.fetch()


async def test_the_connection_that_rested_longest_makes_room(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery, BulkConfig(asked_connections=1))
    assert await ends.fetch()
    await ends.asker._open(HOLDER, ends.asker._holder(HOLDER), Link())
    assert [ours.closed for _, ours in ends.made] == [True, False]
    with pytest.raises(NoFastPath, match="limit"):
        await ends.asker._open(HOLDER, ends.asker._holder(HOLDER), Link())


async def test_only_so_many_holders_are_remembered(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    ends = Ends(nursery, BulkConfig(holders=1))
    assert await ends.fetch()
    with pytest.raises(NoFastPath, match="too many"):
        await ends.asker.fetch(ASKER, NAME, len(CHUNK), lambda data: True)
    ends.asker.close_all()
    with pytest.raises(NoFastPath, match="no direct path"):
        await ends.asker.fetch(ASKER, NAME, len(CHUNK), lambda data: True)


async def test_a_key_is_used_so_often_and_no_more(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bulk_channel, bulk_answers):
        monkeypatch.setattr(module, "MESSAGES_MOST", 2)
    ends = Ends(nursery)
    for _ in range(5):
        assert await ends.fetch()
    assert (ends.stats.opened, ends.stats.broken) == (3, 0)
