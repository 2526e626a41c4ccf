"""`atmo mesh discover`, with real mDNS on loopback."""

from __future__ import annotations

import ipaddress
import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from atmo.identity import Signer
from atmo.net.interfaces import Interface
from atmo.net.lan import Lan
from atmo.net.lan_advert import Advert
from tests.cli.conftest import Atmo
from tests.shell.serving import ServedNode

LOOPBACK: tuple[Interface, ...] = (ipaddress.ip_interface("127.0.0.1/8"),)
MESH = secrets.token_bytes(32)
ANNA = Signer(secrets.token_bytes(32)).node_id
LOOK = ("mesh", "discover", "--seconds", "2")


@pytest.fixture(autouse=True)
def lan(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Interface, ...]]:
    """The interfaces that the command uses."""
    there = [LOOPBACK]
    monkeypatch.setattr("atmo.services.lan.lan_interfaces", lambda host: there[-1])
    return there


@pytest.fixture
def anna() -> Iterator[None]:
    """A node on loopback that says it is of a mesh, and what a terminal should not see."""
    stop: list[trio.CancelScope] = []
    tokens: list[trio.lowlevel.TrioToken] = []
    ready = threading.Event()

    async def run() -> None:
        other = Lan(lambda: LOOPBACK, ready.set)
        other.tell(Advert(ANNA, "anna", 11450, MESH, "home"))
        with trio.CancelScope() as scope:
            stop.append(scope)
            tokens.append(trio.lowlevel.current_trio_token())
            await other.run()

    thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield
    tokens[0].run_sync_soon(stop[0].cancel)
    thread.join(20)
    assert not thread.is_alive()


def test_without_a_home_it_says_how_to_join(atmo: Atmo, home: Path, anna: None) -> None:
    shown = atmo(*LOOK)
    assert shown.code == 0
    assert shown.out.splitlines()[0].split() == ["MESH", "MESH", "ID", "YOURS", "NODE", "NODE", "ID", "ADDRESSES"]
    (row,) = [line.split() for line in shown.out.splitlines() if ANNA.short in line]
    assert row == ["home", MESH.hex()[:10], "no", "anna", ANNA.short, "127.0.0.1:11450"]
    assert "atmo mesh invite" in shown.err
    assert "atmo mesh join CODE" in shown.err
    assert not home.exists()


def test_with_a_node_it_says_what_is_its_own(atmo: Atmo, node: ServedNode, anna: None) -> None:
    node.mesh.mesh = {"id": MESH.hex(), "name": "home", "roles": ["edge"]}
    shown = atmo(*LOOK, "--json")
    assert shown.code == 0
    (mesh,) = [mesh for mesh in json.loads(shown.out)["meshes"] if mesh["id"] == MESH.hex()]
    (entry,) = mesh.pop("nodes")
    assert mesh == {"id": MESH.hex(), "name": "home", "yours": True}
    assert entry == {
        "id": str(ANNA), "name": "anna", "addresses": ["127.0.0.1:11450"], "version": 1, "self": False,
    }  # fmt: skip


def test_nobody_and_no_network(atmo: Atmo, lan: list[tuple[Interface, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def hears_nobody(interfaces: tuple[Interface, ...], seconds: float) -> Lan:
        await trio.lowlevel.checkpoint()
        return Lan(lambda: interfaces)

    with monkeypatch.context() as patch:
        patch.setattr("atmo.services.lan.discover", hears_nobody)
        shown = atmo("mesh", "discover")
        assert (shown.code, shown.out) == (1, "")
        for word in ("multicast", "VLAN", "client isolation", "atmo mesh join CODE"):
            assert word in " ".join(shown.err.split())
        assert json.loads(atmo("mesh", "discover", "--json").out) == {"meshes": [], "nodes_without_mesh": []}
    lan.append(())
    shown = atmo("mesh", "discover")
    assert shown.code == 1
    assert "on no network" in shown.err
    assert atmo("mesh", "discover", "--seconds", "0").code == 2
