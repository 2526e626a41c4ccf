"""What replicated records come to with time: kept over a restart, remembered, expired."""

from __future__ import annotations

import math

from atmo.engine import Emit, Misbehaved, Store
from atmo.gossip.sync import store_key
from tests.gossip.kit import at, of, sealed, sync
from tests.gossip.sync_kit import NO, accept, changes, run, signed
from tests.trust.kit import ANNA, BERT, EVE

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
