"""Virtual time: in order, and what is due at one instant in the order it was put."""

from __future__ import annotations

from atmo.sim.loop import Loop
from atmo.sim.streams import Streams
from tests.trust.kit import ANNA, BERT


def test_deeds_are_done_in_order_of_time_then_of_arrival() -> None:
    loop, done = Loop(), list[tuple[float, str]]()
    for time, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (5.0, "later")):
        loop.put(time, lambda name: done.append((loop.now, name)), name)
    loop.run_until(3.0)
    assert done == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert (loop.now, loop.turns) == (3.0, 3)
    loop.run_until(5.0)
    assert done[3:] == [(5.0, "later")]


def test_nothing_happens_in_the_past_and_what_is_due_now_happens_now() -> None:
    loop, times = Loop(), list[float]()

    def deed() -> None:
        times.append(loop.now)
        if len(times) == 1:
            loop.put(1.0, deed)

    loop.put(5.0, deed)
    loop.run_until(5.0)
    assert times == [5.0, 5.0]


def test_random_streams_do_not_move_each_other() -> None:
    first, second = Streams("7"), Streams("7")
    second.of(BERT.node_id, "loss").random()
    second.of(ANNA.node_id, "jitter").random()
    second.shared("loss").random()
    assert first.of(ANNA.node_id, "loss").random() == second.of(ANNA.node_id, "loss").random()
    assert first.of(ANNA.node_id, "loss") is first.of(ANNA.node_id, "loss")
    assert first.shared("loss") is first.shared("loss")
    assert first.shared("loss").random() != first.shared("other").random()
    assert Streams("8").of(ANNA.node_id, "x").random() != Streams("7").of(ANNA.node_id, "x").random()


def test_numbers_that_belong_to_what_is_given_are_the_same_each_time() -> None:
    streams = Streams("7")
    number = streams.fixed("latency", ANNA.node_id, BERT.node_id)
    assert 0.0 <= number < 1.0
    assert number == streams.fixed("latency", ANNA.node_id, BERT.node_id)
    assert number != streams.fixed("latency", BERT.node_id, ANNA.node_id)
    assert number != Streams("8").fixed("latency", ANNA.node_id, BERT.node_id)
