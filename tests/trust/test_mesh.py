"""Who is a member, who is out, and that the answers do not depend on the order in which things were learnt."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.trust import mesh as mesh_module
from atmo.trust.mesh import REVOKER_GRACE_S, SKEW_S, MeshTrust, NotCounting, NotEntitled, NotKnown
from atmo.wire import limits
from tests.trust.kit import (
    ADMIN,
    ANNA,
    BERT,
    EVE,
    FOUNDER,
    START_S,
    YEAR_S,
    admin_certificate,
    certificate,
    signer,
    trust,
)


def admit_by_admin(rules: MeshTrust, wall: float = START_S) -> None:
    rules.admit_untrusted(wall, BERT.node_id, certificate(BERT.node_id, ADMIN), admin_certificate())


# --- admission ----------------------------------------------------------------------------------------------------


def members(rules: MeshTrust) -> list[NodeId]:
    """Returns which of those in the tests are members."""
    return [each.node_id for each in (ANNA, BERT, EVE, ADMIN) if rules.is_member(START_S, each.node_id)]


def test_a_founder_makes_members() -> None:
    rules = trust()
    sealed = certificate(ANNA.node_id, roles=("edge", "gateway"))
    member = rules.admit_untrusted(START_S, ANNA.node_id, sealed, None)
    assert rules.member(ANNA.node_id) == member
    assert rules.is_member(START_S, ANNA.node_id)
    assert rules.roles(ANNA.node_id) == ("edge", "gateway")
    assert members(rules) == [ANNA.node_id]
    assert not rules.is_admin(START_S, ANNA.node_id)


def test_an_admin_makes_members_and_founders_are_admins() -> None:
    rules = trust()
    admit_by_admin(rules)
    rules.admit_untrusted(START_S, ADMIN.node_id, admin_certificate(), None)
    rules.admit_untrusted(START_S, FOUNDER.node_id, certificate(FOUNDER.node_id), None)
    assert rules.is_member(START_S, BERT.node_id)
    assert rules.is_admin(START_S, ADMIN.node_id)
    assert rules.is_admin(START_S, FOUNDER.node_id)
    assert not rules.is_admin(START_S, EVE.node_id)
    assert rules.roles(EVE.node_id) == ()


@pytest.mark.parametrize(
    ("sealed", "issuer", "why"),
    [
        (certificate(BERT.node_id), None, "another node's"),
        (certificate(ANNA.node_id, EVE), certificate(EVE.node_id), "not make it an admin"),
        (certificate(ANNA.node_id, EVE), admin_certificate(), "another node's"),
        (certificate(ANNA.node_id, mesh=b"m" * 32), None, "signature"),
        (b"rubbish", None, "tag"),
    ],
)
def test_who_is_not_a_member(sealed: bytes, issuer: bytes | None, why: str) -> None:
    rules = trust()
    with pytest.raises(WireError, match=why) as caught:
        rules.admit_untrusted(START_S, ANNA.node_id, sealed, issuer)
    assert not isinstance(caught.value, NotCounting)
    assert members(rules) == []


@pytest.mark.parametrize(
    ("issuer", "why"),
    [(None, "no founder"), (certificate(EVE.node_id, EVE, roles=("admin",)), "founder's word")],
)
def test_who_may_be_let_in_by_a_founder_that_is_not_known_yet(issuer: bytes | None, why: str) -> None:
    rules = trust()
    with pytest.raises(NotKnown, match=why):
        rules.admit_untrusted(START_S, ANNA.node_id, certificate(ANNA.node_id, EVE), issuer)
    assert members(rules) == []


def test_an_admin_of_an_admin_is_one_too_many() -> None:
    chain = certificate(EVE.node_id, ADMIN, roles=("admin",))
    with pytest.raises(WireError, match="founder's word"):
        trust().admit_untrusted(START_S, ANNA.node_id, certificate(ANNA.node_id, EVE), chain)


def test_an_admin_makes_no_admins() -> None:
    rules = trust()
    rules.admit_untrusted(START_S, EVE.node_id, certificate(EVE.node_id, ADMIN, roles=("admin",)), admin_certificate())
    assert rules.is_member(START_S, EVE.node_id)
    assert not rules.is_admin(START_S, EVE.node_id)


@given(st.data())
def test_a_changed_certificate_is_never_admitted(data: st.DataObject) -> None:
    pair = [certificate(BERT.node_id, ADMIN), admin_certificate()]
    which = data.draw(st.sampled_from([0, 1]))
    whole = pair[which]
    place = data.draw(st.integers(0, len(whole) - 1))
    pair[which] = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    rules = trust()
    with pytest.raises(WireError):
        rules.admit_untrusted(START_S, BERT.node_id, *pair)
    assert not rules.is_member(START_S, BERT.node_id)


# --- dates --------------------------------------------------------------------------------------------------------


def test_clocks_may_differ_by_a_minute() -> None:
    sealed = certificate(ANNA.node_id, lasts_s=100)
    trust().admit_untrusted(START_S - SKEW_S, ANNA.node_id, sealed, None)
    trust().admit_untrusted(START_S + 100 + SKEW_S, ANNA.node_id, sealed, None)
    with pytest.raises(NotCounting, match="future"):
        trust().admit_untrusted(START_S - SKEW_S - 1, ANNA.node_id, sealed, None)
    with pytest.raises(NotCounting, match="expired"):
        trust().admit_untrusted(START_S + 101 + SKEW_S, ANNA.node_id, sealed, None)


def test_membership_ends_with_the_certificate() -> None:
    rules = trust()
    rules.admit_untrusted(START_S, ANNA.node_id, certificate(ANNA.node_id, lasts_s=100), None)
    assert rules.is_member(START_S + 160, ANNA.node_id)
    assert not rules.is_member(START_S + 161, ANNA.node_id)


def test_membership_ends_with_the_certificate_of_the_admin_who_gave_it() -> None:
    rules = trust()
    short = admin_certificate(lasts_s=100)
    member = rules.admit_untrusted(START_S, BERT.node_id, certificate(BERT.node_id, ADMIN), short)
    assert member.expires_s == START_S + 100
    assert not rules.is_member(START_S + 161, BERT.node_id)
    with pytest.raises(NotCounting, match="expired"):
        trust().admit_untrusted(START_S + 161, BERT.node_id, certificate(BERT.node_id, ADMIN), short)
    rules.admit_untrusted(START_S + 161, BERT.node_id, certificate(BERT.node_id, ADMIN), admin_certificate())
    assert rules.is_member(START_S + 161, BERT.node_id)


def test_the_later_certificate_counts_in_any_order() -> None:
    older = certificate(ANNA.node_id, roles=("admin",))
    newer = certificate(ANNA.node_id, roles=("edge",), issued_s=START_S + 10)
    for order in permutations((older, newer)):
        rules = trust()
        for sealed in order:
            rules.admit_untrusted(START_S + 10, ANNA.node_id, sealed, None)
        assert rules.roles(ANNA.node_id) == ("edge",)


def test_the_same_certificate_again_is_the_same_member() -> None:
    rules = trust()
    sealed = certificate(ANNA.node_id)
    assert rules.admit_untrusted(START_S, ANNA.node_id, sealed, None) is rules.admit_untrusted(
        START_S + 5, ANNA.node_id, sealed, None
    )


def test_the_table_is_bounded_and_expired_members_make_room() -> None:
    rules = trust(members_most=2)
    rules.admit_untrusted(START_S, ANNA.node_id, certificate(ANNA.node_id, lasts_s=10), None)
    rules.admit_untrusted(START_S, BERT.node_id, certificate(BERT.node_id), None)
    with pytest.raises(NotCounting, match="full"):
        rules.admit_untrusted(START_S, EVE.node_id, certificate(EVE.node_id), None)
    rules.admit_untrusted(START_S + 71, EVE.node_id, certificate(EVE.node_id), None)
    assert members(rules) == [BERT.node_id, EVE.node_id]


# --- revocation ---------------------------------------------------------------------------------------------------


def test_a_revoked_node_is_out_and_stays_out() -> None:
    rules = trust()
    sealed = certificate(ANNA.node_id)
    rules.admit_untrusted(START_S, ANNA.node_id, sealed, None)
    assert rules.revoke(ANNA.node_id)
    assert not rules.revoke(ANNA.node_id)
    assert rules.is_revoked(ANNA.node_id)
    assert not rules.is_member(START_S, ANNA.node_id)
    assert members(rules) == []
    for issued_s in (START_S, START_S + 10):
        with pytest.raises(NotCounting, match="was revoked"):
            rules.admit_untrusted(START_S + 10, ANNA.node_id, certificate(ANNA.node_id, issued_s=issued_s), None)


def test_a_founder_stays() -> None:
    rules = trust()
    assert not rules.revoke(FOUNDER.node_id, ADMIN.node_id)
    assert not rules.is_revoked(FOUNDER.node_id)


def test_with_an_admin_go_those_whom_it_let_in() -> None:
    rules = trust()
    admit_by_admin(rules)
    rules.revoke(ADMIN.node_id)
    assert not rules.is_member(START_S, BERT.node_id)
    assert members(rules) == []
    with pytest.raises(NotCounting, match="issuer was revoked"):
        admit_by_admin(rules)
    rules.admit_untrusted(START_S, BERT.node_id, certificate(BERT.node_id), None)
    assert rules.is_member(START_S, BERT.node_id)


def test_what_a_revoked_admin_did_is_undone_in_any_order() -> None:
    deeds = [(ANNA.node_id, ADMIN.node_id), (ADMIN.node_id, FOUNDER.node_id), (EVE.node_id, ANNA.node_id)]
    for order in permutations(deeds):
        rules = trust()
        for node, by in order:
            assert rules.revoke(node, by)
        assert rules.is_revoked(ADMIN.node_id)
        assert not rules.is_revoked(ANNA.node_id)
        assert rules.is_revoked(EVE.node_id), "anna was an admin whom no founder put out"


def test_two_admins_against_each_other_are_both_out_until_a_founder_decides() -> None:
    rules = trust()
    rules.revoke(ADMIN.node_id, ANNA.node_id)
    rules.revoke(ANNA.node_id, ADMIN.node_id)
    assert rules.is_revoked(ADMIN.node_id)
    assert rules.is_revoked(ANNA.node_id)
    rules.revoke(ANNA.node_id, FOUNDER.node_id)
    assert not rules.is_revoked(ADMIN.node_id)


def test_the_table_of_revocations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_module, "_REVOKERS", 2)
    monkeypatch.setattr(limits, "AUTHORS", 2)
    rules = trust()
    assert [rules.revoke(ANNA.node_id, signer(f"admin {n}").node_id) for n in range(3)] == [True, True, False]
    assert rules.revoke(ANNA.node_id, FOUNDER.node_id)
    assert [rules.revoke(node, ADMIN.node_id) for node in (BERT.node_id, EVE.node_id)] == [True, False]


@pytest.mark.parametrize(
    ("issued_s", "node", "sealed", "why"),
    [
        (START_S, ANNA.node_id, certificate(ANNA.node_id), "not make it an admin"),
        (START_S, ANNA.node_id, admin_certificate(), "another node's"),
        (START_S + 2 * YEAR_S, ADMIN.node_id, admin_certificate(), "as of its deed"),
        (START_S - 100, ADMIN.node_id, admin_certificate(), "as of its deed"),
    ],
)
def test_who_may_never_revoke(issued_s: float, node: NodeId, sealed: bytes | None, why: str) -> None:
    for wall in (START_S, None):
        with pytest.raises(NotEntitled, match=why):
            trust().check_revoker_untrusted(wall, issued_s, node, sealed)


@pytest.mark.parametrize(
    ("node", "sealed", "why"),
    [
        (ADMIN.node_id, None, "shows no certificate"),
        (BERT.node_id, certificate(BERT.node_id, ADMIN, roles=("admin",)), "founder's word"),
    ],
)
def test_who_may_revoke_should_it_be_a_founder(node: NodeId, sealed: bytes | None, why: str) -> None:
    with pytest.raises(NotKnown, match=why):
        trust().check_revoker_untrusted(START_S, START_S, node, sealed)


def test_an_admin_revokes_while_it_is_one_whatever_date_it_writes() -> None:
    rules, end_s = trust(), START_S + YEAR_S + SKEW_S + REVOKER_GRACE_S
    for wall in (START_S, end_s, None):
        rules.check_revoker_untrusted(wall, START_S, ADMIN.node_id, admin_certificate())
    with pytest.raises(NotCounting, match="expired since"):
        rules.check_revoker_untrusted(end_s + 1, START_S, ADMIN.node_id, admin_certificate())
    rules.check_revoker_untrusted(START_S + 9 * YEAR_S, START_S, FOUNDER.node_id, None)


def test_an_admin_whom_another_admin_put_out_revokes_nobody_any_more() -> None:
    rules = trust()
    rules.revoke(ADMIN.node_id, ANNA.node_id)
    with pytest.raises(NotCounting, match="put out"):
        rules.check_revoker_untrusted(START_S, START_S, ADMIN.node_id, admin_certificate())
    rules.check_revoker_untrusted(None, START_S, ADMIN.node_id, admin_certificate())
    rules.revoke(ANNA.node_id, FOUNDER.node_id)
    rules.check_revoker_untrusted(START_S, START_S, ADMIN.node_id, admin_certificate())
