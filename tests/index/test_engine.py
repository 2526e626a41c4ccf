"""The engine, message by message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.clock import Now
from atmo.engine import Address, Ask, Contact, Emit, Misbehaved, Send
from atmo.identity import NodeId
from atmo.index import Index, IndexConfig, LookupDone, NodeFound, ProviderFound, Published
from atmo.index.keys import position, to_bytes
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from atmo.index.records import seal_provider
from tests.index.kit import (
    KEY,
    MESH,
    OWN,
    START_S,
    asks,
    at,
    contact,
    engine,
    events,
    node,
    of,
    provider,
    run,
    sealed,
    signer,
)

QUIET = IndexConfig(probe_s=1e6, settle_s=1e6, k=4, alpha=2, paths=1, publish_paths=1, cache=False)
"""Nothing but what a test asks for."""


def known(config: IndexConfig = QUIET, count: int = 3) -> Index:
    """Returns an engine that knows the nodes 1 to `count`."""
    index = engine(config)
    for number in range(1, count + 1):
        index.learn(at(0), contact(number))
    return index


def answer(index: Index, now: Now, *, silent: tuple[int, ...] = (), **fields: object) -> int:
    """Answers all requests that are under way, as often as new ones come; returns how many."""
    count = 0
    while requests := of(index.drain(), Ask):
        for request in requests:
            source, message = request.contact.node, request.message
            if source in [node(number) for number in silent]:
                continue
            count += 1
            if isinstance(message, Provide):
                index.receive(now, source, Provided(message.token, 1_200))
            else:
                index.receive(now, source, Found(message.token, **fields))  # type: ignore[arg-type]
    return count


# --- serving ----------------------------------------------------------------------------------------------------------


def test_it_answers_with_the_closest_contacts_but_not_the_asker_itself() -> None:
    index = known()
    index.receive(at(1), node(1), FindNode(7, KEY))
    (send,) = of(index.drain(), Send)
    assert send.to == node(1)
    target = int.from_bytes(KEY, "big")
    expected = sorted((contact(2), contact(3)), key=lambda other: position(MESH, other.node) ^ target)
    assert send.message == Found(7, tuple(expected), (), 0)


def test_who_asks_and_listens_is_known_from_then_on() -> None:
    index = engine(QUIET)
    index.receive(at(1), node(5), FindNode(7, KEY, contact(5)))
    assert index.contacts() == [contact(5)]
    assert index.contact_of(node(5)) == contact(5)
    assert index.contact_of(node(6)) is None


@pytest.mark.parametrize("message", [FindNode(1, b"short"), FindProviders(1, b"k" * 31), FindNode(1, KEY, contact(6))])
def test_a_request_out_of_form_is_misbehaviour(message: FindNode | FindProviders) -> None:
    index = engine(QUIET)
    index.receive(at(1), node(5), message)
    (effect,) = index.drain()
    assert isinstance(effect, Misbehaved)
    assert effect.peer == node(5)


def test_records_are_kept_and_answered() -> None:
    index = known()
    record = sealed(signer(50))
    index.receive(at(1), node(1), Provide(3, record.envelope))
    assert of(index.drain(), Send) == [Send(node(1), Provided(3, 1_259))]
    index.receive(at(2), node(2), FindProviders(4, KEY))
    found = of(index.drain(), Send)[0].message
    assert (found.providers, found.held) == ((record.envelope,), 1)
    index.receive(at(2), node(2), FindNode(5, KEY))
    found = of(index.drain(), Send)[0].message
    assert (found.providers, found.held) == ((), 1)
    assert index.providers(at(2), KEY) == [record]
    assert index.held() == 1
    index.receive(at(1_300), node(2), FindProviders(4, KEY))
    assert of(index.drain(), Send)[0].message.providers == ()


def test_an_answer_has_a_bounded_sample_of_the_records() -> None:
    size = len(sealed(signer(1)).envelope)
    index = known(replace(QUIET, answer_providers=3, answer_bytes=2 * size + 5))
    for number in range(10, 15):
        index.receive(at(1), node(1), Provide(3, sealed(signer(number)).envelope))
    index.drain()
    index.receive(at(2), node(2), FindProviders(4, KEY))
    assert len(of(index.drain(), Send)[0].message.providers) == 2


def test_a_record_that_does_not_count_here_and_now_is_not_kept() -> None:
    index = engine(QUIET, admit=lambda now, author, certificate, issuer: author != signer(51).node_id)
    late, early = sealed(signer(50), issued_s=START_S - 2_000), sealed(signer(50), issued_s=START_S + 100)
    for record in (late, early, sealed(signer(51))):
        index.receive(at(1), node(1), Provide(3, record.envelope))
        assert index.drain() == [Send(node(1), Provided(3, 0))]
    assert index.stats.refused == 3


def test_a_forged_record_is_misbehaviour() -> None:
    index = engine(QUIET)
    forged = seal_provider(signer(50), b"another mesh", provider())
    index.receive(at(1), node(1), Provide(3, forged))
    assert [effect.peer for effect in of(index.drain(), Misbehaved)] == [node(1)]


def test_far_from_the_key_a_record_stays_for_a_moment_only() -> None:
    index = engine(replace(QUIET, k=20, slack=2))
    for number in range(1, 200):
        index.learn(at(0), contact(number))
    far = to_bytes(position(MESH, OWN.node_id) ^ (2**256 - 1))
    index.receive(at(1), node(1), Provide(3, sealed(signer(50), key=far).envelope))
    near = to_bytes(position(MESH, OWN.node_id))
    index.receive(at(1), node(1), Provide(4, sealed(signer(50), key=near).envelope))
    assert [send.message.kept_s for send in of(index.drain(), Send)] == [120, 1_259]


def test_a_store_without_room_says_so() -> None:
    index = engine(replace(QUIET, records=0))
    index.receive(at(1), node(1), Provide(3, sealed(signer(50)).envelope))
    assert of(index.drain(), Send)[0].message == Provided(3, 0)


# --- looking for providers --------------------------------------------------------------------------------------------


def test_providers_are_told_as_they_come() -> None:
    index = known()
    query = index.find_providers(at(1), KEY)
    requests = asks(index.drain(), FindProviders)
    assert len(requests) == 2
    record = sealed(signer(50))
    source, message = requests[0]
    assert message.contact == index.contact
    index.receive(at(1.5), source, Found(message.token, (contact(9), Contact(node(8), ())), (record.envelope,), 1))
    effects = index.drain()
    assert events(effects, ProviderFound) == [ProviderFound(query, record.contact, record.provider, 1, 0.5)]
    assert [request[0] for request in asks(effects, FindProviders)]
    source, message = requests[1]
    index.receive(at(1.6), source, Found(message.token, (), (record.envelope,), 1))
    assert not events(effects := index.drain(), ProviderFound)
    assert not events(effects, LookupDone)
    effects = run(index, 10.0, 1.6)
    (done,) = events(effects, LookupDone)
    assert (done.query, done.found, done.hops, done.asked, done.refused) == (query, 1, 1, 4, False)


def test_what_is_held_here_is_found_at_once_and_may_be_enough() -> None:
    index = known()
    record = sealed(signer(50))
    index.receive(at(1), node(1), Provide(3, record.envelope))
    index.drain()
    query = index.find_providers(at(2), KEY, want=1)
    effects = index.drain()
    assert [event.hops for event in events(effects, ProviderFound)] == [0]
    assert events(effects, LookupDone) == [LookupDone(query, 1, 0, 0.0, 0)]
    assert not asks(effects, FindProviders)


def test_own_records_and_those_taken_back_are_not_found() -> None:
    index = known()
    for record in (sealed(OWN), sealed(signer(50), addresses=())):
        index.receive(at(1), node(1), Provide(3, record.envelope))
    index.drain()
    index.find_providers(at(2), KEY)
    fields = {"providers": (sealed(OWN).envelope, sealed(signer(50), addresses=()).envelope)}
    for effect in of(index.drain(), Ask):
        index.receive(at(2), effect.contact.node, Found(effect.message.token, **fields))  # type: ignore[arg-type]
    assert not events(index.drain(), ProviderFound)


def test_a_record_that_does_not_count_now_is_nobodys_fault() -> None:
    index = known()
    index.find_providers(at(1), KEY)
    source, message = asks(index.drain(), FindProviders)[0]
    early = sealed(signer(50), issued_s=START_S + 100).envelope
    index.receive(at(1), source, Found(message.token, (), (early,), 1))
    effects = index.drain()
    assert not of(effects, Misbehaved)
    assert not events(effects, ProviderFound)


def test_a_timer_that_comes_late_ends_a_lookup_once() -> None:
    index = known(replace(QUIET, lookup_s=1.0))
    query = index.find_providers(at(0), KEY)
    index.drain()
    index.handle_timer(at(9))
    assert [done.query for done in events(index.drain(), LookupDone)] == [query]


@pytest.mark.parametrize(
    "envelope", [b"rubbish", sealed(signer(50), key=b"l" * 32).envelope, seal_provider(signer(5), b"x", provider())]
)
def test_a_record_that_cannot_be_right_is_misbehaviour_of_who_sent_it(envelope: bytes) -> None:
    index = known()
    index.find_providers(at(1), KEY)
    source, message = asks(index.drain(), FindProviders)[0]
    index.receive(at(1), source, Found(message.token, (), (envelope,), 1))
    effects = index.drain()
    assert [effect.peer for effect in of(effects, Misbehaved)] == [source]
    assert not events(effects, ProviderFound)


def test_a_lookup_ends_when_holders_agree() -> None:
    index = known(replace(QUIET, agree=2))
    query = index.find_providers(at(1), KEY)
    count = answer(index, at(1), providers=(sealed(signer(50)).envelope,), held=1)
    assert count == 3
    index = known(replace(QUIET, agree=1))
    query = index.find_providers(at(1), KEY)
    requests = asks(index.drain(), FindProviders)
    for source, message in requests:
        index.receive(at(1), source, Found(message.token, (), (sealed(signer(50)).envelope,), 1))
    assert [done.query for done in events(index.drain(), LookupDone)] == [query]


def test_who_does_not_answer_is_overtaken_and_left_aside() -> None:
    index = known()
    index.find_providers(at(0), KEY)
    first = asks(index.drain(), FindProviders)
    assert len(first) == 2
    effects = run(index, 0.45)
    assert len(asks(effects, FindProviders)) == 1, "the third one goes ahead"
    effects = run(index, 10.0, 0.45)
    assert len(events(effects, LookupDone)) == 1
    assert index.stats.failed == 3
    for source, message in first:
        index.receive(at(11), source, Found(message.token, (contact(77),), (), 0))
    index.receive(at(11), node(1), Provided(1_000, 5))
    assert index.drain() == [], "an answer that comes too late counts no more"


def test_who_cannot_be_reached_fails_at_once() -> None:
    index = known(count=1)
    index.find_providers(at(0), KEY)
    index.drain()
    index.failed(at(0.1), node(1))
    assert len(events(index.drain(), LookupDone)) == 1
    index.find_providers(at(1), KEY)
    effects = index.drain()
    assert [source for source, _ in asks(effects, FindProviders)] == [node(1)], "the last straw is clutched at"


def test_a_lookup_can_be_cancelled() -> None:
    index = known()
    query = index.find_providers(at(0), KEY)
    index.cancel(at(0), query)
    index.cancel(at(0), query)
    answer(index, at(0.1))
    assert not events(run(index, 60.0), LookupDone)


def test_too_many_lookups_are_refused() -> None:
    index = known(replace(QUIET, lookups=1))
    index.find_providers(at(0), KEY)
    index.drain()
    for number in range(2):
        query = index.find_providers(at(0), KEY) if number else index.find_node(at(0), node(9))
        assert index.drain() == [Emit(LookupDone(query, 0, 0, 0.0, 0, refused=True))]


def test_a_lookup_ends_in_time_though_there_is_always_someone_closer() -> None:
    index = known(replace(QUIET, lookup_s=3.0), count=1)
    index.find_providers(at(0), KEY)
    now, number = 0.0, 100
    effects = index.drain()
    while not events(effects, LookupDone):
        now += 0.3
        ((source, message), *_) = asks(effects, FindProviders)
        number += 1
        index.receive(at(now), source, Found(message.token, (contact(number),)))
        effects = index.drain()
        assert now < 4.0


def test_a_copy_is_left_where_lookups_pass() -> None:
    index = known(replace(QUIET, cache=True))
    record = sealed(signer(50))
    index.find_providers(at(1), KEY)
    (one, first), (two, second) = asks(index.drain(), FindProviders)
    index.receive(at(1), one, Found(first.token))
    index.receive(at(1), two, Found(second.token, (), (record.envelope,), 1))
    ((three, third),) = asks(index.drain(), FindProviders)
    index.receive(at(1), three, Found(third.token, (), (record.envelope,), 1))
    effects = index.drain()
    assert len(events(effects, LookupDone)) == 1
    ((holder, message),) = asks(effects, Provide)
    assert (holder, message.envelope) == (one, record.envelope)
    index.receive(at(1), one, Provided(message.token, 120))
    assert index.drain() == []


def test_no_copy_is_left_where_everyone_had_it() -> None:
    index = known(replace(QUIET, cache=True))
    index.find_providers(at(1), KEY)
    effects = index.drain()
    for source, message in asks(effects, FindProviders):
        index.receive(at(1), source, Found(message.token, (), (sealed(signer(50)).envelope,), 1))
    ((source, message),) = asks(index.drain(), FindProviders)
    index.receive(at(1), source, Found(message.token, (), (sealed(signer(50)).envelope,), 1))
    effects = index.drain()
    assert len(events(effects, LookupDone)) == 1
    assert not asks(effects, Provide)


# --- looking for nodes ------------------------------------------------------------------------------------------------


def test_a_node_is_found_by_what_others_say() -> None:
    index = known()
    query = index.find_node(at(0), node(9))
    source, message = asks(index.drain(), FindNode)[0]
    assert message.target == to_bytes(position(MESH, node(9)))
    index.receive(at(0.2), source, Found(message.token, (contact(8), contact(9))))
    assert events(index.drain(), NodeFound) == [NodeFound(query, contact(9), 1, 0.2)]
    (done,) = events(run(index, 10.0, 0.2), LookupDone)
    assert done.found == 1


def test_a_node_that_is_known_is_found_at_once() -> None:
    index = known()
    query = index.find_node(at(0), node(2))
    assert events(index.drain(), NodeFound) == [NodeFound(query, contact(2), 0, 0.0)]


def test_the_last_liar_is_shunned() -> None:
    config = replace(QUIET, distrust=2, strikes=1)
    index = known(config, count=1)
    index.find_providers(at(0), KEY)
    ((source, message),) = asks(index.drain(), FindProviders)
    index.receive(at(0), source, Found(message.token, tuple(contact(number) for number in range(100, 120))))
    for effect in of(index.drain(), Ask):
        index.failed(at(1), effect.contact.node)
    assert index.stats.shunned == 1
    assert index.contacts() == []
    index.learn(at(2), contact(1))
    assert index.contacts() == []
    index.learn(at(2_000), contact(1))
    assert index.contacts() == [contact(1)]


def test_an_answer_of_who_is_shunned_by_now_counts_no_more() -> None:
    config = replace(QUIET, distrust=2, strikes=1, k=1)
    index = known(config, count=1)
    index.find_providers(at(0), KEY)
    index.find_node(at(0), node(77))
    (one, first), (two, second) = [(effect.contact.node, effect.message) for effect in of(index.drain(), Ask)]
    index.receive(at(0), one, Found(first.token, tuple(contact(number) for number in range(100, 120))))
    while index.stats.shunned == 0:
        for effect in of(index.drain(), Ask):
            index.failed(at(1), effect.contact.node)
    index.receive(at(1), two, Found(second.token, (contact(77),)))
    assert not events(index.drain(), NodeFound)
    assert index.contacts() == []


# --- own records ------------------------------------------------------------------------------------------------------


def test_a_record_is_stored_at_the_closest_and_renewed() -> None:
    index = known()
    assert index.provide(at(0), KEY)
    assert index.provided() == [KEY]
    index.handle_timer(at(0))
    effects = index.drain()
    for source, message in asks(effects, FindNode):
        index.receive(at(0.1), source, Found(message.token))
    effects = index.drain()
    ((source, message),) = asks(effects, FindNode)
    index.receive(at(0.1), source, Found(message.token))
    effects = index.drain()
    stores = asks(effects, Provide)
    assert len(stores) == 3
    record = sealed(OWN)
    for source, store in stores:
        index.receive(at(0.2), source, Provided(store.token, 1_200))
    assert events(index.drain(), Published) == [Published(KEY, 3)]
    assert index.stats.published == 1
    assert 360 <= index.next_timer() <= 401
    effects = run(index, index.next_timer(), 0.2)
    assert len(asks(effects, Provide)) == 3, "straight to the holders"
    assert not asks(effects, FindNode)
    assert asks(effects, Provide)[0][1].envelope != stores[0][1].envelope
    assert record.author == OWN.node_id


def test_when_holders_are_gone_a_lookup_follows() -> None:
    index = known(count=4)
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    answer(index, at(0.1))
    effects = run(index, 402.0, 0.1)
    assert len(asks(effects, Provide)) == 4
    effects = run(index, 410.0, 402.0)
    assert asks(effects, FindNode)


def test_without_an_address_or_a_certificate_nothing_is_published() -> None:
    index = known()
    index.contact = None
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    index.contact, index.certificate = Contact(OWN.node_id, (Address("10.9.9.9", 9),)), b""
    assert not asks(run(index, 20.0), FindNode)
    index.certificate = b"certificate"
    assert asks(run(index, 50.0, 20.0), FindNode)


def test_alone_a_record_is_tried_again() -> None:
    index = engine(QUIET)
    index.provide(at(0), KEY)
    assert run(index, 1.0) == []
    assert 4.0 < index.next_timer() <= 6.0


def test_a_key_that_has_enough_records_needs_no_more() -> None:
    index = known()
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    effects = index.drain()
    while requests := asks(effects, FindNode):
        for source, message in requests:
            index.receive(at(0.1), source, Found(message.token, held=64))
        effects = index.drain()
    assert events(effects, Published) == [Published(KEY, 0, full=True)]
    assert not asks(effects, Provide)
    assert index.next_timer() > 300


def test_withdrawing_tells_the_holders_and_this_node() -> None:
    index = known()
    index.withdraw(at(0), KEY)
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    answer(index, at(0.1))
    index.withdraw(at(1), KEY)
    stores = asks(index.drain(), Provide)
    assert len(stores) == 3
    assert index.provided() == []
    assert index.providers(at(1), KEY) == []
    for source, message in stores:
        index.receive(at(1), source, Provided(message.token, 1))
    assert index.drain() == []


@pytest.mark.parametrize("again", [False, True])
def test_withdrawing_while_its_place_is_looked_for(again: bool) -> None:
    index = known()
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    index.withdraw(at(0), KEY)
    if again:
        index.provide(at(0), KEY)
    assert answer(index, at(0.1)) == 3
    assert not asks(run(index, 0.05), Provide)


def test_withdrawing_while_it_is_being_stored() -> None:
    index = known()
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    effects = index.drain()
    while requests := asks(effects, FindNode):
        for source, message in requests:
            index.receive(at(0.1), source, Found(message.token))
        effects = index.drain()
    index.withdraw(at(0.1), KEY)
    for source, store in asks(effects, Provide):
        index.receive(at(0.2), source, Provided(store.token, 1_200))
    assert not events(index.drain(), Published)


def test_a_change_is_told_soon() -> None:
    index = known()
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    answer(index, at(0.1))
    index.renew(at(10))
    assert index.next_timer() == 10.0


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_first_contact_sets_it_going_and_checks_go_on() -> None:
    index = engine()
    index.learn(at(0), contact(1))
    effects = run(index, 2.1)
    ((source, message),) = asks(effects, FindNode)
    assert (source, message.target) == (node(1), to_bytes(position(MESH, OWN.node_id)))
    index.receive(at(2.2), source, Found(message.token, (contact(2), contact(3))))
    effects = run(index, 30.0, 2.2)
    assert {source for source, _ in asks(effects, FindNode)} >= {node(2), node(3)}
    assert index.size_estimate() == len(index.contacts()) + 1


def test_an_idle_table_costs_a_request_in_twenty_seconds_at_most() -> None:
    index = engine()
    for number in range(1, 60):
        index.learn(at(0), contact(number))
    now, answered = 0.0, 0
    for second in range(1, 2_000):
        for effect in of(run(index, second, now), Ask):
            answered += second > 100
            index.receive(at(second), effect.contact.node, Found(effect.message.token))
        now = float(second)
    assert 20 <= answered <= 95
    assert len(index.contacts()) >= 45, "the far bucket has room for twenty"


def test_a_node_that_is_no_member_any_more_is_forgotten() -> None:
    index = known()
    index.receive(at(1), node(1), Provide(3, sealed(signer(50)).envelope))
    index.learn(at(1), contact(9))
    index.forget(at(2), node(9))
    index.forget(at(2), signer(50).node_id)
    assert contact(9) not in index.contacts()
    assert index.held() == 0


def test_an_own_id_is_no_contact() -> None:
    index = engine(QUIET)
    index.learn(at(0), Contact(OWN.node_id, contact(1).addresses))
    assert index.contacts() == []
    assert isinstance(OWN.node_id, NodeId)
