"""What holds for records of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.errors import WireError
from atmo.gossip.records import Record, check_record_untrusted
from atmo.wire.schema import pack, unpack_untrusted
from tests.gossip.kit import record

GOOD = record("models-2", "page 1/2~", (0, 0))


def test_plain_names_and_counts_are_good() -> None:
    check_record_untrusted(GOOD)
    check_record_untrusted(replace(GOOD, key=""))


@pytest.mark.parametrize("kind", ["", "Node", "2nd", "a\0b", "a b", "n" * 33, "é", "node\n"])
def test_a_kind_is_a_plain_word(kind: str) -> None:
    with pytest.raises(WireError, match="plain name"):
        check_record_untrusted(replace(GOOD, kind=kind))


@pytest.mark.parametrize("key", ["\0", "a\nb", "é", "\x7f"])
def test_a_key_is_printable_ascii(key: str) -> None:
    with pytest.raises(WireError, match="plain name"):
        check_record_untrusted(replace(GOOD, key=key))


def test_what_is_final_is_for_everyone() -> None:
    check_record_untrusted(record("note", near=True))
    with pytest.raises(WireError, match="for everyone"):
        check_record_untrusted(record("revocation", near=True))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GOOD, epoch=-1),
        replace(GOOD, sequence=-1),
        replace(GOOD, issued_s=-1),
        replace(GOOD, lifetime_s=-1),
    ],
)
def test_numbers_are_not_negative(wrong: Record) -> None:
    with pytest.raises(WireError, match="not an integer from 0"):
        unpack_untrusted(Record, pack(wrong))
