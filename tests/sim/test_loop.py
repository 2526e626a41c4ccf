"""Virtual time: in order, and what is due at one instant in the order it was put."""

from __future__ import annotations

import math

from atmo.sim.loop import Loop
from atmo.sim.streams import Streams
from tests.trust.kit import ANNA, BERT


def test_inputs_come_in_order_of_time_then_of_arrival() -> None:
    loop = Loop()
    assert loop.next_time() == math.inf
    for time, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        loop.put(time, ANNA.node_id, name)
    assert [loop.pop()[1] for _ in range(3)] == ["a", "b", "c"]
    assert loop.now == 2.0


def test_nothing_happens_in_the_past() -> None:
    loop = Loop()
    loop.put(5.0, ANNA.node_id, "now")
    loop.pop()
    loop.put(1.0, ANNA.node_id, "late")
    assert loop.next_time() == 5.0


def test_random_streams_do_not_move_each_other() -> None:
    first, second = Streams("7"), Streams("7")
    second.of(BERT.node_id, "loss").random()
    second.of(ANNA.node_id, "jitter").random()
    assert first.of(ANNA.node_id, "loss").random() == second.of(ANNA.node_id, "loss").random()
    assert first.of(ANNA.node_id, "loss") is first.of(ANNA.node_id, "loss")
    assert Streams("8").of(ANNA.node_id, "x").random() != Streams("7").of(ANNA.node_id, "x").random()
