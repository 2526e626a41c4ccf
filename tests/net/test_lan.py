"""The bridge to mDNS: real `zeroconf` on loopback, and the table's bounds without a network."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from atmo.identity import NodeId, Signer
from atmo.net import lan as lan_module
from atmo.net.interfaces import Interface
from atmo.net.lan import MOST, Lan, _Complaints, _Session, discover
from atmo.net.lan_advert import SERVICE_TYPE, Advert
from atmo.wire.address import Address

LOOPBACK: tuple[Interface, ...] = (ipaddress.ip_interface("127.0.0.1/8"),)
NOWHERE: tuple[Interface, ...] = (ipaddress.ip_interface("192.0.2.77/24"),)
MESH = b"m" * 32


def node(seed: str) -> NodeId:
    return Signer(seed.encode().ljust(32, b"#")).node_id


ANNA, BEN = node("lan anna"), node("lan ben")


@asynccontextmanager
async def running(lan: Lan) -> AsyncIterator[Lan]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lan.run)
        yield lan
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not holds():
            await trio.sleep(0.02)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mdns" and thread.is_alive()]


def test_what_the_library_complains_of_is_for_the_doctor_and_not_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lan = Lan(lambda: ())
    record = logging.LogRecord(
        "zeroconf", logging.WARNING, "", 0, "Error with socket 24: %s", ("[Errno 1] no\nmore",), None
    )
    _Complaints(lan).emit(record)
    assert lan.complaint == "Error with socket 24: [Errno 1] no"
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]


async def test_adverts_come_change_and_go() -> None:
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    watcher, other = Lan(lambda: LOOPBACK, changed), Lan(lambda: LOOPBACK)
    async with running(watcher):
        async with running(other):
            other.tell(Advert(ANNA, "anna", 11450))
            await until(lambda: ANNA in watcher.adverts)
            assert watcher.adverts[ANNA] == Advert(ANNA, "anna", 11450, addresses=(Address("127.0.0.1", 11450),))
            assert changes
            other.tell(Advert(ANNA, "anna", 11450, MESH, "home"))
            await until(lambda: watcher.adverts[ANNA].mesh == MESH)
            other.tell(None)
            await until(lambda: ANNA not in watcher.adverts)
            other.tell(Advert(ANNA, "anna", 11450, MESH, "home"))
            await until(lambda: ANNA in watcher.adverts)
            heard = await discover(LOOPBACK, 1.5)
            assert heard.adverts[ANNA].mesh_name == "home"
        await until(lambda: ANNA not in watcher.adverts)
    await until(lambda: not threads())


async def test_what_others_invent_is_left_out() -> None:
    """Names that are nobody's, records that are none, and addresses elsewhere."""
    good = Advert(BEN, "ben", 11450, MESH, "home")
    watcher = Lan(lambda: LOOPBACK)
    heard: dict[NodeId, Advert] = {}

    async def liar() -> None:
        async with AsyncZeroconf(interfaces=["127.0.0.1"]) as mdns:
            for name, txt, address in (
                ("printer", good.txt(), "127.0.0.1"),
                (str(ANNA), b"\x40short", "127.0.0.1"),
                (str(BEN), good.txt(), "8.8.8.8"),
            ):
                info = ServiceInfo(
                    SERVICE_TYPE, f"{name}.{SERVICE_TYPE}", 11450, properties=txt, server=f"{name}.local.",
                    parsed_addresses=[address],
                )  # fmt: skip
                await mdns.async_register_service(info, cooperating_responders=True)
            while BEN not in watcher.adverts:
                await asyncio.sleep(0.05)
            heard.update(watcher.adverts)

    async with running(watcher):
        with trio.fail_after(20):
            await trio.to_thread.run_sync(asyncio.run, liar())
    assert heard[BEN].addresses == ()
    assert ANNA not in heard


async def refuses(session: _Session) -> None:
    await asyncio.sleep(0)
    raise OSError("no such device")


async def test_an_address_that_is_not_here_is_an_error_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Session, "_serve", refuses)
    heard = await discover(NOWHERE, 1.0)
    assert heard.error == "no such device"
    assert not heard.adverts


async def test_without_a_network_nothing_runs() -> None:
    heard = await discover((), 0.2)
    assert "no network" in heard.error
    assert not threads()


async def test_other_interfaces_mean_another_session() -> None:
    there: list[tuple[Interface, ...]] = [()]
    watcher, other = Lan(lambda: there[-1]), Lan(lambda: LOOPBACK)
    other.tell(Advert(ANNA, "anna", 11450))
    async with running(other), running(watcher):
        await until(lambda: watcher.error)
        there.append(LOOPBACK)
        watcher._moved.set()  # as `watch_interfaces` does
        await until(lambda: ANNA in watcher.adverts)
        assert watcher.error == ""
        there.append(())
        watcher._moved.set()
        await until(lambda: watcher.error and not watcher.adverts)


async def session(lan: Lan) -> _Session:
    made = lan._session = _Session(lan, LOOPBACK, trio.Event(), trio.lowlevel.current_trio_token())
    await trio.lowlevel.checkpoint()
    return made


def info(name: NodeId) -> ServiceInfo:
    said = Advert(name, "x", 1, MESH, "home")
    return ServiceInfo(SERVICE_TYPE, f"{name}.{SERVICE_TYPE}", 1, properties=said.txt(), parsed_addresses=["127.0.0.1"])


async def test_a_flood_of_adverts_crowds_no_member_out() -> None:
    lan = Lan(lambda: LOOPBACK)
    lan.prefer = frozenset([ANNA, BEN])
    table = await session(lan)
    assert table._enter_untrusted(ANNA, info(ANNA))
    strangers = [node(f"stranger {number}") for number in range(MOST + 10)]
    entered = [stranger for stranger in strangers if table._enter_untrusted(stranger, info(stranger))]
    assert len(entered) == MOST - 1
    assert table._enter_untrusted(BEN, info(BEN))
    assert not table._enter_untrusted(BEN, info(BEN)), "no news"
    assert {ANNA, BEN} <= table._table.keys()
    assert len(table._table) == MOST


async def test_what_waits_to_be_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from zeroconf import ServiceStateChange, Zeroconf

    lan = Lan(lambda: LOOPBACK)
    lan.prefer = frozenset([ANNA])
    table = await session(lan)
    nobody = object.__new__(Zeroconf)
    for number in range(lan_module._UNREAD_MOST + 10):
        stranger = node(f"stranger {number}")
        table._heard(nobody, SERVICE_TYPE, f"{stranger}.{SERVICE_TYPE}", ServiceStateChange.Added)
        table._heard(nobody, SERVICE_TYPE, f"junk {number}.{SERVICE_TYPE}", ServiceStateChange.Added)
    table._heard(nobody, SERVICE_TYPE, f"{ANNA}.{SERVICE_TYPE}", ServiceStateChange.Added)
    assert len(table._unread) == lan_module._UNREAD_MOST
    assert ANNA in table._unread
