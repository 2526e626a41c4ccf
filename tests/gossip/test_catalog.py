"""The digest of a large catalog: never a wrong no, seldom a wrong yes, and one text for one catalog."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atmo.gossip.catalog import NAMES_BYTES, TALLIES, CatalogBody, digest, may_have
from atmo.gossip.records import ModelRecord
from atmo.wire.schema import pack, unpack_untrusted


def model(name: str, capabilities: tuple[str, ...] = (), size_bytes: int = 10) -> ModelRecord:
    return ModelRecord(name, "1.0.0", "llm", "gguf", size_bytes, b"h" * 32, name.encode()[:32].ljust(32), capabilities)


@given(st.sets(st.text("abc-/", min_size=1, max_size=12), min_size=1, max_size=60))
def test_whatever_is_there_may_be_there(names: set[str]) -> None:
    body = digest([model(name, ("chat",)) for name in sorted(names)])
    assert all(may_have(body, name) and may_have(body, name, ["chat"]) for name in names)
    assert body.count == len(names)
    assert unpack_untrusted(CatalogBody, pack(body)) == body


def test_what_is_not_there_is_seldom_taken_for_there() -> None:
    body = digest([model(f"model-{number}") for number in range(2_000)])
    wrong = sum(may_have(body, f"other-{number}") for number in range(2_000))
    assert wrong < 2_000 * 0.03, "0.8 % are expected"


def test_the_filter_fits_a_record_however_many_names_there_are() -> None:
    body = digest([model(f"m{number}") for number in range(30_000)])
    assert len(body.names) == NAMES_BYTES
    assert may_have(body, "m29999")


def test_the_order_does_not_matter_and_each_change_does() -> None:
    models = [model("a"), model("b", size_bytes=5)]
    assert digest(models) == digest(models[::-1])
    assert digest(models).size_bytes == 15
    assert digest(models).hash != digest([model("a"), model("b", size_bytes=6)]).hash


def test_capabilities_rule_a_node_out_only_where_all_of_them_are_told() -> None:
    few = digest([model("a", ("chat", "code")), model("b", ("chat",))])
    assert [(tally.name, tally.count) for tally in few.capabilities] == [("chat", 2), ("code", 1)]
    assert may_have(few, None, ["chat", "code"])
    assert not may_have(few, None, ["vision"])
    many = digest([model(f"m{number}", (f"c{number}",)) for number in range(TALLIES)])
    assert may_have(many, None, ["vision"])


def test_an_empty_filter_has_nothing() -> None:
    assert not may_have(CatalogBody(0, 0, bytes(32), b""), "a")
    assert not may_have(digest([]), "a")
    assert may_have(digest([]), None)
