"""Dataclasses to the wire and back: what comes from outside fits every annotation, or a WireError names the field."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import EncodeError, WireError
from atmo.identity import NodeId
from atmo.wire import codec
from atmo.wire.schema import Most, from_wire_untrusted, pack, pack_checked, to_wire, unpack_untrusted
from tests.wire.values import values


@dataclass(frozen=True, slots=True)
class Inner:
    label: Annotated[str, Most(5)]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Outer:
    node: NodeId
    count: int
    level: Annotated[int, Most(10)]
    flag: bool
    blob: Annotated[bytes, Most(4)]
    inner: Inner
    rows: Annotated[tuple[Inner, ...], Most(3)] = ()
    names: Annotated[dict[str, int], Most(2)] = dataclasses.field(default_factory=dict)
    note: Annotated[str, Most(8)] | None = None
    other: str | None = None
    extra: Any = None
    texts: tuple[str, ...] = ()
    table: dict[str, Inner] = dataclasses.field(default_factory=dict)
    plain: bytes = b""

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("13 is never a count")


GOOD = Outer(NodeId(b"n" * 32), 5, 10, True, b"1234", Inner("abc", 0.5))

inners = st.builds(Inner, st.text(max_size=5), st.floats(min_value=-1e300, max_value=1e300))
outers = st.builds(
    Outer,
    node=st.binary(min_size=32, max_size=32).map(NodeId),
    count=st.integers(0, 2**63).filter(lambda count: count != 13),
    level=st.integers(0, 10),
    flag=st.booleans(),
    blob=st.binary(max_size=4),
    inner=inners,
    rows=st.lists(inners, max_size=3).map(tuple),
    names=st.dictionaries(st.text(max_size=9), st.integers(0, 9), max_size=2),
    note=st.none() | st.text(max_size=8),
    other=st.none() | st.text(max_size=9),
    extra=values,
    texts=st.lists(st.text(max_size=9), max_size=4).map(tuple),
    table=st.dictionaries(st.text(max_size=9), inners, max_size=3),
    plain=st.binary(max_size=9),
)


@given(outers)
def test_what_is_packed_unpacks_to_itself(value: Outer) -> None:
    data = pack(value)
    assert unpack_untrusted(Outer, data) == value
    assert pack(unpack_untrusted(Outer, data)) == data


@given(st.binary(max_size=100))
def test_random_bytes_raise_only_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack_untrusted(Outer, data)


@given(st.sampled_from([field.name for field in dataclasses.fields(Outer)]), values)
def test_any_value_in_any_field_fits_or_is_refused(name: str, value: Any) -> None:
    body = to_wire(GOOD) | {name: value}
    try:
        outer = from_wire_untrusted(Outer, body)
    except WireError:
        return
    assert unpack_untrusted(Outer, pack(outer)) == outer


@given(values)
def test_any_value_at_all_fits_or_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        from_wire_untrusted(Outer, value)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("node", b"short", "32 bytes"),
        ("node", "n" * 32, "Outer.node is not a node id"),
        ("count", True, "Outer.count is not an integer"),
        ("count", 1.0, "Outer.count is not an integer"),
        ("count", 2**63 + 1, "Outer.count is not an integer"),
        ("count", 13, "Outer: 13 is never a count"),
        ("level", 11, "Outer.level is not an integer from 0 to 10"),
        ("level", -1, "Outer.level is not an integer from 0 to 10"),
        ("flag", 1, "Outer.flag is not true or false"),
        ("blob", b"12345", "Outer.blob is not a bytes of at most 4"),
        ("blob", "1234", "Outer.blob is not a bytes of at most 4"),
        ("inner", [], "Outer.inner is not a map"),
        ("inner", {}, "Outer.inner.label is missing"),
        ("inner", {"label": "abcdef"}, "Outer.inner.label is not a str of at most 5"),
        ("inner", {"label": "a", "weight": math.inf}, "Outer.inner.weight is not a finite number"),
        ("inner", {"label": "a", "weight": math.nan}, "Outer.inner.weight is not a finite number"),
        ("inner", {"label": "a", "weight": True}, "Outer.inner.weight is not a finite number"),
        ("rows", {}, "Outer.rows is not a list of at most 3"),
        ("rows", [{"label": "a"}] * 4, "Outer.rows is not a list of at most 3"),
        ("rows", [{"label": "a"}, 1], r"Outer.rows\[1\] is not a map"),
        ("names", [], "Outer.names is not a map of at most 2 names"),
        ("names", {"a": 1, "b": 2, "c": 3}, "Outer.names is not a map of at most 2 names"),
        ("names", {1: 1}, "Outer.names is not a map of at most 2 names"),
        ("names", {"a": "1"}, r"Outer.names\['a'\] is not an integer"),
        ("note", "123456789", "Outer.note is not a str of at most 8"),
        ("other", 1, "Outer.other is not a str"),
        ("texts", ["a"] * 4_097, "Outer.texts is not a list of at most 4096"),
        ("table", {"a": 1}, r"Outer.table\['a'\] is not a map"),
        ("plain", bytes(65_537), "Outer.plain is not a bytes of at most 65536"),
    ],
)
def test_a_wrong_field_is_named(name: str, value: Any, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        from_wire_untrusted(Outer, to_wire(GOOD) | {name: value})


@pytest.mark.parametrize("name", ["node", "count", "level", "flag", "blob", "inner"])
def test_a_required_field_must_be_there(name: str) -> None:
    body = to_wire(GOOD)
    for absent in ({key: item for key, item in body.items() if key != name}, body | {name: None}):
        with pytest.raises(WireError, match=f"Outer.{name} is missing"):
            from_wire_untrusted(Outer, absent)


def test_none_is_left_out_and_unknown_keys_are_ignored() -> None:
    body = to_wire(GOOD)
    assert "note" not in body
    assert "extra" not in body
    assert from_wire_untrusted(Outer, body | {"from the future": [1, 2]}) == GOOD


def test_an_integer_is_welcome_where_a_float_is() -> None:
    weight = from_wire_untrusted(Inner, {"label": "a", "weight": 2}).weight
    assert weight == 2.0
    assert type(weight) is float


@dataclass(frozen=True, slots=True)
class Price:
    dollars: Annotated[float, Most(100)] = 0.0


@pytest.mark.parametrize("dollars", [0, 0.5, 100, 100.0])
def test_a_bounded_float(dollars: float) -> None:
    found = from_wire_untrusted(Price, {"dollars": dollars}).dollars
    assert found == dollars
    assert type(found) is float


@pytest.mark.parametrize("dollars", [-0.01, 100.01, 1e300, math.nan, math.inf, True, "1"])
def test_a_bounded_float_is_neither_negative_nor_beyond(dollars: Any) -> None:
    with pytest.raises(WireError, match=r"Price.dollars is not a number from 0 to 100"):
        from_wire_untrusted(Price, {"dollars": dollars})


def test_a_name_in_the_error_says_where() -> None:
    with pytest.raises(WireError, match="hello is not a map"):
        from_wire_untrusted(Inner, 1, "hello")


def test_the_limit_of_the_message_holds() -> None:
    with pytest.raises(WireError, match="limit of 10"):
        unpack_untrusted(Outer, pack(GOOD), 10)


def test_a_plain_value_packs_as_itself() -> None:
    assert codec.decode_untrusted(pack({"a": (NodeId(b"n" * 32), 1)})) == {"a": [b"n" * 32, 1]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"note": "123456789"}, "Outer.note is not a str of at most 8"),
        ({"inner": Inner("\ud800")}, "surrogates"),
        ({"count": 2**64}, "64 bits"),
        ({"count": -1}, "Outer.count is not an integer"),
        ({"inner": Inner("", math.nan)}, "Outer.inner.weight is not a finite number"),
    ],
)
def test_what_readers_would_refuse_is_not_sent(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(EncodeError, match=reason):
        pack_checked(dataclasses.replace(GOOD, **changes))
    assert pack_checked(GOOD) == pack(GOOD)


@pytest.mark.parametrize("hint", [set, list, "int | str", "tuple[int, str]", "dict[int, int]", complex, "list[int]"])
def test_an_annotation_that_the_wire_does_not_know_is_a_bug(hint: Any) -> None:
    wrong = dataclasses.make_dataclass("wrong", [("field", hint)], namespace={"__module__": __name__})
    with pytest.raises(TypeError, match="a field of the wire cannot be"):
        from_wire_untrusted(wrong, {"field": 1})
