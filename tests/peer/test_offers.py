"""What a peer tells the router: arranged anew when what is offered changed, and only then."""

from __future__ import annotations

from atmo.gossip.records import NODE, NodeRecord
from atmo.peer import NodeGone
from atmo.router.offers import Offers
from tests.peer.kit import Side, Table, capability, pair
from tests.trust.kit import ANNA, BERT, EVE


def offers(side: Side) -> Offers:
    return side.peer.offers(side.table.now)


def offering() -> tuple[Table, Side, Side]:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    return table, anna, bert


def test_the_same_offers_are_the_same_object_whatever_becomes_of_the_way() -> None:
    table, anna, bert = offering()
    before = offers(anna)
    bert.peer.set_load(7)
    table.advance(5)
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    bert.tells(lambda peer, now: peer.publish_models(now, []))
    assert offers(anna) is before
    (offer,) = before
    assert (offer.load, offer.path, offer.rtt_s) == (7, "lan", 0.0)
    assert [one.load for one in before.lasting] == [0]


def test_a_renewed_record_of_the_same_node_changes_nothing_and_another_name_does() -> None:
    _, anna, bert = offering()
    before = offers(anna)
    record = anna.peer.sync.record(bert.id, NODE)
    bert.tells(lambda peer, now: peer.publish_relay(now, "https://relay.example"))
    assert anna.peer.sync.record(bert.id, NODE) != record
    assert offers(anna) is before
    said = bert.peer.sync.record(bert.id, NODE)
    assert said is not None
    address = bert.peer.addresses()
    bert.tells(lambda peer, now: peer.publish_node(now, "robert", address, "1.0", NodeRecord("", (), b"").hardware))
    assert [one.node_name for one in offers(anna)] == ["robert"]


def test_other_capabilities_are_other_offers() -> None:
    _, anna, bert = offering()
    bert.tells(lambda peer, now: peer.publish_capabilities(now, [capability("wine")]))
    assert [one.capability.model for one in offers(anna)] == ["wine"]
    bert.tells(lambda peer, now: peer.publish_capabilities(now, []))
    assert len(offers(anna)) == 0


def test_this_nodes_own_capabilities_are_not_among_them() -> None:
    _, anna, bert = offering()
    assert len(offers(bert)) == 0
    assert len(offers(anna)) == 1


def test_offers_of_a_node_that_is_gone_come_back_with_it() -> None:
    table, anna, bert = offering()
    table.die(bert)
    table.advance(10)
    assert anna.emitted(NodeGone)
    assert len(offers(anna)) == 0
    again = table.add(BERT, "bert", epoch=2)
    table.link(again, anna)
    again.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    assert len(offers(anna)) == 1


def test_offers_of_a_node_without_a_link_have_no_way() -> None:
    table = Table()
    anna, bert, eve = table.add(ANNA, "anna"), table.add(BERT, "bert"), table.add(EVE, "eve")
    table.link(anna, bert)
    table.link(bert, eve)
    eve.tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    (offer,) = offers(anna)
    assert (offer.node, offer.path, offer.rtt_s, offer.load) == (eve.id, "", None, 0)
