"""Whom a lookup asks next, and when it has asked enough."""

from __future__ import annotations

from collections.abc import Iterable

from atmo.engine import Contact
from atmo.index import IndexConfig
from atmo.index.lookup import Lookup, State
from tests.index.kit import contact, node

CONFIG = IndexConfig(k=4, alpha=2, distrust=2, asked_most=12)
EVERYWHERE = 2**256


def lookup(paths: int = 1, radius: int = EVERYWHERE, config: IndexConfig = CONFIG) -> Lookup:
    return Lookup(config, 0, paths, radius)


def rows(*numbers: int) -> list[tuple[Contact, int]]:
    """Contacts whose numbers are their distances."""
    return [(contact(number), number) for number in numbers]


def asked(search: Lookup) -> list[int]:
    """Returns the numbers of those asked now."""
    numbers = []
    while (candidate := search.next()) is not None:
        numbers.append(candidate.distance)
    return numbers


def answered(search: Lookup, *numbers: int) -> None:
    for number in numbers:
        search.answered(node(number))


def waits(search: Lookup) -> bool:
    return search.waiting


def numbers_of(search: Lookup) -> Iterable[int]:
    return [candidate.distance for candidate in search.closest(99)]


def test_the_closest_are_asked_first_alpha_at_a_time() -> None:
    search = lookup()
    search.begin(rows(9, 5, 7))
    assert asked(search) == [5, 7]
    answered(search, 5)
    assert waits(search)
    search.tell(node(5), rows(3, 5))
    assert asked(search) == [3]
    answered(search, 3, 7)
    assert asked(search) == [9]
    answered(search, 9)
    assert asked(search) == []
    assert not waits(search)
    assert numbers_of(search) == [3, 5, 7, 9]
    assert search.hops == 2


def test_it_ends_when_the_k_closest_have_answered() -> None:
    search = lookup()
    search.begin(rows(*range(1, 9)))
    for number in range(1, 5):
        assert number in [*asked(search), number]
        answered(search, number)
    assert asked(search) == []
    assert not waits(search)
    assert search.dense


def test_slow_ones_free_their_place_and_those_who_fail_are_replaced() -> None:
    search = lookup()
    search.begin(rows(*range(1, 9)))
    assert asked(search) == [1, 2]
    search.slow(node(1))
    assert asked(search) == [3]
    assert search.failed(node(2)) is None
    assert asked(search) == [4]
    answered(search, 3, 4)
    assert asked(search) == [5, 6]
    answered(search, 5, 6)
    assert waits(search), "the slow one may be the closest"
    answered(search, 1)
    assert not waits(search)
    assert numbers_of(search) == [1, 3, 4, 5, 6]


def test_a_slow_one_beyond_the_closest_is_not_waited_for() -> None:
    search = lookup()
    search.begin(rows(1, 2, 3, 50))
    asked(search)
    answered(search, 1, 2)
    assert asked(search) == [3, 50]
    search.slow(node(50))
    search.tell(node(1), rows(4))
    asked(search)
    answered(search, 3, 4)
    assert not waits(search)


def test_paths_are_disjoint_until_they_merge() -> None:
    search = lookup(paths=2)
    search.begin(rows(10, 20, 30, 40))
    assert asked(search) == [10, 30, 20, 40]
    answered(search, 10, 20)
    search.tell(node(10), rows(1, 2))
    search.tell(node(20), rows(1, 3))
    assert {search.candidate(node(number)).path for number in (1, 2)} == {0}  # type: ignore[union-attr]
    assert search.candidate(node(3)).path == 1  # type: ignore[union-attr]
    assert asked(search) == [1, 3]
    answered(search, 1, 3, 30, 40)
    assert asked(search) == [2], "each path asked two of four; merged, the four closest are asked"
    answered(search, 2)
    assert not waits(search)
    assert search.candidate(node(99)) is None


def test_a_teller_whose_contacts_fail_is_believed_no_more() -> None:
    search = lookup()
    search.begin(rows(10, 20, 30))
    asked(search)
    answered(search, 10)
    search.tell(node(10), rows(1, 2, 3, 4))
    assert asked(search) == [1]
    assert search.failed(node(1)) is None
    assert asked(search) == [2]
    assert search.failed(node(2)) == node(10)
    answered(search, 20)
    assert asked(search) == [30], "not 3 and 4"
    answered(search, 30)
    assert not waits(search)


def test_one_answer_redeems_a_teller() -> None:
    search = lookup()
    search.begin(rows(10))
    asked(search)
    answered(search, 10)
    search.tell(node(10), rows(1, 2, 3, 4))
    asked(search)
    answered(search, 1)
    asked(search)
    assert [search.failed(node(number)) for number in (2, 3)] == [None, None]


def test_where_the_found_are_too_sparse_more_are_asked() -> None:
    search = lookup(radius=6)
    search.begin(rows(*range(5, 40)))
    count = 0
    while numbers := asked(search):
        count += len(numbers)
        answered(search, *numbers)
    assert count == CONFIG.asked_most
    assert not search.dense


def test_candidates_are_bounded() -> None:
    search = lookup()
    search.begin(rows(*range(100, 200)))
    asked(search)
    answered(search, 100)
    search.tell(node(100), rows(*range(1, 50), 500))
    known = [number for number in range(600) if search.candidate(node(number))]
    assert len(known) == 4 * CONFIG.k
    assert 500 not in known


def test_a_list_of_asked_ones_is_not_cut() -> None:
    search = lookup(config=IndexConfig(k=1, alpha=9))
    search.begin(rows(1, 2, 3, 4))
    assert asked(search) == [1, 2, 3, 4][:1]
    for number in (1, 2, 3, 4):
        search.candidate(node(number)).state = State.ASKED  # type: ignore[union-attr]
    search.tell(node(1), rows(5))
    assert search.candidate(node(5)) is None
    search.begin([(contact(6), 0)])
    search.candidate(node(4)).state = State.ASKED  # type: ignore[union-attr]
    assert not lookup().dense


def test_requests_are_bounded() -> None:
    search = lookup(config=IndexConfig(k=4, asked_limit=3))
    search.begin(rows(1, 2, 3, 4))
    assert asked(search) == [1, 2, 3]
    answered(search, 1)
    assert asked(search) == []
