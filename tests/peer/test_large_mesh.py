"""A mesh beyond the census: records stay near, the index finds what is far, and back again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from atmo.engine import Send
from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.gossip.messages import Gossip, Hello, Introduce, Neighbour, Records
from atmo.gossip.records import MODELS, NODE, Record
from atmo.identity import NodeId
from atmo.index.events import LookupDone, NodeFound, ProviderFound
from atmo.index.keys import capability_key, manifest_key, model_key, node_key
from atmo.index.messages import Provide
from atmo.index.records import Provider, seal_provider
from atmo.peer import LinkReady, PeerConfig, Unreachable
from atmo.peer.scale import ScaleConfig
from atmo.wire.address import Contact
from tests.peer.kit import ADDRESS, Side, Table, capability, model
from tests.trust.kit import ANNA, BERT, EVE, MESH, START_S, certificate, signer

SMALL_CENSUS = ScaleConfig(census=3, hysteresis=0.3)
"""Whoever came to think that the mesh is large keeps to it."""


def line(count: int, scale: ScaleConfig = SMALL_CENSUS) -> tuple[Table, list[Side]]:
    """A large mesh, as its members think, each linked to the next."""
    table = Table(PeerConfig(scale=scale))
    sides = [table.add(signer(f"node {number}"), f"n{number}") for number in range(count)]
    for one, two in pairwise(sides):
        table.link(one, two)
    table.advance(30)
    assert all(side.peer.mesh_size.large for side in sides)
    return table, sides


@pytest.fixture(scope="module")
def wide() -> tuple[Table, list[Side]]:
    """A large mesh of eight that dial each other, with two neighbours each."""
    table = Table(PeerConfig(scale=SMALL_CENSUS, hyparview=HyParViewConfig(active=3, active_least=2)))
    table.answering = True
    sides = [table.add(signer(f"node {number}"), f"n{number}") for number in range(8)]
    for one, two in pairwise(sides):
        table.link(one, two, spread_s=0.5)
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    sides[0].tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    table.advance(45)
    return table, sides


def test_near_records_reach_linked_nodes_only() -> None:
    table, sides = line(4)
    table.forget_logs()
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    table.advance(60)
    held = [side.peer.sync.record(sides[0].id, MODELS, "0") for side in sides]
    assert [record is not None and record.near for record in held] == [True, True, False, False]
    assert held[2:] == [None, None]
    assert [side.models() for side in sides] == [["iris"], ["iris"], [], []]
    told = [send for side in sides for send in side.of(Send) if isinstance(send.message, Gossip)]
    assert told == []
    assert all(side.faults() == [] for side in sides)


def test_what_was_told_to_everyone_before_expires_where_it_is_far() -> None:
    table, sides = line(4)
    assert sides[3].peer.sync.record(sides[0].id, NODE) is not None
    table.advance(500)
    assert sides[1].peer.sync.record(sides[0].id, NODE) is not None
    assert sides[3].peer.sync.record(sides[0].id, NODE) is None
    assert "n0" in sides[3].names(), "remembered, as one who may be gone"
    assert not sides[3].peer.is_present(sides[0].id)


def test_a_new_neighbour_gets_all_near_records_at_once() -> None:
    table, sides = line(4)
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    sides[0].tells(lambda peer, now: peer.publish_capabilities(now, [capability()]))
    table.link(sides[0], sides[3])
    assert sides[3].models() == ["iris"]
    assert [offer.node for offer in sides[3].peer.offers(table.now)] == [sides[0].id]


def test_who_asks_gets_near_records_and_not_again_and_again() -> None:
    table, sides = line(4)
    anna = sides[0]
    table.verified(anna, ANNA)
    table.forget_logs()
    for _ in range(3):
        anna.hears(ANNA.node_id, Introduce())
    assert len([send for send in anna.of(Send) if isinstance(send.message, Records)]) == 1
    table.advance(10)
    anna.hears(ANNA.node_id, Introduce())
    assert len([send for send in anna.of(Send) if send.to == ANNA.node_id and isinstance(send.message, Records)]) == 2


def test_who_is_reached_is_asked_what_it_offers() -> None:
    table, sides = line(4)
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    table.answering = True
    sides[3].tells(lambda peer, now: peer.reach(now, sides[0].id))
    assert sides[3].models() == ["iris"]


def test_who_is_linked_and_reached_is_asked_at_once_what_it_offers() -> None:
    table, sides = line(4)
    table.forget_logs()
    sides[0].tells(lambda peer, now: peer.reach(now, sides[1].id))
    assert [send.message for send in sides[0].of(Send) if isinstance(send.message, Introduce)] == [Introduce()]


def test_a_near_record_from_another_than_its_author_is_a_fault() -> None:
    _, sides = line(4)
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    envelope = sides[0].peer.sync.envelope(sides[0].id, MODELS, "0")
    assert envelope is not None
    sides[2].hears(sides[1].id, Records((envelope,)))
    assert len(sides[2].faults()) == 1


def test_a_mesh_that_shrinks_tells_everybody_everything_again() -> None:
    table, sides = line(4, ScaleConfig(census=3))
    sides[0].tells(lambda peer, now: peer.publish_models(now, [model()]))
    sides[0].tells(lambda peer, now: peer.publish_models(now, []))
    sides[1].tells(lambda peer, now: peer.publish_models(now, [model("far")]))
    for side in sides[2:]:
        for other in sides:
            table.cut(side.id, other.id)
        del table.sides[side.id]
    table.advance(700)
    assert not sides[0].peer.mesh_size.large
    late = table.add(BERT, "bert")
    table.link(late, sides[0])
    table.advance(5)
    assert late.models() == ["far"]
    assert not any(record.near for record in records_of(late))


def records_of(side: Side) -> list[Record]:
    return [entry.record for _, entry in side.peer.sync.table.items()]


def test_providers_are_found_from_anywhere(wide: tuple[Table, list[Side]]) -> None:
    table, sides = wide
    own = sides[0].id
    keys = [model_key("iris"), manifest_key(b"m" * 32), capability_key("classify"), node_key(own)]
    assert sorted(sides[0].peer.index.provided()) == sorted(keys)
    seeker = sides[6]
    table.cut(seeker.id, own)
    for key in keys:
        table.forget_logs()
        query = seeker.peer.find_providers(table.now, key)
        table.settle()
        table.advance(10)
        assert [found.contact.node for found in seeker.emitted(ProviderFound) if found.query == query] == [own]
        assert [done.found for done in seeker.emitted(LookupDone) if done.query == query] == [1]
    assert all(side.faults() == [] for side in sides)


def test_a_query_that_was_cancelled_says_nothing(wide: tuple[Table, list[Side]]) -> None:
    table, sides = wide
    table.forget_logs()
    query = sides[5].peer.find_providers(table.now, b"\x07" * 32)
    sides[5].peer.cancel_query(table.now, query)
    table.settle()
    table.advance(10)
    assert [done for done in sides[5].emitted(LookupDone) if done.query == query] == []


def test_a_node_is_found_by_its_id(wide: tuple[Table, list[Side]]) -> None:
    table, sides = wide
    table.forget_logs()
    query = sides[3].peer.find_node(table.now, sides[7].id)
    table.settle()
    table.advance(10)
    assert {found.contact.node for found in sides[3].emitted(NodeFound) if found.query == query} == {sides[7].id}


def test_a_node_whose_addresses_nobody_here_knows_is_reached_through_the_index(wide: tuple[Table, list[Side]]) -> None:
    table, sides = wide
    seeker = sides[4]
    stranger = table.add(signer("far"), "far")
    table.link(stranger, sides[6])
    table.advance(60)
    if seeker.peer._contact(stranger.id).addresses:
        seeker.peer._directory.nodes.pop(stranger.id, None)
        seeker.peer.hyparview._book.forget(stranger.id)
        seeker.peer.index._table.drop(stranger.id)
    table.cut(seeker.id, stranger.id)
    table.forget_logs()
    for _ in range(2):
        seeker.peer.reach(table.now, stranger.id)
    table.settle()
    table.advance(10)
    assert seeker.emitted(LinkReady).count(LinkReady(stranger.id)) == 1
    assert stranger.id in seeker.peer.linked()
    assert seeker.emitted(NodeFound) == []
    assert seeker.emitted(LookupDone) == [], "the search was this node's own affair"


def test_a_node_that_nobody_has_heard_of_cannot_be_reached(wide: tuple[Table, list[Side]]) -> None:
    table, sides = wide
    table.forget_logs()
    nobody = NodeId(b"\x01" * 32)
    sides[4].tells(lambda peer, now: peer.reach(now, nobody))
    table.advance(20)
    assert sides[4].emitted(Unreachable) == [Unreachable(nobody)]


def test_models_that_are_gone_are_withdrawn_from_the_index() -> None:
    _, sides = line(4)
    sides[1].tells(lambda peer, now: peer.publish_models(now, [model()]))
    assert model_key("iris") in sides[1].peer.index.provided()
    sides[1].tells(lambda peer, now: peer.publish_models(now, []))
    assert sides[1].peer.index.provided() == [node_key(sides[1].id)]


def test_in_a_large_mesh_nobody_is_told_who_is_absent() -> None:
    table, sides = line(4)
    table.die(sides[3])
    table.advance(60)
    assert not sides[2].peer.is_present(sides[3].id)
    assert [kind for side in sides[:3] for _, kind, _ in side.peer.sync.versions() if kind == "absent"] == []


def test_a_newcomer_believes_what_its_neighbours_say_of_the_size() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.stranger(anna, BERT.node_id)
    anna.hears(BERT.node_id, Hello(MESH, certificate(BERT.node_id), size=5_000))
    assert anna.peer.mesh_size.large
    record = anna.peer.sync.record(anna.id, NODE)
    assert record is not None
    assert record.near
    anna.hears(BERT.node_id, Neighbour(Contact(BERT.node_id, ())))
    assert anna.faults() == []


def test_provider_records_of_strangers_are_not_kept() -> None:
    _, sides = line(4)
    before = sides[0].peer.index.held()
    stranger = Provider(b"k" * 32, (ADDRESS,), START_S, 1_200, 1, 1, b"no certificate")
    sides[0].hears(sides[1].id, Provide(7, seal_provider(EVE, MESH, stranger)))
    assert sides[0].peer.index.held() == before
