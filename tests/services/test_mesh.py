"""The mesh service over real sockets on loopback: found, invite, join, revoke, restart."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from atmo.errors import RemoteError, UserError, leaf_error
from atmo.net.requests import open_request
from atmo.services.joining import PROTOCOL, JoinRefusal, unpack_answer_untrusted
from atmo.trust.joincode import parse_join_code
from tests.services.machines import machine, names_seen


async def test_three_machines_form_a_mesh_by_code(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert, machine(tmp_path, "cleo") as cleo:
        assert anna.service.mesh() is None
        made = await anna.service.create("home")
        for guest in (bert, cleo):
            invitation = await anna.service.invite("gateway")
            joined = await guest.service.join(invitation["code"])
            assert joined == {"id": made["id"], "name": "home", "roles": ["gateway"]}
        for m in (anna, bert, cleo):
            await names_seen(m, {"anna", "bert", "cleo"})
        row = next(row for row in bert.service.nodes() if row["name"] == "cleo")
        assert row["roles"] == ["gateway"]
        assert row["path"] == "lan"
        assert set(row) >= {"id", "name", "roles", "path", "rtt_ms", "last_seen_s"}


async def test_a_code_works_once_and_not_after_its_time(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert, machine(tmp_path, "cleo") as cleo:
        await anna.service.create("home")
        code = (await anna.service.invite())["code"]
        await bert.service.join(code)
        with pytest.raises(UserError, match="used already"):
            await cleo.service.join(code)
        short = await anna.service.invite(expires_s=1)
        invitation = parse_join_code(short["code"])
        await trio.sleep(max(0.0, invitation.expires_s - time.time() + 0.01))
        with pytest.raises(UserError, match="expired"):
            await cleo.service.join(short["code"])
        async with cleo.host.connect(invitation.addresses[0], invitation.inviter) as connection:
            header = {"mesh": invitation.mesh, "secret": invitation.secret, "name": "cleo"}
            async with open_request(connection, PROTOCOL, header, 5) as stream:
                body = await stream.receive()
        assert body is not None
        assert unpack_answer_untrusted(body) == JoinRefusal("expired")
        assert cleo.service.mesh() is None


async def test_bad_codes_and_second_meshes_are_refused_in_words(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await anna.service.create("home")
        code = (await anna.service.invite())["code"]
        for bad, words in [
            ("hello", "begins with atmo1"),
            (code[:-3], "copy it again"),
            (code[:40] + ("a" if code[40] != "a" else "b") + code[41:], "copy it again"),
        ]:
            with pytest.raises(UserError, match=words):
                await bert.service.join(bad)
        with pytest.raises(UserError, match="made by this very node"):
            await anna.service.join(code)
        await bert.service.join(" \n".join([code[:70], code[70:]]))
        with pytest.raises(UserError, match="belongs to the mesh 'home'"):
            await bert.service.create("other")
        with pytest.raises(UserError, match="Only a founder or an admin"):
            await bert.service.invite()
        with pytest.raises(UserError, match="no role"):
            await anna.service.invite("Not A Role")
        with pytest.raises(UserError, match="one second to 30 days"):
            await anna.service.invite(expires_s=1e9)


async def test_an_admin_who_is_no_founder_lets_others_in(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert, machine(tmp_path, "cleo") as cleo:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite("admin"))["code"])
        await names_seen(bert, {"anna", "bert"})
        await cleo.service.join((await bert.service.invite("edge"))["code"])
        await names_seen(anna, {"anna", "bert", "cleo"})


async def test_a_revoked_member_is_cut_off_everywhere(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert, machine(tmp_path, "cleo") as cleo:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite())["code"])
        await cleo.service.join((await anna.service.invite())["code"])
        for m in (anna, bert, cleo):
            await names_seen(m, {"anna", "bert", "cleo"})
        with pytest.raises(UserError, match="No member"):
            await anna.service.revoke("nobody")
        with pytest.raises(UserError, match="Only a founder or an admin"):
            await bert.service.revoke("cleo")
        assert (await anna.service.revoke("cleo"))["id"] == str(cleo.signer.node_id)
        await names_seen(anna, {"anna", "bert"})
        await names_seen(bert, {"anna", "bert"})
        with trio.fail_after(10):
            while cleo.driver.peer.neighbours():
                await trio.sleep(0.02)
        with pytest.raises(UserError, match="stays"):
            await anna.service.revoke("anna")


async def test_the_mesh_survives_a_restart_and_offline_commands(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite())["code"])
        await names_seen(anna, {"anna", "bert"})
        await names_seen(bert, {"anna", "bert"})
        (home,) = anna.host.addresses()
    async with machine(tmp_path, "anna", online=False, listen=home) as offline:
        assert {row["name"] for row in offline.service.nodes()} >= {"bert"}
        assert parse_join_code((await offline.service.invite())["code"]).addresses == (home,)
        await offline.service.revoke("bert")
    async with machine(tmp_path, "anna", listen=home) as anna, machine(tmp_path, "bert") as bert:
        with trio.fail_after(10):
            while bert.driver.peer.membership.stats.dials < 3:
                await trio.sleep(0.02)
        assert anna.driver.peer.trust.is_revoked(bert.signer.node_id)
        assert not anna.driver.peer.neighbours()


async def test_what_was_answered_survives_a_kill_at_once(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite())["code"])
        assert any(str(anna.signer.node_id) in key for key in bert.on_disk()), "where to find the mesh"
        await names_seen(anna, {"anna", "bert"})
        await anna.service.revoke("bert")
        assert any("/revocation/" in key for key in anna.on_disk())


@pytest.mark.parametrize("online", [True, False])
async def test_a_clock_before_the_membership_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    async with machine(tmp_path, "anna") as anna:
        await anna.service.create("home")
    monkeypatch.setattr("atmo.services.host.time", SimpleNamespace(time=lambda: 86_400.0))
    with pytest.RaisesGroup(UserError, flatten_subgroups=True, allow_unwrapped=True) as caught:
        async with machine(tmp_path, "anna", online=online):
            pass
    assert "clock" in str(leaf_error(caught.value))


async def test_only_founders_make_admins(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite("admin"))["code"])
        with pytest.raises(UserError, match="Only a founder can make admins"):
            await bert.service.invite("admin")


async def test_join_says_who_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.services.host._CONNECT_S", 0.3)
    async with machine(tmp_path, "bert") as bert:
        async with machine(tmp_path, "anna") as anna:
            await anna.service.create("home")
            code = (await anna.service.invite())["code"]
        with pytest.raises(RemoteError, match="does not answer"):
            await bert.service.join(code)
        assert bert.service.mesh() is None
