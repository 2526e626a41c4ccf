"""What a neighbour may ask for fills up with time and no further."""

from __future__ import annotations

from atmo.gossip.allowance import Allowance, Allowances
from tests.gossip.network import node_id


def test_a_bucket_is_full_at_first_and_fills_up_again() -> None:
    bucket = Allowance(rate=10, most=100)
    assert bucket.take(0.0, 60)
    assert not bucket.take(0.0, 60)
    assert bucket.take(0.0, 40)
    assert not bucket.take(5.0, 51)
    assert bucket.take(5.0, 50)
    assert bucket.left(1_000.0) == 100


def test_what_is_larger_than_the_bucket_never_fits() -> None:
    assert not Allowance(rate=10, most=100).take(1_000.0, 101)


def test_going_and_coming_back_fills_nothing() -> None:
    buckets = Allowances(rate=10, most=100)
    mine = buckets.take(node_id(1))
    assert mine.take(0.0, 90)
    buckets.keep(0.0, node_id(1), mine)
    assert buckets.take(node_id(2)).left(0.0) == 100
    assert buckets.take(node_id(1)).left(1.0) == 20


def test_only_so_many_buckets_are_kept_and_no_full_ones() -> None:
    buckets = Allowances(rate=10, most=100)
    for number in range(100):
        bucket = buckets.take(node_id(number))
        assert bucket.take(0.0, 100)
        buckets.keep(0.0, node_id(number), bucket)
    assert len(buckets._rows) == 64
    assert buckets.take(node_id(99)).left(0.0) == 0
    assert buckets.take(node_id(0)).left(0.0) == 100
    buckets.keep(10.0, node_id(0), buckets.take(node_id(0)))
    assert not buckets._rows
