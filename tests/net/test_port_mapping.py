"""Routers on loopback that speak over real UDP: what is mapped is told, and taken back at the end."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from atmo.net.port_mapping import PortMapper
from atmo.reach.port_mapping_config import PortMappingStats
from atmo.wire.address import Address
from tests.reach.port_router import TCP, UDP, Router

LISTEN = Address("0.0.0.0", 11_450)
OUT = Address("11.0.0.1", 11_450)
SECRET = b"secret of a node"


class Served:
    """A router at a port of loopback.

    Attributes:
        noise: Sent before each answer.
    """

    def __init__(self, router: Router, host: str = "127.0.0.1", port: int = 0) -> None:
        self.router = router
        self.noise: list[bytes] = []
        self.sock = trio.socket.from_stdlib_socket(_bound(host, port))

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    async def run(self) -> None:
        with self.sock:
            while True:
                data, source = await self.sock.recvfrom(2_000)
                answer = self.router.answer(trio.current_time(), data)
                for each in [*self.noise, *([answer] if answer else [])]:
                    await self.sock.sendto(each, source)


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, port))
    return sock


@asynccontextmanager
async def serving(*routers: Served) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for each in routers:
            nursery.start_soon(each.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(mapper: PortMapper) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        yield
        nursery.cancel_scope.cancel()


async def until(look: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not look():
            await trio.sleep(0.01)


def mapper_at(port: int, **others: Any) -> PortMapper:
    gateways = others.pop("gateways", lambda: ("127.0.0.1",))
    return PortMapper(LISTEN, True, SECRET, gateways=gateways, server_port=port, upnp=False, **others)


@pytest.mark.parametrize(("router", "how"), [(Router(), "PCP"), (Router(pcp=False), "NAT-PMP")])
async def test_the_port_is_mapped_told_and_taken_back(router: Router, how: str) -> None:
    served = Served(router)
    told: list[tuple[Address, ...]] = []
    async with serving(served):
        mapper: PortMapper = mapper_at(served.port, changed=lambda: told.append(mapper.external))
        assert mapper.view()["reason"] == "it is not known yet whether there is a router"
        async with running(mapper):
            await until(lambda: mapper.view()["tcp"])
            view = mapper.view()
            assert 7_000 < view.pop("lifetime_s") <= 7_200
            assert view == {
                "how": how,
                "external": str(OUT),
                "tcp": True,
                "announced": [str(OUT)],
                "pinholes": [],
                "reason": "",
            }
            assert set(router.lets_in(trio.current_time())) == {UDP, TCP}
        assert not router.table
        assert told == [(OUT,)]


async def test_where_nothing_listens_it_is_known_at_once() -> None:
    with _bound("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    mapper = mapper_at(port)
    async with running(mapper):
        await until(lambda: mapper.view()["reason"] == "PCP and NAT-PMP: the router does not speak it")
    assert mapper.external == ()
    assert mapper.stats.requests_out == 2


async def test_without_a_router_nothing_is_sent() -> None:
    mapper = mapper_at(1, gateways=tuple)
    async with running(mapper):
        await until(lambda: mapper.view()["reason"] == "there is no default router")
    assert mapper.stats == PortMappingStats()


async def test_behind_a_second_nat_nothing_is_told_unless_others_confirm_it() -> None:
    served, confirmed = Served(Router(host="100.64.3.4")), set[str]()
    async with serving(served):
        mapper = mapper_at(served.port, usable=lambda address: address.host in confirmed)
        async with running(mapper):
            await until(lambda: mapper.view()["tcp"])
            assert not mapper.external
            assert "second NAT" in mapper.view()["reason"]
            confirmed.add("100.64.3.4")
            assert mapper.view()["announced"] == ["100.64.3.4:11450"]
            assert mapper.view()["reason"] == ""


async def test_another_network_has_another_router() -> None:
    first = Served(Router())
    second = Served(Router(host="11.0.0.2"), "127.0.0.2", first.port)
    gateway = ["127.0.0.1"]
    async with serving(first, second):
        mapper = mapper_at(first.port, gateways=lambda: tuple(gateway))
        async with running(mapper):
            await until(lambda: mapper.view()["tcp"])
            count = len(first.router.heard)
            mapper.look_again()
            await until(lambda: len(first.router.heard) > count)
            assert mapper.external == (OUT,), "the same router is asked whether all is as it was"
            gateway[:] = ["127.0.0.2"]
            mapper.look_again()
            await until(lambda: mapper.external == (Address("11.0.0.2", 11_450),))
            await until(lambda: not first.router.table)
        assert not second.router.table


async def test_noise_of_a_hostile_router_harms_nobody() -> None:
    served, drawn = Served(Router()), random.Random(4)
    served.noise = [drawn.randbytes(drawn.randrange(1_300)) for _ in range(40)]
    async with serving(served):
        mapper = mapper_at(served.port)
        async with running(mapper):
            await until(lambda: mapper.view()["tcp"])
        assert not served.router.table
        assert mapper.stats.dropped_malformed + mapper.stats.dropped_unasked >= 40


async def test_a_silent_router_does_not_keep_the_node_from_ending() -> None:
    served = Served(Router())
    async with serving(served):
        mapper = mapper_at(served.port)
        async with running(mapper):
            await until(lambda: mapper.view()["tcp"])
            served.router.pcp = served.router.nat_pmp = False
            count = len(served.router.heard)
        assert len(served.router.heard) - count == 2 * 3, "three times each, then it is left to its lifetime"
