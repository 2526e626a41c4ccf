"""The routing table: who gets a place, who waits, who goes."""

from __future__ import annotations

from random import Random

import pytest

from atmo.engine import Address, Contact
from atmo.index import IndexConfig
from atmo.index.contacts import Table, groups_of, network_group, shared
from atmo.index.keys import bucket_of, position
from tests.index.kit import MESH, OWN, by_distance, contact, in_bucket, node

CONFIG = IndexConfig(k=3, spares=2, rumours=2, failures=2, fresh_s=100.0)


@pytest.fixture
def table() -> Table:
    return Table(CONFIG, OWN.node_id, MESH)


def names(table: Table) -> list[Contact]:
    return [entry.contact for entry in table.entries()]


def test_who_was_heard_gets_a_place(table: Table) -> None:
    table.seen(1.0, contact(1))
    assert node(1) in table
    assert node(2) not in table
    assert "no node" not in table
    assert len(table) == 1


def test_this_node_and_those_without_address_do_not(table: Table) -> None:
    for stranger in (Contact(OWN.node_id, contact(1).addresses), Contact(node(5), ())):
        table.seen(1.0, stranger)
        assert not table.told(stranger)
    assert len(table) == 0


def test_a_full_bucket_keeps_the_old_ones_and_a_spare_steps_in(table: Table) -> None:
    one, two, three, four, five, six = in_bucket(0, 6)
    for other in (one, two, three, four, five, six):
        table.seen(1.0, other)
    assert names(table) == [one, two, three]
    table.failed(two.node)
    assert names(table) == [one, three, six]
    table.failed(five.node)  # a spare that fails is gone
    table.failed(one.node)
    assert names(table) == [three, six, one]  # four was no spare any more: there is room for two
    assert len(table) == 3


def test_who_fails_without_a_substitute_stays_on_trial_until_others_are_heard(table: Table) -> None:
    one, two = in_bucket(0, 2)
    table.seen(1.0, one)
    for _ in range(4):
        table.failed(one.node)
    assert names(table) == [one], "it may be that our own network is down"
    assert table.closest(0, 9) == []
    table.seen(2.0, two)
    table.failed(one.node)
    assert names(table) == [two]
    table.failed(one.node)
    table.failed(contact(900).node)
    assert len(table) == 1


def test_a_newcomer_replaces_one_on_trial(table: Table) -> None:
    one, two, three, four = in_bucket(0, 4)
    for other in (one, two, three):
        table.seen(1.0, other)
    table.failed(two.node)
    table.seen(2.0, four)
    assert names(table) == [one, three, four]
    assert len(table) == 3


def test_only_the_own_word_changes_addresses(table: Table) -> None:
    table.seen(1.0, contact(1))
    moved = Contact(node(1), (Address("10.7.7.7", 7),))
    table.seen(2.0, moved)
    assert names(table) == [contact(1)]
    table.seen(3.0, moved, own_word=True)
    table.seen(4.0, moved, own_word=True)
    assert names(table) == [moved]
    assert len(table) == 1


def test_rumours_wait_where_there_is_room(table: Table) -> None:
    one, two, three, four, five = in_bucket(0, 5)
    assert table.told(one)
    assert table.told(two)
    assert table.told(three)
    assert table.doubtful(0.0) == three
    assert table.doubtful(0.0) == two
    assert table.doubtful(0.0) is None, "one had to make room"
    for other in (one, two, three, four):
        table.seen(1.0, other)
    assert not table.told(one)
    assert not table.told(five)
    table.drop(one.node)
    assert names(table) == [two, three, four]
    table.drop(two.node)
    assert not table.told(three)


def test_rumours_of_a_bucket_that_filled_up_are_forgotten(table: Table) -> None:
    one, *others = in_bucket(0, 4)
    assert table.told(one)
    for other in others:
        table.seen(1.0, other)
    assert table.doubtful(50.0) is None


def test_the_one_heard_least_lately_is_doubtful(table: Table) -> None:
    far, near = in_bucket(0, 2), in_bucket(3, 2)
    table.seen(1.0, near[0])
    table.seen(0.5, far[0])
    table.seen(2.0, far[1])
    assert table.doubtful(100.4) is None
    assert table.doubtful(102.0) == far[0]
    table.seen(102.0, far[0])
    assert table.doubtful(102.0) == near[0]
    assert table.doubtful(105.0) == near[0]
    table.drop(near[0].node)
    table.drop(near[1].node)
    table.drop(contact(7).node)
    assert table.doubtful(105.0) == far[1]


def test_closest_is_what_sorting_everyone_gives() -> None:
    table = Table(IndexConfig(), OWN.node_id, MESH)
    for number in range(1, 400):
        table.seen(1.0, contact(number))
    rng = Random(1)
    for _ in range(50):
        target = rng.getrandbits(256) if rng.random() < 0.7 else table.place ^ rng.getrandbits(250)
        everyone = sorted(table.entries(), key=lambda entry: entry.place ^ target)
        assert table.closest(target, 20) == everyone[:20]
        assert table.closest(target, 1_000) == everyone
        skip = everyone[3].contact.node
        assert table.closest(target, 5, skip=skip) == everyone[:3] + everyone[4:6]
    assert table.closer(table.place, 20) == 0
    assert table.closer(everyone[0].place, 20) > 0


def test_a_target_beside_a_contact_is_in_its_bucket(table: Table) -> None:
    rng = Random(2)
    for number in range(1, 50):
        target = table.target_beside(node(number), rng)
        assert bucket_of(target ^ table.place) == bucket_of(position(MESH, node(number)) ^ table.place)
    assert table.target_beside(OWN.node_id, rng) == table.place ^ 1


def test_network_groups() -> None:
    assert network_group("10.1.2.3") is network_group("127.0.0.1") is network_group("fe80::1") is None
    assert network_group("8.8.8.8") == network_group("8.8.8.9") == "8.8.8.0/24"
    assert network_group("2001:4860:4860:1::1") == network_group("2001:4860:4860:2::1") == "2001:4860:4860::/48"
    addresses = (Address("8.8.8.8", 1), Address("8.8.8.9", 1), Address("9.9.9.9", 1), Address("10.0.0.1", 1))
    assert groups_of(Contact(node(1), addresses)) == ["8.8.8.0/24", "9.9.9.0/24"]


def test_one_network_does_not_fill_a_bucket_nor_the_table() -> None:
    table = Table(IndexConfig(), OWN.node_id, MESH)
    for other in in_bucket(0, 5, "8.8.8.8"):
        table.seen(1.0, other)
    assert len(table) == 2
    for index in range(1, 7):
        for other in in_bucket(index, 2, "8.8.8.9"):
            table.seen(1.0, other)
    assert len(table) == 8
    table.seen(1.0, in_bucket(7, 1, "9.9.9.9")[0])
    table.seen(1.0, in_bucket(0, 3, "8.8.8.8")[2])
    table.drop(in_bucket(7, 1)[0].node)
    first = names(table)[-1]
    assert first.addresses[0].host == "8.8.8.8"
    table.failed(first.node)
    assert len(table) == 8, "a spare of the same network took its place"


def test_a_spare_or_newcomer_of_a_full_network_does_not_step_in() -> None:
    table = Table(IndexConfig(k=3, bucket_group=1), OWN.node_id, MESH)
    one, two, three = in_bucket(0, 3)
    crowd = [Contact(other.node, (Address("8.8.8.8", 5),)) for other in in_bucket(0, 6)[3:]]
    for other in (one, two, crowd[0], crowd[1], crowd[2]):
        table.seen(1.0, other)
    table.failed(two.node)
    assert names(table) == [one, crowd[0], two]
    table.seen(1.0, crowd[1])
    assert names(table) == [one, crowd[0], two], "nor does it push out who is on trial"
    assert len(table) == 3
    table.failed(crowd[0].node)
    assert names(table) == [one, two, crowd[1]]
    table.seen(1.0, three)
    assert names(table) == [one, crowd[1], three]


def test_equal_contacts_are_one_object() -> None:
    assert shared(contact(1)) is shared(contact(1))


def test_the_closest_of_many_are_sorted() -> None:
    rows = by_distance(0, 3)
    assert [position(MESH, row.node) for row in rows] == sorted(position(MESH, row.node) for row in rows)
