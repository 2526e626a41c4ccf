"""A mesh of renewals under loss, duplicates, late answers, restarts, a hand-over and a revocation.

Whatever happens, nobody gains rights, what a node has on its disk is its membership, and in the end everybody who can
reach an admin in time has a membership that lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atmo.clock import Now
from atmo.engine import Ask, Contact, Effect, Emit, Send, Store
from atmo.identity import NodeId, Signer
from atmo.peer.renewal import CERTIFICATE_KEY, ISSUER_KEY, CertificateRenewed, Renewal, RenewalConfig
from atmo.trust.certificate import open_certificate_untrusted
from atmo.trust.mesh import MeshTrust, NotCounting
from tests.trust.kit import ADMIN, ANNA, BERT, FOUNDER, MESH, START_S, admin_certificate, certificate, signer, trust

HEIR = signer("heir")
LIFE_S = 100_000
CONFIG = RenewalConfig(
    lifetime_s=LIFE_S, handed_over_s=2_000.0, retry_s=60.0, retry_most_s=600.0, look_s=5_000.0, again_s=100.0
)
KEYS = {key.node_id: key for key in (FOUNDER, HEIR, ADMIN, ANNA, BERT)}
CONTACTS = [Contact(node, ()) for node in KEYS]
Disk = dict[str, bytes | None]


def disk(sealed: bytes, issuer: bytes | None = None) -> Disk:
    return {CERTIFICATE_KEY: sealed, ISSUER_KEY: issuer}


@dataclass
class Running:
    """A node that runs."""

    trust: MeshTrust
    engine: Renewal


class Mesh(RuleBasedStateMachine):
    """Nodes share one clock; messages lie in a bag until they are delivered, delivered again, or lost."""

    def __init__(self) -> None:
        super().__init__()
        self.mono = 0.0
        self.starts = 0
        self.bag: list[tuple[NodeId, NodeId, Any]] = []
        self.handed_over_s: int | None = None
        self.revoked_s: float | None = None
        self.revoker = FOUNDER.node_id
        self.running: dict[NodeId, Running] = {}
        self.disks: dict[NodeId, Disk] = {}

    @property
    def now(self) -> Now:
        return Now(self.mono, START_S + self.mono)

    @property
    def founder(self) -> NodeId:
        return FOUNDER.node_id if self.handed_over_s is None else HEIR.node_id

    @initialize()
    def begin(self) -> None:
        own_admin = admin_certificate(lasts_s=LIFE_S)
        self.disks = {
            FOUNDER.node_id: disk(certificate(FOUNDER.node_id, roles=("admin",), lasts_s=LIFE_S)),
            HEIR.node_id: disk(certificate(HEIR.node_id, lasts_s=LIFE_S)),
            ADMIN.node_id: disk(own_admin),
            ANNA.node_id: disk(certificate(ANNA.node_id, ADMIN, lasts_s=LIFE_S), own_admin),
            BERT.node_id: disk(certificate(BERT.node_id, lasts_s=LIFE_S)),
        }
        for key in KEYS.values():
            self.start(key)

    # --- the world ------------------------------------------------------------------------------------------------

    def start(self, key: Signer) -> None:
        """Starts a node from its disk, unless its membership is over."""
        self.running.pop(key.node_id, None)
        rules = trust()
        if self.handed_over_s is not None:
            self.succeed(rules, self.handed_over_s)
        if self.revoked_s is not None:
            rules.revoke(BERT.node_id, self.revoker)
        self.starts += 1
        if not self.introduce(key.node_id, rules):
            return
        rng = Random(f"{key.node_id}/{self.starts}")
        self.running[key.node_id] = Running(rules, Renewal(CONFIG, key, rules, rng, lambda _: CONTACTS))
        for node in KEYS:
            self.introduce(node, rules)
        self.tell(key.node_id)

    def succeed(self, rules: MeshTrust, at_s: int) -> None:
        """Lets one set of rules hear of the hand-over, which names whom the founder had put out."""
        named = (BERT.node_id,) if self.revoked_s is not None and self.revoker == FOUNDER.node_id else ()
        rules.succeed(FOUNDER.node_id, HEIR.node_id, at_s, named)

    def introduce(self, node: NodeId, rules: MeshTrust) -> bool:
        """Lets one set of rules hear of a node's certificate; returns whether it counts."""
        sealed, issuer = self.disks[node].values()
        assert sealed is not None
        try:
            rules.admit_untrusted(self.now.wall, node, sealed, issuer)
        except NotCounting:
            return False
        return True

    def tell(self, node: NodeId) -> None:
        """Lets everybody hear of a node's certificate."""
        for running in self.running.values():
            self.introduce(node, running.trust)

    def perform(self, node: NodeId) -> None:
        for effect in self.running[node].engine.drain():
            self.perform_one(node, effect)

    def perform_one(self, node: NodeId, effect: Effect) -> None:
        match effect:
            case Ask(contact, message):
                self.bag.append((node, contact.node, message))
            case Send(to, message):
                self.bag.append((node, to, message))
            case Store(key, value):
                self.disks[node][key] = value
            case Emit(CertificateRenewed(member)):
                assert member == self.running[node].trust.member(node)
                self.tell(node)
            case Emit():
                pass
            case _:
                raise AssertionError(f"nobody lies here: {effect}")
        del self.bag[:-30]

    def hand_on(self, source: NodeId, target: NodeId, message: Any) -> None:
        """Delivers a message if there can be a link, else the sender hears that there is none."""
        here = self.running.get(target)
        there = self.running.get(source)
        if here and there and here.trust.is_member(self.now.wall, source):
            here.engine.receive(self.now, source, message)
            self.perform(target)
        elif there:
            there.engine.failed(self.now, target)
            self.perform(source)

    def step(self, seconds: float, *, faithful: bool) -> None:
        """Lets time pass; where it is faithful, messages arrive at once."""
        end = self.mono + seconds
        for _ in range(20_000):
            while faithful and self.bag:
                self.hand_on(*self.bag.pop(0))
            due, node = min((running.engine.next_timer(), node) for node, running in self.running.items())
            if due > end:
                break
            self.mono = max(self.mono, due)
            self.running[node].engine.handle_timer(self.now)
            assert self.running[node].engine.next_timer() > self.mono
            self.perform(node)
        else:
            raise AssertionError("a timer spins")
        self.mono = end

    # --- what happens ---------------------------------------------------------------------------------------------

    @rule(seconds=st.floats(0, 8_000))
    def advance(self, seconds: float) -> None:
        self.step(seconds, faithful=False)

    @rule(seconds=st.floats(0, 40_000))
    def advance_well(self, seconds: float) -> None:
        self.step(seconds, faithful=True)

    @precondition(lambda self: self.bag)
    @rule(pick=st.integers(0, 99), again=st.booleans())
    def deliver(self, pick: int, again: bool) -> None:
        row = self.bag[pick % len(self.bag)]
        if not again:
            self.bag.remove(row)
        self.hand_on(*row)

    @precondition(lambda self: self.bag)
    @rule(pick=st.integers(0, 99))
    def lose(self, pick: int) -> None:
        source, target, _ = self.bag.pop(pick % len(self.bag))
        if source in self.running:
            self.running[source].engine.failed(self.now, target)
            self.perform(source)

    @rule(key=st.sampled_from(list(KEYS.values())))
    def restart(self, key: Signer) -> None:
        if len(self.running) > 1:
            self.start(key)

    @precondition(lambda self: self.handed_over_s is None and {FOUNDER.node_id, HEIR.node_id} <= self.running.keys())
    @rule()
    def hand_over(self) -> None:
        self.handed_over_s = int(self.now.wall)
        for node, running in self.running.items():
            self.succeed(running.trust, self.handed_over_s)
            running.engine.changed(self.now)
            self.perform(node)

    @precondition(lambda self: self.revoked_s is None)
    @rule()
    def revoke(self) -> None:
        self.revoked_s, self.revoker = self.now.wall, self.founder
        for running in self.running.values():
            running.trust.revoke(BERT.node_id, self.revoker)

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def the_disk_is_the_membership(self) -> None:
        for node, running in self.running.items():
            member = running.trust.member(node)
            assert member
            assert self.disks[node] == disk(member.sealed, member.issuer_sealed)

    @invariant()
    def nobody_gains_rights(self) -> None:
        for running in self.running.values():
            for node in (ANNA.node_id, BERT.node_id):
                assert not running.trust.is_admin(self.now.wall, node)
                assert running.trust.roles(node) in ((), ("edge",))
            assert running.trust.is_founder(self.founder)
            for node in KEYS:
                member = running.trust.member(node)
                assert member is None or member.expires_s <= self.now.wall + LIFE_S
                assert member is None or member.certificate.name == "x"

    @invariant()
    def who_is_out_gets_nothing(self) -> None:
        if self.revoked_s is not None:
            sealed = self.disks[BERT.node_id][CERTIFICATE_KEY]
            assert sealed
            assert open_certificate_untrusted(sealed, MESH).issued_s <= self.revoked_s

    def teardown(self) -> None:
        head = self.running.get(self.founder)
        if head is None or not head.trust.is_member(self.now.wall, self.founder):
            return
        lasting = []
        for node, running in self.running.items():
            member = running.trust.member(node)
            assert member
            if head.trust.is_member(self.now.wall + 5_000, node) and running.trust.is_member(self.now.wall, node):
                lasting.append(node)
        self.step(60_000, faithful=True)
        for node in lasting:
            assert head.trust.is_member(self.now.wall, node)
            assert self.running[node].trust.is_member(self.now.wall, node)


Mesh.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestMesh = Mesh.TestCase
