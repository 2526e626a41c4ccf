"""Presence: who is missed, who is believed to be gone, and how one comes back."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atmo.clock import Now
from atmo.engine import Emit
from atmo.identity import NodeId
from atmo.peer.presence import (
    ABSENCES_MOST,
    Absence,
    AbsencesChanged,
    AbsentBody,
    NodeBack,
    NodeGone,
    Presence,
    PresenceConfig,
    Refute,
    Version,
)

E = TypeVar("E")
OWN, ANNA, BERT, CLEO, DORA, EMIL = NODES = [NodeId(bytes([number] * 32)) for number in range(1, 7)]
CONFIG = PresenceConfig()


class Desk:
    """One engine with its clock."""

    def __init__(self, nodes: list[NodeId] = NODES) -> None:
        self.engine = Presence(CONFIG, OWN, Random(1))
        self.mono = 0.0
        self.log: list[Any] = []
        for node in nodes:
            self.engine.recorded(self.now, node, (1, 1))

    @property
    def now(self) -> Now:
        return Now(self.mono, 0.0)

    def says(self, author: NodeId, *nodes: NodeId, version: Version = (1, 1)) -> None:
        self.engine.told(self.now, author, AbsentBody(tuple(Absence(node, *version) for node in nodes)))

    def advance(self, seconds: float) -> None:
        end = self.mono + seconds
        while (due := self.engine.next_timer()) <= end:
            self.mono = max(self.mono, due)
            self.engine.handle_timer(self.now)
            assert self.engine.next_timer() > self.mono
        self.mono = end

    def events(self, kind: type[E]) -> list[E]:
        for effect in self.engine.drain():
            assert isinstance(effect, Emit)
            self.log.append(effect.event)
        return [event for event in self.log if isinstance(event, kind)]


def test_what_this_node_misses_is_told_in_one_record_and_counts_at_once() -> None:
    desk = Desk()
    desk.engine.missed(desk.now, BERT)
    desk.advance(0.3)
    desk.engine.missed(desk.now, CLEO)
    desk.engine.missed(desk.now, CLEO)
    assert desk.events(NodeGone) == [NodeGone(BERT), NodeGone(CLEO)]
    assert desk.events(AbsencesChanged) == []
    desk.advance(1.0)
    assert desk.events(AbsencesChanged) == [AbsencesChanged(AbsentBody((Absence(BERT, 1, 1), Absence(CLEO, 1, 1))))]
    assert desk.engine.is_gone(BERT)
    assert desk.engine.stats.witnessed == 2


def test_a_node_without_a_record_is_not_missed_and_no_more_than_fit_a_record_are() -> None:
    nodes = [NodeId(number.to_bytes(32, "big")) for number in range(1, ABSENCES_MOST + 3)]
    desk = Desk(nodes)
    desk.engine.missed(desk.now, EMIL)
    for node in nodes:
        desk.engine.missed(desk.now, node)
    desk.advance(1.0)
    assert len(desk.events(AbsencesChanged)[0].body.absences) == ABSENCES_MOST


def test_one_witness_is_believed_late_and_four_soon() -> None:
    desk = Desk()
    desk.says(ANNA, BERT)
    desk.advance(CONFIG.suspect_most_s - 0.1)
    assert not desk.engine.is_gone(BERT)
    desk.advance(0.2)
    assert desk.engine.is_gone(BERT)
    desk.says(ANNA, CLEO)
    for author in (DORA, EMIL, BERT):
        desk.says(author, CLEO)
    desk.advance(CONFIG.suspect_least_s + 0.01)
    assert desk.engine.is_gone(CLEO)
    assert desk.events(NodeGone) == [NodeGone(BERT), NodeGone(CLEO)]


def test_who_is_enough_witnesses_depends_on_how_many_there_are() -> None:
    desk = Desk([OWN, ANNA, BERT, CLEO])
    desk.says(ANNA, CLEO)
    desk.says(BERT, CLEO)
    desk.advance(CONFIG.suspect_least_s + 0.01)
    assert desk.engine.is_gone(CLEO)


def test_a_newer_record_ends_a_suspicion_and_a_tombstone_but_an_old_one_does_not() -> None:
    desk = Desk()
    desk.says(ANNA, BERT, CLEO)
    desk.engine.recorded(desk.now, BERT, (1, 2))
    desk.advance(60)
    assert not desk.engine.is_gone(BERT)
    assert desk.engine.is_gone(CLEO)
    desk.engine.recorded(desk.now, CLEO, (1, 1))
    assert desk.engine.is_gone(CLEO)
    desk.engine.recorded(desk.now, CLEO, (1, 2))
    assert not desk.engine.is_gone(CLEO)
    assert desk.events(NodeBack) == [NodeBack(CLEO)]
    desk.says(ANNA, BERT, version=(1, 1))
    desk.advance(60)
    assert not desk.engine.is_gone(BERT), "an absence as of an older record says nothing"


def test_a_witness_may_take_it_back() -> None:
    desk = Desk()
    desk.says(ANNA, BERT)
    desk.says(DORA, BERT)
    desk.says(DORA)
    desk.advance(CONFIG.suspect_most_s - 1)
    assert not desk.engine.is_gone(BERT)
    desk.engine.told(desk.now, ANNA, None)
    desk.advance(60)
    assert not desk.engine.is_gone(BERT)
    desk.engine.told(desk.now, ANNA, None)


def test_saying_the_same_again_changes_nothing() -> None:
    desk = Desk()
    desk.says(ANNA, BERT)
    desk.advance(CONFIG.suspect_most_s - 1)
    desk.says(ANNA, BERT, CLEO)
    desk.advance(1.1)
    assert desk.engine.is_gone(BERT)
    assert not desk.engine.is_gone(CLEO)
    desk.says(DORA, BERT)
    desk.advance(60)
    assert len(desk.events(NodeGone)) == 2


def test_who_is_missed_answers_once_in_a_while() -> None:
    desk = Desk()
    desk.says(ANNA, OWN)
    desk.says(BERT, OWN)
    desk.advance(CONFIG.refute_spread_s)
    assert desk.events(Refute) == [Refute()]
    desk.engine.recorded(desk.now, OWN, (1, 2))
    desk.says(CLEO, OWN)
    assert desk.engine.next_timer() > 1e9, "that one was answered already"
    desk.says(DORA, OWN, version=(1, 2))
    desk.advance(CONFIG.refute_s - CONFIG.refute_spread_s - 0.5)
    assert len(desk.events(Refute)) == 1
    desk.advance(CONFIG.refute_s)
    assert len(desk.events(Refute)) == 2


def test_who_leaves_is_gone_until_it_says_something_newer() -> None:
    desk = Desk()
    desk.says(ANNA, BERT)
    desk.engine.recorded(desk.now, BERT, (1, 2), leaving=True)
    assert desk.engine.is_gone(BERT)
    desk.engine.recorded(desk.now, BERT, (1, 2), leaving=True)
    desk.engine.recorded(desk.now, BERT, (2, 1))
    assert not desk.engine.is_gone(BERT)
    assert desk.engine.stats.gone == desk.engine.stats.back == 1


def test_a_link_proves_life() -> None:
    desk = Desk()
    desk.engine.missed(desk.now, BERT)
    desk.advance(1)
    desk.engine.linked(desk.now, BERT)
    desk.engine.linked(desk.now, CLEO)
    desk.advance(1)
    assert not desk.engine.is_gone(BERT)
    assert desk.events(AbsencesChanged)[-1].body.absences == ()


def test_a_newer_record_takes_back_what_this_node_missed() -> None:
    desk = Desk()
    desk.engine.missed(desk.now, BERT)
    desk.advance(1)
    desk.engine.recorded(desk.now, BERT, (1, 2))
    desk.advance(1)
    assert desk.events(AbsencesChanged)[-1].body.absences == ()


def test_enough_witnesses_need_no_further_one() -> None:
    desk = Desk()
    for author in (ANNA, CLEO, DORA, EMIL):
        desk.says(author, BERT)
    desk.engine.missed(desk.now, BERT)
    desk.advance(1)
    assert desk.engine.is_gone(BERT)
    assert desk.events(AbsencesChanged) == []


def test_a_record_that_ended_leaves_nothing_to_decide() -> None:
    desk = Desk()
    desk.says(ANNA, BERT, CLEO)
    desk.engine.missed(desk.now, DORA)
    for node in (BERT, DORA):
        desk.engine.unrecorded(node)
    desk.advance(60)
    assert [desk.engine.is_gone(node) for node in (BERT, CLEO, DORA)] == [False, True, False]
    desk.says(ANNA, BERT)
    assert desk.engine.next_timer() == float("inf")


@pytest.mark.parametrize("wait_s", [0.0, 20 * CONFIG.forgive_s])
def test_who_was_wrong_too_often_is_not_listened_to_for_a_while(wait_s: float) -> None:
    desk = Desk()
    for number in range(int(CONFIG.false_most)):
        desk.says(ANNA, BERT, version=(1, number + 1))
        desk.engine.recorded(desk.now, BERT, (1, number + 2))
    desk.advance(wait_s)
    desk.says(ANNA, CLEO)
    desk.advance(60)
    assert desk.engine.is_gone(CLEO) == (wait_s > 0)
    assert desk.engine.stats.ignored == (0 if wait_s else 1)


def test_an_absence_counts_only_as_of_a_version_that_the_member_signed() -> None:
    """Or one liar buries whom it likes for good: no record is newer than the largest number."""
    desk = Desk()
    desk.says(ANNA, BERT, CLEO, version=(2**53, 2**53))
    desk.advance(60)
    assert not desk.engine.is_gone(BERT)
    desk.says(ANNA, CLEO, version=(1, 2))
    desk.says(DORA, CLEO, version=(1, 2))
    desk.says(DORA)
    desk.advance(60)
    assert not desk.engine.is_gone(CLEO)
    desk.engine.recorded(desk.now, CLEO, (1, 2))
    desk.advance(CONFIG.suspect_most_s - 1)
    assert not desk.engine.is_gone(CLEO), "one witness is left"
    desk.advance(2)
    assert desk.engine.is_gone(CLEO)


def test_an_absence_that_comes_before_the_record_counts_from_then_on_and_an_outdated_one_never() -> None:
    desk = Desk([OWN])
    desk.says(ANNA, BERT, CLEO)
    desk.engine.recorded(desk.now, BERT, (1, 1))
    desk.engine.recorded(desk.now, CLEO, (1, 2))
    desk.advance(60)
    assert [desk.engine.is_gone(node) for node in (BERT, CLEO)] == [True, False]


def test_who_takes_back_what_it_told_was_wrong() -> None:
    """Or a liar names ever others, takes it back before they have answered, and has the whole mesh answer for ever."""
    desk = Desk()
    for _ in range(int(CONFIG.false_most)):
        desk.says(ANNA, BERT)
        desk.says(ANNA)
    desk.says(ANNA, CLEO)
    desk.advance(60)
    assert not desk.engine.is_gone(CLEO)
    assert desk.engine.stats.ignored == 1


def test_a_liar_is_answered_for_the_sake_of_those_who_do_not_know_it() -> None:
    desk = Desk()
    for number in range(int(CONFIG.false_most) + 2):
        desk.says(ANNA, OWN, version=(1, number + 1))
        desk.engine.recorded(desk.now, OWN, (1, number + 2))
        desk.advance(0.1)
    desk.advance(CONFIG.refute_s + CONFIG.refute_spread_s)
    refuted = len(desk.events(Refute))
    desk.says(ANNA, BERT)
    desk.advance(60)
    assert len(desk.events(Refute)) == refuted, "it names another"
    for _ in range(3):
        desk.says(ANNA, OWN, version=(1, 20))
        desk.advance(CONFIG.refute_spread_s)
    assert len(desk.events(Refute)) == refuted + 1, "less often than others"
    desk.advance(CONFIG.refute_slow_s)
    assert len(desk.events(Refute)) == refuted + 2
    assert desk.engine.stats.ignored == 5
    assert CONFIG.refute_slow_s + CONFIG.refute_spread_s < CONFIG.suspect_most_s


class Machine(RuleBasedStateMachine):
    """Any order of records, absences, links and time."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk([OWN])
        self.versions: dict[NodeId, Version] = {OWN: (1, 1)}

    node = st.sampled_from(NODES[1:])

    @rule(node=node, leaving=st.booleans())
    def record(self, node: NodeId, leaving: bool) -> None:
        epoch, sequence = self.versions.get(node, (1, 0))
        self.versions[node] = (epoch, sequence + 1)
        self.desk.engine.recorded(self.desk.now, node, self.versions[node], leaving=leaving)
        assert self.desk.engine.is_gone(node) == leaving

    @rule(node=node)
    def expire(self, node: NodeId) -> None:
        self.desk.engine.unrecorded(node)
        self.versions.pop(node, None)

    @rule(
        author=st.sampled_from(NODES),
        nodes=st.lists(st.sampled_from(NODES), max_size=4, unique=True),
        lie=st.sampled_from([None, (1, 0), (1, 2), (2**53, 2**53)]),
    )
    def tell(self, author: NodeId, nodes: list[NodeId], lie: Version | None) -> None:
        rows = [Absence(node, *(lie or self.versions.get(node, (1, 1)))) for node in nodes]
        self.desk.engine.told(self.desk.now, author, AbsentBody(tuple(rows)))

    @rule(node=node)
    def link(self, node: NodeId) -> None:
        self.desk.engine.linked(self.desk.now, node)
        assert not self.desk.engine.is_gone(node)

    @rule(node=node)
    def miss(self, node: NodeId) -> None:
        self.desk.engine.missed(self.desk.now, node)

    @rule(seconds=st.floats(0.01, 40))
    def wait(self, seconds: float) -> None:
        self.desk.advance(seconds)

    @invariant()
    def nobody_unknown_is_gone_and_gone_and_back_alternate(self) -> None:
        state: dict[NodeId, bool] = {}
        self.desk.events(NodeGone)
        for event in self.desk.log:
            if isinstance(event, NodeGone | NodeBack):
                gone = isinstance(event, NodeGone)
                state[event.node] = gone
        for node in NODES:
            if self.desk.engine.is_gone(node):
                assert node in self.versions
                assert node != OWN
                assert state[node]

    @invariant()
    def it_never_misses_too_many(self) -> None:
        for event in self.desk.log:
            if isinstance(event, AbsencesChanged):
                assert len(event.body.absences) <= ABSENCES_MOST


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
