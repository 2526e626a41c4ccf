"""What a person is told of a path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from atmo.net.connection import Connection
from atmo.net.path_report import SEARCH_S, PathReport, report_path
from atmo.net.pathfinder import PathOffer
from atmo.reach.prediction import ENDPOINT, PORT, UNKNOWN
from atmo.wire.address import Address
from tests.net.loopback import until
from tests.net.test_pathfinder import Ends, connect
from tests.net.test_steering import both

PUBLIC = Address("192.0.2.7", 11_450)
PRIVATE = Address("192.168.1.7", 11_450)


@asynccontextmanager
async def ends(*, cut: bool) -> AsyncIterator[Ends]:
    async with both() as world, trio.open_nursery() as nursery:
        world.cut(cut)
        found = await connect(world)
        nursery.start_soon(found.serve)  # noqa: ASYNC113
        nursery.start_soon(found.one.keep, found)
        await until(lambda: found.near.steering)
        yield found
        nursery.cancel_scope.cancel()


async def test_a_direct_path_needs_no_reason() -> None:
    async with ends(cut=False) as found:
        await until(lambda: found.near.path == "lan")
        report = found.one.report(found.near)
        assert (report.path, report.why, report.standby) == ("lan", "", ("forward",))
        assert report.address == str(found.world.two.local_address)
        assert found.two.report(found.far).path in ("lan", "forward")


def told(*addresses: Address, seen: tuple[Address, ...] = (), mapping: str = UNKNOWN) -> PathOffer:
    return PathOffer(b"s" * 8, b"k" * 32, addresses, seen=seen, mapping=mapping)


def old(connection: Connection) -> Connection:
    connection.began_at -= 2 * SEARCH_S
    if connection.steering:
        connection.steering.paths.active_since -= 2 * SEARCH_S
    return connection


@pytest.mark.parametrize(
    ("mapping", "offer", "why"),
    [
        (PORT, told(PUBLIC, mapping=PORT), "every destination another port"),
        (ENDPOINT, told(PRIVATE), "UDP may be blocked there"),
        (ENDPOINT, told(PRIVATE, seen=(PUBLIC,)), "does not answer"),
        (UNKNOWN, None, "tells no addresses"),
    ],
)
async def test_an_indirect_path_has_a_reason(mapping: str, offer: PathOffer | None, why: str) -> None:
    async with ends(cut=True) as found:
        young = report_path(found.near, mapping, offer)
        assert young.path == "forward"
        assert "looked for" in young.why or "not told yet" in young.why
        report = report_path(old(found.near), mapping, offer)
        assert why in report.why
        assert report.since_s > SEARCH_S
        assert report.address is None


async def test_before_anything_was_told() -> None:
    async with both() as world:
        near = await world.one.dial(world.two.local_address, world.two.node_id, 5)
        report = report_path(near, UNKNOWN, None)
        assert report == PathReport("lan", str(world.two.local_address), report.since_s, (), "")
