"""Revocation: it reaches everyone, cuts links, proves itself for ever, and survives restarts."""

from __future__ import annotations

from itertools import permutations

import pytest

from atmo.engine import Dial, Store
from atmo.errors import WireError
from atmo.gossip.messages import Gossip, Records
from atmo.gossip.records import NODE, REVOCATION_LIFETIME_S, RevocationBody
from atmo.gossip.sync import store_key
from atmo.peer import Revoked
from atmo.trust.records import REVOCATION
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.peer.kit import Side, Table, model
from tests.trust.kit import ADMIN, ANNA, BERT, EVE, FOUNDER, START_S, admin_certificate, certificate, signer


def mesh() -> tuple[Table, Side, Side, Side, Side]:
    """A founder linked to an admin, anna and eve; eve also to anna."""
    table = Table()
    founder, admin = table.add(FOUNDER, "founder"), table.add(ADMIN, "admin", sealed=admin_certificate())
    anna, eve = table.add(ANNA, "anna"), table.add(EVE, "eve")
    for other in (admin, anna, eve):
        table.link(founder, other)
    table.link(anna, eve)
    table.forget_logs()
    return table, founder, admin, anna, eve


def test_a_revoked_node_is_cut_off_everywhere_and_does_not_get_back() -> None:
    table, founder, admin, anna, eve = mesh()
    eve.tells(lambda peer, now: peer.publish_models(now, [model()]))
    founder.tells(lambda peer, now: peer.revoke(now, eve.id, "stolen " + "x" * 300))
    table.advance(5)  # the way to some may have led through the one that was put out
    for side in (founder, admin, anna):
        assert eve.id not in side.peer.neighbours()
        assert "eve" not in side.names()
        assert side.models() == []
        assert side.emitted(Revoked) == [Revoked(eve.id)]
        assert side.peer.sync.record(eve.id, NODE) is None
        assert side.peer.stats.revocations == 1
    assert eve.peer.neighbours() == []
    assert anna.hangups() == ["it was revoked"]
    table.forget_logs()
    table.link(anna, eve)
    assert anna.hangups() == ["it was revoked"]
    table.advance(400)
    assert [dial for dial in anna.of(Dial) if dial.node == eve.id] == []
    assert anna.peer.neighbours() == [founder.id]
    assert founder.faults() == anna.faults() == []


def test_an_admin_revokes_too_and_nobody_else() -> None:
    _, founder, admin, anna, eve = mesh()
    with pytest.raises(WireError, match="only a founder or an admin"):
        eve.peer.revoke(eve.table.now, anna.id)
    with pytest.raises(WireError, match="founder cannot"):
        admin.peer.revoke(admin.table.now, founder.id)
    admin.tells(lambda peer, now: peer.revoke(now, eve.id))
    assert anna.peer.trust.is_revoked(eve.id)


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (str(BERT.node_id), RevocationBody(BERT.node_id, "", certificate(EVE.node_id))),
        (str(BERT.node_id), RevocationBody(BERT.node_id, "", admin_certificate())),
        (str(BERT.node_id), RevocationBody(BERT.node_id, "", b"rubbish")),
        ("another key", RevocationBody(BERT.node_id)),
    ],
)
def test_a_revocation_by_one_who_may_not_is_a_fault(key: str, body: RevocationBody) -> None:
    _, _, _, anna, eve = mesh()
    anna.hears(eve.id, Gossip(sealed(EVE, REVOCATION, key, body=pack(body), lifetime_s=REVOCATION_LIFETIME_S)))
    assert len(anna.faults()) == 1
    assert not anna.peer.trust.is_revoked(BERT.node_id)


@pytest.mark.parametrize(
    "body",
    [
        RevocationBody(BERT.node_id),
        RevocationBody(FOUNDER.node_id),
        RevocationBody(BERT.node_id, "", certificate(EVE.node_id, ANNA, roles=("admin",))),
    ],
)
def test_a_revocation_by_one_who_may_be_a_founder_unheard_of_is_refused_in_silence(body: RevocationBody) -> None:
    _, _, _, anna, eve = mesh()
    deed = sealed(EVE, REVOCATION, str(body.node), body=pack(body), lifetime_s=REVOCATION_LIFETIME_S)
    anna.hears(eve.id, Gossip(deed))
    assert anna.faults() == []
    assert not anna.peer.trust.is_revoked(body.node)
    assert anna.peer.sync.record(eve.id, REVOCATION, str(body.node)) is None


def test_an_admin_whose_time_had_not_begun_revokes_nobody() -> None:
    _, _, _, anna, eve = mesh()
    proof = admin_certificate(issued_s=START_S + 1_000)
    body = pack(RevocationBody(BERT.node_id, "", proof))
    anna.hears(
        eve.id, Gossip(sealed(ADMIN, REVOCATION, str(BERT.node_id), body=body, lifetime_s=REVOCATION_LIFETIME_S))
    )
    assert "as of its deed" in anna.faults()[0]


def test_who_was_revoked_with_the_admin_that_let_it_in_is_cut_off_too() -> None:
    table, founder, admin, anna, _ = mesh()
    bert = table.add(BERT, "bert", sealed=certificate(BERT.node_id, ADMIN), issuer=admin_certificate())
    table.link(anna, bert)
    assert anna.peer.is_ready(bert.id)
    founder.tells(lambda peer, now: peer.revoke(now, admin.id))
    assert not anna.peer.is_ready(bert.id)
    assert "bert" not in anna.names()
    assert anna.peer.sync.record(bert.id, NODE) is None


def test_one_who_hears_that_it_was_put_out_itself_hangs_up_on_all() -> None:
    table, _, _, anna, eve = mesh()
    body = pack(RevocationBody(eve.id))
    eve.hears(anna.id, Gossip(sealed(FOUNDER, REVOCATION, str(eve.id), (9, 9), body, lifetime_s=REVOCATION_LIFETIME_S)))
    assert eve.peer.neighbours() == []
    assert eve.emitted(Revoked) == [Revoked(eve.id)]
    table.forget_logs()
    table.advance(1_000)
    assert eve.of(Dial) == []


def test_who_is_cut_hears_first_why() -> None:
    table = Table()
    founder, anna = table.add(FOUNDER, "founder"), table.add(ANNA, "anna")
    table.link(founder, anna)
    founder.tells(lambda peer, now: peer.revoke(now, anna.id))
    assert anna.peer.trust.is_revoked(anna.id)
    assert founder.peer.linked() == anna.peer.linked() == []


# --- revocations of and by admins, in any order -------------------------------------------------------------------


def revocation(by: str, node: Side, version: tuple[int, int] = (9, 9)) -> bytes:
    signer, proof = (FOUNDER, None) if by == "founder" else (ADMIN, admin_certificate())
    body = pack(RevocationBody(node.id, "", proof))
    return sealed(signer, REVOCATION, str(node.id), version, body, lifetime_s=REVOCATION_LIFETIME_S)


def test_what_a_revoked_admin_did_is_undone_whatever_came_first() -> None:
    for order in permutations(range(2)):
        table, founder, admin, anna, eve = mesh()
        deeds = [revocation("admin", eve), revocation("founder", admin)]
        for number in order:
            anna.hears(founder.id, Gossip(deeds[number]))
        assert anna.peer.trust.is_revoked(admin.id)
        assert not anna.peer.trust.is_revoked(eve.id)
        for number in order:
            eve.hears(anna.id, Gossip(deeds[number]))
        table.link(anna, eve)
        assert anna.peer.is_ready(eve.id)
        table.advance(90)
        assert (
            founder.peer.sync.versions().items()
            >= {
                (FOUNDER.node_id, REVOCATION, str(admin.id)): (9, 9),
                (ADMIN.node_id, REVOCATION, str(eve.id)): (9, 9),
            }.items()
        )


def test_the_same_deed_twice_is_no_news() -> None:
    _, founder, _, anna, eve = mesh()
    for version in ((9, 1), (9, 2)):
        anna.hears(founder.id, Gossip(revocation("founder", eve, version)))
    assert anna.emitted(Revoked) == [Revoked(eve.id)]
    anna.hears(founder.id, Gossip(revocation("admin", eve)))
    assert anna.emitted(Revoked) == [Revoked(eve.id)]


def test_a_revocation_is_not_taken_back_by_its_author() -> None:
    table, founder, _, anna, eve = mesh()
    founder.tells(lambda peer, now: peer.revoke(now, eve.id))
    (deed,) = anna.peer.sync.envelopes(REVOCATION)
    for version, body in (((9, 9), pack(RevocationBody(eve.id))), ((9, 10), b"")):
        for lifetime_s in (0, REVOCATION_LIFETIME_S):
            newer = sealed(FOUNDER, REVOCATION, str(eve.id), version, body, lifetime_s=lifetime_s)
            anna.hears(founder.id, Records((newer,)))
    table.advance(600)
    assert list(anna.peer.sync.envelopes(REVOCATION)) == [deed]
    again = Table()
    again.wall = table.wall
    side = again.add(ANNA, "again", epoch=2, records=anna.disk())
    assert side.peer.trust.is_revoked(eve.id)
    founder.tells(lambda peer, now: peer.revoke(now, eve.id, "another reason"))
    assert list(founder.peer.sync.envelopes(REVOCATION)) == [deed]


@pytest.mark.parametrize(("body", "lifetime_s"), [(b"", REVOCATION_LIFETIME_S), (None, REVOCATION_LIFETIME_S - 1)])
def test_a_revocation_says_whom_and_is_for_good(body: bytes | None, lifetime_s: int) -> None:
    _, founder, _, anna, eve = mesh()
    body = pack(RevocationBody(eve.id)) if body is None else body
    anna.hears(founder.id, Gossip(sealed(FOUNDER, REVOCATION, str(eve.id), body=body, lifetime_s=lifetime_s)))
    assert len(anna.faults()) == 1
    assert not anna.peer.trust.is_revoked(eve.id)


@pytest.mark.parametrize("off_s", [-7_200, 7_200])
def test_a_revocation_is_heard_whichever_clock_is_wrong(off_s: int) -> None:
    _, founder, _, anna, eve = mesh()
    body = pack(RevocationBody(eve.id))
    deed = sealed(
        FOUNDER, REVOCATION, str(eve.id), body=body, issued_s=START_S + off_s, lifetime_s=REVOCATION_LIFETIME_S
    )
    anna.hears(founder.id, Gossip(deed))
    assert anna.hangups() == ["it was revoked"]


# --- who is an admin no more --------------------------------------------------------------------------------------


def test_an_admin_whose_time_is_over_cannot_write_an_older_date() -> None:
    table, founder, _, anna, eve = mesh()
    proof = admin_certificate(lasts_s=1_000)
    body = pack(RevocationBody(eve.id, "", proof))
    deed = sealed(ADMIN, REVOCATION, str(eve.id), body=body, lifetime_s=REVOCATION_LIFETIME_S)
    table.wall += 100
    founder.hears(anna.id, Gossip(deed))
    assert founder.peer.trust.is_revoked(eve.id)
    late = Table()
    late.wall = table.wall + 40 * 86_400
    bert = late.add(BERT, "bert")
    late.verified(bert, ANNA)
    bert.hears(ANNA.node_id, Records((deed,)))
    assert not bert.peer.trust.is_revoked(eve.id)
    assert bert.faults() == []
    again = late.add(FOUNDER, "again", epoch=2, records=founder.disk())
    assert again.peer.trust.is_revoked(eve.id), "it was heard in time"


def test_an_admin_that_was_put_out_puts_out_nobody() -> None:
    _, founder, admin, anna, eve = mesh()
    other = signer("other admin")
    proof = certificate(other.node_id, roles=("admin",))
    body = pack(RevocationBody(admin.id, "", proof))
    anna.hears(
        founder.id, Gossip(sealed(other, REVOCATION, str(admin.id), (9, 9), body, lifetime_s=REVOCATION_LIFETIME_S))
    )
    anna.hears(founder.id, Gossip(revocation("admin", eve)))
    assert anna.peer.trust.is_revoked(admin.id)
    assert not anna.peer.trust.is_revoked(eve.id)
    assert anna.faults() == []


def lie(number: int) -> bytes:
    body = pack(RevocationBody(BERT.node_id, "", certificate(EVE.node_id)))
    return sealed(EVE, REVOCATION, str(BERT.node_id), (1, number), body, lifetime_s=REVOCATION_LIFETIME_S)


def test_who_may_not_revoke_does_not_keep_the_rest_from_being_read() -> None:
    _, _, _, anna, eve = mesh()
    anna.hears(eve.id, Records((lie(0), revocation("founder", eve))))
    assert len(anna.faults()) == 1
    assert anna.peer.trust.is_revoked(eve.id)


def test_who_tells_of_too_many_such_is_not_read_on() -> None:
    _, founder, _, anna, eve = mesh()
    lies = [lie(number) for number in range(20)]
    anna.hears(eve.id, Records(tuple(lies)))
    assert anna.hangups() == ["16 broken messages"]
    assert len(anna.faults()) == 16
    assert anna.peer.neighbours() == [founder.id]


# --- late joiners and restarts ------------------------------------------------------------------------------------


def test_who_joins_when_the_admin_is_long_gone_still_hears_whom_it_put_out() -> None:
    table, founder, admin, anna, eve = mesh()
    admin.tells(lambda peer, now: peer.revoke(now, eve.id))
    for side in (admin, founder, eve):
        for other in (admin, founder, anna, eve):
            table.cut(side.id, other.id)
        del table.sides[side.id]
    table.advance(20_000)
    bert = table.add(BERT, "bert")
    table.link(bert, anna)
    assert bert.peer.trust.is_revoked(EVE.node_id)
    assert bert.faults() == []


def test_revocations_survive_a_restart_after_everything_else_expired() -> None:
    table, founder, admin, anna, eve = mesh()
    admin.tells(lambda peer, now: peer.revoke(now, eve.id))
    kept = {side.id: side.disk() for side in (founder, admin, anna)}
    table.wall += 100_000
    again = Table()
    again.wall = table.wall
    for key in (FOUNDER, ANNA):
        side = again.add(key, "again", epoch=2, records=kept[key.node_id])
        assert side.peer.trust.is_revoked(eve.id)
    side = again.add(ADMIN, "again", sealed=admin_certificate(), epoch=2, records=kept[ADMIN.node_id])
    assert side.peer.trust.is_revoked(eve.id)
    assert side.faults() == []


def test_a_founder_can_revoke_after_a_restart_what_it_revoked_before() -> None:
    _, founder, _, _, eve = mesh()
    founder.tells(lambda peer, now: peer.revoke(now, eve.id))
    founder.tells(lambda peer, now: peer.revoke(now, eve.id))
    assert founder.emitted(Revoked) == [Revoked(eve.id)]


def test_a_node_that_was_put_out_while_it_was_away_is_forgotten_too() -> None:
    table, founder, admin, anna, eve = mesh()
    for one, two in ((founder, eve), (anna, eve), (founder, admin)):
        table.cut(one.id, two.id)
    del table.sides[eve.id], table.sides[admin.id]
    table.advance(400)
    assert anna.peer.name(eve.id) == "eve", "gone, and remembered"
    founder.tells(lambda peer, now: peer.revoke(now, eve.id))
    for side in (founder, anna):
        assert eve.id not in side.peer._directory.gone
        assert eve.id not in side.peer._directory.issued_s
        assert eve.id not in side.peer.hyparview.known
        assert Store(store_key((eve.id, NODE, "")), None) in side.log
        assert side.peer.name(admin.id) == "admin"


def test_a_node_that_was_put_out_while_it_was_there_leaves_nothing_behind() -> None:
    _, founder, _, anna, eve = mesh()
    founder.tells(lambda peer, now: peer.revoke(now, eve.id))
    assert eve.id not in anna.peer._directory.gone
    assert eve.id not in anna.peer._directory.issued_s
    assert eve.id not in anna.peer.hyparview.known
