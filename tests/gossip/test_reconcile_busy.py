"""One comparing engine while much comes from one neighbour: others wait, and nothing waits for ever."""

from __future__ import annotations

from typing import Any

from atmo.gossip.listings import split_names
from atmo.gossip.messages import Records
from tests.gossip.kit import at
from tests.gossip.reconcile_kit import (
    A,
    B,
    author,
    digest,
    is_whole,
    keeper,
    listing,
    other,
    run,
    told,
)
from tests.gossip.tables import Keeper, entry

MANY = [entry(author(16 * number, number), str(number)) for number in range(16)]
LEAVES = digest(*(other(f"{number:x}0") for number in range(16)))


def busy(**config: Any) -> Keeper:
    """Who has just asked A for sixteen records, and has a few others."""
    made = keeper(*(entry(author(16 * number), "mine") for number in range(16)), links=(A, B), **config)
    run(made, 2)
    (want,) = told(made, 2, listing(*MANY, prefixes=()))
    assert len(split_names(want.names)) == 16
    return made


def test_while_much_comes_from_one_neighbour_others_wait() -> None:
    made = busy()
    assert told(made, 2.1, LEAVES, B) == []
    assert made.engine.stats.put_off == 1
    rows = run(made, 3.4)
    assert rows == [], "nor is the other told anything"
    ((_, node, message),) = run(made, 5)
    assert (node, is_whole(made, message)) == (B, True), "but then it is"
    assert len(told(made, 5, LEAVES, B)) == 1


def test_the_one_that_sends_does_not_wait() -> None:
    made = busy()
    assert len(told(made, 2.1, LEAVES)) == 1


def test_little_that_differs_does_not_wait() -> None:
    made = busy()
    assert len(told(made, 2.1, digest(*LEAVES.ranges[:3]), B)) == 1


def test_what_has_come_ends_the_wait() -> None:
    made = busy()
    envelopes = tuple(each.envelope for each in MANY)
    made.receive(at(2.1), A, Records(envelopes[:10]))
    assert told(made, 2.1, LEAVES, B) == []
    made.receive(at(2.2), A, Records(envelopes[10:]))
    assert len(told(made, 2.2, LEAVES, B)) == 1


def test_what_never_came_is_not_waited_for_later() -> None:
    made = busy()
    more = [entry(author(16 * number, number), "more") for number in range(16)]
    told(made, 5, listing(*more, prefixes=()))
    assert told(made, 5, LEAVES, B) == []
    made.receive(at(5.1), A, Records(tuple(each.envelope for each in more)))
    assert len(told(made, 5.1, LEAVES, B)) == 1


def test_what_is_asked_for_in_two_messages_is_waited_for() -> None:
    made = busy()
    more = [entry(author(16 * number, number), "more") for number in range(16)]
    told(made, 2.1, listing(*more, prefixes=()))
    made.receive(at(2.2), A, Records(tuple(each.envelope for each in more)))
    assert told(made, 2.2, LEAVES, B) == []


def test_who_lies_to_be_waited_for_gains_seconds() -> None:
    made = busy(put_off_s=3.0, put_off_every_s=15.0)
    waited = []
    for second in range(3, 40):
        told(made, second, listing(*(entry(author(1), str(number), second) for number in range(16)), prefixes=()))
        if not told(made, second, LEAVES, B):
            waited.append(second)
        run(made, second + 0.5)
    assert waited == [3, 4, 5, 18, 19, 20, 33, 34, 35]
