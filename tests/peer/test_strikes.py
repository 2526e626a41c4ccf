"""Patience: strikes add up, time forgives, bans end, and the table stays small."""

from __future__ import annotations

from atmo.clock import Now
from atmo.engine import Store
from atmo.peer import strikes as module
from atmo.peer.strikes import Offenders, Strikes
from tests.trust.kit import ANNA, signer


def test_strikes_in_a_row_ban_for_a_while() -> None:
    strikes = Strikes(3, 10.0, 60.0)
    assert [strikes.strike(0.0, ANNA.node_id) for _ in range(3)] == [False, False, True]
    assert strikes.is_banned(59.0, ANNA.node_id)
    assert not strikes.is_banned(60.0, ANNA.node_id)


def test_time_forgives() -> None:
    strikes = Strikes(3, 10.0, 60.0)
    assert not any(strikes.strike(10.0 * number, ANNA.node_id) for number in range(100))
    assert not strikes.is_banned(1_000.0, ANNA.node_id)


def test_the_table_is_bounded() -> None:
    strikes = Strikes(3, 10.0, 60.0)
    nodes = [signer(f"node {number}").node_id for number in range(module._ENTRIES + 2)]
    for node in nodes[:-1]:
        for _ in range(3):
            strikes.strike(0.0, node)
    assert not strikes.is_banned(1.0, nodes[0]), "the one struck longest ago made room"
    assert strikes.is_banned(1.0, nodes[1])
    strikes.strike(100.0, nodes[-1])
    assert not strikes.is_banned(100.0, nodes[1])


def offenders() -> Offenders:
    return Offenders(Strikes(3, 10.0, 60.0), Strikes(2, 10.0, 60.0))


def test_a_ban_outlives_a_restart_and_the_next_one_is_longer() -> None:
    before, after = offenders(), offenders()
    now = Now(1_000.0, 1e9)
    kept = [before.member(now, ANNA.node_id) for _ in range(3)]
    assert kept[:2] == [None, None]
    assert kept[2] is not None
    assert kept[2].value is not None
    later = Now(5.0, 1e9 + 20.0)
    assert after.load(later, [(kept[2].key, kept[2].value)]) == []
    assert after.is_banned(44.0, ANNA.node_id)
    assert not after.is_banned(45.0, ANNA.node_id)
    again = [after.member(Now(100.0, 1e9 + 115.0), ANNA.node_id) for _ in range(3)]
    assert again[2] is not None
    assert after.is_banned(219.0, ANNA.node_id)


def test_of_bans_that_were_kept_those_that_are_over_or_unreadable_are_forgotten() -> None:
    kept = offenders()
    now = Now(0.0, 1e9)
    for _ in range(3):
        ban = kept.member(now, ANNA.node_id)
    assert ban is not None
    assert ban.value is not None
    rows = [(ban.key, ban.value), (ban.key, b"short"), ("ban/nobody", ban.value)]
    assert offenders().load(Now(0.0, 1e9 + 60.0), rows) == [Store(key, None) for key, _ in rows]


def test_a_clock_that_was_set_back_makes_no_ban_longer() -> None:
    before, after = offenders(), offenders()
    for _ in range(3):
        ban = before.member(Now(0.0, 1e9), ANNA.node_id)
    assert ban is not None
    assert ban.value is not None
    after.load(Now(0.0, 1e6), [(ban.key, ban.value)])
    assert after.is_banned(59.0, ANNA.node_id)
    assert not after.is_banned(60.0, ANNA.node_id)
