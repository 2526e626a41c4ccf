"""Who is believed to live, across peers that are not all linked: absences, refutations, returns and farewells."""

from __future__ import annotations

import pytest

from atmo.engine import Dial
from atmo.gossip.messages import Gossip, Neighbour
from atmo.gossip.records import NODE
from atmo.peer import NodeBack, NodeGone, Unreachable
from atmo.peer.presence import ABSENT, Absence, AbsentBody
from atmo.wire.address import Contact
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Side, Table, model
from tests.trust.kit import ANNA, BERT, EVE, FOUNDER, certificate


def row() -> tuple[Table, Side, Side, Side]:
    """Anna, bert and eve: bert is linked with both."""
    table = Table()
    anna, bert, eve = table.add(ANNA, "anna"), table.add(BERT, "bert"), table.add(EVE, "eve")
    eve.tells(lambda peer, now: peer.publish_models(now, [model()]))
    table.link(anna, bert)
    table.link(bert, eve)
    table.advance(10)
    assert anna.models() == ["iris"]
    table.forget_logs()
    return table, anna, bert, eve


def test_the_mesh_hears_of_a_death_from_who_saw_it_and_of_the_return() -> None:
    table, anna, bert, eve = row()
    table.die(eve)
    table.advance(12)
    assert bert.emitted(NodeGone) == [NodeGone(eve.id)]
    assert bert.hangups()[0].startswith("nothing heard for")
    assert bert.of(Dial)[0] == Dial(eve.id, (ADDRESS,)), "dialled once more first"
    assert bert.peer.sync.record(bert.id, ABSENT) is not None
    assert anna.peer.sync.record(bert.id, ABSENT) is not None
    assert anna.models() == ["iris"], "one witness is not believed at once"
    table.advance(25)
    assert anna.emitted(NodeGone) == [NodeGone(eve.id)]
    assert anna.models() == []
    assert not anna.peer.is_present(eve.id)
    again = table.add(EVE, "eve", epoch=2)
    table.link(again, bert)
    table.advance(5)
    for side in (anna, bert):
        assert side.emitted(NodeBack) == [NodeBack(eve.id)]
        assert side.peer.is_present(eve.id)
    record = anna.peer.sync.record(bert.id, ABSENT)
    assert record is not None
    assert record.body == b"", "taken back"
    assert anna.faults() == bert.faults() == again.faults() == []


def test_nobody_is_buried_under_a_version_that_it_never_reaches() -> None:
    table, anna, bert, eve = row()
    founder = table.add(FOUNDER, "founder")
    table.link(founder, anna)
    lie = AbsentBody((Absence(eve.id, 2**53, 2**53),))
    anna.hears(founder.id, Gossip(sealed(FOUNDER, "absent", body=pack(lie))))
    table.advance(400)
    for side in (anna, bert):
        assert side.emitted(NodeGone) == []
        assert side.peer.is_present(eve.id)


def test_a_member_that_lives_answers_a_false_absence() -> None:
    table, anna, bert, eve = row()
    founder = table.add(FOUNDER, "founder")
    table.link(founder, anna)
    table.advance(5)
    before = anna.peer.sync.record(eve.id, NODE)
    assert before is not None
    lie = AbsentBody((Absence(eve.id, *before.version),))
    anna.hears(founder.id, Gossip(sealed(FOUNDER, "absent", body=pack(lie))))
    table.advance(40)
    after = anna.peer.sync.record(eve.id, NODE)
    assert after is not None
    assert after.version > before.version
    assert eve.peer.presence.stats.refuted == 1
    for side in (anna, bert):
        assert side.emitted(NodeGone) == []
        assert side.peer.is_present(eve.id)


def test_a_link_that_dies_while_others_hear_the_node_is_no_death() -> None:
    table, anna, bert, eve = row()
    table.link(anna, eve)
    table.advance(10)
    del table.links[bert.id, eve.id], table.links[eve.id, bert.id]
    table.forget_logs()
    table.advance(15)
    assert len(bert.hangups()) == 1
    bert.peer.link_down(table.now, eve.id, "hung up")
    eve.peer.link_down(table.now, bert.id, "hung up")
    table.settle()
    table.advance(40)
    assert bert.emitted(NodeGone) == eve.emitted(NodeGone) == anna.emitted(NodeGone) == []
    assert bert.peer.is_present(eve.id)


def test_a_silent_neighbour_that_answers_a_dial_lives() -> None:
    table, anna, bert, eve = row()
    del table.links[bert.id, eve.id], table.links[eve.id, bert.id]
    table.advance(6)
    table.answering = True
    table.advance(20)
    assert bert.emitted(Unreachable) == []
    assert bert.emitted(NodeGone) == anna.emitted(NodeGone) == []


def test_who_leaves_is_away_at_once_and_everywhere() -> None:
    table, anna, bert, eve = row()
    eve.tells(lambda peer, now: peer.leave(now))
    table.advance(3)
    for side in (anna, bert):
        assert side.emitted(NodeGone) == [NodeGone(eve.id)]
        assert side.models() == []
        assert "eve" in side.names()
        assert side.peer.sync.record(side.id, ABSENT) is None, "nobody misses who said goodbye"
    assert eve.emitted(NodeGone) == [], "nobody is gone to itself"
    assert eve.peer.neighbours() == eve.peer.linked() == []
    table.forget_logs()
    table.advance(60)
    assert eve.of(Dial) == []
    again = table.add(EVE, "eve", epoch=2)
    table.link(again, bert)
    table.advance(5)
    assert anna.emitted(NodeBack) == [NodeBack(eve.id)]


def test_one_that_told_nobody_of_itself_leaves_too() -> None:
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT)
    table.link(anna, bert)
    bert.tells(lambda peer, now: peer.leave(now))
    assert anna.peer.linked() == []
    assert anna.emitted(NodeGone) == []


@pytest.mark.parametrize("body", [b"rubbish", b"\x00", pack(AbsentBody(()))[:-1], b"\xa1haabsences\x01"])
def test_an_absence_that_is_none_is_a_fault_and_nothing_breaks(body: bytes) -> None:
    _, anna, bert, _ = row()
    anna.hears(bert.id, Gossip(sealed(BERT, "absent", "", (9, 9), body)))
    assert len(anna.faults()) == 1
    assert anna.peer.sync.record(bert.id, ABSENT) is None


def test_an_absence_under_a_key_counts_for_itself() -> None:
    """There is one slot of this kind; what is said in others replaces what was said before."""
    table, anna, bert, eve = row()
    version = anna.peer.sync.record(eve.id, NODE)
    assert version is not None
    for key in ("", "more"):
        body = pack(AbsentBody((Absence(eve.id, *version.version),)))
        anna.hears(bert.id, Gossip(sealed(BERT, "absent", key, (9, 9), body)))
    table.advance(40)
    assert anna.peer.is_present(eve.id), "she answered"


def test_a_doubt_ends_when_the_node_links_itself() -> None:
    table, anna, _, eve = row()
    anna.peer._doubted[eve.id] = None
    table.link(anna, eve)
    assert anna.peer._doubted == {}
    anna.hears(eve.id, Neighbour(Contact(eve.id, (ADDRESS,))))
    assert anna.emitted(NodeGone) == []


def test_who_comes_back_before_it_was_told_is_not_told() -> None:
    table, _, bert, eve = row()
    bert.peer.presence.missed(table.now, eve.id)
    bert.peer.presence.linked(table.now, eve.id)
    table.advance(5)
    assert bert.peer.sync.record(bert.id, ABSENT) is None
    assert bert.emitted(NodeBack) == [NodeBack(eve.id)]


def test_nobody_is_missed_before_it_was_dialled_again() -> None:
    """Something else wants to reach a node whose link is just being hung up."""
    table, _, bert, eve = row()
    bert.peer._doubted[eve.id] = None
    bert.peer._links.hang_up(eve.id, "nothing heard")
    bert.peer.reach(table.now, eve.id)
    assert bert.peer.is_present(eve.id)
    table.settle()
    assert bert.emitted(Unreachable) == [Unreachable(eve.id)] * 2
    assert bert.emitted(NodeGone) == [NodeGone(eve.id)]


def test_certificates_that_end_while_a_member_is_gone() -> None:
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT, "bert", sealed=certificate(BERT.node_id, lasts_s=600))
    table.link(anna, bert)
    table.die(bert)
    table.advance(2_000)
    assert not anna.peer.is_present(bert.id)
    assert anna.names() == ["anna"]


def test_a_link_that_nobody_watches_ends_with_the_node_at_its_other_end() -> None:
    table = Table()
    anna, eve = table.add(ANNA, "anna"), table.add(EVE, "eve")
    own, record = eve.peer.sync.envelope(eve.id, NODE), eve.peer.sync.record(eve.id, NODE)
    assert own is not None
    assert record is not None
    table.verified(anna, EVE)
    table.verified(anna, BERT)
    anna.hears(eve.id, Gossip(own))
    told = AbsentBody((Absence(eve.id, *record.version),))
    anna.hears(BERT.node_id, Gossip(sealed(BERT, "absent", body=pack(told))))
    table.advance(30)
    assert "it is believed to be gone" in anna.hangups()
    assert not anna.peer.is_present(eve.id)


def test_a_suspect_that_is_heard_again_is_trusted() -> None:
    table, anna, bert, _ = row()
    del table.links[anna.id, bert.id]
    table.advance(5)
    table.links[anna.id, bert.id] = None
    table.advance(20)
    assert bert.peer.detector.stats.trusted + anna.peer.detector.stats.trusted >= 1
