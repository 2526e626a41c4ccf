"""Certificates are renewed before they expire, by those who may, and nobody gains rights by it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from atmo.clock import Now
from atmo.engine import Ask, Contact, Emit, Misbehaved, Send, Store
from atmo.identity import NodeId, Signer
from atmo.peer.renewal import (
    CERTIFICATE_KEY,
    ISSUER_KEY,
    AdminSought,
    CertificateRenewed,
    Renew,
    Renewal,
    RenewalConfig,
    RenewalRefused,
    Renewed,
)
from atmo.trust.certificate import CERTIFICATE_S, open_certificate_untrusted
from atmo.trust.mesh import Member, MeshTrust
from tests.trust.kit import (
    ADMIN,
    ANNA,
    BERT,
    EVE,
    FOUNDER,
    MESH,
    START_S,
    admin_certificate,
    certificate,
    signer,
    trust,
)

HEIR = signer("heir")
DAY_S = 86_400.0
CONFIG = RenewalConfig()


class Node:
    """One engine, the rules it goes by, and its effects."""

    def __init__(
        self,
        key: Signer,
        sealed: bytes,
        issuer: bytes | None = None,
        others: list[Signer] | None = None,
        at_s: float = 0.0,
    ) -> None:
        self.key = key
        self.trust: MeshTrust = trust()
        self.mono = at_s
        self.trust.admit_untrusted(self.now.wall, key.node_id, sealed, issuer)
        self.others = others or []
        self.engine = Renewal(
            CONFIG, key, self.trust, Random(1), lambda _: [Contact(k.node_id, ()) for k in self.others]
        )
        self.log: list[Any] = []

    @property
    def now(self) -> Now:
        return Now(self.mono, START_S + self.mono)

    @property
    def member(self) -> Member:
        member = self.trust.member(self.key.node_id)
        assert member
        return member

    def knows(self, key: Signer, sealed: bytes, issuer: bytes | None = None) -> None:
        self.trust.admit_untrusted(self.now.wall, key.node_id, sealed, issuer)

    def advance(self, seconds: float) -> list[Any]:
        """Lets time pass; returns the effects."""
        end = self.mono + seconds
        for _ in range(20_000):
            if self.engine.next_timer() > end:
                break
            self.mono = max(self.mono, self.engine.next_timer())
            self.engine.handle_timer(self.now)
            assert self.engine.next_timer() > self.mono
        else:
            raise AssertionError("the timer spins")
        self.mono = end
        return self.engine.drain()

    def until_asked(self) -> float:
        """Lets time pass until it asks somebody; returns the share of its membership that has passed."""
        member = self.member
        for _ in range(20_000):
            effects = self.advance(max(0.0, self.engine.next_timer() - self.mono))
            if any(isinstance(effect, Ask) for effect in effects):
                self.log = effects
                issued_s = member.certificate.issued_s
                return (self.now.wall - issued_s) / (member.expires_s - issued_s)
        raise AssertionError("it never asks")

    def asked(self) -> list[NodeId]:
        return [effect.contact.node for effect in [*self.log, *self.engine.drain()] if isinstance(effect, Ask)]

    def hears(self, source: Signer, message: Any) -> list[Any]:
        self.engine.receive(self.now, source.node_id, message)
        return self.engine.drain()


def member_of_admin(others: list[Signer] | None = None) -> Node:
    node = Node(
        ANNA, certificate(ANNA.node_id, ADMIN, name="anna"), admin_certificate(), others or [ADMIN, FOUNDER, EVE]
    )
    node.knows(ADMIN, admin_certificate())
    node.knows(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))
    node.knows(EVE, certificate(EVE.node_id))
    return node


def answer(node: Node, source: Signer, asker: Node) -> Renewed | RenewalRefused:
    """Returns what `node` answers to a request."""
    (effect,) = node.hears(source, Renew(asker.member.expires_s))
    assert isinstance(effect, Send)
    assert effect.to == source.node_id
    assert isinstance(effect.message, Renewed | RenewalRefused)
    return effect.message


def admin_node(at_s: float, **kwargs: Any) -> Node:
    return Node(ADMIN, admin_certificate(**kwargs), at_s=at_s)


# --- asking -------------------------------------------------------------------------------------------------------


def test_a_member_asks_its_issuer_when_two_thirds_have_passed_and_takes_what_it_gets() -> None:
    anna = member_of_admin()
    assert 2 / 3 <= anna.until_asked() < 0.74
    assert anna.asked() == [ADMIN.node_id]
    admin = admin_node(anna.mono, issued_s=int(START_S + anna.mono) - 1_000)
    admin.knows(ANNA, anna.member.sealed, anna.member.issuer_sealed)
    renewed = answer(admin, ANNA, anna)
    assert isinstance(renewed, Renewed)
    old = anna.member
    effects = anna.hears(ADMIN, renewed)
    assert effects == [
        Store(CERTIFICATE_KEY, renewed.certificate),
        Store(ISSUER_KEY, renewed.issuer_certificate),
        Emit(CertificateRenewed(anna.member)),
    ]
    assert anna.member.expires_s > old.expires_s
    assert anna.member.certificate.name == "anna"
    assert anna.member.certificate.roles == ("edge",)
    assert anna.advance(100 * DAY_S) == []
    assert (anna.engine.stats.renewed, admin.engine.stats.signed) == (1, 1)
    assert anna.hears(ADMIN, renewed) == [], "an answer that nobody waits for"


def test_it_asks_one_admin_after_the_other_and_tries_again_later() -> None:
    anna = member_of_admin()
    anna.until_asked()
    assert anna.asked() == [ADMIN.node_id]
    anna.engine.failed(anna.now, BERT.node_id)
    assert anna.engine.drain() == []
    anna.engine.failed(anna.now, ADMIN.node_id)
    (ask,) = anna.engine.drain()
    assert ask == Ask(Contact(FOUNDER.node_id, ()), Renew(anna.member.expires_s))
    assert anna.hears(FOUNDER, RenewalRefused("early")) == [Emit(AdminSought(ADMIN.node_id))]
    began = anna.mono
    waits = []
    for _ in range(9):
        anna.until_asked()
        waits.append(anna.mono - began)
        anna.advance(2 * CONFIG.answer_s + 1)  # nobody answers
        began = anna.mono
    assert CONFIG.retry_s <= waits[0] + 1 <= 2 * CONFIG.retry_s + 1
    assert waits[-1] > 10 * CONFIG.retry_s
    assert max(waits) <= 2 * CONFIG.retry_most_s
    assert anna.engine.stats.rounds_failed == 10


def test_a_late_answer_counts() -> None:
    anna = member_of_admin([ADMIN])
    anna.until_asked()
    assert anna.advance(CONFIG.answer_s) == [Emit(AdminSought(ADMIN.node_id))]
    fresh = admin_certificate(issued_s=int(anna.now.wall))
    later = certificate(ANNA.node_id, ADMIN, name="anna", issued_s=int(anna.now.wall))
    assert anna.hears(ADMIN, Renewed(later, fresh))[-1] == Emit(CertificateRenewed(anna.member))


def test_time_runs_out_and_it_asks_more_often_until_it_is_over() -> None:
    anna = member_of_admin([ADMIN])
    asked_at = []
    while anna.now.wall < anna.member.expires_s - 600:
        anna.until_asked()
        asked_at.append(anna.now.wall - anna.member.expires_s)
    assert len([at for at in asked_at if at > -DAY_S]) > 8
    anna.advance(DAY_S)
    assert len(anna.advance(10 * DAY_S)) < 60


def test_a_clock_that_jumps_is_seen_within_the_hour() -> None:
    anna = member_of_admin()
    anna.advance(DAY_S)
    wall = START_S + 0.8 * CERTIFICATE_S
    anna.engine.handle_timer(anna.now)
    assert anna.engine.drain() == []
    anna.engine.handle_timer(Now(anna.mono + CONFIG.look_s, wall))
    assert [type(effect) for effect in anna.engine.drain()] == [Ask]


@pytest.mark.parametrize(
    ("sealed", "issuer", "faults"),
    [
        (b"rubbish", None, 1),
        (certificate(BERT.node_id), None, 1),
        (certificate(ANNA.node_id, name="anna", issued_s=START_S - 100), None, 0),
        (certificate(ANNA.node_id, name="another"), None, 0),
        (certificate(ANNA.node_id, name="anna", roles=("edge", "admin"), lasts_s=2 * CERTIFICATE_S), None, 0),
        (certificate(ANNA.node_id, name="anna", lasts_s=10), None, 0),
    ],
)
def test_what_is_no_better_membership_is_left(sealed: bytes, issuer: bytes | None, faults: int) -> None:
    anna = member_of_admin()
    anna.until_asked()
    anna.asked()
    held = anna.member
    effects = anna.hears(ADMIN, Renewed(sealed, issuer))
    assert [type(effect) for effect in effects] == [Misbehaved] * faults + [Ask]
    assert anna.member == held
    assert anna.engine.stats.unfit == 1


# --- admins and founders ------------------------------------------------------------------------------------------


def test_an_admin_asks_founders_alone_and_earlier() -> None:
    admin = Node(ADMIN, admin_certificate(), others=[EVE, BERT, FOUNDER])
    admin.knows(EVE, certificate(EVE.node_id, roles=("admin",)))
    admin.knows(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))
    assert 0.6 <= admin.until_asked() < 2 / 3
    assert admin.asked() == [FOUNDER.node_id]
    founder = Node(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))
    founder.mono = admin.mono
    founder.knows(ADMIN, admin.member.sealed)
    renewed = answer(founder, ADMIN, admin)
    assert isinstance(renewed, Renewed)
    assert admin.hears(FOUNDER, renewed)[-1] == Emit(CertificateRenewed(admin.member))
    assert admin.trust.is_admin(admin.now.wall, ADMIN.node_id)


def test_a_founder_renews_its_own() -> None:
    founder = Node(FOUNDER, certificate(FOUNDER.node_id, roles=("edge",), name="f"))
    assert founder.advance(0.59 * CERTIFICATE_S) == []
    effects = founder.advance(0.1 * CERTIFICATE_S)
    assert [type(effect) for effect in effects] == [Store, Store, Emit]
    assert founder.member.certificate.roles == ("edge", "admin")
    assert founder.member.certificate.name == "f"
    assert founder.member.issuer_sealed is None
    assert effects[1] == Store(ISSUER_KEY, None)


# --- answering ----------------------------------------------------------------------------------------------------

LATE_S = 0.7 * CERTIFICATE_S


def refusal(node: Node, source: Signer, expires_s: int = 2**40) -> str:
    (effect,) = node.hears(source, Renew(expires_s))
    assert isinstance(effect.message, RenewalRefused)
    return effect.message.reason


def test_who_is_not_renewed() -> None:
    fresh = {"issued_s": int(START_S + LATE_S)}
    assert refusal(admin_node(LATE_S, **fresh), EVE) == "no member"
    plain = Node(BERT, certificate(BERT.node_id))
    plain.mono = LATE_S
    plain.knows(ANNA, certificate(ANNA.node_id))
    assert refusal(plain, ANNA) == "not admin"
    admin = admin_node(LATE_S, **fresh)
    admin.knows(EVE, certificate(EVE.node_id, roles=("admin",)))
    assert refusal(admin, EVE) == "ask a founder"
    admin.knows(BERT, certificate(BERT.node_id, issued_s=int(START_S + 0.3 * CERTIFICATE_S)))
    assert refusal(admin, BERT) == "early"
    late = admin_node(LATE_S)
    late.knows(ANNA, certificate(ANNA.node_id, ADMIN), admin_certificate())
    assert refusal(late, ANNA) == "late myself"
    admin.knows(ANNA, certificate(ANNA.node_id))
    admin.trust.revoke(ANNA.node_id)
    assert refusal(admin, ANNA) == "no member"
    assert admin.engine.stats.refused == 3


def test_a_role_without_effect_gets_none_by_renewal() -> None:
    founder = Node(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))
    founder.mono = LATE_S
    by_admin = certificate(EVE.node_id, ADMIN, roles=("gateway", "admin"))
    founder.knows(EVE, by_admin, admin_certificate())
    eve = Node(EVE, by_admin, admin_certificate())
    renewed = answer(founder, EVE, eve)
    assert isinstance(renewed, Renewed)
    assert open_certificate_untrusted(renewed.certificate, MESH).roles == ("gateway",)


def test_who_asks_again_gets_the_same_and_who_lost_it_gets_it_back() -> None:
    founder = Node(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))
    founder.mono = LATE_S
    founder.knows(ANNA, certificate(ANNA.node_id))
    anna = Node(ANNA, certificate(ANNA.node_id))
    first = answer(founder, ANNA, anna)
    assert answer(founder, ANNA, anna) == first
    assert isinstance(first, Renewed)
    founder.knows(ANNA, first.certificate)
    founder.mono += CONFIG.again_s
    assert answer(founder, ANNA, anna) == first, "the newer one that is known"
    assert founder.engine.stats.signed == 1


def test_answers_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    founder = Node(FOUNDER, certificate(FOUNDER.node_id, roles=("admin",)))
    founder.engine = Renewal(RenewalConfig(signed=2), FOUNDER, founder.trust, Random(1), lambda _: [])
    founder.mono = LATE_S
    keys = [signer(f"m{number}") for number in range(4)]
    for key in keys:
        founder.knows(key, certificate(key.node_id))
        answer(founder, key, Node(key, certificate(key.node_id)))
    assert len(founder.engine._signed) == 2
    founder.mono += CONFIG.again_s
    answer(founder, keys[3], Node(keys[3], certificate(keys[3].node_id)))
    assert founder.engine.stats.signed == 5


# --- after a hand-over --------------------------------------------------------------------------------------------


def succeed(node: Node) -> None:
    node.trust.succeed(FOUNDER.node_id, HEIR.node_id, int(node.now.wall))
    node.engine.changed(node.now)


def test_the_heir_signs_for_itself_at_once_and_others_ask_within_a_day() -> None:
    heir = Node(HEIR, certificate(HEIR.node_id, name="heir"))
    heir.advance(100)
    succeed(heir)
    assert [type(effect) for effect in heir.advance(CONFIG.settle_s)] == [Store, Store, Emit]
    assert heir.member.certificate.issuer == HEIR.node_id
    assert heir.trust.is_admin(heir.now.wall, HEIR.node_id)

    anna = Node(ANNA, certificate(ANNA.node_id), others=[HEIR])
    anna.knows(HEIR, certificate(HEIR.node_id))
    anna.advance(100)
    succeed(anna)
    anna.until_asked()
    assert anna.mono <= CONFIG.handed_over_s + 100
    heir.mono = anna.mono
    heir.knows(ANNA, anna.member.sealed)
    renewed = answer(heir, ANNA, anna)
    assert isinstance(renewed, Renewed)
    assert anna.hears(HEIR, renewed)[-1] == Emit(CertificateRenewed(anna.member))
    assert anna.member.founder == HEIR.node_id
    assert anna.advance(10 * DAY_S) == []


def test_an_admin_that_goes_back_to_the_old_founder_helps_but_not_for_good() -> None:
    anna = Node(ANNA, certificate(ANNA.node_id, name="anna"), others=[ADMIN])
    anna.knows(ADMIN, admin_certificate())
    anna.advance(0.55 * CERTIFICATE_S)
    succeed(anna)
    anna.until_asked()
    admin = admin_node(anna.mono, issued_s=int(START_S + 0.5 * CERTIFICATE_S))
    succeed(admin)
    admin.knows(ANNA, anna.member.sealed)
    renewed = answer(admin, ANNA, anna)
    assert isinstance(renewed, Renewed)
    anna.hears(ADMIN, renewed)
    assert anna.member.founder == FOUNDER.node_id
    assert anna.engine.stats.renewed == 1
    began = anna.mono
    anna.until_asked()
    assert anna.mono - began <= CONFIG.handed_over_s + CONFIG.settle_s


def test_news_during_a_round_does_not_disturb_it() -> None:
    anna = member_of_admin()
    anna.until_asked()
    due = anna.engine.next_timer()
    anna.engine.changed(anna.now)
    assert anna.engine.next_timer() == due


def test_an_old_founder_stays_an_ordinary_member() -> None:
    heir = Node(HEIR, certificate(HEIR.node_id))
    succeed(heir)
    old = certificate(FOUNDER.node_id, roles=("admin", "gateway"))
    heir.knows(FOUNDER, old)
    founder = Node(FOUNDER, old)
    renewed = answer(heir, FOUNDER, founder)
    assert isinstance(renewed, Renewed)
    assert open_certificate_untrusted(renewed.certificate, MESH).roles == ("gateway",)
