"""Nodes find each other by mDNS on loopback; without a network, what a node says and whom it dials."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from atmo.identity import NodeId
from atmo.net.interfaces import Interface
from atmo.net.lan import Lan
from atmo.net.lan_advert import Advert
from atmo.services.lan import LanService
from atmo.services.nearby import NearbyConfig
from atmo.wire.address import Address
from tests.services.machines import Machine, machine, names_seen

LOOPBACK: tuple[Interface, ...] = (ipaddress.ip_interface("127.0.0.1/8"),)
CONFIG = NearbyConfig(yield_s=0.2)
STRANGER = NodeId(b"s" * 32)


def lan_of(m: Machine, name: str, interfaces: tuple[Interface, ...] = LOOPBACK) -> LanService:
    port = m.host.addresses()[0].port
    return LanService(m.signer.node_id, name, port, m.host, lambda: interfaces, CONFIG)


@asynccontextmanager
async def on_lan(m: Machine, name: str) -> AsyncIterator[LanService]:
    service, stop = lan_of(m, name), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run, stop)
        yield service
        stop.set()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not holds():
            await trio.sleep(0.02)


async def joined(anna: Machine, bert: Machine) -> None:
    await anna.service.create("home")
    await bert.service.join((await anna.service.invite())["code"])
    await names_seen(anna, {"anna", "bert"})
    await names_seen(bert, {"anna", "bert"})
    for m in (anna, bert):
        await m.driver.flush()


async def test_a_mesh_whose_addresses_are_all_stale_finds_itself(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await joined(anna, bert)
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:  # on other ports
        await trio.sleep(0.5)
        assert (anna.driver.peer.linked(), bert.driver.peer.linked()) == ([], [])
        async with on_lan(anna, "anna"), on_lan(bert, "bert"):
            await names_seen(anna, {"anna", "bert"})
            await names_seen(bert, {"anna", "bert"})


async def test_who_joins_and_who_is_put_out_says_so(tmp_path: Path) -> None:
    watcher = Lan(lambda: LOOPBACK)
    async with (
        machine(tmp_path, "anna") as anna,
        machine(tmp_path, "bert") as bert,
        on_lan(anna, "anna"),
        on_lan(bert, "bert"),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(watcher.run)
        me = bert.signer.node_id
        await until(lambda: me in watcher.adverts)
        assert watcher.adverts[me].mesh is None
        await joined(anna, bert)
        await until(lambda: watcher.adverts[me].mesh == anna.driver.peer.trust.mesh_id)
        assert watcher.adverts[me].mesh_name == "home"
        await anna.service.revoke("bert")
        await until(lambda: (advert := watcher.adverts.get(me)) and advert.mesh is None)
        assert watcher.adverts[anna.signer.node_id].mesh is not None
        nursery.cancel_scope.cancel()


async def test_an_advert_is_a_hint_and_no_more(tmp_path: Path) -> None:
    """Whom the peer is asked to dial, with adverts put into the table by hand."""
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await joined(anna, bert)
        service = lan_of(anna, "anna")
        mesh, there = anna.driver.peer.trust.mesh_id, (Address("127.0.0.1", 9),)
        assert service._advert().mesh == mesh
        mine, berts = anna.signer.node_id, bert.signer.node_id

        def adverts(*entries: Advert) -> None:
            service._lan.adverts = {entry.node: entry for entry in entries}

        adverts(
            Advert(STRANGER, "no mesh", 9, addresses=there),
            Advert(NodeId(b"1" * 32), "other mesh", 9, b"o" * 32, addresses=there),
            Advert(NodeId(b"2" * 32), "other version", 9, mesh, version=2, addresses=there),
            Advert(NodeId(b"3" * 32), "elsewhere", 9, mesh),
            Advert(mine, "me", 9, mesh, addresses=there),
            Advert(berts, "linked", 9, mesh, addresses=there),
        )
        service._look()
        assert service.stats.dials == 0
        assert (service.stats.seen, service.stats.mesh) == (6, 4)
        assert service._lan.prefer == {mine, berts}
        assert service.addresses(STRANGER) == there
        assert service.addresses(NodeId(b"4" * 32)) == ()

        adverts(Advert(STRANGER, "says so", 9, mesh, addresses=there))
        await trio.sleep(0.0 if mine < STRANGER else 0.3)
        service._look()
        await trio.sleep(0.3)
        service._look()
        assert service.stats.dials == 1, "not again at once"


async def test_with_enough_neighbours_only_the_unknown_are_dialled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, "anna") as anna:
        await anna.service.create("home")
        service, peer = lan_of(anna, "anna"), anna.driver.peer
        mates = {
            node: Advert(node, "x", 9, peer.trust.mesh_id, addresses=(Address("127.0.0.1", 9),))
            for node in (STRANGER, NodeId(b"p" * 32))
        }
        assert set(service._wanted(anna.driver, mates)) == set(mates), "without neighbours everybody is welcome"
        monkeypatch.setattr(peer, "neighbours", lambda: [NodeId(bytes([number]) * 32) for number in range(3)])
        monkeypatch.setattr(peer, "is_present", lambda node: node != STRANGER)
        assert service._wanted(anna.driver, mates) == [STRANGER]


async def test_a_dial_of_the_peer_tries_what_the_lan_says(tmp_path: Path) -> None:
    """A request to a member whose record is stale gets through where an advert knows better."""
    async with machine(tmp_path, "anna") as anna:
        async with machine(tmp_path, "bert") as bert:
            await joined(anna, bert)
        async with machine(tmp_path, "bert", wall=lambda: time.time()) as bert:
            node = bert.signer.node_id
            place = bert.host.addresses()
            bert.driver.links.nearby = lambda node: ()
            anna.driver.links.nearby = lambda asked: place if asked == node else ()
            async with anna.driver._reaching.reserve(node, 10.0):
                assert anna.driver.peer.is_ready(node)
