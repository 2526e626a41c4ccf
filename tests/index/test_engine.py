"""The engine, message by message: what it answers others, and its table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.engine import Ask, Contact, Misbehaved, Send
from atmo.identity import NodeId
from atmo.index.keys import position, to_bytes
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from atmo.index.records import seal_provider
from tests.index.kit import (
    KEY,
    MESH,
    OWN,
    QUIET,
    START_S,
    asks,
    at,
    contact,
    engine,
    known,
    node,
    of,
    provider,
    run,
    sealed,
    signer,
)

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
    author = signer(50)
    record = sealed(author)
    index.receive(at(1), author.node_id, Provide(3, record.envelope))
    assert of(index.drain(), Send) == [Send(author.node_id, Provided(3, 1_259))]
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
    author = signer(50)
    far = to_bytes(position(MESH, OWN.node_id) ^ (2**256 - 1))
    index.receive(at(1), author.node_id, Provide(3, sealed(author, key=far).envelope))
    near = to_bytes(position(MESH, OWN.node_id))
    index.receive(at(1), author.node_id, Provide(4, sealed(author, key=near).envelope))
    assert [send.message.kept_s for send in of(index.drain(), Send)] == [120, 1_259]


def test_a_copy_of_somebody_elses_stays_for_a_moment_and_is_not_taken_for_all_there_is() -> None:
    index = known()
    author = signer(50)
    record = sealed(author)
    index.receive(at(1), node(1), Provide(3, record.envelope))
    assert of(index.drain(), Send) == [Send(node(1), Provided(3, 120))]
    index.receive(at(2), node(2), FindProviders(4, KEY))
    found = of(index.drain(), Send)[0].message
    assert (found.providers, found.held) == ((record.envelope,), 0)
    index.receive(at(3), author.node_id, Provide(5, record.envelope))
    assert of(index.drain(), Send) == [Send(author.node_id, Provided(5, 1_257))]
    index.receive(at(4), node(2), FindProviders(6, KEY))
    assert of(index.drain(), Send)[0].message.held == 1


def test_a_store_without_room_says_so() -> None:
    index = engine(replace(QUIET, records=0))
    index.receive(at(1), node(1), Provide(3, sealed(signer(50)).envelope))
    assert of(index.drain(), Send)[0].message == Provided(3, 0)


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
