"""Replicated records between engines that only exchange messages, in any order, with copies and losses."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.clock import Now
from atmo.engine import Emit, Misbehaved, Send, Store
from atmo.errors import WireError
from atmo.gossip.messages import Records
from atmo.gossip.reconcile import Reconciler
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.gossip.records import Record
from atmo.gossip.sync import RecordChanged, RecordSync, Refusal, Signed, Verdict, store_key
from atmo.gossip.sync_config import SyncConfig
from atmo.identity import NodeId, Signer
from atmo.wire import codec, limits
from atmo.wire.envelope import seal
from tests.gossip.kit import at, of, record, sealed, sync
from tests.trust.kit import ANNA, BERT, EVE, MESH, START_S, signer

NO = Refusal("no", fault=True)
NEWS, KNOWN, REFUSED, BROKEN, UNENTITLED, NEAR = Verdict


def changes(engine: RecordSync) -> list[RecordChanged]:
    return [effect.event for effect in of(engine.drain(), Emit) if isinstance(effect.event, RecordChanged)]


def said(engine: RecordSync) -> list[bytes]:
    """Returns the envelopes for the broadcast."""
    return [effect.event.envelope for effect in of(engine.drain(), Emit) if isinstance(effect.event, Signed)]


def run(engine: RecordSync, begin: float, end: float) -> None:
    """Serves the timer."""
    while (due := engine.next_timer()) <= end:
        now = max(due, begin)
        engine.handle_timer(at(now))
        assert engine.next_timer() > now, "a timer that was served moves on"


def signed(engine: RecordSync, begin: float, end: float) -> list[bytes]:
    """Serves the timer; returns the envelopes for the broadcast that it made."""
    engine.drain()
    run(engine, begin, end)
    return said(engine)


def accept(engine: RecordSync, envelope: bytes, now: Now = at(0)) -> Verdict:
    return engine.accept_untrusted(now, BERT.node_id, envelope)


def heal(one: tuple[Signer, RecordSync], two: tuple[Signer, RecordSync], now: Now) -> int:
    """Lets two engines compare all they have; returns how many records were sent."""
    engines = {name.node_id: engine for name, engine in (one, two)}
    ends = {node: Reconciler(ReconcileConfig(), engine.table, Random(1)) for node, engine in engines.items()}
    first, second = ends
    ends[first].link_up(now, second)
    ends[second].link_up(now, first)
    ends[first].handle_timer(Now(now.mono + 1, now.wall))
    while effects := [(node, effect) for node, end in ends.items() for effect in of(end.drain(), Send)]:
        for node, effect in effects:
            if isinstance(effect.message, Records):
                for envelope in effect.message.envelopes:
                    engines[effect.to].accept_untrusted(now, node, envelope)
            else:
                ends[effect.to].receive(now, node, effect.message)
    return sum(end.stats.sent for end in ends.values())


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


# --- own records --------------------------------------------------------------------------------------------------


def test_own_records_are_signed_again_before_they_expire() -> None:
    engine = sync()
    engine.publish(at(0), "note", "", b"body")
    (first,) = said(engine)
    renewed = signed(engine, 0, 250)
    assert len(renewed) == 2
    reader = sync(BERT)
    assert [accept(reader, envelope, at(250)) for envelope in (first, *renewed)] == [NEWS] * 3
    held = reader.record(ANNA.node_id, "note")
    assert held is not None
    assert (held.body, held.version) == (b"body", (1, 3))
    assert START_S + 180 <= held.issued_s <= START_S + 200


def test_a_record_with_a_lifetime_of_its_own_is_not_renewed() -> None:
    engine = sync()
    engine.publish(at(0), "note", "", b"body", 1_000)
    assert signed(engine, 0, 900) == []
    assert engine.record(ANNA.node_id, "note") is not None
    run(engine, 900, 1_100)
    assert engine.record(ANNA.node_id, "note") is None


def test_a_withdrawn_record_is_empty_everywhere_and_then_gone() -> None:
    engine, reader = sync(), sync(BERT)
    engine.publish(at(0), "note", "", b"body")
    engine.withdraw(at(10), "note", "")
    assert [accept(reader, envelope, at(10)) for envelope in said(engine)] == [NEWS] * 2
    held = reader.record(ANNA.node_id, "note")
    assert held is not None
    assert held.body == b""
    run(engine, 10, 500)
    run(reader, 10, 500)
    assert engine.versions() == reader.versions() == {}


def test_own_records_are_told_but_not_kept_save_revocations() -> None:
    engine = sync()
    engine.publish(at(0), "note", "", b"body")
    engine.publish(at(0), "revocation", "x", b"body", 10_000)
    assert [store.key for store in of(engine.drain(), Store)] == [store_key((ANNA.node_id, "revocation", "x"))]


def test_own_records_that_are_for_everyone_are_told_apart() -> None:
    engine = sync()
    accept(engine, sealed(BERT))
    engine.publish(at(0), "near", "", b"body", near=True)
    engine.publish(at(0), "note", "", b"body")
    (envelope,) = engine.own_envelopes()
    assert engine.envelope(ANNA.node_id, "note") == envelope
    assert engine.envelope(ANNA.node_id, "none") is None


def test_what_is_too_large_is_refused_at_the_author_and_changes_nothing() -> None:
    engine = sync(config=SyncConfig(author_bytes=30_000))
    engine.publish(at(0), "note", "", b"body")
    before = engine.versions()
    for body, why in ((b"x" * limits.MESSAGE_BYTES, "does not fit"), (b"x" * 29_000, "at most")):
        with pytest.raises(WireError, match=why):
            engine.publish(at(0), "note", "", body)
    assert engine.versions() == before


def test_after_a_long_sleep_own_records_are_signed_again() -> None:
    """Monotonic time stands still while a machine sleeps; the wall clock does not."""
    engine = sync()
    engine.publish(at(0), "note", "", b"body")
    accept(engine, sealed(BERT))
    run(engine, 0, 5)
    slept = 10_000.0
    now = Now(engine.next_timer(), START_S + 5 + slept)
    engine.drain()
    engine.handle_timer(now)
    (envelope,) = said(engine)
    assert engine.next_timer() > now.mono
    assert accept(sync(EVE), envelope, now) == NEWS
    assert list(engine.versions()) == [(ANNA.node_id, "note", "")]


# --- a life before this one ---------------------------------------------------------------------------------------


def test_a_lost_epoch_is_won_back() -> None:
    """A home that was restored from an old backup starts with an epoch below what the mesh remembers."""
    engine, reader = sync(epoch=1), sync(BERT)
    past = sealed(ANNA, "note", "", (7, 3))
    accept(reader, past)
    engine.publish(at(0), "note", "", b"now")
    (unheard,) = said(engine)
    assert accept(reader, unheard) == KNOWN
    assert accept(engine, past) == KNOWN
    (renewed,) = signed(engine, 0, 1)
    assert accept(reader, renewed) == NEWS
    held = reader.record(ANNA.node_id, "note")
    assert held is not None
    assert (held.body, held.epoch) == (b"now", 7)
    assert engine.stats.reclaimed == 1


def test_what_an_earlier_run_said_and_this_one_does_not_is_taken_back() -> None:
    engine, reader = sync(epoch=5), sync(BERT)
    left = [sealed(ANNA, "note", key, (4, 9)) for key in ("a", "b")]
    for envelope in left:
        accept(reader, envelope)
        assert accept(engine, envelope) == KNOWN
    engine.publish(at(0), "note", "b", b"now")
    for envelope in signed(engine, 0, 1):
        assert accept(reader, envelope) == NEWS
    assert reader.record(ANNA.node_id, "note", "b") == replace(record("note", "b"), epoch=4, sequence=9)
    held = reader.record(ANNA.node_id, "note", "a")
    assert held is not None
    assert held.body == b""


def test_an_own_record_that_this_run_wrote_otherwise_is_written_again() -> None:
    engine = sync(epoch=5)
    engine.publish(at(0), "note", "", b"now")
    engine.publish(at(0), "other", "", b"now")
    assert accept(engine, sealed(ANNA, "note", "", (5, 2), b"forged by a copy of this home")) == KNOWN
    assert len(signed(engine, 0, 1)) == 2


def test_two_nodes_with_one_key_do_not_shout_each_other_down() -> None:
    one, two = sync(epoch=5), sync(epoch=6)
    one.publish(at(0), "note", "", b"one")
    two.publish(at(0), "note", "", b"two")
    pending = said(one) + said(two)
    written = 0
    for tenth in range(1_000):
        now = tenth / 10
        for envelope in pending:
            accept(one, envelope, at(now))
            accept(two, envelope, at(now))
        pending = signed(one, now, now + 0.09) + signed(two, now, now + 0.09)
        written += len(pending)
    assert 2 <= written <= 30


@pytest.mark.parametrize("version", [(2**53, 2**53), (START_S + 2**32 + 1, 1), (6, 2**48 + 1)])
def test_an_own_record_that_leaves_no_room_for_newer_ones_is_not_gone_past(version: tuple[int, int]) -> None:
    engine = sync(epoch=5)
    assert accept(engine, sealed(ANNA, "note", "", version)) == REFUSED
    engine.publish(at(0), "note", "", b"now")
    assert engine.versions() == {(ANNA.node_id, "note", ""): (5, 1)}


def test_own_revocations_come_back_from_the_mesh() -> None:
    engine = sync(epoch=5)
    envelope = sealed(ANNA, "revocation", "x", (2, 1))
    assert accept(engine, envelope) == NEWS
    assert signed(engine, 0, 1) == []
    assert engine.record(ANNA.node_id, "revocation", "x") is not None


# --- restart ------------------------------------------------------------------------------------------------------


def test_what_was_kept_comes_back_and_the_rest_is_forgotten() -> None:
    engine = sync(authorise=lambda now, author, written, kept: NO if written.key == "refused" or not kept else None)
    good = [sealed(EVE, "models"), sealed(BERT, "node"), sealed(ANNA, "revocation", "x", lifetime_s=10_000)]
    bad = [
        sealed(EVE, "note", "refused"),
        sealed(EVE, "note", "expired", lifetime_s=1),
        sealed(ANNA, "note", "own"),
        b"rubbish",
        sealed(EVE, "Not a kind"),
    ]
    assert engine.load(at(100), [*bad, *good, *good]) == []
    assert list(engine.versions()) == [
        (ANNA.node_id, "revocation", "x"),
        (BERT.node_id, "node", ""),
        (EVE.node_id, "models", ""),
    ]
    effects = engine.drain()
    assert of(effects, Misbehaved) == []
    assert {store.key.rpartition("/")[2] for store in of(effects, Store) if store.value is None} == {
        "refused",
        "expired",
        "own",
    }


def test_where_a_node_was_last_is_remembered_for_a_month() -> None:
    engine = sync()
    envelopes = [sealed(author, "node") for author in (ANNA, BERT)]
    month = 30 * 86_400
    assert [author for author, _ in engine.load(at(month), envelopes)] == [BERT.node_id]
    assert engine.load(at(month + 1_000), envelopes) == []
    assert engine.versions() == {}


def test_an_expired_node_record_stays_on_disk_and_others_do_not() -> None:
    engine = sync()
    for kind in ("node", "note"):
        accept(engine, sealed(BERT, kind))
    engine.drain()
    run(engine, 0, 400)
    effects = engine.drain()
    assert [store.key for store in of(effects, Store)] == [store_key((BERT.node_id, "note", ""))]
    assert len(of(effects, Emit)) == 2


def test_a_node_that_was_put_out_is_forgotten_save_for_whom_it_put_out() -> None:
    engine = sync()
    for kind in ("node", "note", "revocation"):
        accept(engine, sealed(BERT, kind))
    engine.drain()
    engine.drop_author(BERT.node_id)
    assert list(engine.versions()) == [(BERT.node_id, "revocation", "")]
    assert [store.value for store in of(engine.drain(), Store)] == [None, None]
    engine.drop_author(EVE.node_id)
    assert changes(engine) == []


# --- time ---------------------------------------------------------------------------------------------------------


def test_an_idle_engine_waits_for_ever() -> None:
    assert sync().next_timer() == math.inf


def test_expired_records_are_swept_and_told_of() -> None:
    engine = sync()
    for number in range(3):
        accept(engine, sealed(BERT, key=str(number), lifetime_s=100 * number))
    engine.drain()
    run(engine, 0, 165)
    assert [(change.key, change.record) for change in changes(engine)] == [("0", None), ("1", None)]
    assert len(engine.versions()) == 1


def test_a_flood_of_records_does_not_make_the_timer_run_each_time() -> None:
    engine = sync()
    for number in range(100):
        accept(engine, sealed(BERT, version=(1, number)))
        assert engine.next_timer() >= 1


def test_the_lifetime_of_own_records_can_be_changed() -> None:
    engine = sync()
    engine.publish(at(0), "note", "", b"body")
    engine.set_lifetime(3_000)
    held = engine.record(ANNA.node_id, "note")
    assert held is not None
    assert held.lifetime_s == 300
    run(engine, 0, 101)
    held = engine.record(ANNA.node_id, "note")
    assert held is not None
    assert (held.lifetime_s, held.sequence) == (3_000, 2)
    assert signed(engine, 101, 900) == []
    assert len(signed(engine, 900, 1_101)) == 1


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
