"""Patience: strikes add up, time forgives, bans end, and the table stays small."""

from __future__ import annotations

from atmo.peer import strikes as module
from atmo.peer.strikes import Strikes
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
