"""The engine, message by message: own records, stored, renewed, withdrawn."""

from __future__ import annotations

import pytest

from atmo.engine import Address, Contact, Effect
from atmo.index import Index, Published
from atmo.index.messages import FindNode, Found, Provide, Provided
from tests.index.kit import (
    KEY,
    OWN,
    QUIET,
    answer,
    asks,
    at,
    engine,
    events,
    known,
    run,
    sealed,
)


def publish(index: Index, held: int) -> list[Effect]:
    """Lets an engine look for the place of an own record, where everyone holds so many; returns what it does then."""
    index.provide(at(0), KEY)
    index.handle_timer(at(0))
    effects = index.drain()
    while requests := asks(effects, FindNode):
        for source, message in requests:
            index.receive(at(0.1), source, Found(message.token, held=held))
        effects = index.drain()
    return effects


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
    effects = publish(index, held=64)
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
    effects = publish(index, held=0)
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
