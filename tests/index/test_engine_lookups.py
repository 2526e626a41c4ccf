"""The engine, message by message: looking for providers and nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.engine import Ask, Contact, Emit, Misbehaved
from atmo.index import LookupDone, NodeFound, ProviderFound
from atmo.index.keys import position, to_bytes
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from atmo.index.records import seal_provider
from tests.index.kit import (
    KEY,
    MESH,
    OWN,
    QUIET,
    START_S,
    answer,
    asks,
    at,
    contact,
    events,
    known,
    node,
    of,
    provider,
    run,
    sealed,
    signer,
)

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
