"""What a neighbour may ask for fills up with time and no further."""

from __future__ import annotations

from atmo.gossip.allowance import Allowance


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
