"""Replicated records between engines that only exchange messages, in any order, with copies and losses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.clock import Now
from atmo.engine import Emit, Misbehaved, Store
from atmo.gossip.records import Record
from atmo.gossip.sync import RecordChanged, Refusal, Signed, store_key
from atmo.identity import NodeId
from atmo.wire import codec, limits
from atmo.wire.envelope import seal
from tests.gossip.kit import at, of, record, sealed, sync
from tests.gossip.sync_kit import BROKEN, KNOWN, NEAR, NEWS, NO, REFUSED, UNENTITLED, accept, heal, run
from tests.trust.kit import ANNA, BERT, EVE, MESH, START_S, signer

# --- newest wins --------------------------------------------------------------------------------------------------

AUTHORS = (ANNA, BERT, EVE)
WRITTEN = [
    sealed(author, "note", key, (epoch, sequence))
    for author in AUTHORS
    for key in ("", "1")
    for epoch, sequence in ((1, 1), (1, 2), (2, 1))
]
FINAL = {(author.node_id, "note", key): (2, 1) for author in AUTHORS for key in ("", "1")}


@given(st.permutations(WRITTEN), st.lists(st.sampled_from(WRITTEN), max_size=10))
def test_any_order_with_any_copies_ends_in_the_newest(order: list[bytes], copies: list[bytes]) -> None:
    engine = sync(signer("reader"))
    for envelope in [*copies, *order]:
        accept(engine, envelope)
    assert engine.versions() == FINAL


@given(st.lists(st.lists(st.sampled_from(WRITTEN), max_size=12), min_size=3, max_size=3), st.randoms())
def test_whatever_each_heard_a_chain_of_links_makes_all_equal(heard: list[list[bytes]], random: object) -> None:
    names = [signer(f"reader {number}") for number in range(3)]
    engines = [sync(name) for name in names]
    for engine, envelopes in zip(engines, heard, strict=True):
        for envelope in envelopes:
            accept(engine, envelope)
    nodes = list(zip(names, engines, strict=True))
    for one, two in ((0, 1), (1, 2), (0, 1)):
        heal(nodes[one], nodes[two], at(1))
    assert engines[0].versions() == engines[1].versions() == engines[2].versions()


def test_a_record_is_news_once() -> None:
    engine = sync()
    first, second = sealed(BERT), sealed(BERT, version=(1, 2))
    assert [accept(engine, envelope) for envelope in (first, first, second, first)] == [NEWS, KNOWN, NEWS, KNOWN]
    assert engine.stats.accepted == 2
    assert engine.stats.replayed == 1
    assert engine.record(BERT.node_id, "note") == record(version=(1, 2))
    assert engine.record(EVE.node_id, "note") is None


def test_two_records_of_one_version_are_counted() -> None:
    engine = sync()
    assert [accept(engine, sealed(BERT, body=body)) for body in (b"one", b"two")] == [NEWS, KNOWN]
    assert engine.stats.replayed == 1


def test_the_first_revocation_in_a_slot_is_final() -> None:
    engine = sync()
    first, second = (sealed(BERT, "revocation", "x", (1, number), lifetime_s=10_000) for number in (1, 2))
    assert [accept(engine, envelope) for envelope in (first, second)] == [NEWS, KNOWN]
    assert list(engine.envelopes("revocation")) == [first]
    other = sync(EVE)
    accept(other, second)
    assert heal((ANNA, engine), (EVE, other), at(1)) == 0, "nobody offers for ever what the other one refuses"


def test_what_is_accepted_is_told_and_kept() -> None:
    engine = sync()
    envelope = sealed(BERT)
    accept(engine, envelope)
    slot = (BERT.node_id, "note", "")
    assert engine.drain() == [Store(store_key(slot), envelope), Emit(RecordChanged(*slot, record()))]
    assert list(engine.envelopes("note")) == [envelope]
    assert list(engine.envelopes("other")) == []
    assert engine.authors() == [BERT.node_id]


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "envelope",
    [
        b"rubbish",
        seal(BERT, "atmo/other/1", MESH, b""),
        seal(BERT, "atmo/record/1", b"m" * 32, b""),
        seal(BERT, "atmo/record/1", MESH, b"\xa0"),
        seal(BERT, "atmo/record/1", MESH, codec.encode({"more": [0] * 100})),
        sealed(BERT, "Not a kind"),
        sealed(BERT, version=(-1, 0)),
    ],
)
def test_what_no_honest_node_passes_on_is_held_against_the_neighbour(envelope: bytes) -> None:
    engine = sync()
    assert accept(engine, envelope) == BROKEN
    (fault,) = of(engine.drain(), Misbehaved)
    assert fault.peer == BERT.node_id
    assert engine.stats.refused == 1


def test_expired_records_and_records_from_the_future_are_refused_in_silence() -> None:
    engine = sync()
    assert accept(engine, sealed(BERT), at(361)) == REFUSED
    assert accept(engine, sealed(BERT, issued_s=START_S + 62), at(1)) == REFUSED
    assert (engine.stats.expired, engine.stats.early) == (1, 1)
    assert engine.drain() == []
    assert accept(engine, sealed(BERT), at(360)) == NEWS
    assert accept(engine, sealed(EVE, issued_s=START_S + 61), at(1)) == NEWS


def test_a_revocation_counts_whichever_clock_is_wrong() -> None:
    engine = sync()
    assert accept(engine, sealed(BERT, "revocation", "x", issued_s=START_S + 7_200)) == NEWS
    assert engine.stats.early == 0


def test_a_replay_after_its_record_expired_is_refused() -> None:
    engine = sync()
    accept(engine, sealed(BERT))
    run(engine, 0, 400)
    assert engine.versions() == {}
    assert accept(engine, sealed(BERT), at(400)) == REFUSED


def test_the_rules_decide_and_say_who_is_to_blame() -> None:
    def rules(now: Now, author: NodeId, written: Record, kept: bool) -> Refusal | None:
        refusals = {
            b"fault": NO,
            b"rights": Refusal("no", fault=True, sound=True),
            b"unknown": Refusal("who?", unknown=True),
        }
        return refusals.get(written.body)

    engine = sync(authorise=rules)
    verdicts = [
        accept(engine, sealed(EVE, key=key, body=key.encode())) for key in ("fault", "rights", "unknown", "good")
    ]
    assert verdicts == [BROKEN, UNENTITLED, REFUSED, NEWS]
    assert [fault.reason for fault in of(engine.drain(), Misbehaved)] == [f"record of {EVE.node_id.short}: no"] * 2
    assert (engine.stats.refused, engine.stats.unknown_author) == (2, 1)


def test_an_author_has_so_many_slots_and_no_more() -> None:
    engine = sync()
    verdicts = [accept(engine, sealed(EVE, key=str(number))) for number in range(limits.RECORDS_PER_AUTHOR + 1)]
    assert verdicts == [NEWS] * limits.RECORDS_PER_AUTHOR + [REFUSED]
    assert engine.stats.no_room == 1
    assert of(engine.drain(), Misbehaved) == []
    assert accept(engine, sealed(EVE, key="0", version=(1, 2))) == NEWS


# --- near records -------------------------------------------------------------------------------------------------


def test_near_records_stay_near_when_they_are_renewed_and_withdrawn() -> None:
    engine = sync()
    engine.publish(at(0), "note", "", b"body", near=True)
    engine.publish(at(0), "other", "", b"body")
    (near,) = engine.near_envelopes()
    said_near = [effect.event.near for effect in of(engine.drain(), Emit) if isinstance(effect.event, Signed)]
    assert said_near == [True, False]
    run(engine, 0, 101)
    engine.withdraw(at(101), "note", "")
    events = [effect.event for effect in of(engine.drain(), Emit) if isinstance(effect.event, Signed)]
    assert sorted(event.near for event in events) == [False, True, True]
    assert engine.near_envelopes() == [events[2].envelope] != [near]
    engine.withdraw(at(101), "none", "")
    assert len(engine.near_envelopes()) == 1


def test_near_records_are_taken_from_their_authors_alone() -> None:
    engine = sync()
    assert engine.accept_untrusted(at(0), BERT.node_id, sealed(EVE, near=True)) == BROKEN
    assert [fault.peer for fault in of(engine.drain(), Misbehaved)] == [BERT.node_id]
    assert engine.accept_untrusted(at(0), EVE.node_id, sealed(EVE, near=True)) == NEAR
    assert sync().load(at(0), [sealed(EVE, "node", near=True)]) == []


def test_near_records_take_no_part_in_comparisons() -> None:
    one, two = sync(), sync(BERT)
    one.publish(at(0), "note", "", b"body", near=True)
    assert one.table.fingerprints.count("") == 0
    assert heal((ANNA, one), (BERT, two), at(1)) == 0
    one.publish(at(1), "note", "", b"body")
    assert heal((ANNA, one), (BERT, two), at(1)) == 1
    one.publish(at(2), "note", "", b"body", near=True)
    assert one.table.fingerprints.count("") == 0


# --- comparisons --------------------------------------------------------------------------------------------------


def test_a_late_joiner_gets_everything_at_once() -> None:
    old, late = sync(BERT), sync(EVE)
    for number in range(limits.RECORDS_PER_AUTHOR):
        accept(old, sealed(signer(f"author {number % 3}"), key=str(number)))
    assert heal((BERT, old), (EVE, late), at(1)) == limits.RECORDS_PER_AUTHOR
    assert late.versions() == old.versions()
