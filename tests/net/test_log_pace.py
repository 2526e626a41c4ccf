"""The log tells of faults now and then, however many there are and whoever causes them."""

from __future__ import annotations

from atmo.identity import NodeId
from atmo.net.log_pace import NODES, PERIOD_S, LogPace

NODE_IDS = [NodeId(number.to_bytes(32, "big")) for number in range(NODES + 2)]


def test_one_fault_of_a_node_in_a_while() -> None:
    pace = LogPace()
    assert [pace.admits(at, NODE_IDS[0]) for at in (0.0, 0.0, PERIOD_S - 1, PERIOD_S, PERIOD_S + 1)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert pace.admits(1.0, NODE_IDS[1]), "another node is told of by itself"


def test_many_keys_do_not_make_many_lines() -> None:
    pace = LogPace()
    assert [pace.admits(0.0, node) for node in NODE_IDS] == [True] * NODES + [False] * 2
    assert [pace.admits(PERIOD_S, node) for node in NODE_IDS] == [True] * NODES + [False] * 2
