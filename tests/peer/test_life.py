"""Peers under anything: hostile messages never raise, and honest nodes through any life never blame each other."""

from __future__ import annotations

import dataclasses
from typing import Any, get_origin

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atmo.engine import Misbehaved, Store
from atmo.gossip.messages import Gossip, Hello, Records
from atmo.gossip.records import ModelsBody, NodeRecord, RevocationBody
from atmo.identity import NodeId
from atmo.index.records import Provider, seal_provider
from atmo.peer import CapabilitiesBody
from atmo.peer.messages import MESSAGES as ALL
from atmo.peer.presence import Absence, AbsentBody
from atmo.trust.records import InviteBody, RedemptionBody, SuccessionBody
from atmo.wire.address import Address
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
from tests.wire.examples import fields_of, plain

# --- hostile neighbours -------------------------------------------------------------------------------------------

SIGNERS = st.sampled_from([FOUNDER, ADMIN, ANNA, BERT, EVE])
BODIES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([ANNA, BERT, EVE]).map(lambda node: pack(NodeRecord("x", (ADDRESS,), certificate(node.node_id)))),
    st.just(pack(ModelsBody((model(),)))),
    st.just(pack(CapabilitiesBody((capability(),)))),
    SIGNERS.map(lambda node: pack(RevocationBody(node.node_id, "", admin_certificate()))),
    SIGNERS.map(lambda node: pack(AbsentBody((Absence(node.node_id, 1, 1),)))),
    SIGNERS.map(lambda node: pack(SuccessionBody(node.node_id, (EVE.node_id,)))),
    SIGNERS.map(lambda node: pack(RedemptionBody(node.node_id, admin_certificate()))),
    st.just(pack(InviteBody("edge", START_S + 1_000))),
)
KEYS = st.one_of(st.sampled_from(["", "0", "1", "a" * 64]), SIGNERS.map(lambda node: str(node.node_id)))
KINDS = ["node", "models", "capabilities", "absent", "weather", "Bad kind"]
KINDS += ["revocation", "succession", "invite", "redemption"]
ENVELOPES = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda author, kind, key, version, body, age, lifetime: sealed(
            author, kind, key, version, body, issued_s=START_S - age, lifetime_s=lifetime
        ),
        SIGNERS,
        st.sampled_from(KINDS),
        KEYS,
        st.tuples(st.integers(-1, 2**53), st.integers(-1, 2**53)),
        BODIES,
        st.integers(-100, 400),
        st.sampled_from([0, 300, 4 * 3_600 + 1, 10**8]),
    ),
)
PROVIDERS = st.builds(
    lambda author, epoch, certified: seal_provider(
        author, MESH, Provider(b"k" * 32, (ADDRESS,), START_S, 1_200, epoch, 1, certificate(certified.node_id))
    ),
    SIGNERS,
    st.integers(0, 2),
    SIGNERS,
)
BYTES = st.one_of(
    ENVELOPES, PROVIDERS, st.binary(max_size=9), st.sampled_from([b"k" * 32, MESH, certificate(BERT.node_id)])
)


def said(hint: Any, most: int | None = None) -> st.SearchStrategy[Any]:
    """Returns values of a field that the decoder lets through, often ones that mean something."""
    if get_origin(hint) is tuple:
        inner = said(*plain(hint.__args__[0]))
        return st.lists(inner, max_size=3 if most is None else min(most, 3)).map(tuple)
    if dataclasses.is_dataclass(hint):
        if hint is Address:
            return st.just(ADDRESS)
        fields = {field.name: said(field.hint, field.most) for field in fields_of(hint)}  # type: ignore[arg-type]
        return st.builds(hint, **fields)  # type: ignore[arg-type]
    if hint is NodeId:
        return SIGNERS.map(lambda node: node.node_id)
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.one_of(st.integers(0, min(most or 2**63, 3)), st.just(most or 2**63))
    pool = BYTES if hint is bytes else st.sampled_from(["", "a", "6", "node", "models", "0", "x" * 200])
    return pool.filter(lambda value: most is None or len(value) <= most)


MESSAGES = st.one_of(
    st.builds(Gossip, ENVELOPES),
    st.builds(Records, st.lists(ENVELOPES, max_size=5).map(tuple)),
    st.builds(Hello, st.sampled_from([MESH, b""]), st.sampled_from([certificate(BERT.node_id), b""]), st.none()),
    *(said(cls) for cls in ALL.values()),
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
        if BERT.node_id not in anna.peer.linked():
            table.cut(anna.id, BERT.node_id)
            table.verified(anna, BERT)
    assert anna.names()[0] == "anna"
    assert all(anna.peer.trust.is_member(table.wall, node) for node in anna.peer.linked())
    anna.peer.models(table.now)
    anna.peer.offers(table.now)


@given(st.binary(max_size=60))
def test_a_record_with_any_payload_is_judged(payload: bytes) -> None:
    _, anna, bert = pair()
    for kind in ("node", "absent", "models", "invite", "succession"):
        anna.hears(bert.id, Gossip(sealed(BERT, kind, body=payload)))
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
            for node in side.peer.linked():
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
TestLife.settings = settings(max_examples=8, stateful_step_count=20)
