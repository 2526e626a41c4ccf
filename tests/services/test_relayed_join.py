"""A machine joins, and is reached, through a relay alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from atmo.errors import RemoteError
from atmo.identity import Signer
from atmo.relay.address import RelayAddress
from atmo.relay.server import Relay
from atmo.trust.joincode import JoinCode, parse_join_code
from atmo.wire.address import Address
from tests.relay.kit import on_loopback
from tests.services.machines import Machine, machine, names_seen

NOWHERE = (Address("127.0.0.1", 9),)


async def at_home(m: Machine) -> None:
    with trio.fail_after(10):
        while m.host.home_relay() is None:
            await trio.sleep(0.02)


async def invited(m: Machine) -> JoinCode:
    """Returns a code whose addresses answer nobody, as behind a NAT."""
    await at_home(m)
    return replace(parse_join_code((await m.service.invite())["code"]), addresses=NOWHERE)


@pytest.mark.parametrize("online", [True, False])
async def test_a_code_works_through_the_relay_of_who_made_it(tmp_path: Path, online: bool) -> None:
    async with on_loopback(Relay(Signer(b"r" * 32))) as port:
        relays = (RelayAddress.parse_untrusted(f"ws://127.0.0.1:{port}/"),)
        async with machine(tmp_path, "anna", relays=relays) as anna:
            await anna.service.create("home")
            code = await invited(anna)
            assert code.relay is not None
            assert code.relay.startswith(f"ws://127.0.0.1:{port}/#")
            async with machine(tmp_path, "bert", online=online) as bert:
                assert (await bert.service.join(code.text()))["name"] == "home"
                if online:
                    await names_seen(anna, {"anna", "bert"})
            assert anna.host.relay() == f"ws://127.0.0.1:{port}/"


async def test_a_relay_that_is_gone_is_said(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert", online=False) as bert:
        await anna.service.create("home")
        code = replace(
            parse_join_code((await anna.service.invite())["code"]), addresses=NOWHERE, relay="ws://127.0.0.1:9/"
        )
        assert anna.host.relay() is None
        with pytest.raises(RemoteError, match=r"ws://127\.0\.0\.1:9/: "):
            await bert.service.join(code.text())
