from __future__ import annotations

from atmo.gateway.rates import Rate, Rates


def test_a_burst_and_then_the_rate() -> None:
    rates: Rates[str] = Rates(8)
    rate = Rate(2.0, 3)
    assert [rates.wait_s(100.0, "a", rate) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.wait_s(100.0, "b", rate) == 0.0
    assert rates.wait_s(100.25, "a", rate) == 0.25
    assert rates.wait_s(100.5, "a", rate) == 0.0
    assert rates.wait_s(1_000.0, "a", rate) == 0.0


def test_no_rate_is_no_limit_and_keeps_nothing() -> None:
    rates: Rates[str] = Rates(8)
    assert [rates.wait_s(1.0, "a", Rate()) for _ in range(1_000)] == [0.0] * 1_000
    assert len(rates) == 0


def test_another_rate_begins_anew() -> None:
    rates: Rates[str] = Rates(8)
    assert rates.wait_s(1.0, "a", Rate(1.0, 1)) == 0.0
    assert rates.wait_s(1.0, "a", Rate(1.0, 1)) == 1.0
    assert rates.wait_s(1.0, "a", Rate(1.0, 2)) == 0.0


def test_the_table_is_bounded_and_forgets_the_idle_first() -> None:
    rates: Rates[int] = Rates(100)
    rate = Rate(0.001, 1)
    assert rates.wait_s(0.0, -1, Rate(1.0, 1)) == 0.0
    for who in range(1_000):
        assert rates.wait_s(5.0, who, rate) == 0.0
        assert len(rates) <= 100
        assert rates.wait_s(5.0, who, rate) > 0.0
    assert rates.wait_s(5.0, 999, rate) > 0.0
