"""Founders hand over: who has their rights, what of theirs counts still, and that the order does not matter."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.identity import NodeId
from atmo.trust import founders as founders_module
from atmo.trust.founders import OLD_WORD_S, Founders, Succession
from atmo.trust.mesh import REVOKER_GRACE_S, SKEW_S, MeshTrust, NotCounting, NotEntitled, NotKnown
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

HEIR, GRANDCHILD = signer("heir"), signer("grandchild")
LATER_S = START_S + 1_000


def handed_over(revoked: tuple[NodeId, ...] = ()) -> MeshTrust:
    rules = trust()
    assert rules.succeed(FOUNDER.node_id, HEIR.node_id, LATER_S, revoked)
    return rules


# --- founders -----------------------------------------------------------------------------------------------------


def test_the_heir_has_the_rights_and_the_old_key_has_none() -> None:
    rules = handed_over()
    assert rules.founders == (HEIR.node_id,)
    assert rules.handed_over == (FOUNDER.node_id,)
    assert rules.is_founder(HEIR.node_id)
    assert not rules.is_founder(FOUNDER.node_id)
    for key in (FOUNDER, HEIR):
        rules.admit_untrusted(LATER_S, key.node_id, certificate(key.node_id, roles=("admin",)), None)
    assert rules.is_admin(LATER_S, HEIR.node_id)
    assert rules.is_member(LATER_S, FOUNDER.node_id)
    assert not rules.is_admin(LATER_S, FOUNDER.node_id), "its own certificate made it an admin"
    succession = rules.retired(FOUNDER.node_id)
    assert succession is not None
    assert succession.successor == HEIR.node_id
    assert rules.retired(HEIR.node_id) is rules.retired(ANNA.node_id) is None


def test_only_founders_hand_over_and_only_once() -> None:
    rules = handed_over()
    assert not rules.succeed(FOUNDER.node_id, EVE.node_id, LATER_S + 1)
    assert not rules.succeed(EVE.node_id, EVE.node_id, LATER_S)
    assert rules.founders == (HEIR.node_id,)
    for node in (FOUNDER.node_id, HEIR.node_id):
        rules.check_founder_untrusted(node)
    with pytest.raises(NotKnown):
        rules.check_founder_untrusted(EVE.node_id)
    assert rules.succeed(HEIR.node_id, GRANDCHILD.node_id, LATER_S)
    assert rules.founders == (GRANDCHILD.node_id,)
    assert rules.handed_over == (FOUNDER.node_id, HEIR.node_id)


NODES = [NodeId(bytes([number] * 32)) for number in range(6)]


@given(st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=8), st.randoms())
def test_somebody_is_always_left_and_the_order_does_not_matter(pairs: list[tuple[NodeId, NodeId]], random: Any) -> None:
    first = dict(pairs)  # of each the one that is final
    outcomes = []
    for _ in range(3):
        rows = list(first.items())
        random.shuffle(rows)
        founders = Founders(NODES[:2])
        while any(founders.succeed(node, Succession(heir, 0, {})) for node, heir in rows):
            pass
        assert founders.now()
        for node in NODES:
            assert not (founders.is_now(node) and founders.retired(node))
            assert founders.was_ever(node) == bool(founders.is_now(node) or founders.retired(node))
        outcomes.append(set(founders.now()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_hand_overs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founders_module, "MOST_SUCCESSIONS", 1)
    assert not handed_over().succeed(HEIR.node_id, GRANDCHILD.node_id, LATER_S)


# --- certificates -------------------------------------------------------------------------------------------------


def test_what_the_old_founder_signed_before_counts_and_nothing_after() -> None:
    old, new = certificate(ANNA.node_id, issued_s=LATER_S), certificate(BERT.node_id, issued_s=LATER_S + 1)
    for known_before in (True, False):
        rules = trust() if known_before else handed_over()
        if known_before:
            for key, sealed in ((ANNA, old), (BERT, new)):
                rules.admit_untrusted(LATER_S, key.node_id, sealed, None)
            rules.succeed(FOUNDER.node_id, HEIR.node_id, LATER_S)
        else:
            rules.admit_untrusted(LATER_S, ANNA.node_id, old, None)
            with pytest.raises(NotCounting, match="handed over before"):
                rules.admit_untrusted(LATER_S, BERT.node_id, new, None)
        assert rules.is_member(LATER_S, ANNA.node_id)
        assert not rules.is_member(LATER_S, BERT.node_id)


def test_what_the_old_founder_signed_counts_for_a_year_at_most() -> None:
    lasting = certificate(ANNA.node_id, lasts_s=100 * YEAR_S)
    end_s = LATER_S + OLD_WORD_S + SKEW_S
    before = trust()
    before.admit_untrusted(START_S, ANNA.node_id, lasting, None)
    before.succeed(FOUNDER.node_id, HEIR.node_id, LATER_S)
    after = handed_over()
    after.admit_untrusted(START_S, ANNA.node_id, lasting, None)
    for rules in (before, after):
        assert rules.is_member(end_s, ANNA.node_id)
        assert not rules.is_member(end_s + 1, ANNA.node_id)


def test_admins_of_the_old_founder_go_on_and_the_old_founder_is_none() -> None:
    rules = handed_over()
    rules.admit_untrusted(LATER_S, BERT.node_id, certificate(BERT.node_id, ADMIN), admin_certificate())
    assert rules.is_member(LATER_S, BERT.node_id)
    late_admin = admin_certificate(issued_s=LATER_S + 1)
    with pytest.raises(NotCounting, match="handed over before"):
        rules.admit_untrusted(LATER_S + 1, BERT.node_id, certificate(BERT.node_id, ADMIN), late_admin)
    own_admin = certificate(FOUNDER.node_id, roles=("admin",))
    after = certificate(ANNA.node_id, FOUNDER, issued_s=LATER_S + 1)
    with pytest.raises(NotCounting, match="handed over before"):
        rules.admit_untrusted(LATER_S + 1, ANNA.node_id, after, own_admin)


def test_the_heir_makes_members_and_admins() -> None:
    rules = handed_over()
    by_heir = certificate(ADMIN.node_id, HEIR, roles=("admin",), issued_s=LATER_S)
    rules.admit_untrusted(LATER_S, ADMIN.node_id, by_heir, None)
    assert rules.is_admin(LATER_S, ADMIN.node_id)
    rules.admit_untrusted(LATER_S, ANNA.node_id, certificate(ANNA.node_id, ADMIN), by_heir)
    assert rules.is_member(LATER_S, ANNA.node_id)


def test_the_old_key_can_be_put_out_with_all_that_goes_back_to_it() -> None:
    rules = handed_over(revoked=(EVE.node_id,))
    rules.revoke(EVE.node_id, FOUNDER.node_id)
    rules.admit_untrusted(LATER_S, FOUNDER.node_id, certificate(FOUNDER.node_id), None)
    rules.admit_untrusted(LATER_S, BERT.node_id, certificate(BERT.node_id, ADMIN), admin_certificate())
    rules.admit_untrusted(LATER_S, ANNA.node_id, certificate(ANNA.node_id, HEIR), None)
    assert rules.revoke(FOUNDER.node_id, HEIR.node_id)
    assert not rules.is_member(LATER_S, FOUNDER.node_id)
    assert not rules.is_member(LATER_S, BERT.node_id)
    assert rules.is_member(LATER_S, ANNA.node_id)
    assert rules.is_revoked(EVE.node_id), "what it did as a founder stands"


# --- revocation ---------------------------------------------------------------------------------------------------


def test_revocations_by_the_old_founder_count_as_its_hand_over_names_them_in_any_order() -> None:
    def hand_over(rules: MeshTrust) -> None:
        rules.succeed(FOUNDER.node_id, HEIR.node_id, LATER_S, (ANNA.node_id, ADMIN.node_id))

    def put_out(node: NodeId, by: NodeId) -> Any:
        return lambda rules: rules.revoke(node, by)

    deeds = [
        hand_over,
        put_out(ANNA.node_id, FOUNDER.node_id),
        put_out(BERT.node_id, FOUNDER.node_id),
        put_out(ADMIN.node_id, FOUNDER.node_id),
        put_out(EVE.node_id, ADMIN.node_id),
    ]
    for order in permutations(deeds):
        rules = trust()
        for deed in order:
            deed(rules)
        assert rules.is_revoked(ANNA.node_id)
        assert not rules.is_revoked(BERT.node_id), "it is not named: who has the old key may have written it later"
        assert not rules.is_revoked(EVE.node_id), "by an admin whom a founder put out"


def test_the_heir_cannot_be_put_out() -> None:
    before, after = trust(), handed_over()
    assert before.revoke(HEIR.node_id, ADMIN.node_id)
    before.succeed(FOUNDER.node_id, HEIR.node_id, LATER_S)
    assert not after.revoke(HEIR.node_id, ADMIN.node_id)
    for rules in (before, after):
        assert not rules.is_revoked(HEIR.node_id)
        assert rules.revoke(ANNA.node_id, HEIR.node_id)
        assert rules.revoke(ADMIN.node_id)
        assert rules.is_revoked(ANNA.node_id)


def test_who_may_revoke_after_a_hand_over() -> None:
    rules = handed_over(revoked=(ANNA.node_id,))
    late = admin_certificate(issued_s=LATER_S + 1)
    for wall in (LATER_S, None):
        rules.check_revoker_untrusted(wall, LATER_S, HEIR.node_id, None, BERT.node_id)
        rules.check_revoker_untrusted(wall, START_S, FOUNDER.node_id, None, ANNA.node_id)
        with pytest.raises(NotCounting, match="handed over"):
            rules.check_revoker_untrusted(wall, START_S, FOUNDER.node_id, None, BERT.node_id)
        rules.check_revoker_untrusted(wall, START_S, ADMIN.node_id, admin_certificate(), BERT.node_id)
        with pytest.raises(NotCounting, match="handed over before"):
            rules.check_revoker_untrusted(wall, LATER_S + 1, ADMIN.node_id, late, BERT.node_id)


# --- who may invite -----------------------------------------------------------------------------------------------


def test_who_may_invite() -> None:
    rules = handed_over()
    for wall in (LATER_S, None):
        rules.check_admin_untrusted(wall, LATER_S, HEIR.node_id, None)
        rules.check_admin_untrusted(wall, LATER_S, ADMIN.node_id, admin_certificate())
        with pytest.raises(NotCounting, match="handed over"):
            rules.check_admin_untrusted(wall, START_S, FOUNDER.node_id, None)
        with pytest.raises(NotKnown):
            rules.check_admin_untrusted(wall, START_S, ADMIN.node_id, None)
        with pytest.raises(NotEntitled):
            rules.check_admin_untrusted(wall, START_S - 100, ADMIN.node_id, admin_certificate())
    end_s = START_S + YEAR_S + SKEW_S + REVOKER_GRACE_S
    with pytest.raises(NotCounting, match="expired since"):
        rules.check_admin_untrusted(end_s + 1, START_S, ADMIN.node_id, admin_certificate())
    rules.revoke(ADMIN.node_id)
    with pytest.raises(NotCounting, match="put out"):
        rules.check_admin_untrusted(LATER_S, START_S, ADMIN.node_id, admin_certificate())
    rules.check_admin_untrusted(None, START_S, ADMIN.node_id, admin_certificate())
