"""From a connection to a verified link and to its end: what counts when, and who is blamed for what."""

from __future__ import annotations

import pytest

from atmo.clock import Now
from atmo.engine import CancelFetch, Contact, Dial, FetchChunk, Send
from atmo.errors import WireError
from atmo.gossip.messages import Digest, Disconnect, Goodbye, Gossip, Hello, Neighbour, Ping, Pong, Records
from atmo.gossip.records import Hardware
from atmo.identity import NodeId
from atmo.peer import LinkAge, LinkLost, LinkReady, Peer, PeerConfig, Unreachable
from atmo.peer.budgets import BudgetsConfig, Rate
from atmo.peer.links import LinksConfig
from atmo.transfer.engine import TransferDone
from atmo.trust.mesh import MeshTrust
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Table, model, pair
from tests.trust.kit import ADMIN, ANNA, BERT, EVE, GENESIS, MESH, admin_certificate, certificate, signer


def test_a_peer_needs_a_certificate_of_its_own() -> None:
    with pytest.raises(WireError, match="no certificate"):
        Peer(PeerConfig(), ANNA, MeshTrust(GENESIS), 1, "seed")


def test_two_members_link_and_know_each_other() -> None:
    _, anna, bert = pair()
    assert anna.peer.neighbours() == [bert.id]
    assert anna.emitted(LinkReady) == [LinkReady(bert.id)]
    assert anna.names() == ["anna", "bert"]
    assert anna.peer.is_ready(bert.id)
    assert anna.peer.name(bert.id) == "bert"
    assert anna.peer.name(EVE.node_id) == EVE.node_id.short
    member = anna.peer.member(bert.id)
    assert member is not None
    assert member.certificate.subject == bert.id
    assert anna.faults() == bert.faults() == []


def test_members_of_an_admin_show_its_certificate() -> None:
    table = Table()
    anna = table.add(ANNA, "anna", sealed=certificate(ANNA.node_id, ADMIN), issuer=admin_certificate())
    bert = table.add(BERT, "bert")
    table.link(anna, bert)
    assert bert.peer.is_ready(anna.id)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (Hello(b"m" * 32, certificate(EVE.node_id)), "another mesh"),
        (Hello(MESH, certificate(BERT.node_id)), "another node's"),
        (Hello(MESH, certificate(EVE.node_id, EVE)), "no founder"),
        (Hello(MESH, certificate(EVE.node_id, lasts_s=-100)), "expired"),
        (Hello(MESH, b"rubbish"), "tag"),
    ],
)
def test_who_does_not_prove_its_membership_is_hung_up_on(hello: Hello, why: str) -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.stranger(anna, EVE.node_id)
    anna.hears(EVE.node_id, hello)
    assert len(anna.hangups()) == 1
    assert why in anna.hangups()[0]
    assert why in anna.faults()[0]
    assert not anna.peer.is_ready(EVE.node_id)
    assert anna.peer.stats.hellos_refused == 1
    assert anna.emitted(LinkReady) == []
    assert anna.emitted(LinkLost) == []


@pytest.mark.parametrize("message", [Ping(1), Pong(1), Gossip(b""), Digest(b""), Records(()), Goodbye()])
def test_nothing_counts_before_a_hello(message: object) -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.stranger(anna, EVE.node_id)
    anna.peer.receive(table.now, EVE.node_id, message)
    anna.peer.receive(table.now, EVE.node_id, Hello(MESH, certificate(EVE.node_id)))
    anna.peer.malformed(table.now, EVE.node_id, "not CBOR")
    table.settle()
    assert anna.hangups() == ["say Hello first"]
    assert len(anna.faults()) == 1
    assert anna.peer.stats.dropped_unverified == anna.peer.stats.dropped_closing == 1


def test_who_says_no_hello_is_hung_up_on() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.stranger(anna, EVE.node_id)
    table.advance(4.9)
    assert anna.hangups() == []
    table.advance(0.2)
    assert anna.hangups() == ["no Hello in time"]


def test_a_second_hello_is_a_fault_but_no_crime() -> None:
    _, anna, bert = pair()
    anna.hears(bert.id, Hello(MESH, certificate(BERT.node_id)))
    assert anna.faults() == ["a second Hello"]
    assert anna.peer.is_ready(bert.id)


def test_words_of_somebody_without_a_link_are_dropped() -> None:
    _, anna, _ = pair()
    anna.hears(EVE.node_id, Ping(1))
    anna.hears(EVE.node_id, Hello(MESH, certificate(EVE.node_id)))
    assert anna.faults() == []
    assert anna.peer.stats.dropped_closing == 2


def test_strangers_at_once_are_bounded() -> None:
    table = Table(PeerConfig(links=LinksConfig(unverified=2)))
    anna = table.add(ANNA, "anna")
    for number in range(3):
        table.stranger(anna, signer(f"stranger {number}").node_id)
    assert anna.hangups() == ["too many links at once"]
    assert len(anna.of(Send)) == 2


def test_a_link_that_is_replaced_is_down_first() -> None:
    table, anna, bert = pair()
    table.forget_logs()
    table.link(anna, bert)
    assert anna.emitted(LinkLost) == [LinkLost(bert.id, "replaced by a newer link")]
    assert anna.emitted(LinkReady) == [LinkReady(bert.id)]
    assert anna.peer.neighbours() == [bert.id]
    assert bert.peer.neighbours() == [anna.id]


def test_a_node_with_all_the_links_that_it_can_hold_makes_room_or_refuses() -> None:
    """Whoever is no neighbour and unused for longest makes room; neighbours never do."""
    table = Table(PeerConfig(links=LinksConfig(most=1)))
    anna = table.add(ANNA, "anna")
    for member in (BERT, EVE):
        table.verified(anna, member)
    assert anna.hangups() == ["making room for another link"]
    assert anna.peer.linked() == [EVE.node_id]
    anna.hears(EVE.node_id, Neighbour(Contact(EVE.node_id, ()), priority=True))
    assert anna.peer.neighbours() == [EVE.node_id]
    table.verified(anna, BERT)
    assert anna.hangups()[1:] == ["making room for another link"]
    assert anna.peer.linked() == [EVE.node_id]
    table.advance(3)
    assert anna.faults() == []


def test_a_goodbye_ends_the_link_at_once() -> None:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.leave(now, "x" * 500))
    assert anna.peer.linked() == []
    assert anna.hangups() == ["it left: " + "x" * 200]
    assert not anna.peer.is_present(bert.id)
    assert anna.names() == ["anna", "bert"], "it is away, and remembered"
    table.advance(1)
    assert bert.peer.neighbours() == []


def test_a_silent_neighbour_is_hung_up_on() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, EVE)
    anna.hears(EVE.node_id, Neighbour(Contact(EVE.node_id, ())))
    table.advance(20)
    assert len(anna.hangups()) == 1
    assert anna.hangups()[0].startswith("nothing heard for")
    assert anna.emitted(LinkLost) == [LinkLost(EVE.node_id, "cut")]


def test_pings_keep_a_link_for_ever() -> None:
    table, anna, bert = pair()
    table.advance(600)
    assert anna.peer.neighbours() == [bert.id]
    assert anna.faults() == bert.faults() == []
    view = anna.peer.nodes(table.now)[1]
    assert view.rtt_s == 0
    assert view.last_seen_s < 10
    heard_s = view.last_seen_s
    anna.peer.link_down(table.now, bert.id, "cut")
    assert anna.peer.nodes(table.now)[1].last_seen_s == heard_s, "not when its last record was written"


def test_a_link_ends_with_the_certificate_of_its_other_end() -> None:
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT, "bert", sealed=certificate(BERT.node_id, lasts_s=1_000))
    table.link(anna, bert)
    table.advance(1_050)
    assert anna.peer.neighbours() == [bert.id]
    table.forget_logs()
    table.advance(15)
    assert anna.hangups() == ["its certificate has expired"]
    assert anna.peer.neighbours() == []
    table.forget_logs()
    table.advance(2_000)
    assert anna.of(Dial) == [], "who is no member is not dialled"
    assert bert.of(Dial) == [], "who is no member itself does not dial"
    assert anna.names() == ["anna"]


# --- dialling -----------------------------------------------------------------------------------------------------


def test_a_member_that_was_heard_of_is_dialled() -> None:
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT, "bert")
    anna.tells(lambda peer, now: peer.load_records(now, list(bert.peer.sync.envelopes("node"))))
    table.advance(5)
    assert anna.of(Dial)[0] == Dial(bert.id, (ADDRESS,))
    assert anna.emitted(Unreachable)[0] == Unreachable(bert.id)


def test_a_node_whose_certificate_is_not_known_yet_may_be_dialled() -> None:
    table, anna, _ = pair()
    anna.tells(lambda peer, now: peer.hyparview.learn(now, Contact(EVE.node_id, (ADDRESS,))))
    table.advance(1)
    assert anna.of(Dial)[0].node == EVE.node_id


# --- patience -----------------------------------------------------------------------------------------------------


def test_a_neighbour_that_breaks_too_much_is_kept_out_for_a_while() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, EVE)
    anna.tells(lambda peer, now: peer.hyparview.learn(now, Contact(EVE.node_id, (ADDRESS,))))
    for _ in range(20):
        anna.peer.malformed(table.now, EVE.node_id, "not CBOR")
    table.settle()
    assert anna.hangups() == ["16 broken messages"]
    assert anna.peer.stats.bans == 1
    table.forget_logs()
    table.stranger(anna, EVE.node_id)
    assert anna.hangups() == ["it broke the protocol"]
    table.advance(200)
    assert anna.of(Dial) == []
    table.advance(200)
    assert anna.of(Dial) != []
    table.verified(anna, EVE)
    assert anna.peer.is_ready(EVE.node_id)


def test_a_broken_message_now_and_then_is_forgiven() -> None:
    table, anna, bert = pair()
    for _ in range(50):
        anna.peer.malformed(table.now, bert.id, "not CBOR")
        table.advance(40)
    assert anna.peer.neighbours() == [bert.id]
    assert anna.peer.stats.misbehaved == 50


def test_broken_bytes_before_a_hello_end_the_link_and_whoever_repeats_them_is_kept_out() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    for _ in range(5):
        table.stranger(anna, EVE.node_id)
        for _ in range(3):
            anna.peer.malformed(table.now, EVE.node_id, "not CBOR")
        table.settle()
    assert anna.hangups() == ["say Hello first"] * 4 + ["it broke the protocol"]
    assert anna.faults() == ["not CBOR"] * 4
    assert anna.peer.stats.bans == 1
    table.advance(400)
    table.verified(anna, EVE)
    assert anna.peer.is_ready(EVE.node_id)


def test_strangers_do_not_make_room_for_a_neighbour_that_is_kept_out() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, EVE)
    for _ in range(16):
        anna.peer.malformed(table.now, EVE.node_id, "not CBOR")
    table.settle()
    for number in range(1_100):
        anna.peer.link_up(table.now, NodeId(number.to_bytes(32, "big")), "direct")
        anna.peer.malformed(table.now, NodeId(number.to_bytes(32, "big")), "not CBOR")
        anna.peer.link_down(table.now, NodeId(number.to_bytes(32, "big")), "cut")
    table.forget_logs()
    table.stranger(anna, EVE.node_id)
    assert anna.hangups()[-1] == "it broke the protocol"


def test_records_that_no_honest_node_passes_on_are_held_against_the_neighbour() -> None:
    _, anna, bert = pair()
    for number in range(16):
        anna.hears(bert.id, Gossip(b"rubbish %d" % number))
    assert anna.hangups() == ["16 broken messages"]
    assert anna.peer.neighbours() == []


def test_what_follows_a_lie_is_not_read() -> None:
    _, anna, bert = pair()
    anna.hears(bert.id, Records(tuple(b"rubbish %d" % number for number in range(64))))
    assert len(anna.faults()) == 1
    assert anna.peer.sync.stats.refused == 1


# --- transfers ----------------------------------------------------------------------------------------------------


def test_a_neighbour_that_dies_frees_the_chunks_it_owed() -> None:
    table, anna, bert = pair()
    anna.tells(lambda peer, now: peer.want(now, "t", [10, 10], set(), [bert.id]))
    assert sorted(fetch.index for fetch in anna.of(FetchChunk)) == [0, 1]
    table.cut(anna.id, bert.id)
    table.settle()
    assert sorted(fetch.index for fetch in anna.of(CancelFetch)) == [0, 1]


def test_wrong_chunks_are_held_against_their_source() -> None:
    table, anna, bert = pair()
    anna.tells(lambda peer, now: peer.want(now, "t", [10], set(), [bert.id]))
    anna.tells(lambda peer, now: peer.chunk_failed(now, FetchChunk("t", bert.id, 0), "wrong bytes", fatal=True))
    assert anna.faults() == ["wrong bytes"]
    assert anna.peer.stats.misbehaved == 1
    table.advance(20)


def test_holders_come_and_go() -> None:
    _, anna, bert = pair()
    fetch = FetchChunk("t", bert.id, 0)
    anna.tells(lambda peer, now: peer.want(now, "t", [10], set(), []))
    assert anna.of(FetchChunk) == []
    anna.tells(lambda peer, now: peer.holder_up(now, "t", bert.id))
    assert anna.of(FetchChunk) == [fetch]
    anna.tells(lambda peer, now: peer.holder_left(now, "t", bert.id))
    anna.tells(lambda peer, now: peer.holder_up(now, "t", bert.id))
    assert anna.of(FetchChunk) == [fetch, fetch]
    anna.tells(lambda peer, now: peer.chunk_done(now, fetch))
    assert anna.emitted(TransferDone) == [TransferDone("t")]
    anna.tells(lambda peer, now: peer.cancel(now, "t"))


def test_a_lie_outside_of_chunks_is_a_strike() -> None:
    _, anna, bert = pair()
    anna.tells(lambda peer, now: peer.accuse(now, bert.id, "a manifest that lies"))
    assert anna.faults() == ["a manifest that lies"]
    assert anna.peer.stats.misbehaved == 1


def test_who_joins_is_told_of_everyone() -> None:
    _, anna, _ = pair()
    late = Table().add(EVE, "late", records=anna.peer.node_records())
    assert late.names() == ["late", "anna", "bert"]


# --- time and repetition ------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_does_no_harm() -> None:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_models(now, [model()]))
    table.wall -= 30
    table.advance(300)
    assert anna.names() == ["anna", "bert"]
    assert anna.models() == ["iris"]
    assert anna.faults() == []


def test_the_same_inputs_give_the_same_effects() -> None:
    def play() -> list[object]:
        table = Table()
        sides = [table.add(signer(f"node {number}"), f"n{number}") for number in range(4)]
        for other in sides[1:]:
            table.link(sides[0], other)
        table.advance(150)
        return [effect for side in sides for effect in side.log]

    assert play() == play()


def test_an_own_name_is_printable() -> None:
    peer = Table().add(ANNA).peer
    for name in ("a\nb", "x" * 129):
        with pytest.raises(WireError, match="printable"):
            peer.publish_node(Now(0, 0), name, [], "1", Hardware())


@pytest.mark.parametrize(
    ("age_s", "old_outbound", "outbound", "stays"),
    [
        (1.0, True, False, True),
        (1.0, False, True, False),
        (1.0, True, True, False),
        (1.0, False, False, False),
        (6.0, True, False, False),
        (6.0, False, True, False),
    ],
)
def test_of_two_links_both_ends_keep_the_same(age_s: float, old_outbound: bool, outbound: bool, stays: bool) -> None:
    table = Table()
    small, large = sorted((table.add(ANNA), table.add(BERT)), key=lambda side: side.id)
    now = Now(age_s, table.wall)
    assert small.peer.keeps(now, large.id, LinkAge(old_outbound, 0.0), outbound) is stays
    assert large.peer.keeps(now, small.id, LinkAge(not old_outbound, 0.0), not outbound) is stays


def test_who_comes_and_goes_as_a_neighbour_is_not_told_everything_each_time() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    anna.tells(lambda peer, now: peer.publish_models(now, [model()]))
    table.verified(anna, BERT)
    table.forget_logs()
    for _ in range(5):
        anna.hears(BERT.node_id, Neighbour(Contact(BERT.node_id, (ADDRESS,)), priority=True))
        assert anna.peer.neighbours() == [BERT.node_id]
        anna.hears(BERT.node_id, Disconnect())
    told = [send for send in anna.of(Send) if isinstance(send.message, Gossip)]
    assert len(told) == 2, "its node record and its models, once"


def test_records_beyond_the_budget_are_not_looked_at() -> None:
    config = PeerConfig(budgets=BudgetsConfig(signatures=Rate(0.001, 2.0)))
    table = Table(config)
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    envelopes = tuple(sealed(BERT, "note", str(number), (1, number + 1)) for number in range(4))
    anna.hears(BERT.node_id, Records(envelopes))
    anna.hears(BERT.node_id, Gossip(envelopes[3]))
    held = [anna.peer.sync.record(BERT.node_id, "note", str(number)) is not None for number in range(4)]
    assert held.count(True) <= 2
    assert anna.faults() == []
