"""The mesh service over real sockets on loopback: found, invite, join, revoke, restart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from atmo.errors import RemoteError, UserError, leaf_error
from atmo.identity import Signer
from atmo.net.requests import open_request
from atmo.peer.rights import RedeemedTwice, Succeeded
from atmo.services.joining import PROTOCOL, JoinGrant, JoinRefusal, JoinRequest, unpack_answer_untrusted
from atmo.storage.database import Database
from atmo.trust.joincode import parse_join_code, secret_hash
from atmo.trust.records import INVITE, REDEMPTION, SUCCESSION
from atmo.wire.address import Address
from tests.services.machines import Machine, machine, names_seen
from tests.storage import samples


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
        assert [row["name"] for row in bert.service.nodes() if row["founder"]] == ["anna"]
        assert set(row) >= {"id", "name", "roles", "path", "rtt_ms", "last_seen_s"}
        with trio.fail_after(10):
            while not all(row["present"] and row["neighbour"] for row in bert.service.nodes() if not row["self"]):
                await trio.sleep(0.02)


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


async def test_whom_a_member_let_in_goes_with_it_only_by_force(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert, machine(tmp_path, "cleo") as cleo:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite("admin"))["code"])
        await names_seen(bert, {"anna", "bert"})
        await cleo.service.join((await bert.service.invite())["code"])
        await names_seen(anna, {"anna", "bert", "cleo"})
        with pytest.raises(UserError, match=r"bert let cleo in: .*--force"):
            await anna.service.revoke("bert")
        assert (await anna.service.revoke("bert", force=True))["with"] == ["cleo"]
        await names_seen(anna, {"anna"})


async def test_what_people_should_know_of_rights_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Signer(b"other".ljust(32, b".")).node_id
    async with machine(tmp_path, "anna") as anna:
        anna.service.on_event(Succeeded(other, other))  # without a mesh there is nothing to say
        assert not [each for each in caplog.messages if not each.startswith("TCP")]  # another one may have the port
        await anna.service.create("home")
        own = anna.signer.node_id
        for event in (RedeemedTwice("ab", (own, other)), Succeeded(own, other), object()):
            anna.service.on_event(event)
    assert caplog.messages == [
        f"one join code let in anna ({own.short}) and {other.short} ({other.short}): "
        "revoke who is no guest with `atmo mesh revoke`",
        f"anna handed a founder's rights over to {other.short} ({other.short})",
    ]


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
            while bert.driver.peer.hyparview.stats.dials < 2:
                await trio.sleep(0.02)
        assert anna.driver.peer.trust.is_revoked(bert.signer.node_id)
        assert not anna.driver.peer.neighbours()


async def test_a_command_waits_for_a_neighbour_however_much_is_known_from_before(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(samples.safetensors(1000))
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite())["code"])
        await anna.models.import_model(file, name="m")
        with trio.fail_after(10):
            while not bert.models.rows("available"):
                await trio.sleep(0.02)
        (home,) = anna.host.addresses()
    async with machine(tmp_path, "bert") as bert:
        assert bert.models.rows("available"), "as it was told before"
        with pytest.raises(RemoteError, match="no other node of the mesh answers"):
            await bert.host.wait_for_mesh(0.2)
        async with machine(tmp_path, "anna", listen=home):
            await bert.host.wait_for_mesh(10.0)
            assert bert.driver.peer.neighbours()


async def test_what_was_answered_survives_a_kill_at_once(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite())["code"])
        assert any(str(anna.signer.node_id) in key for key in bert.on_disk()), "where to find the mesh"
        await names_seen(anna, {"anna", "bert"})
        await anna.service.revoke("bert")
        assert any("/revocation/" in key for key in anna.on_disk())


@pytest.mark.parametrize("online", [True, False])
async def test_a_clock_before_the_membership_is_an_error_in_words(tmp_path: Path, online: bool) -> None:
    async with machine(tmp_path, "anna") as anna:
        await anna.service.create("home")
    with pytest.RaisesGroup(UserError, flatten_subgroups=True, allow_unwrapped=True) as caught:
        async with machine(tmp_path, "anna", online=online, wall=lambda: 86_400.0):
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


async def heard(m: Machine, kind: str, count: int = 1) -> None:
    """Waits until a machine holds so many records of a kind."""
    with trio.fail_after(10):
        while sum(1 for _ in m.driver.peer.sync.envelopes(kind)) < count:
            await trio.sleep(0.02)


async def test_a_code_works_at_another_admin_while_its_inviter_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmo.services.host._CONNECT_S", 0.3)
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "cleo") as cleo, machine(tmp_path, "dora") as dora:
        await anna.service.create("home")
        async with machine(tmp_path, "bert") as bert:
            await bert.service.join((await anna.service.invite("admin"))["code"])
            await names_seen(bert, {"anna", "bert"})
            codes = [(await bert.service.invite("edge"))["code"] for _ in range(2)]
            await heard(anna, INVITE, 3)
        assert [contact.node for contact in parse_join_code(codes[0]).others] == [anna.signer.node_id]
        joined = await cleo.service.join(codes[0])
        assert joined["roles"] == ["edge"]
        with pytest.raises(UserError, match="used already"):
            await dora.service.join(codes[0])
        await dora.service.join(codes[1])
        await heard(cleo, REDEMPTION, 3)


async def test_a_code_used_at_one_admin_is_refused_at_the_others(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna, machine(tmp_path, "bert") as bert, machine(tmp_path, "cleo") as cleo:
        await anna.service.create("home")
        await bert.service.join((await anna.service.invite("admin"))["code"])
        await names_seen(bert, {"anna", "bert"})
        code = parse_join_code((await anna.service.invite())["code"])
        used = secret_hash(code.secret)
        await heard(bert, INVITE, 2)
        state = bert.driver.peer.invitations.state(time.time(), used.hex(), cleo.signer.node_id)
        assert state.role == "edge"
        await cleo.service.join(code.text())
        await heard(bert, REDEMPTION, 2)
        stranger = JoinRequest(code.mesh, code.secret, "eve")
        eve = Signer(b"eve".ljust(32, b"."))
        assert await bert.service._answer(eve.node_id, stranger) == JoinRefusal("used")
        again = await bert.service._answer(cleo.signer.node_id, stranger)
        assert isinstance(again, JoinGrant), "the same machine again, in case the answer was lost"
        monkey = (await anna.service.invite("admin"))["code"]
        await heard(bert, INVITE, 3)
        by_founder = JoinRequest(code.mesh, parse_join_code(monkey).secret, "eve")
        assert await bert.service._answer(eve.node_id, by_founder) == JoinRefusal("not founder")
        bert.driver.peer.may_redeem = lambda: False  # type: ignore[method-assign]
        plain = parse_join_code((await anna.service.invite())["code"])
        await heard(bert, INVITE, 4)
        assert await bert.service._answer(eve.node_id, JoinRequest(code.mesh, plain.secret, "eve")) == JoinRefusal(
            "busy"
        )


async def test_open_and_used_codes_are_told_again_after_a_restart(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna:
        await anna.service.create("home")
    async with machine(tmp_path, "anna", online=False, listen=Address("127.0.0.1", 1)) as offline:
        codes = [parse_join_code((await offline.service.invite())["code"]) for _ in range(2)]
        offline.database.invite_redeem(secret_hash(codes[0].secret), b"n" * 32, time.time())
    for key, _ in offline_records(tmp_path):
        assert "/invite/" in key
    async with machine(tmp_path, "anna") as anna:
        invitations = anna.driver.peer.invitations
        assert invitations.used_by(secret_hash(codes[0].secret).hex()) == (b"n" * 32,)
        state = invitations.state(time.time(), secret_hash(codes[1].secret).hex(), anna.signer.node_id)
        assert state.role == "edge"


def offline_records(tmp_path: Path) -> list[tuple[str, bytes]]:
    database = Database(tmp_path / "anna" / "atmosphere.db")
    try:
        return database.kv_items("record/")
    finally:
        database.close()


async def test_a_founder_hands_over_and_newcomers_and_returners_know(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna:
        await anna.service.create("home")
        async with machine(tmp_path, "cleo") as cleo:
            await cleo.service.join((await anna.service.invite())["code"])
        async with machine(tmp_path, "bert") as bert, machine(tmp_path, "dora") as dora:
            await bert.service.join((await anna.service.invite())["code"])
            await names_seen(anna, {"anna", "bert"})
            with pytest.raises(UserError, match="Only a founder"):
                await bert.service.hand_over("anna")
            with pytest.raises(UserError, match="founder already"):
                await anna.service.hand_over("anna")
            with pytest.raises(UserError, match="No member"):
                await anna.service.hand_over("nobody")
            assert await anna.service.hand_over("bert") == {"id": str(bert.signer.node_id), "name": "bert"}
            assert any("/succession/" in key for key in anna.on_disk())
            await heard(bert, SUCCESSION)
            with pytest.raises(UserError, match="Only a founder or an admin"):
                await anna.service.invite()
            await dora.service.join((await bert.service.invite("admin"))["code"])
            assert dora.driver.peer.trust.founders == (bert.signer.node_id,)
            await names_seen(dora, {"anna", "bert", "dora"})
            async with machine(tmp_path, "cleo") as cleo:
                await heard(cleo, SUCCESSION)
                await names_seen(cleo, {"anna", "bert", "cleo", "dora"})
        async with machine(tmp_path, "dora") as dora:
            assert dora.driver.peer.trust.founders == (bert.signer.node_id,), "it knows when it starts"


async def test_a_home_without_a_mesh_hands_nothing_over(tmp_path: Path) -> None:
    async with machine(tmp_path, "anna") as anna:
        with pytest.raises(UserError, match="belongs to no mesh"):
            await anna.service.hand_over("bert")
