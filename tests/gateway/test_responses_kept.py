from __future__ import annotations

import pytest

from atmo.errors import RequestError
from atmo.gateway.responses_items import Item
from atmo.gateway.responses_kept import KeepConfig, Kept, KeptResponses
from atmo.wire import limits


def message(item_id: str) -> Item:
    return {"type": "message", "id": item_id, "role": "user", "content": [], "status": "completed"}


def entry(name: str, previous: str = "", owner: str = "anna", size: int = 10) -> Kept:
    response = {"id": name, "output": [message(f"{name}-out")]}
    return Kept(owner, response, [message(f"{name}-in")], previous, size)


def ids(items: list[Item]) -> list[str]:
    return [item["id"] for item in items]


def missing(kept: KeptResponses, name: str, owner: str = "anna", now: float = 0) -> bool:
    try:
        kept.get(owner, name, now)
    except RequestError as error:
        return error.status == 404
    return False


class TestKept:
    def test_a_conversation_is_told_from_its_beginning(self) -> None:
        kept = KeptResponses()
        kept.keep(entry("a"), 0)
        kept.keep(entry("b", "a"), 1)
        assert ids(kept.history("anna", "b", 2)) == ["a-in", "a-out", "b-in", "b-out"]
        assert kept.history("anna", "", 2) == []

    def test_nobody_sees_what_another_key_made(self) -> None:
        kept = KeptResponses()
        kept.keep(entry("a"), 0)
        assert missing(kept, "a", "")
        assert missing(kept, "a", "bert")
        with pytest.raises(RequestError, match="No item 'a-out'"):
            kept.resolved("bert", [{"type": "item_reference", "id": "a-out"}], 0)
        with pytest.raises(RequestError):
            kept.remove("bert", "a", 0)
        assert not missing(kept, "a")

    def test_an_item_of_the_same_id_of_another_key_changes_nothing(self) -> None:
        kept = KeptResponses()
        kept.keep(entry("a"), 0)
        strange = entry("b", owner="bert")
        strange.items = [message("a-out")]
        kept.keep(strange, 0)
        kept.remove("bert", "b", 0)
        assert ids(kept.resolved("anna", [{"type": "item_reference", "id": "a-out"}], 0)) == ["a-out"]

    def test_an_item_lasts_as_long_as_any_response_with_it(self) -> None:
        kept = KeptResponses()
        reference = {"type": "item_reference", "id": "a-out"}
        kept.keep(entry("a"), 0)
        again = entry("b")
        again.items = kept.resolved("anna", [reference], 0) * 2
        kept.keep(again, 0)
        kept.remove("anna", "a", 0)
        assert kept.resolved("anna", [reference], 0) == [message("a-out")]
        kept.remove("anna", "b", 0)
        with pytest.raises(RequestError):
            kept.resolved("anna", [reference], 0)

    def test_who_keeps_most_makes_way(self) -> None:
        kept = KeptResponses(KeepConfig(responses=4, size_bytes=100))
        kept.keep(entry("a", owner="anna"), 0)
        for number in range(9):
            kept.keep(entry(f"b{number}", owner="bert"), 1)
        assert len(kept) == 4
        kept.keep(entry("huge", owner="carl", size=95), 2)
        kept.keep(entry("small", owner="carl", size=5), 3)
        assert not missing(kept, "a", "anna")
        assert [missing(kept, name, "carl") for name in ("huge", "small")] == [True, False]
        assert kept.size <= 100

    def test_references_become_items(self) -> None:
        kept = KeptResponses()
        kept.keep(entry("a"), 0)
        new = message("new")
        given = [{"type": "item_reference", "id": "a-out"}, new]
        assert kept.resolved("anna", given, 0) == [message("a-out"), new]

    def test_a_gap_in_a_conversation_is_told(self) -> None:
        kept = KeptResponses()
        kept.keep(entry("a"), 0)
        kept.keep(entry("b", "a"), 0)
        kept.remove("anna", "a", 0)
        with pytest.raises(RequestError, match="No response 'a' is kept here") as caught:
            kept.history("anna", "b", 0)
        assert caught.value.param == "previous_response_id"


class TestBounds:
    def test_time_counts_from_the_last_use(self) -> None:
        kept = KeptResponses(KeepConfig(seconds=10))
        kept.keep(entry("a"), 0)
        kept.keep(entry("b"), 0)
        kept.get("anna", "a", 8)
        assert missing(kept, "b", now=11)
        assert not missing(kept, "a", now=17)
        kept.keep(entry("c"), 30)
        assert len(kept) == 1
        assert kept.size == 10

    def test_count(self) -> None:
        kept = KeptResponses(KeepConfig(responses=2))
        for name in "abc":
            kept.keep(entry(name), 0)
        assert missing(kept, "a")
        assert len(kept) == 2

    def test_size(self) -> None:
        kept = KeptResponses(KeepConfig(size_bytes=25))
        for name in "abc":
            kept.keep(entry(name), 0)
        assert missing(kept, "a")
        assert kept.size == 20
        kept.keep(entry("huge", size=26), 0)
        assert len(kept) == 0
        assert kept.size == 0

    def test_a_conversation_has_a_longest_size(self) -> None:
        kept = KeptResponses()
        kept.keep(entry("a", size=limits.REQUEST_BYTES), 0)
        kept.keep(entry("b", "a", size=1), 0)
        with pytest.raises(RequestError) as caught:
            kept.history("anna", "b", 0)
        assert caught.value.status == 413
