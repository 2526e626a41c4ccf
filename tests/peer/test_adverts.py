"""What nodes tell of themselves: who hears it, in how many pages, and what happens when they are gone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from atmo.engine import Contact, Send
from atmo.errors import WireError
from atmo.gossip.messages import Gossip, Neighbour, Pong, Records
from atmo.gossip.records import MODELS, NODE, ModelsBody, NodeRecord
from atmo.peer import AdvertLeftOut, CapabilitiesBody, NodeGone, PeerConfig
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Side, Table, capability, model, pair
from tests.trust.kit import ANNA, BERT, EVE, START_S, certificate, signer


def line(count: int) -> tuple[Table, list[Side]]:
    """Peers in a row, each linked to the next."""
    table = Table()
    sides = [table.add(signer(f"node {number}"), f"n{number}") for number in range(count)]
    for one, two in pairwise(sides):
        table.link(one, two)
    return table, sides


def test_news_reaches_those_who_are_not_linked_to_the_author() -> None:
    _, sides = line(5)
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    for side in sides:
        assert side.peer.sync.record(sides[0].id, MODELS, "0") is not None
        assert side.names()[0] == side.peer.name(side.id)
        assert sorted(side.names()) == ["n0", "n1", "n2", "n3", "n4"]
    assert [side.models() for side in sides] == [["iris"]] * 5, "whoever lives can be reached"
    assert all(side.faults() == [] for side in sides)


def test_a_late_joiner_learns_everything_at_its_first_link() -> None:
    table, sides = line(3)
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    late = table.add(EVE, "late")
    table.link(late, sides[2])
    assert late.peer.sync.versions() == sides[0].peer.sync.versions()


def test_news_that_came_before_its_author_was_known_is_taken_when_it_comes_again() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    models = sealed(EVE, MODELS, "0", body=pack(ModelsBody((model(),))))
    node = sealed(EVE, NODE, body=pack(NodeRecord("eve", (ADDRESS,), certificate(EVE.node_id))))
    anna.hears(BERT.node_id, Gossip(models))
    assert anna.peer.sync.stats.unknown_author == 1
    anna.hears(BERT.node_id, Records((node, models)))
    assert anna.peer.sync.record(EVE.node_id, MODELS, "0") is not None
    assert anna.faults() == []


def test_a_copy_of_a_record_is_neither_read_nor_passed_on_again() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    for member in (BERT, EVE):
        table.verified(anna, member)
        anna.hears(member.node_id, Neighbour(Contact(member.node_id, ())))
    node = sealed(BERT, NODE, body=pack(NodeRecord("bert", (ADDRESS,), certificate(BERT.node_id))))
    for source in (BERT, EVE, BERT):
        anna.hears(source.node_id, Gossip(node))
    assert [send.to for send in anna.of(Send) if send.message == Gossip(node, 1)] == [EVE.node_id]
    assert anna.peer.plumtree.stats.duplicates == 2
    assert anna.peer.sync.stats.accepted == 1


# --- pages --------------------------------------------------------------------------------------------------------


def test_many_models_travel_in_pages_and_shrink_again() -> None:
    _, anna, bert = pair()
    many = [model(f"{number}-" + "x" * 100) for number in range(600)]
    bert.tells(lambda peer, now: peer.publish_models(now, many))
    assert anna.models() == [record.name for record in many]
    pages = [slot for slot in anna.peer.sync.versions() if slot[1] == MODELS]
    assert len(pages) > 2
    bert.tells(lambda peer, now: peer.publish_models(now, many[:1]))
    assert anna.models() == [many[0].name]
    bert.tells(lambda peer, now: peer.publish_models(now, many))
    bert.tells(lambda peer, now: peer.publish_models(now, []))
    bert.tells(lambda peer, now: peer.publish_models(now, []))
    assert anna.models() == []


def test_a_page_that_did_not_change_is_not_sent_again() -> None:
    _, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    accepted = anna.peer.sync.stats.accepted
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    assert anna.peer.sync.stats.accepted == accepted


def test_a_page_holds_512_adverts_at_most() -> None:
    _, anna, bert = pair()
    small = [capability(str(number)) for number in range(513)]
    bert.tells(lambda peer, now: peer.publish_capabilities(now, small))
    assert len(anna.peer.offers(anna.table.now)) == 513
    assert anna.faults() == []


def test_too_many_adverts_are_refused_at_the_author_and_one_too_large_is_left_out() -> None:
    _, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    huge = capability("huge", description="ü" * 1_024, examples=("ü" * 512,) * 32, backend="ü" * 128)
    giant = capability("giant", examples=("😀" * 512,) * 32)
    many = [capability(str(number), examples=("x" * 512,) * 32) for number in range(80)]
    with pytest.raises(WireError):
        bert.peer.publish_capabilities(bert.table.now, many)
    assert len(anna.peer.offers(anna.table.now)) == 1
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [giant, huge]))
    assert [offer.capability for offer in anna.peer.offers(anna.table.now)] == [huge]
    assert bert.emitted(AdvertLeftOut)[0].name == giant.id
    assert anna.faults() == []


def test_one_advert_that_no_node_would_accept_does_not_stop_the_others() -> None:
    _, anna, bert = pair()
    bad = [capability("bad", examples=("x" * 513,)), capability("\ud800")]
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [bad[0], capability(), bad[1]]))
    bert.tells(lambda peer, now: peer.publish_models(now, [model("x" * 200), model("good")]))
    assert [offer.capability for offer in anna.peer.offers(anna.table.now)] == [capability()]
    assert anna.models() == ["good"]
    assert [event.name for event in bert.emitted(AdvertLeftOut)] == [bad[0].id, bad[1].id, "x" * 200]
    assert bert.peer.stats.adverts_left_out == 3
    assert anna.faults() == []


# --- what the router sees -----------------------------------------------------------------------------------------


def test_offers_carry_the_way_and_the_load() -> None:
    table, anna, bert = pair()
    for side in (anna, bert):
        side.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
        side.peer.set_load(3)
    table.advance(5)
    (remote,) = anna.peer.offers(table.now)
    assert (remote.local, remote.path, remote.rtt_s, remote.load, remote.node_name) == (False, "lan", 0.0, 3, "bert")


def test_adverts_of_a_dead_node_are_gone_soon_and_its_name_is_not() -> None:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_models(now, [model()]))
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    anna.tells(lambda peer, now: peer.publish_models(now, [model("own")]))
    table.die(bert)
    table.advance(10)
    assert anna.emitted(NodeGone) == [NodeGone(bert.id)]
    assert anna.models() == ["own"]
    assert not list(anna.peer.offers(table.now))
    view = anna.peer.nodes(table.now)[1]
    assert (view.name, view.path, view.rtt_s, view.present) == ("bert", "", None, False)
    assert 0 < view.last_seen_s <= table.wall - START_S
    table.advance(10_000)
    view = anna.peer.nodes(table.now)[1]
    assert (view.name, view.path) == ("bert", "")
    assert 0 < view.last_seen_s <= table.wall - START_S
    assert anna.peer.name(bert.id) == "bert"


def test_a_peer_that_told_nobody_of_itself_still_sees_itself() -> None:
    anna = Table().add(ANNA)
    assert [(view.name, view.path) for view in anna.peer.nodes(anna.table.now)] == [("x", "self")]


def test_a_liar_about_its_load_is_not_negative() -> None:
    _, anna, bert = pair()
    anna.table.advance(0.2)
    link = anna.peer.detector.links[bert.id]
    link.pinged_at = anna.table.mono
    anna.hears(bert.id, Pong(link.nonce, -5))
    assert link.load == 0


# --- records that are not what their kind promises ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "key", "body"),
    [
        (NODE, "", b"rubbish"),
        (NODE, "", b""),
        (NODE, "extra", pack(NodeRecord("bert", (), certificate(BERT.node_id)))),
        (NODE, "", pack(NodeRecord("\x1b[2J", (), certificate(BERT.node_id)))),
        (NODE, "", pack(NodeRecord("eve", (), certificate(EVE.node_id)))),
        (MODELS, "0", pack(CapabilitiesBody((capability(),)))),
        ("capabilities", "0", pack(ModelsBody((model(),)))),
    ],
)
def test_a_body_that_is_not_what_its_kind_promises_is_a_fault(kind: str, key: str, body: bytes) -> None:
    _, anna, bert = pair()
    before = anna.peer.sync.versions()
    anna.hears(bert.id, Gossip(sealed(BERT, kind, key, (9, 9), body)))
    assert len(anna.faults()) == 1
    assert anna.peer.sync.versions() == before


def test_a_certificate_whose_issuer_is_not_known_is_refused_in_silence() -> None:
    """The issuer may be a founder by a hand-over that this node has not heard of."""
    _, anna, bert = pair()
    before = anna.peer.sync.versions()
    anna.hears(bert.id, Gossip(sealed(BERT, NODE, "", (9, 9), pack(NodeRecord("b", (), certificate(bert.id, EVE))))))
    assert anna.faults() == []
    assert anna.peer.sync.stats.unknown_author == 1
    assert anna.peer.sync.versions() == before


def test_kinds_of_a_later_version_are_kept_and_passed_on() -> None:
    _, sides = line(3)
    envelope = sealed(signer("node 0"), "weather", "today", body=b"anything")
    sides[1].hears(sides[0].id, Gossip(envelope))
    assert sides[2].peer.sync.record(sides[0].id, "weather", "today") is not None


def test_a_record_that_lives_too_long_is_refused_in_silence() -> None:
    _, anna, bert = pair()
    anna.hears(bert.id, Gossip(sealed(BERT, "weather", lifetime_s=4 * 3_600 + 1)))
    assert anna.faults() == []
    assert anna.peer.sync.record(bert.id, "weather") is None


def test_an_honest_neighbour_is_not_blamed_for_what_only_we_see_otherwise() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    short = certificate(EVE.node_id, lasts_s=-1_000)
    for number in range(40):
        body = pack(NodeRecord("eve", (), short))
        anna.hears(BERT.node_id, Gossip(sealed(EVE, NODE, version=(1, number), body=body)))
        anna.hears(BERT.node_id, Gossip(sealed(EVE, "weather", str(number))))
        anna.hears(BERT.node_id, Gossip(sealed(EVE, "weather", str(number), lifetime_s=0, issued_s=0)))
    assert anna.faults() == []
    assert anna.peer.is_ready(BERT.node_id)


def test_those_who_have_been_gone_longest_are_forgotten_first() -> None:
    table = Table(PeerConfig(gone=2))
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    others = [signer(f"node {number}") for number in range(4)]
    for other in others:
        node = NodeRecord("x", (ADDRESS,), certificate(other.node_id))
        anna.hears(BERT.node_id, Gossip(sealed(other, NODE, body=pack(node), issued_s=int(table.wall))))
        table.advance(1)
    table.advance(400)
    kept = [other.node_id for other in others[2:]]
    assert list(anna.peer._directory.gone) == list(anna.peer._directory.issued_s)[-2:] == kept
    assert set(anna.peer.hyparview.known) & {other.node_id for other in others} == set(kept)
    assert len(anna.disk()) == 2
    again = Table(PeerConfig(gone=1))
    again.mono, again.wall = table.mono, table.wall
    later = again.add(ANNA, "anna", epoch=2, records=anna.disk())
    assert list(later.peer._directory.gone) == kept[1:], "the disk too may hold more than there is room for"
