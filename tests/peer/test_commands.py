"""What the shell and the services ask of a peer: links on demand, budgets, routes, and rights in the middle of it."""

from __future__ import annotations

import pytest

from atmo.engine import Contact, Dial, Hangup, Send, Store
from atmo.errors import WireError
from atmo.gossip.messages import Gossip, Hello, Neighbour, Ping, Prune
from atmo.gossip.records import NODE, REVOCATION_LIFETIME_S, Hardware, NodeRecord
from atmo.gossip.sync import store_key
from atmo.identity import NodeId
from atmo.peer import LinkReady, LinkView, PeerConfig, Unreachable
from atmo.peer.budgets import BudgetsConfig, Rate
from atmo.peer.links import LinksConfig
from atmo.peer.peer import FORWARD
from atmo.peer.renewal import CERTIFICATE_KEY, CertificateRenewed, Renew, Renewed
from atmo.peer.rights import RedeemedTwice, Succeeded, Successions
from atmo.peer.routes import RouteEnded, RouteFound
from atmo.trust.records import REDEMPTION, SUCCESSION, RedemptionBody, SuccessionBody
from atmo.wire.address import Address
from atmo.wire.schema import pack, unpack_untrusted
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Side, Table, pair
from tests.trust.kit import (
    ADMIN,
    ANNA,
    BERT,
    EVE,
    FOUNDER,
    MESH,
    START_S,
    YEAR_S,
    admin_certificate,
    certificate,
    signer,
)

HEIR = signer("heir")

# --- links on demand ----------------------------------------------------------------------------------------------


def test_who_is_known_is_reached_and_once_is_enough() -> None:
    table, anna, bert = pair()
    eve = table.add(EVE, "eve")
    table.link(bert, eve)
    table.advance(10)
    table.answering = True
    table.forget_logs()
    for _ in range(2):
        anna.tells(lambda peer, now: peer.reach(now, eve.id))
    assert len(anna.of(Dial)) <= 1
    assert anna.peer.is_ready(eve.id)
    table.forget_logs()
    anna.tells(lambda peer, now: peer.reach(now, eve.id))
    assert anna.log == [], "there is a link"


def test_a_lie_about_where_a_member_is_does_not_hide_it() -> None:
    """What is said on a LAN is tried first, and what its record says all the same."""
    table, anna, bert = pair()
    eve = table.add(EVE, "eve")
    table.link(bert, eve)
    table.advance(10)
    (known,) = [view for view in anna.peer.nodes(table.now) if view.node == eve.id]
    lies = [Address("10.9.9.9", port) for port in range(1, 10)]
    table.forget_logs()
    anna.tells(lambda peer, now: peer.nearby(now, eve.id, lies))
    assert anna.of(Dial) == [Dial(eve.id, (*lies[:4], *known.addresses))]
    stranger = signer("nobody knows me").node_id
    anna.tells(lambda peer, now: peer.nearby(now, stranger, lies))
    assert anna.of(Dial)[-1] == Dial(stranger, tuple(lies[:4]))
    assert anna.peer.known() == {anna.id, bert.id, eve.id}


def test_who_does_not_answer_or_is_not_known_is_unreachable() -> None:
    table, anna, bert = pair()
    table.die(bert)
    table.advance(15)
    table.forget_logs()
    anna.tells(lambda peer, now: peer.reach(now, bert.id))
    assert anna.emitted(Unreachable) == [Unreachable(bert.id)]
    anna.tells(lambda peer, now: peer.reach(now, EVE.node_id))
    assert anna.emitted(Unreachable)[1:] == [Unreachable(EVE.node_id)]


def test_a_link_that_something_holds_is_not_idle_and_is_watched() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    for _ in range(2):
        anna.peer.hold(table.now, BERT.node_id)
    for _ in range(100):
        anna.hears(BERT.node_id, Ping(1))
        table.advance(1)
    assert anna.peer.is_ready(BERT.node_id)
    assert BERT.node_id in anna.peer.detector.links
    anna.peer.release(table.now, BERT.node_id)
    assert BERT.node_id in anna.peer.detector.links
    anna.peer.release(table.now, BERT.node_id)
    anna.peer.release(table.now, BERT.node_id)
    assert BERT.node_id not in anna.peer.detector.links
    table.advance(50)
    assert anna.hangups() == ["idle"]
    anna.peer.hold(table.now, BERT.node_id)
    anna.peer.release(table.now, BERT.node_id)


def test_a_held_link_over_which_nothing_comes_is_hung_up() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    anna.peer.hold(table.now, BERT.node_id)
    table.advance(15)
    assert anna.hangups()[0].startswith("nothing heard for")


def test_links_are_told_for_people() -> None:
    table, anna, bert = pair()
    table.verified(anna, EVE)
    table.advance(3)
    assert anna.peer.links(table.now) == [
        LinkView(bert.id, "lan", 0.0, table.mono, True),
        LinkView(EVE.node_id, "direct", None, 3.0, False),
    ]
    assert anna.peer.is_present(anna.id)
    assert anna.peer.is_present(bert.id)
    assert not anna.peer.is_present(EVE.node_id), "she told nobody of herself"


def test_a_forwarded_link_is_for_requests_alone() -> None:
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT, "bert")
    table.link(anna, bert, FORWARD)
    table.advance(5)
    assert anna.peer.is_ready(bert.id)
    assert anna.peer.neighbours() == bert.peer.neighbours() == []
    anna.hears(bert.id, Neighbour(Contact(bert.id, (ADDRESS,))))
    assert anna.peer.neighbours() == []
    table.cut(anna.id, bert.id)
    table.advance(1)
    assert anna.faults() == []


def test_a_link_that_is_replaced_before_its_hello_makes_nobody_unreachable() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    anna.peer.link_up(table.now, BERT.node_id, "direct")
    table.verified(anna, BERT)
    assert anna.emitted(LinkReady) == [LinkReady(BERT.node_id)]
    assert anna.emitted(Unreachable) == []


def test_a_route_leads_through_neighbours() -> None:
    table, anna, bert = pair()
    eve = table.add(EVE, "eve")
    table.link(bert, eve)
    search = anna.peer.find_route(table.now, eve.id, table.mono + 5)
    table.settle()
    table.advance(10)
    assert anna.emitted(RouteFound) == [RouteFound(search, (bert.id, eve.id))]
    assert anna.emitted(RouteEnded) == [RouteEnded(search)]
    table.forget_logs()
    search = anna.peer.find_route(table.now, eve.id, table.mono + 5)
    anna.peer.cancel_route(table.now, search)
    table.settle()
    table.advance(10)
    assert anna.emitted(RouteFound) == []
    assert anna.emitted(RouteEnded) == []


# --- budgets ------------------------------------------------------------------------------------------------------


def limited(budgets: BudgetsConfig) -> tuple[Table, Side]:
    table = Table(PeerConfig(budgets=budgets))
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    return table, anna


def test_who_sends_more_messages_than_anyone_may_is_not_read_and_in_the_end_kept_out() -> None:
    _, anna = limited(BudgetsConfig(messages=Rate(0.001, 5.0)))
    for _ in range(7):
        anna.hears(BERT.node_id, Prune())
    assert anna.faults() == ["more messages than anyone may send"] * 2
    assert anna.peer.is_ready(BERT.node_id)
    for _ in range(20):
        anna.hears(BERT.node_id, Prune())
    assert anna.hangups() == ["16 broken messages"]


def test_bytes_count_too() -> None:
    table, anna = limited(BudgetsConfig(bytes=Rate(1.0, 1_000.0)))
    for _ in range(3):
        anna.peer.receive(table.now, BERT.node_id, Prune(), 400)
    table.settle()
    assert anna.faults() == ["more messages than anyone may send"]


def test_signatures_beyond_the_budget_are_not_looked_at_and_nobody_is_blamed() -> None:
    _, anna = limited(BudgetsConfig(signatures=Rate(0.001, 2.0)))
    for number in range(4):
        anna.hears(BERT.node_id, Gossip(sealed(BERT, "weather", str(number))))
    assert anna.peer.sync.stats.accepted == 2
    assert anna.faults() == []


def test_streams_are_counted() -> None:
    table, anna = limited(BudgetsConfig(streams=Rate(0.001, 2.0)))
    assert [anna.peer.admits_stream(table.now, BERT.node_id) for _ in range(3)] == [True, True, False]
    table.settle()
    assert anna.faults() == ["more requests than anyone may open"]


# --- hand-overs before the Hello ----------------------------------------------------------------------------------


def handed_over() -> bytes:
    return sealed(FOUNDER, SUCCESSION, body=pack(SuccessionBody(HEIR.node_id)), lifetime_s=REVOCATION_LIFETIME_S)


def test_a_member_of_a_new_founder_is_understood_by_one_who_was_away() -> None:
    table = Table()
    founder, heir = table.add(FOUNDER, "founder"), table.add(HEIR, "heir")
    table.link(founder, heir)
    founder.tells(lambda peer, now: peer.hand_over(now, heir.id))
    table.advance(3)
    assert heir.emitted(Succeeded) == [Succeeded(founder.id, heir.id)]
    anna = table.add(ANNA, "anna")
    table.link(anna, heir)
    assert [type(send.message) for send in heir.of(Send) if send.to == anna.id][:2] == [Successions, Hello]
    assert anna.peer.trust.is_founder(heir.id)
    table.verified(anna, BERT)
    table.stranger(anna, EVE.node_id)
    anna.hears(EVE.node_id, Hello(MESH, certificate(EVE.node_id, HEIR)))
    assert anna.peer.is_ready(EVE.node_id)
    assert anna.faults() == []


def test_successions_come_once_and_are_what_they_say() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.stranger(anna, EVE.node_id)
    anna.hears(EVE.node_id, Successions((handed_over(),)))
    anna.hears(EVE.node_id, Hello(MESH, certificate(EVE.node_id, HEIR)))
    assert anna.peer.is_ready(EVE.node_id)
    anna.hears(EVE.node_id, Successions((b"rubbish",)))
    assert anna.faults() == [], "a second one is not read"
    table.stranger(anna, BERT.node_id)
    anna.hears(BERT.node_id, Successions((b"rubbish",)))
    assert anna.faults() == ["successions that are none"]
    assert anna.hangups() == ["say Hello first"]
    table.stranger(anna, ADMIN.node_id)
    anna.hears(ADMIN.node_id, Successions(()))
    anna.hears(ADMIN.node_id, Successions(()))
    assert anna.faults()[1:] == ["a message before its Hello"]


def test_rubbish_for_successions_after_the_hello_is_no_strangers_fault() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, EVE)
    anna.hears(EVE.node_id, Successions((b"rubbish",)))
    assert anna.peer.is_ready(EVE.node_id)


def test_whose_founder_handed_over_stays_a_member_and_is_heard() -> None:
    table, anna, bert = pair()
    anna.hears(bert.id, Gossip(handed_over()))
    table.advance(40)
    assert anna.emitted(Succeeded) == [Succeeded(FOUNDER.node_id, HEIR.node_id)]
    assert anna.peer.is_ready(bert.id)
    assert bert.peer.trust.is_founder(HEIR.node_id)


# --- certificates and codes ---------------------------------------------------------------------------------------


def test_a_renewed_certificate_is_shown_from_then_on() -> None:
    table = Table()
    old = certificate(ANNA.node_id, issued_s=START_S - int(0.9 * YEAR_S))
    founder, anna = table.add(FOUNDER, "founder"), table.add(ANNA, "anna", sealed=old)
    bert = table.add(BERT, "bert")
    table.link(founder, anna)
    table.link(founder, bert)
    table.advance(60)
    assert len(anna.emitted(CertificateRenewed)) == 1
    assert [type(send.message) for send in anna.of(Send) if isinstance(send.message, Renew)] == [Renew]
    member = anna.peer.member(anna.id)
    assert member is not None
    assert member.expires_s > table.wall + YEAR_S / 2
    assert [store.value for store in anna.of(Store) if store.key == CERTIFICATE_KEY] == [member.sealed]
    record = bert.peer.sync.record(anna.id, NODE)
    assert record is not None
    assert unpack_untrusted(NodeRecord, record.body).certificate == member.sealed
    assert anna.peer.index.certificate == member.sealed
    table.stranger(anna, EVE.node_id)
    hello = next(send.message for send in anna.of(Send) if send.to == EVE.node_id)
    assert isinstance(hello, Hello)
    assert hello.certificate == member.sealed
    assert [send for send in founder.of(Send) if isinstance(send.message, Renewed)] != []


def test_a_code_that_let_in_two_is_told() -> None:
    _, anna, bert = pair()
    key = "ab" * 32
    for admin, node in ((FOUNDER, EVE), (ADMIN, HEIR)):
        proof = None if admin is FOUNDER else admin_certificate()
        body = pack(RedemptionBody(node.node_id, proof))
        anna.hears(bert.id, Gossip(sealed(admin, REDEMPTION, key, body=body, lifetime_s=86_400)))
    assert anna.emitted(RedeemedTwice) == [RedeemedTwice(key, (EVE.node_id, HEIR.node_id))]
    assert anna.faults() == []


def test_only_who_may_hands_over() -> None:
    table, anna, bert = pair()
    with pytest.raises(WireError, match="only a founder"):
        anna.peer.hand_over(table.now, bert.id)


def test_one_that_told_nobody_of_itself_gets_a_new_certificate_in_silence() -> None:
    table = Table()
    anna = table.add(ANNA, sealed=certificate(ANNA.node_id, issued_s=START_S - int(0.9 * YEAR_S)))
    founder = table.add(FOUNDER, "founder")
    table.link(anna, founder)
    table.advance(60)
    assert len(anna.emitted(CertificateRenewed)) == 1
    assert anna.peer.sync.record(anna.id, NODE) is None
    anna.peer.presence._refute_at = table.mono
    table.advance(5)
    assert anna.peer.sync.record(anna.id, NODE) is None, "and has nothing to answer with"


def test_a_node_whose_own_record_is_gone_is_not_gone_to_itself() -> None:
    table, anna, bert = pair()
    anna.peer.sync._remove((anna.id, NODE, ""))
    anna.peer._settle(table.now)
    assert anna.peer.is_present(anna.id)
    assert anna.names() == ["x", "bert"], "its certificate has a name, too"
    assert anna.peer.neighbours() == [bert.id]


def test_a_hand_over_holds_when_its_record_is_over() -> None:
    table, anna, bert = pair()
    anna.hears(bert.id, Gossip(handed_over()))
    table.wall += REVOCATION_LIFETIME_S + 100
    table.advance(60)
    assert anna.peer.sync.record(FOUNDER.node_id, SUCCESSION) is None
    assert anna.peer.trust.is_founder(HEIR.node_id)


def test_the_end_of_a_link_that_is_gone_is_asked_of_nobody() -> None:
    table, anna, bert = pair()
    anna.peer._move(table.now, Hangup(EVE.node_id, "silent"))
    table.settle()
    assert anna.hangups() == []
    assert anna.peer.is_ready(bert.id)


def test_something_whose_timer_does_not_move_on_stops_nobody() -> None:
    table, anna, _ = pair()
    anna.peer._look_at_size = lambda now: None  # type: ignore[method-assign]
    anna.peer._next_look = 0.0
    anna.peer.handle_timer(table.now)


# --- bounds of what is waiting ------------------------------------------------------------------------------------


def test_a_member_that_was_put_out_is_not_dialled_though_it_waits_for_its_turn() -> None:
    table = Table(PeerConfig(links=LinksConfig(dials=1)))
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    node = NodeRecord("eve", (ADDRESS,), certificate(EVE.node_id))
    anna.hears(BERT.node_id, Gossip(sealed(EVE, NODE, body=pack(node))))
    anna.peer._links.dial(table.now, Contact(NodeId(b"\x02" * 32), (ADDRESS,)))
    anna.peer.reach(table.now, EVE.node_id)
    revoker = table.add(FOUNDER, "founder")
    revoker.tells(lambda peer, now: peer.revoke(now, EVE.node_id))
    deed = revoker.peer.sync.envelope(FOUNDER.node_id, "revocation", str(EVE.node_id))
    assert deed is not None
    anna.hears(BERT.node_id, Gossip(deed))
    assert not anna.peer._links.is_dialling(EVE.node_id)
    assert Store(store_key((EVE.node_id, NODE, "")), None) in anna.log


def test_whoever_was_just_heard_of_is_dialled_where_it_said() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    there = Address("198.51.100.4", 4)
    anna.tells(lambda peer, now: peer.reach(now, EVE.node_id, (there,)))
    assert anna.of(Dial) == [Dial(EVE.node_id, (there,))]


def test_a_node_says_at_which_relay_it_is_found() -> None:
    _, anna, bert = pair()
    assert bert.peer.relay_of(anna.id) is None
    assert bert.peer.relay_of(NodeId(b"\x02" * 32)) is None
    anna.tells(lambda peer, now: peer.publish_relay(now, "wss://relay.example.org/"))
    assert bert.peer.relay_of(anna.id) == "wss://relay.example.org/"
    assert anna.peer.addresses() == (ADDRESS,)
    sequence = anna.peer.sync.record(anna.id, NODE)
    anna.tells(lambda peer, now: peer.publish_relay(now, "wss://relay.example.org/"))
    assert anna.peer.sync.record(anna.id, NODE) == sequence, "nothing new"
    anna.tells(lambda peer, now: peer.publish_node(now, "anna", [ADDRESS], "2", Hardware()))
    assert bert.peer.relay_of(anna.id) == "wss://relay.example.org/", "it says who it is anew, and is still there"
    anna.tells(lambda peer, now: peer.publish_relay(now, None))
    assert bert.peer.relay_of(anna.id) is None


def test_who_has_not_said_who_it_is_says_of_no_relay() -> None:
    table = Table()
    anna = table.add(ANNA)
    anna.tells(lambda peer, now: peer.publish_relay(now, "wss://relay.example.org/"))
    assert anna.peer.relay_of(anna.id) is None


def test_a_forwarded_link_that_finds_a_better_path_is_as_good_as_any() -> None:
    table = Table()
    anna, bert = table.add(ANNA, "anna"), table.add(BERT, "bert")
    table.link(anna, bert, FORWARD)
    assert anna.peer.neighbours() == []
    for side, other in ((anna, bert), (bert, anna)):
        side.peer.path_changed(table.now, other.id, "punched")
    table.advance(20)
    assert anna.peer.neighbours() == [bert.id]
    assert [view.path for view in anna.peer.links(table.now)] == ["punched"]
    anna.tells(lambda peer, now: peer.path_changed(now, bert.id, "lan"))
    anna.tells(lambda peer, now: peer.path_changed(now, bert.id, "lan"))
    anna.tells(lambda peer, now: peer.path_changed(now, EVE.node_id, "lan"))
    assert [view.path for view in anna.peer.links(table.now)] == ["lan"]


def test_a_path_may_change_before_the_hello() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.stranger(anna, EVE.node_id)
    anna.tells(lambda peer, now: peer.path_changed(now, EVE.node_id, "punched"))
    assert anna.peer.neighbours() == []
