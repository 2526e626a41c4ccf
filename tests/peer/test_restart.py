"""Restarts, long absences and lost epochs: a node finds its mesh again and speaks with one voice."""

from __future__ import annotations

from atmo.clock import Now
from atmo.engine import Dial, Store
from atmo.gossip.records import NODE, NodeRecord
from atmo.peer.strikes import BAN_PREFIX
from atmo.transfer.scores import SCORES_KEY
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Table, model, pair
from tests.trust.kit import ANNA, BERT, EVE, START_S, certificate


def test_a_restarted_node_knows_where_the_others_were_after_weeks() -> None:
    table, anna, bert = pair()
    kept = anna.disk()
    again = Table()
    again.wall = table.wall + 14 * 86_400
    anna = again.add(ANNA, "anna", epoch=2, records=kept)
    assert anna.names() == ["anna", "bert"]
    assert anna.peer.nodes(again.now)[1].last_seen_s == again.wall - START_S
    again.advance(1)
    assert anna.of(Dial)[0] == Dial(bert.id, (ADDRESS,))
    bert = again.add(BERT, "bert", epoch=2)
    again.link(anna, bert)
    assert anna.peer.nodes(again.now)[1].path == "lan"


def test_after_two_months_it_does_not() -> None:
    table, anna, _ = pair()
    again = Table()
    again.wall = table.wall + 60 * 86_400
    anna = again.add(ANNA, "anna", epoch=2, records=anna.disk())
    assert anna.names() == ["anna"]
    assert [store.value for store in anna.of(Store)] == [None]


def test_an_old_record_of_one_who_is_no_member_any_more_is_forgotten() -> None:
    table = Table()
    table.wall += 10_000
    short = certificate(EVE.node_id, lasts_s=1_000)
    record = sealed(EVE, NODE, body=pack(NodeRecord("eve", (ADDRESS,), short)))
    broken = sealed(BERT, NODE, body=b"rubbish")
    anna = table.add(ANNA, "anna", records=[record, broken])
    assert anna.names() == ["anna"]
    assert [store.value for store in anna.of(Store)] == [None, None]
    table.advance(1_000)
    assert anna.of(Dial) == []


def test_a_restart_replaces_what_the_run_before_said() -> None:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_models(now, [model("old")]))
    table.cut(anna.id, bert.id)
    bert = table.add(BERT, "bert", epoch=2)
    table.link(anna, bert)
    table.advance(1)
    assert anna.models() == []
    bert.tells(lambda peer, now: peer.publish_models(now, [model("new")]))
    assert anna.models() == ["new"]


def test_a_node_that_lost_its_epoch_is_heard_again() -> None:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_models(now, [model("old")]))
    table.cut(anna.id, bert.id)
    bert = table.add(BERT, "renamed", epoch=0)
    bert.tells(lambda peer, now: peer.publish_models(now, [model("new")]))
    table.link(anna, bert)
    table.advance(1)
    assert anna.models() == ["new"]
    assert anna.names() == ["anna", "renamed"]
    assert anna.faults() == bert.faults() == []


def test_a_node_that_has_not_told_of_itself_yet_leaves_its_old_record_alone() -> None:
    table, anna, bert = pair()
    table.cut(anna.id, bert.id)
    bert = table.add(BERT, epoch=2)
    table.link(anna, bert)
    table.advance(1)
    assert anna.names() == ["anna", "bert"]
    assert anna.faults() == bert.faults() == []


def test_a_machine_that_slept_for_hours_finds_its_mesh_again() -> None:
    """Its monotonic clock stood still; its links are dead; everything it knew has expired."""
    table, anna, bert = pair()
    table.cut(anna.id, bert.id, "timed out")
    table.wall += 10_000
    table.advance(200)
    assert anna.names() == ["anna", "bert"]
    assert [dial for dial in anna.of(Dial) if dial.node == bert.id]
    table.answering = True
    table.advance(120)
    assert anna.peer.neighbours() == [bert.id]
    assert anna.peer.sync.versions() == bert.peer.sync.versions()
    assert len(anna.peer.sync.versions()) == 2


def test_members_with_clocks_a_minute_apart_understand_each_other() -> None:
    table, anna, bert = pair()
    late = Now(table.mono, table.wall + 55)
    bert.peer.publish_models(late, [model()])
    table.settle()
    assert anna.models() == ["iris"]


def test_who_was_kept_out_before_a_restart_still_is() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, EVE)
    for _ in range(20):
        anna.peer.malformed(table.now, EVE.node_id, "not CBOR")
    table.settle()
    kept = [(store.key, store.value) for store in anna.of(Store) if store.key.startswith(BAN_PREFIX) and store.value]
    again = Table()
    again.wall = table.wall + 200
    anna = again.add(ANNA, "anna", epoch=2)
    anna.tells(lambda peer, now: peer.load_bans(now, [*kept, (f"{BAN_PREFIX}{BERT.node_id}", b"")]))
    assert anna.of(Store)[-1] == Store(f"{BAN_PREFIX}{BERT.node_id}", None)
    again.stranger(anna, EVE.node_id)
    assert anna.hangups() == ["it broke the protocol"]
    again.advance(200)
    again.verified(anna, EVE)
    assert anna.peer.is_ready(EVE.node_id)


def test_what_was_known_of_sources_is_known_after_a_restart() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    anna.tells(lambda peer, now: peer.transfer.scores.lied(now, EVE.node_id))
    anna.tells(lambda peer, now: peer.leave(now))
    (kept,) = (store.value for store in anna.of(Store) if store.key == SCORES_KEY)
    again = Table()
    anna = again.add(ANNA, "anna", epoch=2)
    anna.tells(lambda peer, now: peer.load_scores(now, kept))
    assert anna.peer.transfer.scores.avoids(again.now, EVE.node_id)
    anna.tells(lambda peer, now: peer.load_scores(now, b"rubbish"))
    assert anna.of(Store)[-1] == Store(SCORES_KEY, None)
    anna.tells(lambda peer, now: peer.load_scores(now, None))
