"""The table of records: order, bounds, expiry; held against a plain model by Hypothesis."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.gossip.table import Entry, RecordTable, Slot, TableLimits, sort_key
from tests.gossip.kit import record
from tests.trust.kit import ANNA, BERT, EVE

BOUNDS = TableLimits(authors=2, author_records=3, author_bytes=40, bytes=60)
AUTHORS = [node.node_id for node in (ANNA, BERT, EVE)]
SLOTS = st.tuples(st.sampled_from(AUTHORS), st.sampled_from(["a", "b"]), st.sampled_from(["", "1", "2"]))


def entry(size: int = 10, expires_s: float = 10.0) -> Entry:
    return Entry(record(), b"x" * size, expires_s)


class TableMachine(RuleBasedStateMachine):
    """Puts, removes and ages slots; a dict says what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RecordTable(BOUNDS)
        self.model: dict[Slot, Entry] = {}

    @rule(slot=SLOTS, size=st.integers(1, 25), expires_s=st.integers(0, 50))
    def put(self, slot: Slot, size: int, expires_s: int) -> None:
        after = self.model | {slot: entry(size, expires_s)}
        authors = {author for author, _, _ in after}
        slots = [other for other in after if other[0] == slot[0]]
        fits = (
            len(authors) <= BOUNDS.authors
            and len(slots) <= BOUNDS.author_records
            and sum(len(after[other].envelope) for other in slots) <= BOUNDS.author_bytes
            and sum(len(held.envelope) for held in after.values()) <= BOUNDS.bytes
        )
        assert self.table.has_room(slot, size) == fits
        if fits:
            self.table.put(slot, after[slot])
            self.model = after

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.table.remove(slot)
        del self.model[slot]

    @rule(wall=st.integers(0, 60))
    def expire(self, wall: int) -> None:
        expired = self.table.expired(wall)
        assert sorted(expired) == sorted(slot for slot, held in self.model.items() if held.expires_s < wall)
        for slot in expired:
            self.table.remove(slot)
            del self.model[slot]
        assert self.table.soonest() >= wall

    @rule(after=SLOTS, until=SLOTS)
    def between(self, after: Slot, until: Slot) -> None:
        low, high = sort_key(after), sort_key(until)
        rows = self.table.between(low, high)
        assert [slot for slot, _ in rows] == sorted(
            (slot for slot in self.model if low < sort_key(slot) <= high), key=sort_key
        )

    @invariant()
    def agrees(self) -> None:
        assert dict(self.table.items()) == self.model
        assert len(self.table) == len(self.model)
        assert [slot for slot, _ in self.table.between(b"", b"")] == sorted(self.model, key=sort_key)
        assert sorted(self.table.authors()) == sorted({slot[0] for slot in self.model})
        for author in AUTHORS:
            assert sorted(self.table.slots_of(author)) == sorted(slot for slot in self.model if slot[0] == author)
        for slot, held in self.model.items():
            assert self.table.get(slot) == held
        assert self.table.soonest() <= min((held.expires_s for held in self.model.values()), default=math.inf)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=25)


def test_renewing_one_slot_for_ever_costs_no_memory() -> None:
    table = RecordTable(BOUNDS)
    slot = (ANNA.node_id, "a", "")
    for number in range(1_000):
        table.put(slot, entry(expires_s=1_000.0 + number))
    assert table.expired(1_900.0) == []
    assert table.soonest() >= 1_900.0
    assert table.expired(3_000.0) == [slot]


def test_an_empty_table_expires_never() -> None:
    assert RecordTable(BOUNDS).soonest() == math.inf
