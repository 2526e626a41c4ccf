"""Who gets a bulk connection at a holder: tickets, and strangers that show none."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from atmo.clock import Now
from atmo.net.bulk_config import BulkConfig
from atmo.net.bulk_holder import Tickets
from atmo.net.ports import NoFastPath
from tests.net.bulk_kit import ASKER, HOLDER, Ends, Link, opening, passes, silence, until

CONFIG = BulkConfig()


# --- tickets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["wrong", "used", "expired", "cut", "no member"])
async def test_a_ticket_that_is_none_closes_the_connection_without_a_byte(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, why: str
) -> None:
    ends = Ends(nursery)
    ticket = ends.ticket()
    first = opening(ticket)
    if why == "wrong":
        first = bytes(16) + first[16:]
    elif why == "used":
        ends.knock(first)
        await until(lambda: ends.served)
    elif why == "expired":
        await passes(mock_clock, CONFIG.ticket_s)
    elif why == "cut":
        ends.holder.cut(ASKER)
    else:
        ends.mesh.member = False
    served = len(ends.served)
    assert await silence(ends.knock(first))
    assert (ends.stats.refused_tickets, len(ends.served)) == (1, served)


def test_tickets_are_bounded() -> None:
    tickets = Tickets(BulkConfig(tickets=3, node_tickets=2))
    now = Now(5.0, 0.0)
    first, second, third = [tickets.issue(now, ASKER) for _ in range(3)]
    assert first
    assert second
    assert third
    assert [tickets.redeem_untrusted(now, each.ticket) is not None for each in (first, second)] == [False, True]
    assert tickets.issue(now, HOLDER)
    assert tickets.issue(now, HOLDER)
    assert tickets.issue(now, ASKER) is None
    assert len(tickets) == 3


async def test_no_ticket_is_given_where_nobody_answers_or_all_places_are_taken(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery, BulkConfig(connections=1, asked_node_connections=2))
    assert await ends.fetch()
    with pytest.raises(NoFastPath, match="busy"):
        await ends.asker._open(HOLDER, ends.asker._holder(HOLDER), Link())
    ends.asker.close_all()
    await until(lambda: not ends.holder.connections)
    await passes(mock_clock, CONFIG.failed_s)
    ends.holder.service = None
    with pytest.raises(NoFastPath, match="busy"):
        await ends.fetch()


async def test_a_node_has_so_many_connections_and_no_more(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery, BulkConfig(node_connections=2, node_tickets=5))
    firsts = [opening(ends.ticket()) for _ in range(3)]
    ends.knock(firsts[0])
    ends.knock(firsts[1])
    await until(lambda: ends.holder.connections == 2)
    assert await silence(ends.knock(firsts[2]))
    assert ends.stats.refused_full == 1


# --- strangers --------------------------------------------------------------------------------------------------------


async def test_who_shows_no_ticket_has_little_time_and_hears_nothing(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery)
    slow = ends.knock(b"x")
    for _ in range(15):
        await passes(mock_clock, CONFIG.opening_s / 16)
        await slow.send_all(b"" if slow.sent.count(b"x") == 15 else b"x")  # the last of 16 is missing
    assert ends.stats.late == 0
    await passes(mock_clock, CONFIG.opening_s / 16)
    assert await silence(slow)
    assert ends.stats.late == 1


async def test_strangers_are_bounded_in_all_and_of_one_host(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ends = Ends(nursery, BulkConfig(opening=3, host_opening=2))
    hosts = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"]
    knocking = []
    for host in hosts:
        knocking.append(ends.knock(b"", host))
        await trio.testing.wait_all_tasks_blocked()
    assert ends.stats.refused_full == 2
    assert await silence(knocking[2])
    assert await silence(knocking[4])
    knocking[0].close()
    await trio.testing.wait_all_tasks_blocked()
    first = opening(ends.ticket())
    ends.knock(first, hosts[2])
    await until(lambda: ends.served)
    assert ends.stats.refused_full == 2
