"""Rights as records: who may invite, redeem, put out and hand over, and that all nodes come to the same."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from atmo.clock import Now
from atmo.engine import Emit, Misbehaved
from atmo.errors import WireError
from atmo.gossip.records import NODE, REVOCATION_LIFETIME_S, Record, RevocationBody
from atmo.gossip.sync import RecordChanged, RecordSync, Signed, Verdict
from atmo.gossip.sync_config import SyncConfig
from atmo.identity import Signer
from atmo.peer import rights as rights_module
from atmo.peer.rights import (
    CodeState,
    Invitations,
    RedeemedTwice,
    Rights,
    Succeeded,
    Successions,
    hear_successions_untrusted,
    succeeded,
)
from atmo.peer.rules import apply_successions_untrusted, judge_untrusted
from atmo.trust.records import (
    INVITE,
    INVITE_MOST_S,
    INVITES_MOST,
    REDEMPTION,
    REDEMPTIONS_MOST,
    REVOCATION,
    SUCCESSION,
    InviteBody,
    RedemptionBody,
    SuccessionBody,
)
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.trust.kit import (
    ADMIN,
    ANNA,
    BERT,
    EVE,
    FOUNDER,
    MESH,
    START_S,
    YEAR_S,
    admin_certificate,
    certificate,
    signer,
    trust,
)

HEIR = signer("heir")
SECRET = b"\x01" * 32
KEY = SECRET.hex()
TOMORROW_S = START_S + 86_400
NOW = Now(0.0, START_S)


class Holder(Rights):
    """A peer's rights with nothing around them: the table of records, the rules, the invitations."""

    def __init__(self, key: Signer, own: bytes | None = None, issuer: bytes | None = None) -> None:
        self.node_id = key.node_id
        self.trust = trust()
        self.trust.admit_untrusted(START_S, key.node_id, own or certificate(key.node_id), issuer)
        self.sync = RecordSync(SyncConfig(), key, MESH, 1, Random(1), self.authorise)
        self.invitations = Invitations(self.trust)
        self.told: list[bytes] = []
        self.events: list[Any] = []
        self.faults: list[str] = []

    def authorise(self, now: Now, author: Any, record: Record, kept: bool) -> Any:
        return judge_untrusted(self.trust, now, author, record, kept, 600)

    def _settle(self, now: Now) -> bool:
        for effect in self.sync.drain():
            match effect:
                case Emit(Signed(envelope)):
                    self.told.append(envelope)
                case Emit(RecordChanged() as change):
                    self.take_over(change)
                case Misbehaved(_, reason):
                    self.faults.append(reason)
        return False

    def take_over(self, change: RecordChanged) -> None:
        event: Any = None
        if change.kind in (INVITE, REDEMPTION):
            event = self.invitations.changed(change)
        elif change.kind == SUCCESSION:
            event = succeeded(self.trust, change)
        elif change.kind == REVOCATION and change.record:
            self.trust.revoke(type(self.node_id).parse(change.key), change.author)
        self.events += [event] if event else []

    def hears(self, *envelopes: bytes, now: Now = NOW) -> list[Verdict]:
        verdicts = [self.sync.accept_untrusted(now, EVE.node_id, envelope) for envelope in envelopes]
        self._settle(now)
        return verdicts

    def state(self, joiner: Signer = ANNA, wall: float = START_S) -> CodeState:
        return self.invitations.state(wall, KEY, joiner.node_id)


def founder() -> Holder:
    return Holder(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))


def admin() -> Holder:
    return Holder(ADMIN, admin_certificate())


# --- join codes ---------------------------------------------------------------------------------------------------


def test_a_code_of_one_admin_works_at_another_once() -> None:
    here, there = admin(), founder()
    assert here.publish_invite(NOW, SECRET, "gateway", TOMORROW_S)
    assert there.state() == CodeState(None, reason="unknown")
    assert there.hears(*here.told) == [Verdict.NEWS]
    assert there.state() == here.state() == CodeState("gateway", TOMORROW_S)
    assert there.publish_redemption(NOW, SECRET, ANNA.node_id, TOMORROW_S)
    here.hears(*there.told)
    for side in (here, there):
        assert side.state() == CodeState("gateway", TOMORROW_S), "the first answer may have been lost"
        assert side.state(BERT) == CodeState(None, TOMORROW_S, "used")
        assert side.invitations.used_by(KEY) == (ANNA.node_id,)
        assert side.state(wall=TOMORROW_S) == CodeState(None, TOMORROW_S, "expired")
        assert side.faults == side.events == []


def test_said_again_is_said_once() -> None:
    side = admin()
    for _ in range(2):
        assert side.publish_invite(NOW, SECRET, "edge", TOMORROW_S)
        assert side.publish_redemption(NOW, SECRET, ANNA.node_id, TOMORROW_S)
    assert len(side.told) == 2


def test_a_code_used_on_both_sides_of_a_split_is_told_to_people() -> None:
    here, there = admin(), founder()
    here.publish_invite(NOW, SECRET, "edge", TOMORROW_S)
    there.hears(*here.told)
    here.publish_redemption(NOW, SECRET, ANNA.node_id, TOMORROW_S)
    there.publish_redemption(NOW, SECRET, BERT.node_id, TOMORROW_S)
    here.hears(*there.told)
    there.hears(*here.told)
    assert here.events == [RedeemedTwice(KEY, (ANNA.node_id, BERT.node_id))]
    assert there.events == [RedeemedTwice(KEY, (BERT.node_id, ANNA.node_id))]
    for side in (here, there):
        assert side.state(EVE).reason == "used"


def test_what_a_revoked_admin_says_of_codes_is_void() -> None:
    here, there = admin(), founder()
    there.publish_invite(NOW, SECRET, "edge", TOMORROW_S)
    here.hears(*there.told)
    here.publish_redemption(NOW, SECRET, EVE.node_id, TOMORROW_S)
    here.publish_invite(NOW, b"\x02" * 32, "edge", TOMORROW_S)
    there.hears(*here.told)
    assert there.state().reason == "used"
    there.trust.revoke(ADMIN.node_id)
    assert there.state() == CodeState("edge", TOMORROW_S)
    assert there.invitations.state(START_S, "02" * 32, ANNA.node_id).reason == "unknown"


def test_only_a_founders_code_makes_admins() -> None:
    here, there = admin(), founder()
    here.publish_invite(NOW, SECRET, "admin", TOMORROW_S)
    there.hears(*here.told)
    assert there.state().reason == "unknown"
    there.publish_invite(NOW, SECRET, "admin", TOMORROW_S)
    assert there.state() == CodeState("admin", TOMORROW_S)


def test_what_has_expired_is_forgotten() -> None:
    side = founder()
    side.publish_invite(NOW, SECRET, "edge", START_S + 100)
    side.publish_redemption(NOW, SECRET, ANNA.node_id, START_S + 100)
    later = Now(1_000.0, START_S + 1_000)
    side.sync.handle_timer(later)
    side._settle(later)
    assert side.state() == CodeState(None, reason="unknown")
    assert side.invitations.used_by(KEY) == ()
    assert not side.invitations._invites
    assert not side.invitations._redemptions


def test_codes_told_are_bounded() -> None:
    side = admin()
    names = [bytes([number]) * 32 for number in range(200)]
    assert [side.publish_invite(NOW, name, "edge", TOMORROW_S) for name in names].count(True) == INVITES_MOST
    assert side.may_redeem()
    told = [side.publish_redemption(NOW, name, ANNA.node_id, TOMORROW_S) for name in names]
    assert told.count(True) == REDEMPTIONS_MOST
    assert not side.may_redeem()
    assert not side.publish_invite(NOW, b"\xff" * 32, "edge", START_S - 1)
    assert not side.publish_invite(NOW, b"\xff" * 32, "edge", START_S + INVITE_MOST_S + 10)


def test_a_node_that_tells_too_much_else_shares_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    side = admin()
    monkeypatch.setattr(side.sync.table, "has_room", lambda *_: False)
    assert not side.publish_invite(NOW, SECRET, "edge", TOMORROW_S)


def code_record(
    author: Signer, kind: str, body: Any, *, key: str = KEY, lifetime_s: int = 1_000, issued_s: int = START_S
) -> bytes:
    return sealed(author, kind, key, (1, 1), pack(body), lifetime_s=lifetime_s, issued_s=issued_s)


PROOF = admin_certificate()


@pytest.mark.parametrize(
    "envelope",
    [
        code_record(ADMIN, INVITE, InviteBody("edge", TOMORROW_S, PROOF), key="no hash"),
        code_record(ADMIN, INVITE, InviteBody("No Role", TOMORROW_S, PROOF)),
        code_record(ADMIN, INVITE, InviteBody("edge", TOMORROW_S, PROOF), lifetime_s=INVITE_MOST_S + 1),
        code_record(ADMIN, INVITE, InviteBody("edge", TOMORROW_S, certificate(ANNA.node_id))),
        code_record(ANNA, INVITE, InviteBody("edge", TOMORROW_S, certificate(ANNA.node_id))),
        code_record(ANNA, REDEMPTION, RedemptionBody(BERT.node_id, certificate(ANNA.node_id))),
        code_record(ADMIN, REDEMPTION, RedemptionBody(BERT.node_id, PROOF), key="a" * 63),
        code_record(FOUNDER, REDEMPTION, InviteBody("edge", 1)),
        sealed(FOUNDER, INVITE, KEY, (1, 1), b"", lifetime_s=1_000),
        sealed(FOUNDER, SUCCESSION, "", (1, 1), b"", lifetime_s=REVOCATION_LIFETIME_S),
        code_record(FOUNDER, SUCCESSION, SuccessionBody(ANNA.node_id), key="", lifetime_s=1_000),
        code_record(FOUNDER, SUCCESSION, SuccessionBody(ANNA.node_id), key="k", lifetime_s=REVOCATION_LIFETIME_S),
    ],
)
def test_what_no_honest_admin_writes_is_a_fault(envelope: bytes) -> None:
    side = founder()
    side.hears(envelope)
    assert len(side.faults) == 1
    assert side.trust.founders == (FOUNDER.node_id,)


@pytest.mark.parametrize(
    "envelope",
    [
        code_record(ADMIN, INVITE, InviteBody("edge", TOMORROW_S)),
        code_record(EVE, REDEMPTION, RedemptionBody(BERT.node_id)),
        code_record(EVE, SUCCESSION, SuccessionBody(EVE.node_id), key="", lifetime_s=REVOCATION_LIFETIME_S),
        sealed(
            EVE,
            REVOCATION,
            str(ANNA.node_id),
            body=pack(RevocationBody(ANNA.node_id)),
            lifetime_s=REVOCATION_LIFETIME_S,
        ),
    ],
)
def test_who_may_be_a_founder_that_is_not_known_yet_is_refused_without_blame(envelope: bytes) -> None:
    side = founder()
    assert side.hears(envelope) == [Verdict.REFUSED]
    assert side.faults == []
    assert side.sync.stats.unknown_author == 1


# --- putting out --------------------------------------------------------------------------------------------------


def test_admins_put_out_and_nobody_puts_a_founder_out() -> None:
    here, there = admin(), founder()
    here.revoke(NOW, EVE.node_id, "lost")
    here.revoke(NOW, EVE.node_id)
    assert len(here.told) == 1
    there.hears(*here.told)
    assert there.trust.is_revoked(EVE.node_id)
    with pytest.raises(WireError, match="founder cannot"):
        here.revoke(NOW, FOUNDER.node_id)
    with pytest.raises(WireError, match="only a founder or an admin"):
        Holder(ANNA).revoke(NOW, EVE.node_id)


# --- handing over -------------------------------------------------------------------------------------------------


def test_a_founder_hands_over_and_everybody_hears() -> None:
    old, new, other = founder(), Holder(HEIR), Holder(ANNA)
    for key in (HEIR, EVE):
        old.trust.admit_untrusted(START_S, key.node_id, certificate(key.node_id), None)
    old.revoke(NOW, EVE.node_id)
    old.publish_invite(NOW, SECRET, "edge", TOMORROW_S)
    old.hand_over(NOW, HEIR.node_id)
    for side in (new, other):
        assert side.hears(*reversed(old.told)) == [Verdict.NEWS, Verdict.REFUSED, Verdict.NEWS]
        assert side.faults == []
        assert side.trust.is_revoked(EVE.node_id), "the hand-over names it"
    for side in (old, new, other):
        assert side.events == [Succeeded(FOUNDER.node_id, HEIR.node_id)]
        assert side.trust.founders == (HEIR.node_id,)
        assert len(side.successions()) == 1
    with pytest.raises(WireError, match="only a founder can hand over"):
        old.hand_over(NOW, ANNA.node_id)
    with pytest.raises(WireError, match="only a founder or an admin"):
        old.revoke(NOW, ANNA.node_id)
    with pytest.raises(WireError, match="goes back to it"):
        new.revoke(NOW, FOUNDER.node_id)
    own = certificate(HEIR.node_id, HEIR, roles=("admin",), lasts_s=YEAR_S + 1)
    new.trust.admit_untrusted(START_S, HEIR.node_id, own, None)
    new.revoke(NOW, FOUNDER.node_id)
    assert other.hears(*new.told) == [Verdict.NEWS]
    assert other.trust.is_revoked(FOUNDER.node_id)
    assert other.trust.is_revoked(EVE.node_id)


def test_who_cannot_be_handed_to() -> None:
    old = founder()
    with pytest.raises(WireError, match="already"):
        old.hand_over(NOW, FOUNDER.node_id)
    with pytest.raises(WireError, match="no member"):
        old.hand_over(NOW, HEIR.node_id)
    old.trust.admit_untrusted(START_S, HEIR.node_id, certificate(HEIR.node_id), None)
    old.hand_over(NOW, HEIR.node_id)
    new = Holder(HEIR)
    new.hears(*old.told)
    new.trust.admit_untrusted(START_S, FOUNDER.node_id, certificate(FOUNDER.node_id), None)
    with pytest.raises(WireError, match="handed over itself"):
        new.hand_over(NOW, FOUNDER.node_id)


def test_a_founder_is_put_out_only_after_it_handed_over() -> None:
    side = Holder(ANNA)
    body = pack(RevocationBody(FOUNDER.node_id, "", PROOF))
    word = sealed(ADMIN, REVOCATION, str(FOUNDER.node_id), body=body, lifetime_s=REVOCATION_LIFETIME_S)
    assert side.hears(word) == [Verdict.REFUSED]
    assert side.faults == []
    side.hears(succession(FOUNDER, HEIR))
    assert side.hears(word) == [Verdict.NEWS]
    assert side.trust.is_revoked(FOUNDER.node_id)


def succession(old: Signer, new: Signer, version: tuple[int, int] = (1, 1)) -> bytes:
    body = pack(SuccessionBody(new.node_id))
    return sealed(old, SUCCESSION, "", version, body, lifetime_s=REVOCATION_LIFETIME_S)


CHAIN = [succession(FOUNDER, HEIR), succession(HEIR, BERT), succession(BERT, ANNA)]


def test_the_first_hand_over_is_final() -> None:
    side = Holder(ANNA)
    assert side.hears(CHAIN[0], succession(FOUNDER, EVE, (9, 9))) == [Verdict.NEWS, Verdict.KNOWN]
    assert side.trust.founders == (HEIR.node_id,)


def test_a_stranger_brings_hand_overs_before_its_hello() -> None:
    side, new = Holder(ANNA), Holder(HEIR)
    new.hears(*CHAIN)
    assert new.successions() == tuple(CHAIN)
    assert hear_successions_untrusted(side.sync, MESH, NOW, HEIR.node_id, Successions(new.successions()))
    assert hear_successions_untrusted(side.sync, MESH, NOW, HEIR.node_id, Successions(new.successions()))
    side._settle(NOW)
    assert side.trust.founders == (ANNA.node_id,)
    assert side.events[0] == Succeeded(FOUNDER.node_id, HEIR.node_id)


@pytest.mark.parametrize(
    "envelope",
    [
        b"rubbish",
        sealed(FOUNDER, NODE),
        code_record(FOUNDER, SUCCESSION, SuccessionBody(ANNA.node_id), key="k", lifetime_s=REVOCATION_LIFETIME_S),
    ],
)
def test_nothing_else_comes_before_a_hello(envelope: bytes) -> None:
    side = Holder(ANNA)
    assert not hear_successions_untrusted(side.sync, MESH, NOW, HEIR.node_id, Successions((envelope, CHAIN[0])))
    assert side.trust.founders == (FOUNDER.node_id,)


def test_hand_overs_told_on_a_link_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Holder(ANNA)
    side.hears(*CHAIN)
    monkeypatch.setattr(rights_module, "SUCCESSIONS_MOST", 2)
    assert side.successions() == tuple(CHAIN[:2])
    monkeypatch.setattr(rights_module, "_SUCCESSIONS_BYTES", len(CHAIN[0]))
    assert side.successions() == tuple(CHAIN[:1])


def test_hand_overs_are_applied_at_start_in_any_order() -> None:
    rules = trust()
    lies = [b"rubbish", sealed(FOUNDER, NODE), succession(EVE, EVE), sealed(HEIR, SUCCESSION, "k")]
    assert apply_successions_untrusted(rules, [*reversed(CHAIN), *lies]) == CHAIN
    assert rules.founders == (ANNA.node_id,)


def test_an_expired_hand_over_changes_nothing() -> None:
    assert succeeded(trust(), RecordChanged(FOUNDER.node_id, SUCCESSION, "", None)) is None


def test_what_was_accepted_in_time_stays_over_restarts() -> None:
    here, late = founder(), Now(1.0, START_S + 3 * YEAR_S)
    body = pack(InviteBody("edge", TOMORROW_S, PROOF))
    invite = Record(INVITE, KEY, 1, 1, START_S + YEAR_S, 1_000, body)
    refusal = judge_untrusted(here.trust, late, ADMIN.node_id, invite, False, 600)
    assert refusal is not None
    assert "expired since" in refusal.reason
    assert judge_untrusted(here.trust, late, ADMIN.node_id, invite, True, 600) is None


def test_members_alone_write_other_records() -> None:
    here = founder()
    note = Record("note", "", 1, 1, START_S, 300, b"words")
    stranger = judge_untrusted(here.trust, NOW, EVE.node_id, note, False, 600)
    assert stranger is not None
    assert stranger.unknown
    assert judge_untrusted(here.trust, NOW, FOUNDER.node_id, note, False, 600) is None
    long = judge_untrusted(here.trust, NOW, FOUNDER.node_id, note, False, 200)
    assert long is not None
    assert "too long" in long.reason
