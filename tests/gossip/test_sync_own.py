"""Own records: renewed, withdrawn, and those of a life before this one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.clock import Now
from atmo.engine import Store
from atmo.errors import WireError
from atmo.gossip.sync import store_key
from atmo.gossip.sync_config import SyncConfig
from atmo.wire import limits
from tests.gossip.kit import at, of, record, sealed, sync
from tests.gossip.sync_kit import KNOWN, NEWS, REFUSED, accept, run, said, signed
from tests.trust.kit import ANNA, BERT, EVE, START_S

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
