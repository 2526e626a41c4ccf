"""The table of records: order, bounds, expiry; held against a plain model by Hypothesis."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.gossip.entry import Entry, Slot, name_of
from atmo.gossip.fingerprints import children
from atmo.gossip.table import EXPIRY_GRAIN_S, RecordTable, TableLimits
from tests.gossip.kit import record
from tests.trust.kit import ANNA, BERT, EVE

BOUNDS = TableLimits(authors=2, author_records=3, author_bytes=40, bytes=60)
AUTHORS = [node.node_id for node in (ANNA, BERT, EVE)]
SLOTS = st.tuples(st.sampled_from(AUTHORS), st.sampled_from(["a", "b"]), st.sampled_from(["", "1", "2"]))


def entry(slot: Slot, size: int = 10, expires_s: int = 10, *, near: bool = False) -> Entry:
    return Entry(slot, record(slot[1], slot[2], near=near), b"x" * size, expires_s, name_of(slot))


class TableMachine(RuleBasedStateMachine):
    """Puts, removes and ages slots; a dict says what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RecordTable(BOUNDS)
        self.model: dict[Slot, Entry] = {}

    @rule(slot=SLOTS, size=st.integers(1, 25), expires_s=st.integers(0, 50), near=st.booleans())
    def put(self, slot: Slot, size: int, expires_s: int, near: bool) -> None:
        after = self.model | {slot: entry(slot, size, expires_s, near=near)}
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
            self.table.put(after[slot])
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
        assert self.table.soonest() > wall - EXPIRY_GRAIN_S

    @invariant()
    def agrees(self) -> None:
        assert dict(self.table.items()) == self.model
        assert len(self.table) == len(self.model)
        assert self.table.bytes == sum(len(held.envelope) for held in self.model.values())
        assert sorted(self.table.authors()) == sorted({slot[0] for slot in self.model})
        for author in AUTHORS:
            assert sorted(self.table.slots_of(author)) == sorted(slot for slot in self.model if slot[0] == author)
        for slot, held in self.model.items():
            assert self.table.get(slot) == held

    @invariant()
    def ranges_agree(self) -> None:
        told = [held for held in self.model.values() if not held.record.near]
        fresh = RecordTable(BOUNDS)
        for held in told:
            fresh.put(held)
        firsts = [author.hex()[:2] for author in AUTHORS]
        for prefix in ["", *children(""), *firsts, "00"]:
            within = [held for held in told if held.slot[0].hex().startswith(prefix)]
            assert sorted(map(str, self.table.within(prefix))) == sorted(map(str, within))
            assert self.table.fingerprints.count(prefix) == len(within)
            assert self.table.fingerprints.range(prefix, b"") == fresh.fingerprints.range(prefix, b"")
        assert self.table.soonest() <= min((held.expires_s for held in self.model.values()), default=math.inf)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("step_s", [0, 1, EXPIRY_GRAIN_S])
def test_renewing_one_slot_for_ever_costs_no_memory(step_s: int) -> None:
    table = RecordTable(BOUNDS)
    slot = (ANNA.node_id, "a", "")
    for number in range(1_000):
        table.put(entry(slot, expires_s=1_000 + step_s * number))
    assert sum(map(len, table._expiring.values())) <= 64 + 4
    assert table.expired(1_000 + step_s * 999) == []
    assert table.soonest() >= 1_000 + step_s * 999 - EXPIRY_GRAIN_S
    assert table.expired(10_000) == [slot]


def test_what_was_replaced_is_not_looked_for_when_it_would_have_expired() -> None:
    table = RecordTable(BOUNDS)
    slot = (ANNA.node_id, "a", "")
    table.put(entry(slot, expires_s=10))
    table.put(entry(slot, expires_s=100))
    assert table.expired(50) == []
    assert table.soonest() == 96
    table.remove(slot)
    assert table.expired(200) == []
    assert (table.soonest(), len(table)) == (math.inf, 0)
