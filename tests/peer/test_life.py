"""Peers under anything: hostile messages never raise, and honest nodes through any life never blame each other."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atmo.engine import Misbehaved, Store
from atmo.gossip import messages
from atmo.gossip.messages import Flood, Hello, Records, Summary, SummaryEntry
from atmo.gossip.records import ModelsBody, NodeRecord, RevocationBody
from atmo.peer import CapabilitiesBody
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Side, Table, capability, model, pair
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
)

# --- hostile neighbours -------------------------------------------------------------------------------------------

SIGNERS = st.sampled_from([FOUNDER, ADMIN, ANNA, BERT, EVE])
BODIES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([ANNA, BERT, EVE]).map(lambda node: pack(NodeRecord("x", (ADDRESS,), certificate(node.node_id)))),
    st.just(pack(ModelsBody((model(),)))),
    st.just(pack(CapabilitiesBody((capability(),)))),
    SIGNERS.map(lambda node: pack(RevocationBody(node.node_id, "", admin_certificate()))),
)
KEYS = st.one_of(st.sampled_from(["", "0", "1"]), SIGNERS.map(lambda node: str(node.node_id)))
ENVELOPES = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda author, kind, key, version, body, age, lifetime: sealed(
            author, kind, key, version, body, issued_s=START_S - age, lifetime_s=lifetime
        ),
        SIGNERS,
        st.sampled_from(["node", "models", "capabilities", "revocation", "weather", "Bad kind"]),
        KEYS,
        st.tuples(st.integers(-1, 2**53), st.integers(-1, 2**53)),
        BODIES,
        st.integers(-100, 400),
        st.sampled_from([0, 300, 601, 10**8]),
    ),
)
ENTRIES = st.builds(
    SummaryEntry, st.just(BERT.node_id), st.text(max_size=5), st.text(max_size=5), st.integers(), st.integers()
)
MESSAGES = st.one_of(
    st.builds(messages.Ping, st.integers()),
    st.builds(messages.Pong, st.integers(), st.integers()),
    st.builds(Flood, ENVELOPES),
    st.builds(Records, st.lists(ENVELOPES, max_size=5).map(tuple)),
    st.builds(Summary, st.lists(ENTRIES, max_size=3).map(tuple), st.binary(max_size=9), st.binary(max_size=9)),
    st.builds(Hello, st.sampled_from([MESH, b""]), st.sampled_from([certificate(BERT.node_id), b""]), st.none()),
    st.builds(messages.Goodbye, st.text(max_size=5)),
)


@given(st.lists(st.one_of(MESSAGES, st.integers(0, 400)), max_size=15))
def test_nothing_that_a_neighbour_says_raises(script: list[Any]) -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    for step in script:
        if isinstance(step, int):
            table.advance(step)
        else:
            anna.hears(BERT.node_id, step)
        if BERT.node_id not in anna.peer.neighbours():
            table.cut(anna.id, BERT.node_id)
            table.verified(anna, BERT)
    assert anna.names()[0] == "anna"
    assert all(anna.peer.trust.is_member(table.wall, node) for node in anna.peer.neighbours())
    anna.peer.models(table.now)
    anna.peer.offers(table.now)


@given(st.binary(max_size=60))
def test_a_record_with_any_payload_is_judged(payload: bytes) -> None:
    _, anna, bert = pair()
    anna.hears(bert.id, Flood(sealed(BERT, "node", body=payload)))
    assert anna.peer.is_ready(bert.id)


# --- honest lives -------------------------------------------------------------------------------------------------

NAMES = ["founder", "admin", "anna", "bert", "eve"]
WHO = st.sampled_from(NAMES)


class Life(RuleBasedStateMachine):
    """Five machines that link, part, tell, restart and put each other out, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.epochs = dict.fromkeys(NAMES, 0)
        self.disks: dict[str, dict[str, bytes | None]] = {name: {} for name in NAMES}
        self.sides: dict[str, Side] = {}
        for name in NAMES:
            self._start(name)

    def _start(self, name: str) -> None:
        self.epochs[name] += 1
        records = [value for value in self.disks[name].values() if value is not None]
        own = admin_certificate() if name == "admin" else None
        self.sides[name] = self.table.add(signer(name), name, sealed=own, epoch=self.epochs[name], records=records)

    def _keep(self) -> None:
        for name, side in self.sides.items():
            for effect in side.log:
                if isinstance(effect, Store):
                    self.disks[name][effect.key] = effect.value
            side.log = [effect for effect in side.log if isinstance(effect, Misbehaved)]

    @rule(one=WHO, two=WHO)
    def link(self, one: str, two: str) -> None:
        if one != two:
            self.table.link(self.sides[one], self.sides[two])

    @rule(one=WHO, two=WHO)
    def cut(self, one: str, two: str) -> None:
        self.table.cut(self.sides[one].id, self.sides[two].id)
        self.table.settle()

    @rule(who=WHO, count=st.integers(0, 3))
    def tell(self, who: str, count: int) -> None:
        self.sides[who].tells(lambda peer, now: peer.publish_models(now, [model(str(n)) for n in range(count)]))

    @rule(who=WHO)
    def restart(self, who: str) -> None:
        self._keep()
        for other in NAMES:
            self.table.cut(self.sides[who].id, self.sides[other].id)
        self._start(who)

    @rule(seconds=st.sampled_from([1, 10, 110, 700]))
    def advance(self, seconds: int) -> None:
        self.table.advance(seconds)

    @rule(seconds=st.sampled_from([30, 1_000]))
    def sleep(self, seconds: int) -> None:
        """All machines sleep: the wall clock goes on, the monotonic one does not."""
        self.table.wall += seconds

    @rule(by=st.sampled_from(["founder", "admin"]), who=st.sampled_from(["admin", "bert", "eve"]))
    def revoke(self, by: str, who: str) -> None:
        side = self.sides[by]
        if by != who and side.peer.trust.is_admin(self.table.wall, side.id):
            side.tells(lambda peer, now: peer.revoke(now, self.sides[who].id))

    @invariant()
    def honest_nodes_do_not_blame_each_other(self) -> None:
        self._keep()
        for side in self.sides.values():
            assert all("revoked" in reason for reason in side.faults()), side.faults()

    @invariant()
    def only_members_are_linked(self) -> None:
        for side in self.sides.values():
            for node in side.peer.neighbours():
                assert side.peer.trust.is_member(self.table.wall, node)

    @invariant()
    def queries_answer(self) -> None:
        for name, side in self.sides.items():
            assert side.names()[0] == name
            side.peer.models(self.table.now)

    def teardown(self) -> None:
        """Once all are linked and a round has passed, all members that are not out agree."""
        founder = self.sides["founder"].peer.trust
        for one in NAMES:
            for two in NAMES:
                if one < two and (self.sides[one].id, self.sides[two].id) not in self.table.links:
                    self.table.link(self.sides[one], self.sides[two])
        self.table.advance(80)
        live = [side for side in self.sides.values() if not founder.is_revoked(side.id)]
        tables = [side.peer.sync.versions() for side in live]
        assert all(versions == tables[0] for versions in tables)
        self.only_members_are_linked()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=15, stateful_step_count=20)
