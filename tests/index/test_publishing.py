"""When own records are stored again, and where."""

from __future__ import annotations

import math
from random import Random

import pytest

from atmo.index import IndexConfig
from atmo.index.publishing import Publication, Publisher
from tests.index.kit import contact

CONFIG = IndexConfig(k=4, publishing=1, renew_s=400.0, retry_s=5.0, direct_most=1, publications_most=2)
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(CONFIG, Random(1))


def started(publisher: Publisher, mono: float) -> Publication:
    row = publisher.start(mono)
    assert row is not None
    return row


def stored(publisher: Publisher, mono: float, count: int = 4) -> Publication:
    """Stores what is due at some holders."""
    row = started(publisher, mono)
    publisher.store(row, [contact(number) for number in range(count)])
    for number in range(count):
        assert not publisher.answered(mono, row, contact(number), 1_200)
    return row


def test_one_after_another(publisher: Publisher) -> None:
    assert publisher.next_due() == math.inf
    assert publisher.add(1.0, A)
    assert publisher.add(2.0, B)
    assert not publisher.add(2.0, C)
    assert publisher.keys() == [A, B]
    assert publisher.next_due() == 1.0
    assert publisher.start(0.5) is None
    row = started(publisher, 3.0)
    assert row.key == A
    assert publisher.start(3.0) is None, "one at a time"
    publisher.store(row, [contact(1)])
    assert row.busy
    assert not publisher.answered(4.0, row, contact(1), 1_200)
    assert 364.0 <= row.due <= 404.0
    assert started(publisher, 4.0).key == B


def test_renewals_go_to_the_holders_and_then_by_a_lookup(publisher: Publisher) -> None:
    publisher.add(0.0, A)
    row = stored(publisher, 0.0)
    assert publisher.is_direct(row)
    started(publisher, 400.0)
    row.direct += 1
    publisher.store(row, list(row.holders.values()))
    for number in range(4):
        assert not publisher.answered(401.0, row, contact(number), 1_200 if number else 0)
    assert len(row.holders) == 3
    assert not publisher.is_direct(row)


def test_where_too_few_holders_are_left_a_lookup_follows(publisher: Publisher) -> None:
    publisher.add(0.0, A)
    row = stored(publisher, 0.0)
    started(publisher, 400.0)
    row.direct += 1
    publisher.store(row, list(row.holders.values()))
    answers = [publisher.answered(401.0, row, contact(number), 1_200 if number > 1 else 0) for number in range(4)]
    assert answers == [False, False, False, True]
    assert row.looking
    assert row.busy


def test_what_nobody_takes_is_tried_again_ever_more_rarely(publisher: Publisher) -> None:
    publisher.add(0.0, A)
    now, waits = 0.0, []
    for _ in range(9):
        row = started(publisher, now)
        publisher.store(row, [contact(1)])
        publisher.answered(now, row, contact(1), 30)
        waits.append(row.due - now)
        now = row.due
    assert waits[0] <= 5.0
    assert 360.0 <= waits[-1] <= 400.0
    assert waits == sorted(waits) or waits[-1] > 200.0


def test_what_is_not_needed_waits_for_its_renewal(publisher: Publisher) -> None:
    publisher.add(0.0, A)
    row = started(publisher, 0.0)
    publisher.finish(0.0, row, full=True)
    assert row.due >= 360.0


def test_a_removed_one_is_over(publisher: Publisher) -> None:
    publisher.add(0.0, A)
    publisher.add(0.0, B)
    row = started(publisher, 0.0)
    publisher.store(row, [contact(1), contact(2)])
    assert publisher.remove(A) is row
    assert publisher.remove(A) is None
    assert not publisher.answered(1.0, row, contact(1), 1_200)
    publisher.finish(1.0, row)
    assert publisher.get(A) is None
    other = publisher.get(B)
    assert other is started(publisher, 1.0)
    assert publisher.start(500.0) is None
    publisher.remove(B)
    assert publisher.next_due() == math.inf


def test_a_change_stores_all_again_soon(publisher: Publisher) -> None:
    publisher.add(0.0, A)
    row = stored(publisher, 0.0)
    row.direct = 1
    publisher.hurry(10.0)
    assert publisher.next_due() == 10.0
    publisher.add(5.0, A)
    assert publisher.next_due() == 5.0
