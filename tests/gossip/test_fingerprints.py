"""Fingerprints: equal for equal tables, whatever their past, and different for different ones."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from atmo.gossip.entry import Entry, entry_of, open_record_untrusted, signer_of
from atmo.gossip.fingerprints import PLACES, Fingerprints, children, ranges_of
from atmo.gossip.messages import FINGERPRINT_BYTES, Digest
from atmo.identity import NodeId
from tests.gossip.kit import record, sealed
from tests.gossip.network import node_id
from tests.trust.kit import ANNA, MESH


def entry(author: NodeId, version: int = 1, kind: str = "note") -> Entry:
    return entry_of(author, record(kind, "", (1, version)), b"")


ENTRIES = [entry(node_id(number), version) for number in range(8) for version in range(2)]


@given(st.permutations(ENTRIES), st.permutations(ENTRIES), st.integers(0, len(ENTRIES)))
def test_the_past_does_not_matter(one: list[Entry], two: list[Entry], kept: int) -> None:
    first, second = Fingerprints(), Fingerprints()
    for each in ENTRIES[:kept]:
        first.add(each)
    for each in one:
        second.add(each)
    for each in two:
        if each in ENTRIES[kept:]:
            second.remove(each)
    assert all(first.range(prefix, b"s") == second.range(prefix, b"s") for prefix in PLACES)


def test_each_entry_counts_in_the_ranges_around_its_author() -> None:
    prints = Fingerprints()
    author = NodeId(b"\xa3" * 32)
    prints.add(entry(author))
    for prefix in PLACES:
        assert prints.count(prefix) == (prefix in ("", "a", "a3"))
        empty = replace(Fingerprints().range("", b"s"), prefix=prefix)
        assert (prints.range(prefix, b"s") == empty) is (prefix not in ("", "a", "a3"))
    assert children("a")[3] == "a3"


def test_author_kind_key_and_version_all_matter() -> None:
    base = entry(node_id(1))
    others = [
        entry(node_id(2)),
        entry(node_id(1), 2),
        entry(node_id(1), kind="other"),
        entry_of(node_id(1), replace(base.record, key="k"), b""),
        entry_of(node_id(1), replace(base.record, epoch=2), b""),
    ]
    seen = set()
    for each in [base, *others]:
        prints = Fingerprints()
        prints.add(each)
        seen.add(prints.range("", b"s").fingerprint)
    assert len(seen) == 1 + len(others)


def test_of_revocations_the_version_does_not_matter() -> None:
    one, two = Fingerprints(), Fingerprints()
    one.add(entry(node_id(1), 1, "revocation"))
    two.add(entry(node_id(1), 2, "revocation"))
    assert one.range("", b"s") == two.range("", b"s")


def test_another_salt_is_another_fingerprint() -> None:
    prints = Fingerprints()
    prints.add(ENTRIES[0])
    one, two = (prints.range("", salt) for salt in (b"1" * 8, b"2" * 8))
    assert one.fingerprint != two.fingerprint
    assert (one.count, len(one.fingerprint)) == (two.count, FINGERPRINT_BYTES)


def test_a_branch_tells_the_sixteen_parts() -> None:
    prints = Fingerprints()
    for each in ENTRIES:
        prints.add(each)
    digest = Digest(b"s", (prints.range("a", b"s"),), (prints.branch("", b"s"), prints.branch("3", b"s")))
    told = ["a", *children(""), *children("3")]
    assert ranges_of(digest) == [prints.range(prefix, b"s") for prefix in told]


def test_of_very_many_slots_a_branch_tells_that_they_are_many() -> None:
    prints = Fingerprints()
    prints._counts[PLACES["a"]] = 70_000
    assert ranges_of(Digest(b"", (), (prints.branch("", b""),)))[10].count == 65_535


def test_a_sealed_record_names_its_author() -> None:
    envelope = sealed(ANNA)
    assert signer_of(envelope) == ANNA.node_id == open_record_untrusted(envelope, MESH).slot[0]
