"""The picker against small pictures.

In a picture each column is a chunk. `availability` counts the partial sources that have it, `here` marks chunks that
arrived, `asked` those asked of somebody.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from atmo.identity import NodeId
from atmo.transfer.picker import Picker

A, B, C, OTHER = (NodeId(bytes([number] * 32)) for number in range(1, 5))


def picture(availability: str, here: str = "", asked: str = "", seed: int = 1) -> Picker:
    """Builds a picker: as many partial sources as the highest digit says, and `asked` chunks asked of `OTHER`."""
    count = len(availability)
    picker = Picker(count, [index for index, mark in enumerate(here) if mark != " "], Random(seed))
    for level in range(1, int(max(availability)) + 1):
        source = NodeId(bytes([100 + level] * 32))
        picker.add_source(source, [index for index in range(count) if int(availability[index]) >= level])
    for index, mark in enumerate(asked):
        if mark != " ":
            picker.add_source(OTHER, [index])
            assert picker.pick(OTHER) == index
    picker.remove_source(OTHER)
    picker.check_invariant()
    return picker


def picks(picker: Picker, source: NodeId, chunks: str | None = None) -> str:
    """Picks until nothing is left; returns the order as a picture."""
    picker.add_source(source, None if chunks is None else [at for at, mark in enumerate(chunks) if mark != " "])
    order = []
    while (index := picker.pick(source)) is not None:
        order.append(index)
        picker.check_invariant()
    return "".join(str(order.index(at)) if at in order else " " for at in range(10))[: max(len(order), 10)].rstrip()


def test_the_rarest_comes_first() -> None:
    assert picks(picture("4321243"), A)[3] == "0"
    order = picks(picture("3213333"), A)
    assert (order[2], order[1]) == ("0", "1")


def test_only_what_the_source_has_is_asked_of_it() -> None:
    assert picks(picture("1111111"), A, " *   * ") in (" 0   1", " 1   0")
    assert picks(picture("1111111"), A, "       ") == ""


def test_what_is_here_or_asked_is_left_alone() -> None:
    assert picks(picture("1111", here="** *"), A) == "  0"
    assert picks(picture("1111", asked="*** "), A) == "   0"


def test_equally_rare_chunks_are_taken_in_every_order() -> None:
    first = Counter(picture("2222", seed=seed).pick(A) for seed in range(4))
    assert first == {None: 4}
    orders = {picks(picture("2222", seed=seed), A) for seed in range(60)}
    assert len(orders) > 12
    assert picks(picture("2222", seed=7), A) == picks(picture("2222", seed=7), A)


def test_whole_sources_do_not_change_what_is_rare() -> None:
    picker = picture("2122")
    picker.add_source(B)
    picker.add_source(C)
    assert picks(picker, A)[1] == "0"


def test_a_released_chunk_is_free_again() -> None:
    picker = picture("111")
    picker.add_source(A)
    index = picker.pick(A)
    assert index is not None
    picker.release(B, index)  # was never asked
    assert len(picks(picker, A).replace(" ", "")) == 2
    picker.release(A, index)
    picker.release(A, index)
    picker.check_invariant()
    assert picker.pick(A) == index
    assert picker.pick(A) is None


def test_arrived_chunks_are_counted_once() -> None:
    picker = picture("111")
    picker.add_source(A)
    index = picker.pick(A)
    assert index is not None
    assert picker.arrived(index) == (A,)
    assert picker.arrived(index) == ()
    free = next(at for at in range(3) if at != index)
    assert picker.arrived(free) == ()
    assert picker.missing == 1
    assert not picker.is_missing(index)
    assert not picker.is_missing(99)
    picker.check_invariant()


def test_the_end_game_begins_when_everything_to_be_had_is_asked() -> None:
    picker = Picker(3, [], Random(1))
    seen = [picker.end_game]  # nobody has anything yet
    picker.add_source(A, [0, 1])
    seen.append(picker.end_game)
    picker.pick(A)
    picker.pick(A)
    seen.append(picker.end_game)  # chunk 2 is free, but nobody has it
    picker.add_source(B)
    seen.append(picker.end_game)
    picker.pick(B)
    seen.append(picker.end_game)
    assert seen == [False, False, True, False, True]


def test_in_the_end_game_the_longest_waiting_of_the_least_asked_comes_first() -> None:
    picker = Picker(2, [], Random(1))
    for source in (A, B, C):
        picker.add_source(source)
    first, second = picker.pick(A), picker.pick(A)
    assert first is not None
    assert second is not None
    both = {first, second}
    assert picker.pick(B) is None
    assert picker.pick_again(A, 2, both) is None  # it is asked for both already
    assert picker.pick_again(B, 2, {second}) == second
    assert picker.pick_again(C, 2, both) == first
    assert picker.pick_again(B, 2, both) is None  # two are asked for each
    picker.release(A, first)
    assert picker.arrived(first) == (C,)
    assert picker.arrived(second) == (A, B)
    picker.check_invariant()


def test_a_source_gets_more_chunks_until_it_has_all() -> None:
    picker = Picker(3, [], Random(1))
    picker.add_source(A, [0])
    picker.add_source(B, [0, 1])
    picker.gained(A, 0b11)
    picker.gained(C, 0b11)  # unknown
    picker.check_invariant()
    assert picker.pick(A, 0b10) == 1
    assert picker.pick(A, 0b10) is None
    picker.gained(A, 0b100)
    picker.gained(A, 0b100)  # it had all already
    picker.check_invariant()
    assert picker.pick(A) == 2  # the only one that B lacks
    assert picker.here == 0
    assert picker.arrived(2) == (A,)
    assert picker.here == 0b100


def test_a_partial_source_is_asked_again_only_for_what_it_has() -> None:
    picker = Picker(2, [], Random(1))
    picker.add_source(A)
    picker.add_source(B, [0, 5, -1])
    picker.pick(A)
    picker.pick(A)
    assert picker.pick_again(B, 2, {1}) is None
    assert picker.pick_again(B, 2, {0, 1}) == 0
    picker.remove_source(C)
    picker.check_invariant()


def test_who_is_unknown_has_nothing() -> None:
    assert Picker(2, [], Random(1)).pick(A) is None
