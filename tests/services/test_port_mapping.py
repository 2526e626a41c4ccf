"""What a router lets in is among the addresses that a node tells others."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.identity import Signer
from atmo.net.port_mapping import PortMapper
from atmo.services.host import MeshHost
from atmo.storage.database import Database
from atmo.storage.meshstate import MeshState
from atmo.wire.address import CONTACT_ADDRESSES, Address
from tests.services.machines import machine

LISTEN = Address("::", 7)
OUT = Address("11.0.0.1", 40_000)
SIX = [Address(f"2600::{number}", 7) for number in (1, 2, 3)]
FOUR = [Address("10.0.0.2", 7), Address("192.168.1.2", 7)]


class Mapped(PortMapper):
    """As if a router had answered."""

    @property
    def external(self) -> tuple[Address, ...]:
        return (OUT,)


def host_in(folder: Path) -> MeshHost:
    state = MeshState(Database(folder / "atmosphere.db"))
    return MeshHost(Signer(bytes(32)), "node", state, LISTEN, port_mapping=True)


@pytest.mark.parametrize("own", [[*SIX, *FOUR], FOUR, SIX, [SIX[0], FOUR[1]]])
def test_it_is_among_the_few_that_go_into_contacts(
    own: list[Address], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmo.services.host.reachable_addresses", lambda host, port: tuple(own))
    host = host_in(tmp_path)
    assert host.addresses() == tuple(own)
    host.mapper = Mapped(LISTEN, True, b"secret")
    told = host.addresses()
    assert sorted(map(str, told)) == sorted(map(str, [*own, OUT]))
    first = told[:CONTACT_ADDRESSES]
    assert OUT in first
    assert any(address in FOUR for address in first) == any(address in FOUR for address in own)
    assert any(address in SIX for address in first) == any(address in SIX for address in own)


def test_what_a_second_nat_hides_is_not_told(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    for text, told in (("11.0.0.1", True), ("100.64.0.1", False), ("192.168.0.7", False), ("2600::1", True)):
        assert host._may_be_told(Address(text, 7)) is told


async def test_on_loopback_no_router_is_asked(tmp_path: Path) -> None:
    async with machine(tmp_path, "node", online=True) as found:
        assert found.host.mapper is None
        assert found.host.port_mapping()["reason"] == "switched off"
    assert host_in(tmp_path).port_mapping()["reason"] == "only this machine reaches the node"
