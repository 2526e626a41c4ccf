"""Any order of joins, lookups, losses, lies, deaths and restarts: the bounds hold, and lookups end."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.clock import Now
from atmo.engine import Address, Ask, Contact, Emit, Misbehaved, Send
from atmo.identity import NodeId
from atmo.index import Index, IndexConfig, LookupDone, NodeFound, ProviderFound
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from tests.index.kit import KEY, MESH, START_S, anyone, sealed, signer

CONFIG = IndexConfig(
    k=3, alpha=2, paths=2, publish_paths=2, key_records=3, records=5, cached=2, lookups=3, spares=2, rumours=2, dead=3,
    distrust=2, strikes=2, shunned=2, slack=2, settling=3, probe_s=5.0, renew_s=30.0, lifetime_s=90, fresh_s=10.0,
)  # fmt: skip
COUNT = 7
KEYS = [KEY, b"l" * 32, b"m" * 32]
PICK = st.integers(0, COUNT - 1)
FORGED = [b"rubbish", sealed(signer(9), key=KEYS[2]).envelope, sealed(signer(9), lifetime_s=1).envelope]


class Mesh(RuleBasedStateMachine):
    """Some engines; messages wait in a bag until they are delivered, doubled or lost."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epochs = [0] * COUNT
        self.signers = [signer(number + 1) for number in range(COUNT)]
        self.contacts = [Contact(one.node_id, (Address("10.0.0.1", 1 + n),)) for n, one in enumerate(self.signers)]
        self.numbers = {contact.node: number for number, contact in enumerate(self.contacts)}
        self.engines = [self.made(number) for number in range(COUNT)]
        self.bag: list[tuple[int, int, Any]] = []
        self.open: dict[tuple[int, int], str] = {}
        self.liars: set[int] = set()

    def made(self, number: int) -> Index:
        self.epochs[number] += 1
        rng = Random(f"{number}/{self.epochs[number]}")
        index = Index(CONFIG, self.signers[number], MESH, self.epochs[number], rng, anyone)
        index.contact, index.certificate = self.contacts[number], b"certificate"
        return index

    def clock(self) -> Now:
        return Now(self.now, START_S + self.now)

    def perform(self, number: int) -> None:
        for effect in self.engines[number].drain():
            match effect:
                case Ask(contact, message):
                    if contact.node in self.numbers:
                        assert contact.node != self.contacts[number].node
                        self.bag.append((number, self.numbers[contact.node], message))
                case Send(to, message):
                    self.bag.append((number, self.numbers[to], message))
                case Misbehaved(peer):
                    assert self.numbers[peer] in self.liars
                case Emit(LookupDone(query)):
                    del self.open[number, query]
                case Emit(ProviderFound(query, contact)) | Emit(NodeFound(query, contact)):
                    assert (number, query) in self.open
                    assert contact.node != self.contacts[number].node
                    assert contact.addresses
                case _:
                    pass

    @rule(one=PICK, other=PICK)
    def they_meet(self, one: int, other: int) -> None:
        self.engines[one].learn(self.clock(), self.contacts[other])
        self.perform(one)

    @rule(number=PICK, key=st.sampled_from(KEYS), back=st.booleans())
    def it_provides(self, number: int, key: bytes, back: bool) -> None:
        if back:
            self.engines[number].withdraw(self.clock(), key)
        else:
            self.engines[number].provide(self.clock(), key)
        self.perform(number)

    @rule(number=PICK, key=st.sampled_from(KEYS), other=PICK, node=st.booleans())
    def it_looks(self, number: int, key: bytes, other: int, node: bool) -> None:
        if number == other:
            return
        engine = self.engines[number]
        target = self.contacts[other].node
        query = engine.find_node(self.clock(), target) if node else engine.find_providers(self.clock(), key)
        self.open[number, query] = "under way"
        self.perform(number)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 99))
    def it_looks_no_more(self, pick: int) -> None:
        number, query = sorted(self.open)[pick % len(self.open)]
        del self.open[number, query]
        self.engines[number].cancel(self.clock(), query)
        self.perform(number)

    @precondition(lambda self: self.bag)
    @rule(pick=st.integers(0, 99), twice=st.booleans())
    def a_message_comes(self, pick: int, twice: bool) -> None:
        index = pick % len(self.bag)
        source, target, message = self.bag[index] if twice else self.bag.pop(index)
        self.engines[target].receive(self.clock(), self.contacts[source].node, message)
        self.perform(target)

    @precondition(lambda self: self.bag)
    @rule(pick=st.integers(0, 99), told=st.booleans())
    def a_message_is_lost(self, pick: int, told: bool) -> None:
        source, target, _ = self.bag.pop(pick % len(self.bag))
        if told:
            self.engines[source].failed(self.clock(), self.contacts[target].node)
            self.perform(source)

    @precondition(lambda self: self.bag)
    @rule(pick=st.integers(0, 99), forged=st.sampled_from(FORGED), held=st.integers(0, 9))
    def an_answer_is_a_lie(self, pick: int, forged: bytes, held: int) -> None:
        source, target, message = self.bag.pop(pick % len(self.bag))
        self.liars.add(target)
        if isinstance(message, FindNode | FindProviders):
            nobody = tuple(Contact(NodeId(bytes([pick + n] * 32)), (Address("10.0.0.2", 1),)) for n in range(3))
            own = Contact(self.contacts[source].node, nobody[0].addresses)
            lie: Any = Found(message.token, (*nobody, own, Contact(nobody[0].node, ())), (forged,), held)
        else:
            lie = Provided(getattr(message, "token", 0), held * 1_000)
        self.engines[source].receive(self.clock(), self.contacts[target].node, lie)
        self.perform(source)

    @rule(number=PICK, liar=PICK, length=st.integers(30, 33), forged=st.sampled_from(FORGED))
    def a_request_is_a_lie(self, number: int, liar: int, length: int, forged: bytes) -> None:
        self.liars.add(liar)
        for message in (FindNode(1, b"k" * length, self.contacts[number]), Provide(2, forged)):
            self.engines[number].receive(self.clock(), self.contacts[liar].node, message)
        self.perform(number)

    @rule(number=PICK, other=PICK)
    def one_is_put_out(self, number: int, other: int) -> None:
        self.engines[number].forget(self.clock(), self.contacts[other].node)
        self.perform(number)
        assert self.contacts[other] not in self.engines[number].contacts()

    @rule(number=PICK)
    def one_restarts(self, number: int) -> None:
        self.engines[number] = self.made(number)
        self.open = {row: state for row, state in self.open.items() if row[0] != number}
        self.bag = [row for row in self.bag if row[0] != number]

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.step(self.now + seconds)

    def step(self, end: float) -> None:
        for _ in range(3_000):
            due, number = min((engine.next_timer(), number) for number, engine in enumerate(self.engines))
            if due > end:
                break
            self.now = max(self.now, due)
            self.engines[number].handle_timer(self.clock())
            self.perform(number)
        else:
            raise AssertionError("the timer spins")
        self.now = end
        del self.bag[200:]

    @invariant()
    def bounds_are_kept(self) -> None:
        for number, engine in enumerate(self.engines):
            assert engine.held() <= CONFIG.records
            for key in KEYS:
                rows = engine.providers(self.clock(), key)
                assert len(rows) <= CONFIG.key_records
                assert all(row.expires_s(CONFIG.skew_s) >= START_S + self.now for row in rows)
            contacts = engine.contacts()
            assert len({contact.node for contact in contacts}) == len(contacts) < COUNT
            assert self.contacts[number] not in contacts
            assert engine.size_estimate() > len(contacts)
        for number in range(COUNT):
            assert sum(row[0] == number for row in self.open) <= CONFIG.lookups

    def teardown(self) -> None:
        self.bag.clear()
        for _ in range(20):
            self.step(self.now + 2.0)
        assert not self.open, "a lookup never ended"


Mesh.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestMesh = Mesh.TestCase
